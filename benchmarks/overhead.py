"""CPU time of `sharpose-run` beside its engines and FFmpeg: `python benchmarks/overhead.py [VIDEO] --output DIR`.

One run writes the annotated video and JSON Lines. Its CPU time a frame (user and system, all threads) is compared with
that of what can't be left out, each measured alone: the engines' runs for as many people, decoding the video, and
encoding the run's own pictures; and all three at once, since they slow each other where they share caches. All of it is
repeated, in rounds. The parts of what is left are measured alone. Start-up and warm-up are left out.
"""

from __future__ import annotations

if __name__ == "__main__":  # Ctrl-C while modules are imported
    from sharpose.__main__ import end_on_signals

    end_on_signals()

import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeAlias, cast

import av
import click
import cv2
import numpy as np
import numpy.typing as npt
from av.codec.context import ThreadType
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from measuring.command import begin, bundle_option, report_options, threads_option
from measuring.turns import bootstrap_median
from report import Machine, benchmark_command, command_to_repeat, kept_when_interrupted, write_file

from sharpose.bundle import open_bundle, shipped_bundle
from sharpose.cli import Whole, option
from sharpose.cli import main as run_command
from sharpose.engines.load import load_two_stage
from sharpose.errors import InputError, counted
from sharpose.geometry import crop_frames, extract_crops, keypoints_to_image
from sharpose.runtime import Boxes, PoseResult
from sharpose.runtime.drawing.draw import draw_poses
from sharpose.runtime.frames import Frame, FrameRecord
from sharpose.runtime.options import VideoSettings
from sharpose.runtime.pipeline import PoseEstimator
from sharpose.runtime.sinks.encoding import find_encoder
from sharpose.runtime.sinks.tables import JsonLinesSink
from sharpose.runtime.sinks.video import VideoSink
from sharpose.scene import Scene, SceneConfig
from sharpose.skeleton import Skeleton
from sharpose.tokens import gather_patches, patches_shape

Picture = npt.NDArray[np.uint8]
Entry = dict[str, Any]
"""A line of JSON Lines."""
_RATE = 25  # frames a second, of the videos made here
_AHEAD = 2  # frames
_IN_MEMORY = 400 << 20  # bytes of pictures
_RUN = "What is run"


@dataclass(frozen=True)
class Round:
    """Milliseconds a frame, each measured once: CPU time, but for `elapsed`."""

    elapsed: float  # of the whole run
    whole: float
    engines: float
    decode: float
    encode: float
    at_once: float  # engines, decoding and encoding, in threads that wait for each other's frames

    @property
    def necessary(self) -> float:
        """What the engines and FFmpeg take alone."""
        return self.engines + self.decode + self.encode

    @property
    def more(self) -> float:
        """How much more CPU time the run takes, as a share of that."""
        return self.whole / self.necessary - 1

    @property
    def sharing(self) -> float:
        """How much more those take that run at once, and share caches and memory, as a share of the same."""
        return self.at_once / self.necessary - 1


@dataclass
class Overhead:
    """What was measured, round by round, and milliseconds of CPU time a frame of the parts of the rest."""

    frames: int = 0
    people: float = 0.0  # in a frame
    refined: float = 0.0  # in a frame
    rounds: list[Round] = field(default_factory=list)
    parts: dict[str, float] = field(default_factory=dict)  # of the rest, each measured alone, once

    def __len__(self) -> int:
        """How many rounds are done."""
        return len(self.rounds)

    def median(self, name: str) -> float:
        """Over the rounds, of a number of theirs."""
        return float(np.median([getattr(one, name) for one in self.rounds]))

    def interval(self, name: str) -> tuple[float, float, float]:
        """The same with the 95 % interval of it."""
        return bootstrap_median(np.array([getattr(one, name) for one in self.rounds]))


@dataclass(frozen=True)
class Setup:
    """What is run.

    Attributes:
        video: A video file.
        boxes: Its people's boxes, as `sharpose-run --boxes` takes them.
        bundle: The bundle.
        refine: `auto`, `always` or `never`.
        threads: CPU threads of the engines; their choice if None.
        frames: Of the video, from its start.
        rounds: How often everything is measured.
    """

    video: Path
    boxes: Path
    bundle: Path
    refine: str
    threads: int | None
    frames: int
    rounds: int = 1


