"""The times of a video's frames: from stamps to seconds, and the gaps in them."""

from __future__ import annotations

from fractions import Fraction

from av.container import InputContainer

# A step back by more than this is a restart of the stamps (concatenated files), even if it doesn't last.
_RESTART_SECONDS = 1.0
_ROUNDING = 1e-6  # seconds
TIME_SLACK = 1e-3
"""Seconds by which a time may miss what is asked for: Matroska has milliseconds, and 0.1 + 0.2 isn't 0.3."""
_WRAPPING = ("mpegts", "mpeg", "hls")  # FFmpeg's names of the containers whose stamps have 33 bits of 90 kHz
_WRAP = 1 << 33
# Stamps that wrap within a recording may miss this much of it.
_WRAP_GAP_SECONDS = 60
# A step this many times longer than every one before it is a hole, once that many frames were seen.
_GAP_FACTOR = 4.0
_GAP_AFTER = 10


def wrap_of(container: InputContainer) -> int | None:
    """After how many ticks the stamps of such a container begin again at 0; None where they don't."""
    return _WRAP if container.format.name in _WRAPPING else None


def start_anew(before: int, after: int, time_base: Fraction, wrap: int | None) -> bool:
    """Whether stamps step back, perhaps as a leap forward: FFmpeg adds 2^33 ticks to those that may have wrapped."""
    if after < before or wrap is None:
        return after < before
    return (after - before) * time_base > _WRAP_GAP_SECONDS and after % wrap < before % wrap


class FrameClock:
    """Turns the stamps of consecutive frames into seconds since the first one, never decreasing.

    Args:
        time_base: Seconds in one unit of the stamps.
        step: Seconds between frames where no two stamps have said it yet.
        trust_pts: False for containers that store no presentation stamps (AVI): `pts` is a guess there, in decoding
            order.
        wrap: After how many units the stamps begin again at 0 (`wrap_of`).

    Attributes:
        origin: The stamp, in seconds, that stands for time 0; None before the first stamp.
    """

    def __init__(self, time_base: Fraction, step: float, *, trust_pts: bool = True, wrap: int | None = None) -> None:
        self._time_base = time_base
        self._step = step
        self._trust_pts = trust_pts
        self._wrap = wrap
        self.origin: float | None = None
        self._last: float | None = None
        self._stood_at: float | None = None  # the stamp, in seconds, of a step back that time stood still for
        self._faults = {"pts": 0, "dts": 0 if trust_pts else -1}
        self._last_stamp: dict[str, int | None] = {"pts": None, "dts": None}

    def elsewhere(self) -> FrameClock:
        """A clock with the same time 0, for use after seeking; the first frame must have a stamp."""
        clock = FrameClock(self._time_base, self._step, trust_pts=self._trust_pts, wrap=self._wrap)
        clock.origin = self.origin
        return clock

    def seconds(
        self, pts: int | None, dts: int | None, following: tuple[int | None, int | None] | None = None
    ) -> float:
        """The time of the next frame.

        Args:
            pts: Its presentation stamp, None where it has none.
            dts: Its decoding stamp, likewise.
            following: Both stamps of the frame after it, where that is known: they tell a step back that lasts, a new
                start, from jitter. Else the time stands still for a frame before a new start.
        """
        earlier = dict(self._last_stamp)
        kind = self._choose(pts, dts)
        before = earlier[("pts", "dts")[kind]]
        stamp = (pts, dts)[kind]
        last = 0.0 if self._last is None else self._last
        time = 0.0 if self._last is None else last + self._step
        if stamp is not None:
            raw = float(stamp * self._time_base)
            after = None if following is None else following[kind]
            wrapped = before is not None and before < stamp and start_anew(before, stamp, self._time_base, self._wrap)
            if self.origin is None or wrapped or raw - self.origin < last - _RESTART_SECONDS:
                self.origin = raw - time
            elif raw - self.origin >= last - _ROUNDING:
                self._stood_at = None
            elif self._stood_at is not None and raw > self._stood_at:
                self.origin, self._stood_at = self._stood_at - last, None
            elif after is not None and raw < float(after * self._time_base) <= self.origin + last + _ROUNDING:
                self.origin = raw - time
            else:
                self._stood_at = raw
            time = max(raw - self.origin, last)
            if self._last is not None and time > last:
                self._step = time - last
        self._last = time
        return time

    def stamp(self, time: float) -> float:
        """The stamp, in seconds, that stands for the time of the newest frame."""
        return time + (self.origin or 0.0)

    def _choose(self, pts: int | None, dts: int | None) -> int:
        """0 for the presentation stamp, 1 (the decoding stamp) where those have run backwards more often."""
        for kind, stamp in (("pts", pts), ("dts", dts)):
            last = self._last_stamp[kind]
            if stamp is not None:
                if last is not None and stamp <= last:
                    self._faults[kind] += 1
                self._last_stamp[kind] = stamp
        dts_known = self._last_stamp["dts"] is not None
        # The decoding stamp is None for what the decoder still held at the end.
        return int(pts is None or (dts_known and self._faults["dts"] < self._faults["pts"]))


class GapWatch:
    """Finds gaps in frame times: demuxers skip frames silently when they look for a way past damage.

    Attributes:
        count: How many there are.
        first: The times before and after the first one.
        missing: Frames that have room in them.
        seconds: Length of those frames.
    """

    def __init__(self) -> None:
        self.count = self.missing = 0
        self.first = (0.0, 0.0)
        self.seconds = 0.0
        self._seen = 0
        self._last = 0.0
        self._longest = 0.0  # step that is no gap

    def see(self, time: float) -> None:
        """Take the time of the next frame."""
        step = time - self._last
        if self._seen >= _GAP_AFTER and step > _GAP_FACTOR * self._longest:
            if not self.count:
                self.first = self._last, time
            self.count += 1
            self.missing += round(step / self._longest) - 1 if self._longest else 1
            self.seconds += step - self._longest
        else:
            self._longest = max(self._longest, step) if self._seen else 0.0
        self._last = time
        self._seen += 1
