"""The options of a run, each declared in `runtime/cli.py` under the name that it has here. Imports nothing heavy."""

from __future__ import annotations

import math
import os
import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from numbers import Integral, Real
from pathlib import Path
from typing import Literal, get_args

import click

from sharpose.cli import FOREVER
from sharpose.engines.precision import PrecisionChoice
from sharpose.errors import InputError
from sharpose.runtime.biomechanics.options import BiomechanicsOptions
from sharpose.runtime.remote.options import ServerOptions

DEFAULT_DETECTOR = "yolox-tiny"
"""Finds people where nothing else says where they are."""
DEFAULT_TIMEOUT = 10.0
"""Seconds without a frame before a live source counts as lost."""
HIGHEST_CRF = 63
"""Of VP9 and AV1; H.264 and H.265 end at 51."""
MOST = 10**9
"""Of whatever is counted: people, frames."""

_Buffer = Literal["latest", "all"]
_Transport = Literal["tcp", "udp"]


def is_scene(spec: str) -> bool:
    """Whether `spec` names the built-in scene (`./scene` is a file or folder of that name)."""
    return spec == "scene" or spec.startswith("scene:")


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


_LIVE = frozenset((Kind.CAMERA, Kind.STREAM, Kind.RTSP, Kind.PIPELINE))
_REMOTE = frozenset((Kind.STREAM, Kind.RTSP, Kind.REMOTE_FILE))
# The kinds of sources that an option does something to; `stride` does to all.
_MEANT_FOR: dict[str, frozenset[Kind]] = {
    "buffer": _LIVE,
    "reconnect": _LIVE,
    "timeout": _LIVE | _REMOTE,
    "start": frozenset((Kind.VIDEO, Kind.REMOTE_FILE, Kind.SCENE)),
    "duration": frozenset(Kind) - {Kind.PICTURES},
    "hwaccel": _REMOTE | {Kind.VIDEO},
    "stdin_size": frozenset((Kind.STDIN,)),
    "stdin_rate": frozenset((Kind.STDIN,)),
    "rtsp_transport": frozenset((Kind.RTSP,)),
    "strict": frozenset((Kind.VIDEO, Kind.PICTURES, Kind.REMOTE_FILE)),
}
_OFF: dict[str, object] = {"reconnect": 0, "hwaccel": "none", "strict": False}  # these fit every kind


def _check_number(name: str, value: object, *, whole: bool = False) -> None:
    """Refuse what is no number: Python's callers may give anything."""
    if isinstance(value, bool) or not isinstance(value, Integral if whole else Real):
        raise InputError(f"{name}: expected a {'whole ' if whole else ''}number, got {reprlib.repr(value)}")