def measure(setup: Setup, folder: Path, found: Overhead) -> None:
    """Measure everything, round by round, with temporary files in a folder. Every second round is in reverse order."""
    if setup.frames < 2:
        raise InputError("--frames: expected at least 2, as the first one's time is taken off")
    annotated, lines = folder / "annotated.mp4", folder / "poses.jsonl"
    run_once(setup, 1, annotated, lines)  # what is measured once a machine is measured here
    run_once(setup, setup.frames, annotated, lines)
    entries = [json.loads(line) for line in lines.read_text("utf-8").splitlines()]
    if len(entries) < 2:
        raise InputError(f"{setup.video}: expected at least 2 frames, found {len(entries)}")
    counts = [(len(entry["people"]), sum(person["refined"] for person in entry["people"])) for entry in entries]
    found.frames = len(entries)
    found.people, found.refined = np.mean(counts, axis=0).tolist()
    pictures = pictures_of(annotated, len(entries))
    with engine_steps(setup, counts) as run:
        steps: dict[str, Callable[[], tuple[float, ...]]] = {
            "whole": lambda: whole_run(setup, len(entries), folder),
            "engines": lambda: (engines_alone(run, len(entries)),),
            "decode": lambda: (decode_alone(setup.video, len(entries)),),
            "encode": lambda: (encode_alone(pictures, folder),),
            "at_once": lambda: (at_once(run, setup.video, pictures, folder),),
        }
        for number in range(setup.rounds):
            order = list(steps) if number % 2 == 0 else list(reversed(steps))
            seconds = {name: steps[name]() for name in order}
            elapsed, whole = seconds.pop("whole")
            alone = {name: value[0] * 1000 for name, value in seconds.items()}
            found.rounds.append(Round(elapsed * 1000, whole * 1000, **alone))
    rest = rest_alone(setup.video, entries, setup.bundle, folder)
    found.parts = {name: seconds * 1000 for name, seconds in rest.items()}


def whole_run(setup: Setup, frames: int, folder: Path) -> tuple[float, float]:
    """Seconds a frame of elapsed and of CPU time of a run, without its start and its first frame."""
    annotated, lines = folder / "measured.mp4", folder / "measured.jsonl"
    first = run_once(setup, 1, annotated, lines)
    whole = run_once(setup, frames, annotated, lines)
    return (whole[0] - first[0]) / (frames - 1), (whole[1] - first[1]) / (frames - 1)


def run_once(setup: Setup, frames: int, annotated: Path, lines: Path) -> tuple[float, float]:
    """Seconds of elapsed and of CPU time of `sharpose-run` on the first frames."""
    with av.open(str(setup.video)) as container:
        rate = float(container.streams.video[0].average_rate or 25)
    command = [sys.executable, "-m", "sharpose", "run", str(setup.video), "--boxes", str(setup.boxes)]
    command += ["--bundle", str(setup.bundle), "--refine", setup.refine, "--quiet", "--overwrite", "--audio", "none"]
    command += ["--output", str(annotated), "--json", str(lines), "--duration", str((frames - 0.5) / rate)]
    command += [] if setup.threads is None else ["--threads", str(setup.threads)]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    try:
        said = process.stderr.read().decode("utf-8", "replace")
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:  # Ctrl-C
        process.kill()
        process.wait()
        raise
    elapsed = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise InputError(f"sharpose-run: {said.strip()}")
    return elapsed, usage.ru_utime + usage.ru_stime


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU seconds of this process, all threads, that some work takes."""
    began = time.process_time()
    work()
    return time.process_time() - began


Step: TypeAlias = Callable[[int], object]
"""Does what a frame takes, given its index; the frames come in order."""


@contextlib.contextmanager
def engine_steps(setup: Setup, counts: Sequence[tuple[int, int]]) -> Iterator[Step]:
    """Both engines' runs, for so many people and refined ones in each frame."""
    bundle = open_bundle(setup.bundle)
    stages = load_two_stage(bundle, threads=setup.threads)
    noise = np.random.default_rng(0)
    with PoseEstimator.from_stages(bundle, stages) as estimator:
        estimator.warm_up()
        for array in (stages.crops, stages.patches):
            array[...] = noise.integers(0, 256, array.shape, dtype=np.uint8)

        def run(index: int) -> None:
            people, refined = counts[index]
            for start in range(0, people, stages.max_batch):
                of_chunk = min(stages.max_batch, people - start)
                stages.run_coarse(of_chunk)
                rows = refined * (start + of_chunk) // people - refined * start // people
                if rows:
                    stages.run_fine(np.arange(rows, dtype=np.int32))

        yield run


