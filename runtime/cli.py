"""`sharpose-run`: a video stream in, poses out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import unquote, urlsplit

import click

from sharpose.command import main as run_command

if TYPE_CHECKING:
    from sharpose.runtime.box_sources import BoxSource
    from sharpose.runtime.frames import Sink, Source

__all__ = ["command", "main"]

_FILE = click.Path(path_type=Path)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("source_name", metavar="SOURCE")
@click.option("--bundle", type=_FILE, required=True, help="Folder written by sharpose-export.")
@click.option("--boxes", "boxes_file", type=_FILE, help="People's boxes: COCO detection-results JSON.")
@click.option(
    "--detector", "detector_file", type=_FILE, help="ONNX person detector: YOLOX, YOLOv8-style or end-to-end."
)
@click.option("--full-frame", is_flag=True, help="One person fills every picture.")
@click.option(
    "--refine",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    show_default=True,
    help="Who the fine stage looks at: those of low quality, everybody or nobody.",
)
@click.option("--quality-threshold", type=float, help="Refine people below it; the bundle's own if left out.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda[:i], tensorrt[:i] or ort-tensorrt[:i].")
@click.option("--threads", type=click.IntRange(1), help="CPU threads of the engine; its own choice if left out.")
@click.option("--engine-cache", type=_FILE, help="Folder of TensorRT engines; ~/.cache/sharpose if left out.")
@click.option(
    "--cuda-bindings",
    type=click.Choice(["cuda-python", "pycuda"]),
    help="With TensorRT; the first that is installed if left out.",
)
@click.option(
    "--cuda-graphs/--no-cuda-graphs", default=None, help="With TensorRT; where the bindings have them if left out."
)
@click.option("--max-people", type=click.IntRange(1), help="Only so many a frame, the best boxes first.")
@click.option("--kpt-thr", type=float, default=0.3, show_default=True, help="Draw keypoints of at least this score.")
@click.option("--output", type=_FILE, help="Annotated H.264 video (.mp4, .mkv or .mov).")
@click.option("--json", "json_file", type=_FILE, help="JSON Lines, one a frame, written as it goes.")
@click.option("--coco", "coco_file", type=_FILE, help="COCO keypoint results.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def command(
    source_name: str,
    bundle: Path,
    boxes_file: Path | None,
    detector_file: Path | None,
    full_frame: bool,
    refine: str,
    quality_threshold: float | None,
    device: str,
    threads: int | None,
    engine_cache: Path | None,
    cuda_bindings: str | None,
    cuda_graphs: bool | None,
    max_people: int | None,
    kpt_thr: float,
    output: Path | None,
    json_file: Path | None,
    coco_file: Path | None,
    debug: bool,
) -> int:
    """Find human poses in SOURCE: a video, a picture, a folder or glob of pictures, a camera's index, a URL, or the
    built-in `scene` (`scene:seed=0,people=5,frames=150,size=720x1280`).

    People are found by --boxes, --detector or --full-frame; the scene brings its own boxes.
    """
    given = [
        name
        for name, value in (("--boxes", boxes_file), ("--detector", detector_file), ("--full-frame", full_frame))
        if value
    ]
    if len(given) > 1:
        raise click.UsageError(f"{' and '.join(given)} exclude each other: give one")
    outputs = [path for path in (output, json_file, coco_file) if path is not None]
    _check_outputs(source_name, bundle, [path for path in (boxes_file, detector_file) if path is not None], outputs)

    _check_tensorrt_options(device, engine_cache, cuda_bindings, cuda_graphs)

    from functools import partial

    from rich.console import Console

    from sharpose.engines.tensorrt_load import TensorRtSettings
    from sharpose.runtime.draw import draw_poses
    from sharpose.runtime.gate import check_refine
    from sharpose.runtime.pipeline import PoseEstimator
    from sharpose.runtime.progress import run_progress
    from sharpose.runtime.run import Run, run
    from sharpose.runtime.sources import open_source
    from sharpose.runtime.statistics import RunStatistics, print_statistics
    from sharpose.runtime.stopping import stop_on_signals

    console, messages = Console(), Console(stderr=True)
    estimator = PoseEstimator.from_bundle(
        bundle,
        device=device,
        refine=check_refine(refine),
        quality_threshold=quality_threshold,
        threads=threads,
        tensorrt=TensorRtSettings(
            engine_cache=engine_cache,
            cuda_bindings=cuda_bindings,
            cuda_graphs=cuda_graphs,
            say=lambda line: messages.print(line, highlight=False, markup=False, soft_wrap=True),
        ),
    )
    source = open_source(source_name)
    boxes = _box_source(source, boxes_file, detector_file, full_frame, device)
    sinks = _sinks(source, output, json_file, coco_file)
    if not sinks:
        messages.print("note: nothing will be written; add --output, --json or --coco", highlight=False)
    statistics = RunStatistics(warm_up=estimator.warm_up())
    draw = partial(draw_poses, skeleton=estimator.skeleton, keypoint_threshold=kpt_thr)
    job = Run(source, boxes, estimator, sinks, draw, max_people)
    with stop_on_signals() as stop:
        try:
            with run_progress(source, messages) as on_frame:
                run(job, statistics, stop=stop, on_frame=on_frame)
        finally:
            for warning in source.warnings:
                messages.print(f"warning: {warning}", highlight=False, markup=False, soft_wrap=True)
            if statistics.frames:
                print_statistics(statistics, console)
            estimator.close()
    if statistics.frames:
        for path in outputs:
            console.print(f"wrote {path}", highlight=False, markup=False, soft_wrap=True)
    return stop.exit_code


def _check_tensorrt_options(
    device: str, engine_cache: Path | None, cuda_bindings: str | None, cuda_graphs: bool | None
) -> None:
    """Refuse TensorRT's options where they would do nothing."""
    given = {
        "--engine-cache": engine_cache is not None,
        "--cuda-bindings": cuda_bindings is not None,
        "--cuda-graphs/--no-cuda-graphs": cuda_graphs is not None,
    }
    for name, is_given in given.items():
        if is_given and not device.startswith("tensorrt"):
            raise click.UsageError(f"{name} is for --device tensorrt, got --device {device}")