@dataclass(frozen=True)
class SourceOptions:
    """How a source is read. None: not given; what is given must do something to the source (`check`).

    Attributes:
        buffer: For live sources: `latest` hands out the newest frame and drops older ones, `all` keeps up to
            `queue_size` of them. `latest` if None.
        reconnect: Attempts in a row to reconnect a lost live source; 0 for none. None retries without limit once the
            source was there; a count, or `FOREVER`, also covers a source that isn't there at the start.
        timeout: Seconds without a frame before a live source counts as lost; `DEFAULT_TIMEOUT` if None.
        stride: Every how many-th frame is handed out; the others are decoded, as later ones need them, and left out.
        start: Seconds of a video to skip.
        duration: Seconds to read.
        hwaccel: `none`, `auto`, a device type of FFmpeg (`cuda`, `vaapi`, `qsv`, …), or `jetson`; `none` if None.
        stdin_size: Height and width of the raw frames on standard input.
        stdin_rate: Frames per second of the raw frames on standard input; 25 if None.
        rtsp_transport: `tcp` or `udp`; `tcp` if None.
        strict: Whether a damaged video or picture is an error, rather than skipped.
        queue_size: Frames that `buffer="all"` holds before it drops the oldest.

    Raises:
        InputError: a value is out of its range.
    """

    buffer: _Buffer | None = None
    reconnect: int | None = None
    timeout: float | None = None
    stride: int = 1
    start: float | None = None
    duration: float | None = None
    hwaccel: str | None = None
    stdin_size: tuple[int, int] | None = None
    stdin_rate: float | None = None
    rtsp_transport: _Transport | None = None
    strict: bool = False
    queue_size: int = 32

    def __post_init__(self) -> None:
        if self.buffer is not None and self.buffer not in get_args(_Buffer):
            raise InputError(f"buffer: expected latest or all, got {self.buffer!r}")
        if self.rtsp_transport is not None and self.rtsp_transport not in get_args(_Transport):
            raise InputError(f"rtsp-transport: expected tcp or udp, got {self.rtsp_transport!r}")
        for name in ("reconnect", "stride", "queue_size"):
            if (value := getattr(self, name)) is not None or name != "reconnect":
                _check_number(name.replace("_", "-"), value, whole=True)
        for name in ("start", "timeout", "duration", "stdin_rate"):
            if (value := getattr(self, name)) is not None:
                _check_number(name.replace("_", "-"), value)
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
        size = self.stdin_size
        pair = size is None or (isinstance(size, tuple | list) and len(size) == 2)
        if not pair or not all(isinstance(side, int) and side > 0 for side in size or ()):
            raise InputError(f"stdin-size: expected a height and a width, both positive, got {self.stdin_size!r}")

    @property
    def silence(self) -> float:
        """Seconds without a frame before a live source counts as lost."""
        return DEFAULT_TIMEOUT if self.timeout is None else self.timeout

    def check(self, name: str, *kinds: Kind) -> None:
        """Refuse options that would do nothing to the source `name`, which is one of `kinds`.

        Raises:
            InputError: such an option was given.
        """
        for option, meant_for in _MEANT_FOR.items():
            if getattr(self, option) not in (None, _OFF.get(option)) and meant_for.isdisjoint(kinds):
                *others, last = sorted(kind.value for kind in meant_for)
                meant = f"{', '.join(others)} or {last}" if others else last
                raise InputError(
                    f"--{option.replace('_', '-')} is for {meant}, but {name} is {kinds[0].value}; leave it out"
                )


@dataclass(frozen=True)
class VideoSettings:
    """How pictures are encoded.

    Attributes:
        encoder: `h264` or `h265` (software where FFmpeg has it), `auto` (H.264 in hardware where an encoder for that
            opens, else as `h264`), or the name of one of FFmpeg's encoders, such as `libx265` or `h264_nvenc`.
        crf: Constant quality, 0 (best) to 51 (VP9, AV1: 63); the encoder's default if None. Excludes `bitrate`.
        bitrate: Bits per second, or None.
        preset: One of the encoder's own, such as `veryfast`; a fast one if None.
        audio: `copy` (the sound of a video file, without encoding) or `none`.

    Raises:
        InputError: a number is out of its range, or quality and bitrate are both given.
    """

    encoder: str = "h264"
    crf: int | None = None
    bitrate: int | None = None
    preset: str | None = None
    audio: Literal["copy", "none"] = "copy"

    def __post_init__(self) -> None:
        if self.crf is not None and not 0 <= self.crf <= HIGHEST_CRF:
            raise InputError(f"video quality: expected a crf of 0 (best) to {HIGHEST_CRF}, got {self.crf}")
        if self.bitrate is not None and self.bitrate < 1000:
            raise InputError(f"video bitrate: expected bits a second, at least 1000, got {self.bitrate}")
        if self.crf is not None and self.bitrate is not None:
            raise InputError("--crf and --bitrate exclude each other: give one")


_WITHOUT_TF32 = frozenset(("cpu", "coreml", "directml", "auto"))  # auto for detectors: where the poses are
_STDIN = frozenset(("-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"))
_MADE = ("--angles", "--trc")  # of keypoints
_DRAWN = "annotated pictures (--output, --frames, --show or --serve)"


