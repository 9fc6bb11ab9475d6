"""One time and one count over successive connections to the same source."""

from __future__ import annotations

from dataclasses import replace

from sharpose.runtime.frames import Frame

__all__ = ["Timeline"]


class Timeline:
    """Strings the frames of successive connections together.

    Attributes:
        begun: Whether there was a frame.
        first_arrived: When the very first frame came.
        connected_at: When the first frame of this connection came.
    """

    def __init__(self) -> None:
        self.begun = False
        self.first_arrived = 0.0
        self.connected_at = 0.0
        self._arrived = 0.0
        self._time = 0.0
        self._index = -1
        self._time_shift = 0.0
        self._index_shift = 0

    def place(self, frame: Frame, now: float, *, new: bool) -> Frame:
        """The frame with its place in the whole; `new`: it is the first of its connection."""
        arrived = now if frame.arrived is None else frame.arrived
        if new:
            self.connected_at = arrived
            self._index_shift = self._index + 1 - frame.index
            if self.begun:
                self._time_shift = self._time + max(0.0, arrived - self._arrived) - frame.time
            else:
                self.first_arrived = arrived
                self._index_shift = 0
        self.begun = True
        self._arrived = arrived
        self._time = max(self._time, frame.time + self._time_shift)
        self._index = frame.index + self._index_shift
        return replace(frame, index=self._index, image_id=self._index, time=self._time, arrived=arrived)