def _check_outputs(source_name: str, bundle: Path, inputs: list[Path], outputs: list[Path]) -> None:
    """Refuse outputs that would overwrite what is read, or one another."""
    if source_name.lower().startswith("file://"):
        source_name = unquote(urlsplit(source_name).path)
    taken = {path.resolve(): f"the input {path}" for path in inputs}
    taken[Path(source_name).resolve()] = "the source"
    for path in outputs:
        where = path.resolve()
        if where in taken:
            raise click.UsageError(f"output {path} would overwrite {taken[where]}; give another name")
        if where.parent == bundle.resolve():
            raise click.UsageError(f"output {path} lies in the bundle's folder; give another one")
        if path.is_dir():
            raise click.UsageError(f"output {path} is a folder; expected a file name")
        taken[where] = "another output"


def _box_source(
    source: Source, boxes_file: Path | None, detector_file: Path | None, full_frame: bool, device: str
) -> BoxSource:
    from sharpose.runtime.box_sources import DetectorBoxes, FileBoxes, FullFrame, SourceBoxes
    from sharpose.runtime.boxes import BoxesFile
    from sharpose.runtime.sources.scene import is_scene

    if boxes_file is not None:
        file = BoxesFile.load(boxes_file)
        if source.image_ids is not None:
            file.check_image_ids(source.image_ids)
        elif source.frame_count is not None:  # a claim, and headers claim too much rather than too little
            file.check_image_ids(frozenset(range(source.frame_count)))
        return FileBoxes(file)
    if detector_file is not None:
        from sharpose.engines.devices import onnxruntime_device
        from sharpose.runtime.detector import Detector

        return DetectorBoxes(Detector.from_onnx(detector_file, device=onnxruntime_device(device)))
    if full_frame:
        return FullFrame()
    if is_scene(source.name):
        return SourceBoxes()
    raise click.UsageError(
        "where are the people? give --boxes FILE (COCO detection results), --detector FILE.onnx (a YOLOX or YOLOv8 "
        "person detector), or --full-frame where one person fills the picture"
    )


def _sinks(source: Source, output: Path | None, json_file: Path | None, coco_file: Path | None) -> list[Sink]:
    from sharpose.runtime.sinks import CocoSink, JsonLinesSink, VideoSink

    sinks: list[Sink] = []
    if output is not None:
        sinks.append(VideoSink(output, frame_rate=source.frame_rate))
    if json_file is not None:
        sinks.append(JsonLinesSink(json_file))
    if coco_file is not None:
        sinks.append(CocoSink(coco_file))
    return sinks


def main() -> NoReturn:
    """Entry point."""
    run_command(command)
