"""Leaving out frames of a source that can't do so itself."""

from __future__ import annotations

from collections.abc import Iterator

from sharpose.runtime.frames import Frame, Source

__all__ = ["TrimmedSource"]


class TrimmedSource:
    """Another source's frames from `start` on, for `duration` seconds, and every `stride`-th of them.

    Frames keep their index and time.

    Args:
        source: Where they come from; closed with this one.
        stride: Every how many-th to take.
        start: Seconds to leave out.
        duration: Seconds to take; all if None.

    Attributes:
        progress: Frames that were read, also those that were left out.
    """

    def __init__(self, source: Source, *, stride: int = 1, start: float = 0.0, duration: float | None = None) -> None:
        self._source = source
        self._stride = stride
        self._start = start
        self._duration = duration
        self.progress = 0
        self.name = source.name
        whole = start == 0.0 and duration is None and source.frame_count is not None
        self.frame_count: int | None = -(-(source.frame_count or 0) // stride) if whole else None
        self.frame_rate = None if source.frame_rate is None else source.frame_rate / stride
        self.image_ids = source.image_ids  # of all: ids of frames that are left out are no mistake
        self.warnings = source.warnings
        self.live = source.live
        self.health = source.health

    def __iter__(self) -> Iterator[Frame]:
        """The frames. Raises what the source raises."""
        taken = 0
        for frame in self._source:
            self.progress += 1
            if frame.time < self._start:
                continue
            if self._duration is not None and frame.time >= self._start + self._duration:
                return
            if taken % self._stride == 0:
                yield frame
            taken += 1

    def close(self) -> None:
        """Closes the source."""
        self._source.close()
