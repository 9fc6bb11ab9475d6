"""`sharpose-run`: video streams in, poses out. Declares the options; `runtime/options.py` holds their values."""

from __future__ import annotations

import math
import reprlib
from dataclasses import fields
from typing import Any, NoReturn, TypeVar

import click

from sharpose.cli import (
    DEVICE,
    FILE,
    SIZE,
    Number,
    SectionedCommand,
    Threads,
    Whole,
    attempts,
    complete_devices,
    complete_files,
    complete_words,
    option,
)
from sharpose.cli import main as run_command
from sharpose.engines.precision import PRECISIONS
from sharpose.errors import DetectorError
from sharpose.runtime.biomechanics.options import BiomechanicsOptions, biomechanics_options
from sharpose.runtime.options import (
    DEFAULT_DETECTOR,
    HIGHEST_CRF,
    MOST,
    RunOptions,
    SourceOptions,
    VideoSettings,
)
from sharpose.runtime.remote.options import ServerOptions, refuse_beside_server, server_options


def _channels(text: str) -> tuple[float, ...]:
    parts = text.split(",")
    try:
        numbers = tuple(float(part) for part in parts)
    except ValueError:
        numbers = ()
    if len(numbers) != 3 or not all(map(math.isfinite, numbers)):
        raise click.BadParameter(f"expected three numbers with commas between, got {reprlib.repr(text)}")
    return numbers


def _detectors() -> list[str]:
    from sharpose.runtime.detectors.catalogue import MOTION, load_table

    try:
        return [MOTION, *load_table()]
    except DetectorError:  # of the user's own table, which the run will tell
        return [MOTION]


