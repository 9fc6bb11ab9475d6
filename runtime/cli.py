"""`sharpose-run`: video streams in, poses out. The options, and what may be said together."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import click

from sharpose.cli import SectionedCommand, option
from sharpose.cli import main as run_command

__all__ = ["RunOptions", "command", "main"]


@dataclass(frozen=True)
class RunOptions:
    """The options by name; `sharpose-run --help` says what each is.

    Raises:
        click.UsageError: options exclude one another, or one would do nothing.
    """

    sources: tuple[str, ...]
    bundle: Path | None
    refine: str
    quality_threshold: float | None
    deadline: float | None
    max_people: int | None
    device: str
    threads: int | None
    engine_cache: Path | None
    cuda_bindings: str | None
    cuda_graphs: bool | None
    detector: str | None
    detector_sha256: str | None
    detector_table: Path | None
    detect_every: int
    conf: float | None
    iou: float | None
    classes: str | None
    boxes: str | None
    full_frame: bool
    track: bool
    smooth: bool
    buffer: str | None
    reconnect: str | None
    timeout: float | None
    rtsp_transport: str | None
    stride: int
    start: float
    duration: float | None
    hwaccel: str | None
    stdin_size: str | None
    stdin_rate: float | None
    output: tuple[str, ...]
    encoder: str
    crf: int | None
    bitrate: int | None
    preset: str | None
    json_file: str | None
    coco_file: str | None
    csv_file: str | None
    openpose: str | None
    mot: str | None
    frames: str | None
    frames_format: str
    show: bool
    serve: str | None
    serve_token: str | None
    kpt_thr: float
    draw_regions: bool
    draw_status: bool
    quiet: bool
    json_logs: bool
    debug: bool

    def __post_init__(self) -> None:
        self._check_people()
        self._check_device()
        if self.quiet and self.json_logs:
            raise click.UsageError("--quiet and --json-logs exclude each other: give one")

    @property
    def outputs(self) -> list[tuple[str, str]]:
        """All that results go to, with the option that it came with, in the order of `--help`."""
        named = {
            "--json": self.json_file,
            "--coco": self.coco_file,
            "--csv": self.csv_file,
            "--openpose": self.openpose,
            "--mot": self.mot,
            "--frames": self.frames,
        }
        given = [(option, target) for option, target in named.items() if target is not None]
        return [*(("--output", target) for target in self.output), *given]

    def _check_people(self) -> None:
        ways = {"--boxes": self.boxes, "--detector": self.detector, "--full-frame": self.full_frame}
        given = [name for name, value in ways.items() if value]
        if len(given) > 1:
            raise click.UsageError(f"{' and '.join(given)} exclude each other: give one")
        if self.detect_every > 1 and self.detector is None:
            raise click.UsageError("--detect-every is for --detector, which isn't given")
        if self.smooth and not self.track:
            raise click.UsageError("--smooth follows people from frame to frame: give --track as well")
        if self.mot is not None and not self.track:
            raise click.UsageError("--mot needs to know who is who: give --track as well")

    def _check_device(self) -> None:
        given = {
            "--engine-cache": self.engine_cache is not None,
            "--cuda-bindings": self.cuda_bindings is not None,
            "--cuda-graphs/--no-cuda-graphs": self.cuda_graphs is not None,
        }
        if self.serve_token is not None and self.serve is None and "SHARPOSE_SERVE_TOKEN" not in os.environ:
            raise click.UsageError("--serve-token is for --serve, which isn't given")
        for name, is_given in given.items():
            if is_given and not self.device.startswith("tensorrt"):
                raise click.UsageError(f"{name} is for --device tensorrt, got --device {self.device}")


_FILE = click.Path(path_type=Path)
_MODEL, _PEOPLE, _SOURCE = "Model", "Where people are, and who is who", "How sources are read"
_RESULTS, _PICTURE, _MESSAGES = "Results", "Annotated picture", "Messages"


@click.command(cls=SectionedCommand, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True)
@option(_MODEL, "--bundle", type=_FILE, help="Folder written by sharpose-export; the package's own if left out.")
@option(
    _MODEL,
    "--refine",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    show_default=True,
    help="Who the fine stage looks at: those of low quality, everybody or nobody.",
)
@option(_MODEL, "--quality-threshold", type=float, help="Refine people below it; the bundle's own if left out.")
@option(
    _MODEL,
    "--deadline",
    type=click.FloatRange(0, min_open=True),
    metavar="MS",
    help="Refine only while the frame's poses come in time: those first who are expected to gain most.",
)
@option(_MODEL, "--max-people", type=click.IntRange(1), help="Only so many a frame, the best boxes first.")
@option(_MODEL, "--device", default="cpu", show_default=True, help="cpu, cuda[:i], tensorrt[:i] or ort-tensorrt[:i].")
@option(_MODEL, "--threads", type=click.IntRange(1), help="CPU threads of the engine; its own choice if left out.")
@option(_MODEL, "--engine-cache", type=_FILE, help="Folder of TensorRT engines; ~/.cache/sharpose if left out.")
@option(
    _MODEL,
    "--cuda-bindings",
    type=click.Choice(["cuda-python", "pycuda"]),
    help="With TensorRT; the first that is installed if left out.",
)
@option(
    _MODEL,
    "--cuda-graphs/--no-cuda-graphs",
    default=None,
    help="With TensorRT; where the bindings have them if left out.",
)
@option(
    _PEOPLE,
    "--detector",
    metavar="FILE|NAME|motion",
    help="ONNX person detector (YOLOX, YOLOv8-style or end-to-end), the name of one to download, or `motion`: whatever "
    "moves before a camera that doesn't.",
)
@option(
    _PEOPLE,
    "--detector-sha256",
    metavar="HASH",
    help="Of a named detector, where the table has none; `trust` takes what comes.",
)
@option(
    _PEOPLE,
    "--detector-table",
    type=_FILE,
    help="Your own table of detectors; ~/.config/sharpose/detectors.yaml if left out.",
)
@option(
    _PEOPLE,
    "--detect-every",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="N",
    help="Detect in every Nth frame; between, boxes follow the poses.",
)
@option(_PEOPLE, "--conf", type=click.FloatRange(0, 1), help="Least score of a detection; 0.3 if left out.")
@option(
    _PEOPLE,
    "--iou",
    type=click.FloatRange(0, 1),
    help="Overlap from which two detections are one person; 0.65 if left out.",
)
@option(_PEOPLE, "--classes", metavar="IDS|NAMES", help="What to detect, by COCO's ids or names; person if left out.")
@option(_PEOPLE, "--boxes", metavar="FILE", help="People's boxes: COCO detection-results JSON.")
@option(_PEOPLE, "--full-frame", is_flag=True, help="One person fills every picture.")
@option(_PEOPLE, "--track", is_flag=True, help="Give people ids that stay theirs.")
@option(_PEOPLE, "--smooth", is_flag=True, help="Take the jitter out of each track's keypoints (One-Euro).")
@option(
    _SOURCE,
    "--buffer",
    type=click.Choice(["latest", "all"]),
    help="Of a live source: the newest frame (the default), or all, as far as memory allows.",
)
@option(
    _SOURCE,
    "--reconnect",
    metavar="N|forever",
    help="Attempts to get a lost live source back; 0 for none. Without end if left out, once it was there; said, also "
    "for one that isn't there yet.",
)
@option(_SOURCE, "--timeout", type=click.FloatRange(0, min_open=True), metavar="S", help="Silence that counts as lost.")
@option(_SOURCE, "--rtsp-transport", type=click.Choice(["tcp", "udp"]), help="tcp if left out.")
@option(_SOURCE, "--stride", type=click.IntRange(1), default=1, show_default=True, help="Take every Nth frame.")
@option(_SOURCE, "--start", type=click.FloatRange(0), metavar="S", help="Seconds of a video to skip.")
@option(_SOURCE, "--duration", type=click.FloatRange(0, min_open=True), metavar="S", help="Seconds to read.")
@option(_SOURCE, "--hwaccel", metavar="KIND", help="Decode in hardware: auto, cuda, vaapi …; jetson with GStreamer.")
@option(_SOURCE, "--stdin-size", metavar="HxW", help="Of the raw BGR frames on standard input (source `-`).")
@option(_SOURCE, "--stdin-rate", type=click.FloatRange(0, min_open=True), help="Their frames a second; 25 if left out.")
@option(
    _RESULTS,
    "--output",
    multiple=True,
    metavar="FILE|URL",
    help="Annotated video: .mp4, .mkv or .mov, or rtsp://, rtmp://, udp:// or srt:// to send it on. May be repeated.",
)
@option(
    _RESULTS,
    "--encoder",
    default="h264",
    show_default=True,
    help="h264, h265, auto (H.264 in hardware where that works) or an FFmpeg encoder's name.",
)
@option(_RESULTS, "--crf", type=click.IntRange(0, 51), help="Quality of the video, 0 is best; the encoder's usual one.")
@option(_RESULTS, "--bitrate", type=click.IntRange(1000), metavar="BITS", help="Bits a second, instead of --crf.")
@option(_RESULTS, "--preset", help="Of the encoder, such as veryfast.")
@option(_RESULTS, "--json", "json_file", metavar="FILE", help="JSON Lines, one a frame, written as it goes.")
@option(_RESULTS, "--coco", "coco_file", metavar="FILE", help="COCO keypoint results.")
@option(_RESULTS, "--csv", "csv_file", metavar="FILE", help="A row a person a frame.")
@option(_RESULTS, "--openpose", metavar="FOLDER", help="OpenPose JSON, a file a frame.")
@option(_RESULTS, "--mot", metavar="FILE", help="MOT challenge text; needs --track.")
@option(_RESULTS, "--frames", metavar="FOLDER", help="Annotated pictures, a file a frame.")
@option(_RESULTS, "--frames-format", type=click.Choice(["jpg", "png"]), default="jpg", show_default=True)
@option(_RESULTS, "--show", is_flag=True, help="A window; q ends the run.")
@option(_RESULTS, "--serve", metavar="HOST:PORT", help="A web page, /metrics and /healthz; 127.0.0.1 without HOST.")
@option(
    _RESULTS, "--serve-token", envvar="SHARPOSE_SERVE_TOKEN", metavar="TOKEN", help="Needed to see what --serve shows."
)
@option(
    _PICTURE,
    "--kpt-thr",
    type=float,
    default=0.3,
    show_default=True,
    help="Draw keypoints of at least this score.",
)
@option(_PICTURE, "--draw-status", is_flag=True, help="Write frames a second and people into the picture.")
@option(_PICTURE, "--draw-regions", is_flag=True, help="Show where the fine stage looked.")
@option(_MESSAGES, "--quiet", is_flag=True, help="Warnings and errors only.")
@option(_MESSAGES, "--json-logs", is_flag=True, help="Messages and the closing counts as JSON, a line each.")
@option(_MESSAGES, "--debug", is_flag=True, help="Show the traceback of an error.")
def command(**values: Any) -> int:  # noqa: ANN401 (click's; RunOptions refuses names that it doesn't know)
    """Find human poses in every SOURCE: a video, a picture, a folder or glob of pictures, a camera's index, a URL,
    raw frames on standard input (`-`), or the built-in `scene` (`scene:seed=0,people=5,frames=150,size=720x1280`).

    Several sources share one model; `{source}` in an output's name stands for the source's.

    People are found by --detector, --boxes or --full-frame; the scene brings its own boxes.
    """
    options = RunOptions(**values)
    from sharpose.runtime.assemble import run_with

    return run_with(options)


def main() -> NoReturn:
    """Entry point."""
    run_command(command)