@dataclass(frozen=True)
class RunOptions:
    """The command line of `sharpose-run`, with its defaults; its help says what each option is.

    Attributes:
        outputs: Option (`--json`) and target of each output, in the order of the help.

    Raises:
        click.UsageError: options exclude one another, or one would do nothing.
    """

    sources: tuple[str, ...]
    reading: SourceOptions = SourceOptions()
    video: VideoSettings = VideoSettings()
    remote: ServerOptions = field(default_factory=ServerOptions)
    biomechanics: BiomechanicsOptions = field(default_factory=BiomechanicsOptions)
    bundle: Path | None = None
    refine: Literal["auto", "always", "never"] = "auto"
    quality_threshold: float | None = None
    alpha: float | None = None
    deadline: float | None = None
    max_people: int | None = None
    device: str = "cpu"
    precision: PrecisionChoice = "auto"
    threads: int | None = None
    batch: int | None = None
    tf32: bool = False
    engine_cache: Path | None = None
    cuda_bindings: str | None = None
    cuda_graphs: bool | None = None
    detector: str | None = None
    detector_sha256: str | None = None
    detector_device: str = "auto"
    detector_table: Path | None = None
    detector_mean: tuple[float, float, float] | None = None
    detector_std: tuple[float, float, float] | None = None
    detector_rgb: bool | None = None
    detect_every: int = 1
    conf: float | None = None
    iou: float | None = None
    classes: str | None = None
    boxes: str | None = None
    full_frame: bool = False
    track: bool = False
    smooth: bool = False
    outputs: tuple[tuple[str, str], ...] = ()
    overwrite: bool = False
    frames_format: str = "jpg"
    show: bool = False
    serve: str | None = None
    serve_token: str | None = None
    kpt_thr: float = 0.3
    draw_regions: bool = False
    draw_status: bool = False
    timings: bool = False
    quiet: bool = False
    json_logs: bool = False
    debug: bool = False

    def __post_init__(self) -> None:
        counts = {"max_people": self.max_people, "detect_every": self.detect_every, "batch": self.batch}
        for name, count in counts.items():
            if count is None and name != "detect_every":
                continue
            _check_number(name, count, whole=True)
            if count is None or not 1 <= count <= MOST:
                raise InputError(f"{name}: expected 1 to {MOST}, got {count}")
        ways = {"--boxes": self.boxes, "--detector": self.detector, "--full-frame": self.full_frame}
        given = [name for name, value in ways.items() if value]
        if len(given) > 1:
            raise click.UsageError(f"{' and '.join(given)} exclude each other: give one")
        from_stdin = [name for name in (*self.sources, self.boxes) if name in _STDIN]
        if len(from_stdin) > 1:
            raise click.UsageError(f"{' and '.join(map(str, from_stdin))}: standard input can be read once only")
        if self.smooth and not self.track:
            raise click.UsageError("--smooth follows people from frame to frame: give --track as well")
        if "--mot" in dict(self.outputs) and not self.track:
            raise click.UsageError("--mot needs to know who is who: give --track as well")
        if self.detector_device != "auto" and self.detector_used in (None, "motion"):
            raise click.UsageError(f"--detector-device is for --detector FILE or NAME{self._other_detector}")
        kinds = {self.device.partition(":")[0], self.detector_device.partition(":")[0]}
        if self.tf32 and self.device != "auto" and kinds <= _WITHOUT_TF32:
            raise click.UsageError(f"--tf32 is for NVIDIA's GPUs, got --device {self.device}")
        said = {"--timings": self.timings, "--quiet": self.quiet, "--json-logs": self.json_logs}
        if len(given := [name for name, value in said.items() if value]) > 1:
            raise click.UsageError(f"{' and '.join(given[:2])} exclude each other: give one")
        if self.threads is not None and self.device.startswith("tensorrt"):
            raise click.UsageError(f"--threads does nothing on --device {self.device}: leave it out")
        self.biomechanics.check(dict(self.outputs), tracked=self.track, smoothed=self.smooth)
        self._check_needs()

    @property
    def detector_used(self) -> str | None:
        """The detector that is given, or else the default one; None where no stream needs it."""
        if self.detector is not None:
            return self.detector
        known = self.boxes is not None or self.full_frame or all(map(is_scene, self.sources))
        return None if known else DEFAULT_DETECTOR

    @property
    def _other_detector(self) -> str:
        return ", got --detector motion" if self.detector == "motion" else ", which isn't given"

    def _check_needs(self) -> None:
        """Refuse options that do nothing without another."""
        outputs = dict(self.outputs)
        drawn = self.show or self.serve is not None or not outputs.keys().isdisjoint(("--output", "--frames"))
        devices = (self.device, self.detector_device)
        on_tensorrt = self.device == "auto" or any(device.startswith("tensorrt") for device in devices)
        cached = on_tensorrt or any(device.startswith("ort-tensorrt") for device in devices)
        got = f", got --device {self.device}"
        token_in_environment = "SHARPOSE_SERVE_TOKEN" in os.environ
        if self.serve and self.serve_token is None and os.environ.get("SHARPOSE_SERVE_TOKEN") == "":  # none to click
            raise click.UsageError(
                "SHARPOSE_SERVE_TOKEN: expected a token, got an empty one; unset it to let everybody watch"
            )
        detector, named = self.detector_used is not None, self.detector_used not in (None, "motion")
        encoded = "--output" in outputs
        graphs = "--no-cuda-graphs" if self.cuda_graphs is False else "--cuda-graphs"
        for option, is_given, needed, is_there in (
            ("--quality-threshold", self.quality_threshold is not None, "--refine auto", self.refine == "auto"),
            ("--alpha", self.alpha is not None, "--refine auto or always", self.refine != "never"),
            ("--deadline", self.deadline is not None, "--refine auto or always", self.refine != "never"),
            ("--engine-cache", self.engine_cache is not None, f"--device tensorrt or ort-tensorrt{got}", cached),
            ("--cuda-bindings", self.cuda_bindings is not None, f"--device tensorrt{got}", on_tensorrt),
            (graphs, self.cuda_graphs is not None, f"--device tensorrt{got}", on_tensorrt),
            ("--detect-every", self.detect_every > 1, "--detector", detector),
            ("--detector-sha256", self.detector_sha256 is not None, "--detector NAME", named),
            ("--detector-table", self.detector_table is not None, "--detector NAME", named),
            ("--detector-mean", self.detector_mean is not None, "--detector FILE or NAME", named),
            ("--detector-std", self.detector_std is not None, "--detector FILE or NAME", named),
            ("--detector-rgb", self.detector_rgb is not None, "--detector FILE or NAME", named),
            ("--encoder", self.video.encoder != VideoSettings.encoder, "--output", encoded),
            ("--crf", self.video.crf is not None, "--output", encoded),
            ("--bitrate", self.video.bitrate is not None, "--output", encoded),
            ("--preset", self.video.preset is not None, "--output", encoded),
            ("--audio", self.video.audio != "copy", "--output", encoded),
            ("--frames-format", self.frames_format != "jpg", "--frames", "--frames" in outputs),
            ("--serve-token", self.serve_token is not None and not token_in_environment, "--serve", bool(self.serve)),
            (
                "--kpt-thr",
                self.kpt_thr != 0.3,
                f"{_DRAWN}, --angles or --trc",
                drawn or not outputs.keys().isdisjoint(_MADE),
            ),
            ("--draw-status", self.draw_status, _DRAWN, drawn),
            ("--draw-regions", self.draw_regions, _DRAWN, drawn),
            ("--draw-regions", self.draw_regions, "--refine auto or always", self.refine != "never"),
        ):
            if is_given and not is_there:
                missing = "" if needed.startswith("--device") else ", which isn't given"
                missing = self._other_detector if needed.startswith("--detector ") else missing
                raise click.UsageError(f"{option} is for {needed}{missing}")


