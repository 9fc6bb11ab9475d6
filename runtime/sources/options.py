"""What the user may say about how a source is read, and which of it means something for which kind of source."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from sharpose.errors import InputError

__all__ = ["DEFAULT_TIMEOUT", "FOREVER", "Kind", "SourceOptions"]

DEFAULT_TIMEOUT = 10.0
"""Seconds of silence after which a live source counts as lost."""
FOREVER = -1
"""As `SourceOptions.reconnect`: try again and again, from the very first attempt on."""

_BUFFERS = ("latest", "all")
_TRANSPORTS = ("tcp", "udp")


class Kind(Enum):
    """Kinds of sources, as an error names them."""

    VIDEO = "a video file"
    PICTURES = "pictures"
    SCENE = "the built-in scene"
    CAMERA = "a camera"
    STREAM = "a live stream"
    RTSP = "an RTSP stream"
    REMOTE_FILE = "a file on a server"
    PIPELINE = "a GStreamer pipeline"
    STDIN = "standard input"


@dataclass(frozen=True)
class SourceOptions:
    """How a source is read. None (or the default) means: not said; what is said must mean something for the source.

    Attributes:
        buffer: For live sources: `latest` hands out the newest frame and drops older ones, `all` keeps up to
            `queue_size` of them. `latest` if None.
        reconnect: How many attempts in a row to make when a live source is lost; 0 makes none. None tries without end
            once the source was there; a count, or `FOREVER`, also covers a source that isn't there at the start.
        timeout: Seconds without a picture after which a live source counts as lost; `DEFAULT_TIMEOUT` if None.
        stride: Every how many-th frame is handed out; the others are decoded, as later ones need them, and left out.
        start: Seconds of a video to skip.
        duration: Seconds to read.
        hwaccel: `none`, `auto`, a device type of FFmpeg (`cuda`, `vaapi`, `qsv`, …), or `jetson`; `none` if None.
        stdin_size: Height and width of the raw frames on standard input.
        stdin_rate: Frames a second of the raw frames on standard input; 25 if None.
        rtsp_transport: `tcp` or `udp`; `tcp` if None.
        queue_size: Frames that `buffer="all"` holds before it drops the oldest.

    Raises:
        InputError: a value is out of its range.
    """

    buffer: Literal["latest", "all"] | None = None
    reconnect: int | None = None
    timeout: float | None = None
    stride: int = 1
    start: float | None = None
    duration: float | None = None
    hwaccel: str | None = None
    stdin_size: tuple[int, int] | None = None
    stdin_rate: float | None = None
    rtsp_transport: Literal["tcp", "udp"] | None = None
    queue_size: int = 32

    def __post_init__(self) -> None:
        if self.buffer is not None and self.buffer not in _BUFFERS:
            raise InputError(f"buffer: expected latest or all, got {self.buffer!r}")
        if self.rtsp_transport is not None and self.rtsp_transport not in _TRANSPORTS:
            raise InputError(f"rtsp-transport: expected tcp or udp, got {self.rtsp_transport!r}")
        if self.reconnect is not None and self.reconnect < FOREVER:
            raise InputError(f"reconnect: expected a number of attempts, 0 for none, got {self.reconnect}")
        if self.stride < 1:
            raise InputError(f"stride: expected at least 1, got {self.stride}")
        if self.queue_size < 1:
            raise InputError(f"queue size: expected at least 1, got {self.queue_size}")
        if self.start is not None and not (math.isfinite(self.start) and self.start >= 0):
            raise InputError(f"start: expected seconds, 0 or more, got {self.start}")
        for name in ("timeout", "duration", "stdin_rate"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InputError(f"{name.replace('_', '-')}: expected a positive number, got {value}")
        if self.stdin_size is not None and not (len(self.stdin_size) == 2 and min(self.stdin_size) > 0):
            raise InputError(f"stdin-size: expected a height and a width, both positive, got {self.stdin_size}")

    @property
    def silence(self) -> float:
        """Seconds without a picture after which a live source counts as lost."""
        return DEFAULT_TIMEOUT if self.timeout is None else self.timeout

    def check(self, name: str, kind: Kind) -> None:
        """Refuse what would do nothing.

        Args:
            name: What to call the source.
            kind: What it is.

        Raises:
            InputError: an option was given that means nothing for this kind of source.
        """
        for option, (given, kinds) in self._said().items():
            if given and kind not in kinds:
                *others, last = sorted(entry.value for entry in kinds)
                meant = f"{', '.join(others)} or {last}" if others else last
                raise InputError(f"--{option} is for {meant}, but {name} is {kind.value}; leave it out")

    def _said(self) -> Mapping[str, tuple[bool, frozenset[Kind]]]:
        """Each option: whether it was given, and for which kinds it means something."""
        live = frozenset((Kind.CAMERA, Kind.STREAM, Kind.RTSP, Kind.PIPELINE))
        remote = frozenset((Kind.STREAM, Kind.RTSP, Kind.REMOTE_FILE))
        hardware = self.hwaccel not in (None, "none")
        return {
            "buffer": (self.buffer is not None, live),
            "reconnect": (self.reconnect not in (None, 0), live),
            "timeout": (self.timeout is not None, live | remote),
            "stride": (self.stride != 1, frozenset(Kind)),
            "start": (
                self.start is not None,
                frozenset((Kind.VIDEO, Kind.REMOTE_FILE, Kind.SCENE)),
            ),
            "duration": (self.duration is not None, frozenset(Kind) - {Kind.PICTURES}),
            "hwaccel": (hardware, remote | {Kind.VIDEO}),
            "stdin-size": (self.stdin_size is not None, frozenset((Kind.STDIN,))),
            "stdin-rate": (self.stdin_rate is not None, frozenset((Kind.STDIN,))),
            "rtsp-transport": (self.rtsp_transport is not None, frozenset((Kind.RTSP,))),
        }