def engines_alone(run: Step, frames: int) -> float:
    """CPU seconds a frame of both engines' runs, without the first frame's."""
    return cpu_seconds(lambda: [run(index) for index in range(1, frames)]) / (frames - 1)


def decoded(video: Path, frames: int) -> Iterator[VideoFrame]:
    """The first frames of a video, decoded as `sharpose-run` does."""
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE" if stream.codec_context.name == "h264" else "SLICE"
        yield from itertools.islice(container.decode(stream), frames)


def decode_alone(video: Path, frames: int) -> float:
    """CPU seconds a frame of decoding so many, which the video has."""
    return cpu_seconds(lambda: deque(decoded(video, frames), maxlen=0)) / frames


def pictures_of(video: Path, frames: int) -> list[VideoFrame]:
    """A video's first pictures in YUV, with nothing of its decoder; fewer where they are large."""
    found: list[VideoFrame] = []
    for frame in decoded(video, frames):
        found.append(VideoFrame.from_ndarray(frame.to_ndarray(format="yuv420p"), format="yuv420p"))
        if len(found) * frame.width * frame.height * 3 // 2 > _IN_MEMORY:
            break
    return found


@contextlib.contextmanager
def encode_steps(pictures: Sequence[VideoFrame], folder: Path) -> Iterator[Step]:
    """Encoding each picture, with the settings of `sharpose-run`, and after the last what the encoder still has."""
    settings = VideoSettings()
    encoder = find_encoder(settings)
    with av.open(str(folder / "again.mp4"), "w") as container:
        stream = cast(VideoStream, container.add_stream(encoder.name, rate=_RATE, options=encoder.options(settings)))
        context = stream.codec_context
        context.max_b_frames, context.thread_count, context.thread_type = 0, 2, ThreadType.SLICE
        context.width, context.height, context.pix_fmt = pictures[0].width, pictures[0].height, "yuv420p"

        def encode(index: int) -> None:
            given = pictures[index]
            given.pts, given.time_base = index, Fraction(1, _RATE)
            given.pict_type = PictureType.NONE if index % _RATE else PictureType.I
            container.mux(stream.encode(given))
            if index == len(pictures) - 1:
                container.mux(stream.encode(None))

        yield encode


def encode_alone(pictures: Sequence[VideoFrame], folder: Path) -> float:
    """CPU seconds a frame of encoding pictures."""
    with encode_steps(pictures, folder) as step:
        return cpu_seconds(lambda: [step(index) for index in range(len(pictures))]) / len(pictures)


def at_once(run: Step, video: Path, pictures: Sequence[VideoFrame], folder: Path) -> float:
    """CPU seconds a frame of engines, decoding and encoding, each in a thread, none more than two frames ahead.

    What these take more than alone, they take because they share caches, memory and cores.
    """
    source = decoded(video, len(pictures))
    with encode_steps(pictures, folder) as encode:
        steps: list[Step] = [run, lambda index: next(source, None), encode]
        done = [0] * len(steps)
        changed = threading.Condition()

        def work(which: int) -> None:
            try:
                for index in range(len(pictures)):
                    with changed:
                        changed.wait_for(lambda: index <= min(done) + _AHEAD)  # noqa: B023 (called at once)
                    steps[which](index)
                    with changed:
                        done[which] += 1
                        changed.notify_all()
            finally:  # where it failed, too: others don't wait for it
                with changed:
                    done[which] = len(pictures)
                    changed.notify_all()

        def all_of_them() -> None:
            with ThreadPoolExecutor(len(steps)) as pool:
                list(pool.map(work, range(len(steps))))

        return cpu_seconds(all_of_them) / len(pictures)