def check_arguments(source: object, flags: Mapping[str, object], boxes: object, reading: object) -> None:
    """Check the types of what `PoseEstimator.stream` is given; `InputError` for others."""
    if isinstance(source, bool) or not isinstance(source, str | os.PathLike | Integral):
        raise InputError(f"source: expected a path, an address or a camera's index, got {reprlib.repr(source)}")
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise InputError(f"{name}: expected True or False, got {reprlib.repr(flag)}")
    if boxes is not None and not isinstance(boxes, str | os.PathLike):
        raise InputError(f"boxes: expected a file's path, got {reprlib.repr(boxes)}")
    if reading is not None and not isinstance(reading, SourceOptions):
        raise InputError(f"reading: expected SourceOptions, got {reprlib.repr(reading)}")


def as_arguments(message: str) -> str:
    """A message about options of `sharpose-run` in terms of the arguments of `PoseEstimator.stream`."""
    message = message.replace("give --track as well", "give track=True as well")
    message = message.replace("is for --detector,", "is for a detector,").replace("--detector ", "motion ")
    names = [field.name for kind in (RunOptions, SourceOptions) for field in fields(kind)]
    given = "|".join(name.replace("_", "-") for name in names)
    return re.sub(rf"(?<![\w-])--({given})(?![\w-])", lambda found: found[1].replace("-", "_"), message)
