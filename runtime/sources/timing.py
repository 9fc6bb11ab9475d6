"""Seconds for each frame out of what a stream's time stamps say, however broken they are."""

from __future__ import annotations

from fractions import Fraction

__all__ = ["FrameClock", "GapWatch"]

# A step back by more than this is a new start of the stamps (files glued together), not jitter.
_RESTART_SECONDS = 1.0
# A step this many times longer than every one before it is a hole, once that many frames were seen.
_GAP_FACTOR = 4.0
_GAP_AFTER = 10


class FrameClock:
    """Turns the stamps of consecutive frames into seconds since the first one, never decreasing.

    Args:
        time_base: Seconds in one unit of the stamps.
        step: Seconds between frames where no two stamps have said it yet.
        trust_pts: False for containers that store no presentation stamps (AVI): what stands in `pts` there is a guess,
            in decoding order.
    """

    def __init__(self, time_base: Fraction, step: float, *, trust_pts: bool = True) -> None:
        self._time_base = time_base
        self._step = step
        self._trust_pts = trust_pts
        self._offset: float | None = None  # the stamp, in seconds, that stands for time 0
        self._last: float | None = None
        self._faults = {"pts": 0, "dts": 0 if trust_pts else -1}
        self._last_stamp: dict[str, int | None] = {"pts": None, "dts": None}

    @property
    def origin(self) -> float | None:
        """The stamp, in seconds, that stands for time 0; None as long as no frame had one."""
        return self._offset

    def elsewhere(self) -> FrameClock:
        """A clock with the same time 0 for frames elsewhere in the stream; the first of them must have a stamp."""
        clock = FrameClock(self._time_base, self._step, trust_pts=self._trust_pts)
        clock._offset = self._offset
        return clock

    def seconds(self, pts: int | None, dts: int | None) -> float:
        """The time of the next frame, whose stamps these are (None: it has none)."""
        stamp = self._choose(pts, dts)
        last = 0.0 if self._last is None else self._last
        time = 0.0 if self._last is None else last + self._step
        if stamp is not None:
            raw = float(stamp * self._time_base)
            if self._offset is None or raw - self._offset < last - _RESTART_SECONDS:
                self._offset = raw - time
            time = max(raw - self._offset, last)
            if self._last is not None and time > last:
                self._step = time - last
        self._last = time
        return time

    def _choose(self, pts: int | None, dts: int | None) -> int | None:
        """The presentation stamp, unless those have run backwards more often than the decoding stamps did."""
        for kind, stamp in (("pts", pts), ("dts", dts)):
            last = self._last_stamp[kind]
            if stamp is not None:
                if last is not None and stamp <= last:
                    self._faults[kind] += 1
                self._last_stamp[kind] = stamp
        dts_known = self._last_stamp["dts"] is not None
        if pts is None or (dts_known and self._faults["dts"] < self._faults["pts"]):
            return dts  # None for what the decoder still held at the end
        return pts


class GapWatch:
    """Finds the first hole in frame times: what demuxers skip without a word when they look for a way past damage.

    Attributes:
        gap: The times before and after the hole, or None.
    """

    def __init__(self) -> None:
        self.gap: tuple[float, float] | None = None
        self._seen = 0
        self._last = 0.0
        self._longest = 0.0

    def see(self, time: float) -> None:
        """Takes the time of the next frame."""
        step = time - self._last
        if self.gap is None and self._seen >= _GAP_AFTER and step > _GAP_FACTOR * self._longest:
            self.gap = self._last, time
        self._longest = max(self._longest, step) if self._seen else 0.0
        self._last = time
        self._seen += 1