def rest_alone(video: Path, entries: Sequence[Entry], bundle: Path, folder: Path) -> dict[str, float]:
    """CPU seconds a frame of what `sharpose-run` does between FFmpeg and the engines, by what it is.

    Args:
        video: The video.
        entries: Its frames in JSON Lines.
        bundle: The bundle that they were made with.
        folder: For temporary files.
    """
    model = open_bundle(bundle).model
    seconds = dict.fromkeys(("to BGR", "crops", "patches", "map back", "drawing", "to YUV", "JSON"), 0.0)
    reformatter, sink = VideoReformatter(), JsonLinesSink(folder / "again.jsonl")
    most = max(len(entry["people"]) for entry in entries)
    crops = np.zeros((most, *model.crop_size, 3), np.uint8)
    order = np.tile(np.arange(model.num_regions, dtype=np.int32), (most, 1))
    patches = np.zeros(patches_shape(most, model.num_selected), np.uint8)
    for frame, entry in zip(decoded(video, len(entries)), entries, strict=True):
        made: dict[str, Picture] = {}

        def timed(name: str, work: Callable[[], object]) -> None:
            seconds[name] += cpu_seconds(work)

        bgr = partial(reformatter.reformat, frame, format="bgr24")
        timed("to BGR", lambda: made.update(image=np.ascontiguousarray(bgr().to_ndarray())))  # noqa: B023
        poses = poses_of(entry, model.skeleton)
        frames = crop_frames(poses.boxes_xyxy, model.crop_size)
        rows = np.flatnonzero(poses.refined).astype(np.int32)
        timed("crops", lambda: extract_crops(made["image"], frames, crops))  # noqa: B023
        timed("patches", lambda: gather_patches(crops, rows, order, model.num_selected, patches))  # noqa: B023
        timed("map back", lambda: keypoints_to_image(poses.keypoints, frames))  # noqa: B023
        shown = Frame(made["image"], entry["frame"], entry["time"], entry["frame"], owned=True)
        record = FrameRecord(shown, poses, partial(draw_poses, skeleton=model.skeleton, copy=False))
        timed("drawing", lambda: record.picture)  # noqa: B023
        timed("to YUV", lambda: cv2.cvtColor(record.picture, cv2.COLOR_BGR2YUV_I420))  # noqa: B023
        timed("JSON", lambda: sink.write(record))  # noqa: B023
    sink.close()
    return {name: total / len(entries) for name, total in seconds.items()}


def poses_of(entry: Entry, skeleton: Skeleton) -> PoseResult:
    """A line of JSON as poses again."""
    people = entry["people"]
    joints = skeleton.num_keypoints
    return PoseResult(
        Boxes.from_xywh(np.array([one["bbox"] for one in people], np.float32).reshape(-1, 4)),
        np.array([one["keypoints"] for one in people], np.float32).reshape(-1, joints, 3),
        np.array([one["quality"] for one in people], np.float32),
        np.array([one["refined"] for one in people], np.bool_),
    )


def make_video(folder: Path, frames: int) -> tuple[Path, Path]:
    """A video of the built-in scene, one person at 1920x1080, and the file of its boxes."""
    video, boxes = folder / "scene.mp4", folder / "boxes.json"
    scene = Scene(SceneConfig(seed=3, people=1, frames=frames, height=1080, width=1920))
    sink = VideoSink(video, frame_rate=_RATE)
    nobody = PoseResult(Boxes.empty(), np.zeros((0, 17, 3), np.float32), np.zeros(0, np.float32), np.zeros(0, np.bool_))
    found = []
    for index in range(frames):
        drawn = scene.frame(index)
        frame = Frame(drawn.image, index, index / _RATE, index)
        sink.write(FrameRecord(frame, nobody, lambda image, _: image))
        for box in Boxes.from_xyxy(drawn.boxes_xyxy).xywh.tolist():
            found.append({"image_id": index, "category_id": 1, "bbox": box, "score": 1.0})
    sink.close()
    boxes.write_text(json.dumps(found), "utf-8")
    return video, boxes