class _Batch(Whole):
    """A batch size; None for `auto`, as where the option is left out."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401
        """See `click.ParamType.convert`."""
        return None if value == "auto" else super().convert(value, param, ctx)


_ENCODERS = ("h264", "h265", "auto", "h264_nvenc", "hevc_nvenc", "libsvtav1", "libvpx-vp9", "prores_ks")
_SECONDS = Number(0, min_open=True)
_COUNT = Whole(1, MOST)
_SHARE = Number(0, 1)
_MODEL, _PEOPLE, _SOURCE = "Model", "Where people are, and who is who", "How sources are read"
_RESULTS, _PICTURE, _MESSAGES = "Results", "Annotated picture", "Messages"


_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True}


@click.command(
    cls=SectionedCommand,
    context_settings=_SETTINGS,
    examples=[
        "sharpose-run scene --output scene.mp4",
        "sharpose-run video.mp4 --track --smooth --output out.mp4 --json out.jsonl",
        "sharpose-run rtsp://camera/stream --track --serve 8080",
    ],
)
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True, shell_complete=complete_files)
@option(
    _MODEL,
    "--bundle",
    type=FILE,
    metavar="DIR",
    help="Bundle folder, written by sharpose-export; default: the one shipped.",
)
@option(
    _MODEL,
    "--refine",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    help="People to refine: those of low predicted quality, everybody or nobody.",
)
@option(
    _MODEL, "--quality-threshold", type=Number(), help="Quality below which people are refined; default: the bundle's."
)
@option(
    _MODEL,
    "--alpha",
    type=Number(0, 1, min_open=True),
    help="Share of a person's regions that the fine stage looks at: less is faster; default: the bundle's.",
)
@option(
    _MODEL,
    "--deadline",
    type=_SECONDS,
    metavar="MS",
    help="Milliseconds per frame: refine as many people as fit, largest expected gain first.",
)
@option(_MODEL, "--max-people", type=_COUNT, help="People per frame at most, the best boxes first.")
@option(
    _MODEL,
    "--device",
    type=DEVICE,
    shell_complete=complete_devices,
    metavar="DEVICE",
    default="cpu",
    help="Device: cpu, cuda[:i], tensorrt[:i], ort-tensorrt[:i], openvino[:CPU|GPU[.i]|NPU], coreml (macOS), "
    "directml[:i] (Windows), or auto: the best of tensorrt, cuda, openvino and cpu that this machine has.",
)
@option(
    _MODEL,
    "--precision",
    type=click.Choice(PRECISIONS),
    default="auto",
    help="Precision to compute in; auto: the fastest that sharpose-export --verify found right on this kind of device, "
    "else fp32, or fp16 on a GPU or NPU, as far as the bundle holds it; bf16: with OpenVINO.",
)
@option(_MODEL, "--threads", type=Threads(), help="CPU threads of the engine; default: the engine's choice.")
@option(
    _MODEL,
    "--batch",
    type=_Batch(1, 4096),
    metavar="N|auto",
    help="People in a batch at most, for results that are the same to the last bit in every run; default, and auto: on "
    "a CPU the sizes that were measured to be cheapest, else the bundle's max batch.",
)
@option(
    _MODEL,
    "--tf32/--no-tf32",
    default=False,
    help="TF32 in float32 graphs on a GPU: faster, with the mantissa of a half.",
)
@option(
    _MODEL, "--engine-cache", type=FILE, metavar="DIR", help="Folder of TensorRT engines; default: ~/.cache/sharpose."
)
@option(
    _MODEL,
    "--cuda-bindings",
    type=click.Choice(["cuda-python", "pycuda"]),
    help="CUDA bindings for TensorRT; default: the first that is installed.",
)
@option(
    _MODEL,
    "--cuda-graphs/--no-cuda-graphs",
    default=None,
    help="CUDA graphs with TensorRT; default: on if the bindings support them.",
)
@server_options
@option(
    _PEOPLE,
    "--detector",
    shell_complete=complete_words(_detectors),
    metavar="FILE|NAME|motion",
    help="Person detector: an ONNX file (YOLOX, YOLOv8-style, YOLO or MMDeploy end-to-end), the name of one to "
    f"download, or `motion`: whatever moves in front of a camera that doesn't; default: {DEFAULT_DETECTOR}, downloaded "
    "once (20 MB; $SHARPOSE_DETECTOR_MIRROR is a folder's address to take it from).",
)
@option(
    _PEOPLE,
    "--detector-sha256",
    metavar="HASH",
    help="SHA-256 of a named detector; `trust` accepts the first download.",
)
@option(
    _PEOPLE,
    "--detector-device",
    type=DEVICE,
    shell_complete=complete_devices,
    metavar="DEVICE",
    default="auto",
    help="Device of the detector, as --device; auto: the same, and where TensorRT can't build it, CUDA or the CPU.",
)
@option(
    _PEOPLE,
    "--detector-mean",
    type=_channels,
    metavar="A,B,C",
    help="Mean to subtract from pixels (0 to 255), for each channel in the graph's order; default: the family's, or 0 "
    "with --detector-std.",
)
@option(
    _PEOPLE,
    "--detector-std",
    type=_channels,
    metavar="A,B,C",
    help="Standard deviation to divide pixels by after --detector-mean is subtracted, for each channel; default: the "
    "family's, or 1 with --detector-mean.",
)
@option(
    _PEOPLE,
    "--detector-rgb/--detector-bgr",
    default=None,
    help="Order of a detector's channels; default: that of its kind.",
)
@option(
    _PEOPLE,
    "--detector-table",
    type=FILE,
    metavar="FILE",
    help="Detector table; default: ~/.config/sharpose/detectors.yaml.",
)
@option(
    _PEOPLE,
    "--detect-every",
    type=_COUNT,
    default=1,
    metavar="N",
    help="Detection interval in frames; boxes follow poses in between.",
)
@option(_PEOPLE, "--conf", type=_SHARE, help="Confidence threshold of detections; default: 0.3.")
@option(_PEOPLE, "--iou", type=_SHARE, help="IoU threshold of non-maximum suppression; default: 0.65.")
@option(_PEOPLE, "--classes", metavar="IDS|NAMES", help="Classes to detect, by COCO's ids or names; default: person.")
@option(_PEOPLE, "--boxes", metavar="FILE", help="File of people's boxes: COCO detection results, or annotations.")
@option(_PEOPLE, "--full-frame", is_flag=True, help="One box over the whole frame: one person fills the picture.")
@option(
    _PEOPLE,
    "--track",
    is_flag=True,
    help="Track people: give each an id that stays, from its third frame on, but not before 0.15 s.",
)
@option(_PEOPLE, "--smooth", is_flag=True, help="Smooth each track's keypoints (One-Euro filter).")
@option(
    _SOURCE,
    "--buffer",
    type=click.Choice(["latest", "all"]),
    help="Frames of a live source to keep: the newest one (default), or all, up to 32.",
)
@option(
    _SOURCE,
    "--reconnect",
    type=attempts,
    metavar="N|forever",
    help="Attempts to reconnect a lost live source, 0 for none; default: no limit once it was there. A number or "
    "`forever` also waits for a source that isn't there yet.",
)
@option(
    _SOURCE,
    "--timeout",
    type=_SECONDS,
    metavar="S",
    help="Seconds without a frame before a live source counts as lost; default: 10.",
)
@option(
    _SOURCE, "--rtsp-transport", type=click.Choice(["tcp", "udp"]), help="Transport protocol of RTSP; default: tcp."
)
@option(_SOURCE, "--stride", type=_COUNT, default=1, help="Frame stride: process every Nth frame.")
@option(_SOURCE, "--start", type=Number(0), metavar="S", help="Seconds of a video to skip.")
@option(_SOURCE, "--duration", type=_SECONDS, metavar="S", help="Seconds to read.")
@option(
    _SOURCE,
    "--hwaccel",
    metavar="KIND",
    help="Hardware decoder: auto, cuda, vaapi, another of FFmpeg's, or jetson (GStreamer); default: none.",
)
@option(
    _SOURCE,
    "--strict",
    is_flag=True,
    help="End at the first damaged frame or picture; default: pass over it, say so, and exit with 3 at the end.",
)
@option(_SOURCE, "--stdin-size", type=SIZE, metavar="HxW", help="Size of the raw BGR frames on standard input.")
@option(_SOURCE, "--stdin-rate", type=_SECONDS, help="Frames per second on standard input; default: 25.")
@option(
    _RESULTS,
    "--output",
    "to_output",  # `to_…`: RunOptions.outputs
    multiple=True,
    metavar="FILE|URL",
    help="Annotated video: a .mp4, .mkv or .mov file, or an RTSP, RTMP, UDP or SRT address to stream to. "
    "May be repeated.",
)
@option(
    _RESULTS,
    "--encoder",
    shell_complete=complete_words(lambda: _ENCODERS),
    metavar="NAME",
    default="h264",
    help="Video encoder: h264, h265, auto (H.264 in hardware if that works), or any of FFmpeg's by name that fits the "
    "file's format, such as libvpx-vp9.",
)
@option(
    _RESULTS,
    "--crf",
    type=Whole(0, HIGHEST_CRF),
    help="Constant rate factor, 0 is best, 51 the worst of H.264 and H.265; default: the encoder's own.",
)
@option(_RESULTS, "--bitrate", type=Whole(1000, 10**9), metavar="BITS", help="Bits per second, instead of --crf.")
@option(_RESULTS, "--preset", metavar="NAME", help="Encoder preset, such as veryfast.")
@option(
    _RESULTS,
    "--audio",
    type=click.Choice(["copy", "none"]),
    default="copy",
    help="Sound of --output FILE: that of a video file is copied without encoding, or left out.",
)
@option(
    _RESULTS,
    "--json",
    "to_json",
    metavar="FILE",
    help="JSON Lines, one per frame, written as the run goes. `-` is standard output, as of --csv, --angles and --mot.",
)
@option(_RESULTS, "--coco", "to_coco", metavar="FILE", help="COCO keypoint results.")
@option(_RESULTS, "--csv", "to_csv", metavar="FILE", help="CSV, a row per person and frame.")
@option(
    _RESULTS,
    "--angles",
    "to_angles",
    metavar="FILE.csv|FILE.mot|FOLDER",
    help="Joint and segment angles: in FILE.csv, and for `-`, a row per person and frame; in FILE.mot OpenSim's motion "
    "of one person; in a folder, a name without an ending, a motion for each person of --track.",
)
@option(_RESULTS, "--openpose", "to_openpose", metavar="FOLDER", help="OpenPose JSON, a file per frame.")
@option(
    _RESULTS,
    "--mot",
    "to_mot",
    metavar="FILE",
    help="MOT challenge text (no motion of OpenSim: see --angles); needs --track.",
)
@option(_RESULTS, "--frames", "to_frames", metavar="FOLDER", help="Annotated pictures, a file per frame.")
@option(_RESULTS, "--overwrite/--no-overwrite", help="Replace result files that exist; without it they are refused.")
@option(_RESULTS, "--frames-format", type=click.Choice(["jpg", "png"]), default="jpg", help="Format of --frames.")
@option(
    _RESULTS, "--show", is_flag=True, help="Window with the annotated video; q or Esc ends the run, Space pauses it."
)
@option(_RESULTS, "--serve", metavar="HOST:PORT", help="Web page, /metrics and /healthz; HOST defaults to 127.0.0.1.")
@option(
    _RESULTS,
    "--serve-token",
    envvar="SHARPOSE_SERVE_TOKEN",
    metavar="TOKEN",
    help="Token for --serve; default: $SHARPOSE_SERVE_TOKEN.",
)
@biomechanics_options
@option(
    _PICTURE,
    "--kpt-thr",
    type=_SHARE,
    default=0.3,
    help="Score below which keypoints are not drawn, and not used for --angles and --trc: the probability that one is "
    "right, or, where the bundle has no score tables, its heatmap's peak.",
)
@option(
    _PICTURE,
    "--draw-status",
    is_flag=True,
    help="Frame rate, number of people, and what q, squares and colours mean, in the picture.",
)
@option(_PICTURE, "--draw-regions", is_flag=True, help="Regions that the fine stage looked at.")
@option(_MESSAGES, "--timings", is_flag=True, help="Table of how long each stage took, at the end.")
@option(_MESSAGES, "--quiet", is_flag=True, help="Warnings and errors only.")
@option(_MESSAGES, "--json-logs", is_flag=True, help="Messages and the closing counts as JSON, an object per line.")
@option(_MESSAGES, "--debug", is_flag=True, help="Traceback of an error.")
def command(**values: Any) -> int:  # noqa: ANN401 (click's; the dataclasses refuse names that they don't know)
    """Find human poses in every SOURCE: a video, a picture, a folder or glob of them, a camera's index, a URL,
    raw frames on standard input (`-`), or `scene`: drawn people, with settings as in
    `scene:seed=0,people=5,frames=150,size=720x1280,fps=25`.

    Several sources share one model; `{source}` in an output's name stands for the source's. The videos of a folder run
    one after another, several SOURCEs at the same time.

    People are found by a detector, unless --boxes or --full-frame says where they are; the scene brings its own boxes.
    """
    options = options_from(values)
    from sharpose.runtime.assemble import run_with

    return run_with(options)


def options_from(values: dict[str, Any]) -> RunOptions:
    """The options of a run from those of the command line, by the names that `command.params` have."""
    reading, video, outputs = _take(SourceOptions, values), _take(VideoSettings, values), _take_outputs(values)
    remote, biomechanics = _take(ServerOptions, values), _take(BiomechanicsOptions, values)
    if remote.server is not None:
        refuse_beside_server()
    return RunOptions(reading=reading, video=video, remote=remote, biomechanics=biomechanics, outputs=outputs, **values)


_Options = TypeVar("_Options", SourceOptions, VideoSettings, ServerOptions, BiomechanicsOptions)


def _take(kind: type[_Options], values: dict[str, Any]) -> _Options:
    """The options that are fields of `kind`, which are taken out of `values`."""
    return kind(**{field.name: values.pop(field.name) for field in fields(kind) if field.name in values})


def _take_outputs(values: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """Option and target of every parameter `to_…`, which are taken out of `values`, in the order of the help."""
    found = []
    for parameter in command.params:
        if parameter.name is not None and parameter.name.startswith("to_"):
            given = values.pop(parameter.name)
            targets = given if isinstance(given, tuple) else (given,)
            found += [(parameter.opts[0], target) for target in targets if target is not None]
    return tuple(found)


def main() -> NoReturn:
    """Entry point."""
    run_command(command)


if __name__ == "__main__":
    main()