def markdown(found: Overhead, machine: Machine, what: str, command_line: str) -> str:
    """The report as a Markdown page, of one round at least."""
    shown = {"whole": "**whole run**", "engines": "engines", "decode": "FFmpeg: decoding", "encode": "FFmpeg: encoding"}
    rows = [(words, found.median(name)) for name, words in shown.items()]
    rows.append(("the three at once: more than alone", found.median("at_once") - found.median("necessary")))
    if found.parts:
        rows += [(f"the rest: {name}", milliseconds) for name, milliseconds in found.parts.items()]
        rows.append(("the rest: other", found.median("whole") - sum(milliseconds for _, milliseconds in rows[1:])))
    (median, low, high), sharing = found.interval("more"), found.interval("sharing")
    lines = [
        f"# CPU time of sharpose-run, {what}",
        "",
        str(machine),
        "",
        f"`{command_line}`",
        "",
        f"{found.frames} frames, {found.people:.1f} people a frame of whom {found.refined:.1f} are refined.",
        "",
        f"The whole run takes {median:+.1%} of CPU time more than its engines and FFmpeg alone (median of "
        f"{counted(len(found), 'round')}, 95 % interval {low:+.1%} to {high:+.1%}); {found.median('elapsed'):.1f} ms a "
        f"frame elapse. Those three take {sharing[0]:+.1%} ({sharing[1]:+.1%} to {sharing[2]:+.1%}) where they run at "
        "once, in threads that do nothing else: they share caches, memory and cores.",
        "",
        "| | CPU time, ms a frame |",
        "| --- | --- |",
        *(f"| {name} | {milliseconds:.2f} |" for name, milliseconds in rows),
    ]
    return "\n".join(lines) + "\n"


@benchmark_command(
    "python benchmarks/overhead.py --output out",
    "python benchmarks/overhead.py video.mp4 --boxes boxes.json --frames 40 --output out",
)
@click.argument("video", required=False, type=click.Path(path_type=Path))
@option(_RUN, "--boxes", type=click.Path(path_type=Path), help="The video's boxes, a file as sharpose-run takes it.")
@bundle_option(_RUN)
@option(
    _RUN,
    "--refine",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "always", "never"]),
    help="Who is refined, as in sharpose-run.",
)
@threads_option(_RUN)
@option(_RUN, "--frames", default=100, show_default=True, type=Whole(2), help="Frames, from the start.")
@option(_RUN, "--rounds", default=5, show_default=True, type=Whole(1), help="How often everything is measured.")
@report_options("overhead.md and overhead.json", "rounds")
def command(
    video: Path | None,
    boxes: Path | None,
    bundle: Path | None,
    refine: str,
    threads: int | None,
    frames: int,
    rounds: int,
    output: Path,
    overwrite: bool,
    debug: bool,
) -> int:
    """Measure the CPU time that a run takes beside its engines and FFmpeg.

    Without VIDEO: one person of the built-in scene, at 1920x1080.
    """
    if (video is None) != (boxes is None):
        raise click.UsageError("VIDEO and --boxes go together: give both, or neither")
    machine = begin(output, "overhead.md", "overhead.json", overwrite=overwrite)
    command_line = command_to_repeat("overhead.py").replace("overhead.py video ", "overhead.py ")
    found = Overhead()

    def write() -> None:
        page = markdown(found, machine, "one person at 1920x1080" if video is None else video.name, command_line)
        write_file(output / "overhead.md", page)
        names = ("elapsed", "whole", "engines", "decode", "encode", "at_once")
        medians = {name: found.median(name) for name in names}
        intervals = {name: found.interval(name) for name in ("more", "sharing")}
        report = {"machine": asdict(machine), "command": command_line, **asdict(found), **medians, **intervals}
        write_file(output / "overhead.json", json.dumps(report, indent=2) + "\n")
        click.echo(page)

    with tempfile.TemporaryDirectory(prefix="sharpose-overhead-") as temporary:
        folder = Path(temporary)
        source, people = (video, boxes) if video and boxes else make_video(folder, frames)
        setup = Setup(source, people, bundle or shipped_bundle(), refine, threads, frames, rounds)
        with kept_when_interrupted(found, "round", output, write):
            measure(setup, folder, found)
            write()
    return 0


def main() -> NoReturn:
    """Entry point."""
    run_command(command)


if __name__ == "__main__":
    main()
