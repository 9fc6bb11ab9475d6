"""How the runtime scales: `python benchmarks/scaling.py --output DIR`, or some `--parts` of it.

people: frames with 1 to 100 people. sizes: frames of 480p to 4K, decoded and estimated. streams: 1 to 8 videos at once
in `sharpose-run`. memory: that of this process over 10,000 frames. rest: the CPU that `sharpose-run` takes while a live
source has nothing for it.
"""

from __future__ import annotations

if __name__ == "__main__":  # Ctrl-C while modules are imported
    from sharpose.__main__ import end_on_signals

    end_on_signals()

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

import av
import numpy as np
from latency import picture_with
from measuring.command import (
    PartsReport,
    Row,
    begin,
    bundle_option,
    device_option,
    precision_option,
    report_options,
    threads_option,
)
from measuring.contenders import Contender, Entry, open_contender
from measuring.memory import host_mib, host_peak_mib
from measuring.turns import refined_counts, take_turns
from report import (
    benchmark_command,
    command_to_repeat,
    number_list,
    word_list,
)

from sharpose.bundle import Bundle, open_bundle, shipped_bundle
from sharpose.cli import Whole, option
from sharpose.cli import main as run_command
from sharpose.engines.device import parse_device
from sharpose.engines.precision import PrecisionChoice, choose_precision
from sharpose.errors import EngineError
from sharpose.runtime import Boxes
from sharpose.runtime.sources.video import VideoSource

PARTS = ("memory", "people", "sizes", "streams", "rest")  # memory before others leave theirs behind
SIZES = {"480p": (480, 854), "720p": (720, 1280), "1080p": (1080, 1920), "4K": (2160, 3840)}
"""Heights and widths in pixels."""
_MODEL, _PARTS = "Model", "What is measured"
_PERCENT = 50  # refined
_SETTLED = 0.2  # of the frames, after which memory should stay as it is


@dataclass(frozen=True)
class Effort:
    """How long each part takes."""

    people: Sequence[int] = (1, 2, 5, 10, 20, 50, 100)
    streams: Sequence[int] = (1, 2, 4, 8)
    sizes: Sequence[str] = tuple(SIZES)
    seconds: float = 3.0  # for each number of people and each size
    rounds: int = 6  # likewise
    video_frames: int = 100  # of each stream
    sized_frames: int = 20  # decoded of each size
    frames: int = 10_000  # of the memory part
    rest_s: float = 10.0  # that each quiet source is watched


QUICK = Effort((1, 4), (1, 2), ("480p", "720p"), 0.0, 2, 10, 5, 200, 1.5)
"""To see that everything runs."""


class Scaling:
    """Runs the parts with one bundle on one device; each part returns the rows of its table."""

    def __init__(self, bundle: Bundle, entry: Entry, threads: int | None, effort: Effort, folder: Path) -> None:
        self._bundle, self._entry, self._effort, self._folder = bundle, entry, effort, folder
        self._options = ["--bundle", str(bundle.path), "--device", entry.device, "--precision", entry.precision]
        self._options += [] if threads is None else ["--threads", str(threads)]
        self._contender: Contender = open_contender(entry, bundle, folder / "dense", threads)

    def close(self) -> None:
        """Free the engines."""
        self._contender.close()

    def _frame_ms(self, image: np.ndarray[Any, Any], boxes: Boxes) -> tuple[float, float, float]:
        """Mean and p95 of a frame, and mean of its crops, in milliseconds."""
        times = take_turns(
            {"": self._contender.frame(image, boxes)},
            refined_counts(len(boxes), _PERCENT),
            warm_up=1,
            seconds=self._effort.seconds,
            min_rounds=self._effort.rounds,
        )[""]
        return times.mean(), times.percentiles()["p95"], times.mean("crop")

    def people(self) -> list[Row]:
        """Frames of 720p with more and more people."""
        rows = []
        for count in self._effort.people:
            mean, p95, _ = self._frame_ms(*picture_with(count))
            rows.append({"people": count, "mean ms": mean, "p95 ms": p95, "people/s": count / mean * 1000})
        return rows

    def sizes(self) -> list[Row]:
        """Frames of more and more pixels with 4 people: decoding H.264 to BGR, crops, all of the estimate."""
        rows = []
        for name in self._effort.sizes:
            image, boxes = picture_with(4, SIZES[name])
            video = self._folder / f"{name}.mp4"
            write_video(video, image, self._effort.sized_frames)
            frames = iter(VideoSource(str(video)))
            next(frames)  # opening and the first frame don't count
            began, cpu = time.perf_counter(), time.process_time()
            count = sum(1 for _ in frames)
            decode, decode_cpu = time.perf_counter() - began, time.process_time() - cpu
            mean, p95, crop = self._frame_ms(image, boxes)
            row = {"size": name, "decode ms": decode / count * 1000, "decode CPU ms": decode_cpu / count * 1000}
            rows.append({**row, "crop ms": crop, "mean ms": mean, "p95 ms": p95})
        return rows

    def streams(self) -> list[Row]:
        """`sharpose-run` on several videos of 720p at once, one person a frame, all refined.

        Its start counts in the CPU time, not in the frames a second.
        """
        rows = []
        image, _ = picture_with(4)
        for count in self._effort.streams:
            videos = [self._folder / f"stream{index}.mp4" for index in range(count)]
            for video in videos:
                if not video.exists():
                    write_video(video, image, self._effort.video_frames)
            words = [*map(str, videos), "--full-frame", "--refine", "always", *self._options]
            words += ["--json", str(self._folder / "{source}.jsonl"), "--overwrite", "--json-logs"]
            code, text, cpu_s, peak_mib = _run_to_end(words)
            if code != 0:
                raise EngineError(f"sharpose-run with {count} streams ended with {code}: {text[-300:]}")
            done = [json.loads(line) for line in text.splitlines() if '"run done"' in line][-1]
            rate = done["frames"] / done["seconds"]
            row = {"streams": count, "frames": done["frames"], "frames/s": rate, "frames/s each": rate / count}
            rows.append({**row, "CPU ms/frame": cpu_s * 1000 / done["frames"], "peak MiB": peak_mib})
        return rows

    def memory(self) -> list[Row]:
        """This process while 0 to 3 people come and go."""
        image, boxes = picture_with(3)
        frames = [self._contender.frame(image, Boxes.from_xyxy(boxes.xyxy[:count])) for count in range(4)]
        rows: list[Row] = []
        step = max(1, self._effort.frames // 50)
        for number in range(self._effort.frames):
            if number % step == 0:
                rows.append({"frame": number, "MiB": host_mib()})
            count = number % 4
            frames[count]((number // 4) % (count + 1))
        rows.append({"frame": self._effort.frames, "MiB": host_mib()})
        return rows

    def rest(self) -> list[Row]:
        """`sharpose-run` on raw frames from a pipe: none, and 25 a second of 720p in which nobody is found."""
        still = np.zeros((720, 1280, 3), np.uint8).tobytes()
        rows = []
        for name, frame in (("no frames", b""), ("25 frames/s, nothing moves", still)):
            words = ["-", "--stdin-size", "720x1280", "--detector", "motion", *self._options]
            words += ["--json", str(self._folder / "rest.jsonl"), "--overwrite", "--quiet"]
            rows.append({"source": name, "CPU": _share_of_cpu(words, frame, self._effort.rest_s)})
        return rows


def growth_mib(rows: Sequence[Row]) -> float:
    """How much the memory part's process grew after the first fifth of its frames."""
    settled = next(row["MiB"] for row in rows if row["frame"] >= _SETTLED * rows[-1]["frame"])
    return float(rows[-1]["MiB"] - settled)


def write_video(path: Path, image: np.ndarray[Any, Any], frames: int) -> None:
    """An H.264 video of a BGR picture that moves by two pixels a frame."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(25), options={"preset": "veryfast"})
        stream.height, stream.width = image.shape[:2]
        stream.pix_fmt = "yuv420p"
        for number in range(frames):
            moved = av.VideoFrame.from_ndarray(np.roll(image, 2 * number, axis=1), format="bgr24")
            container.mux(stream.encode(moved))
        container.mux(stream.encode(None))


def _command(words: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "sharpose", "run", *words]


def _run_to_end(words: Sequence[str]) -> tuple[int, str, float, float]:
    """Exit code, what was printed, seconds of CPU, and peak memory in MiB."""
    with TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                _command(words), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, cwd=folder
            )
            peak_mib = 0.0
            try:
                while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
                    with contextlib.suppress(OSError):  # the peak that wait4 gives begins with this process's own
                        peak_mib = max(peak_mib, host_peak_mib(process.pid))
                    time.sleep(0.02)
            except BaseException:  # Ctrl-C
                process.kill()
                process.wait()
                raise
            _, status, usage = ended
            process.returncode = os.waitstatus_to_exitcode(status)
        text = log.read_text("utf-8", "replace")
    return process.returncode, text, usage.ru_utime + usage.ru_stime, peak_mib


def _share_of_cpu(words: Sequence[str], frame: bytes, seconds: float) -> float:
    """What a run takes of one core while raw frames come at 25 a second, or none; its start isn't counted."""
    with TemporaryDirectory() as folder:
        process = subprocess.Popen(
            _command(words), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=folder
        )
        assert process.stdin is not None
        try:
            _wait_until_idle(process, frame)
            began, cpu = time.monotonic(), _cpu_s(process.pid)
            while (passed := time.monotonic() - began) < seconds:
                if process.poll() is not None:
                    raise ProcessLookupError
                if frame:
                    process.stdin.write(frame)
                    process.stdin.flush()
                time.sleep(0.04 - (time.monotonic() - began) % 0.04)
            return (_cpu_s(process.pid) - cpu) / passed
        except (BrokenPipeError, ProcessLookupError, FileNotFoundError):
            process.wait()
            assert process.stderr is not None
            said = process.stderr.read().decode("utf-8", "replace").strip()
            raise EngineError(f"sharpose-run on standard input ended with {process.returncode}: {said}") from None
        finally:
            process.kill()
            process.wait()


def _wait_until_idle(process: subprocess.Popen[bytes], frame: bytes) -> None:
    """Feed some frames, and wait until the start is over: half a second with less than 0.3 s of CPU."""
    assert process.stdin is not None
    for _ in range(5 if frame else 0):
        process.stdin.write(frame)
        process.stdin.flush()
    while True:
        before = _cpu_s(process.pid)
        time.sleep(0.5)
        if before > 0.2 and _cpu_s(process.pid) - before < 0.3:
            return


def _cpu_s(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text("ascii").rpartition(")")[2].split()
    if fields[0] == "Z":
        raise ProcessLookupError(process)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _growth(part: str, rows: Sequence[Row]) -> list[str]:
    return ["", f"Growth after the first fifth: {growth_mib(rows):.1f} MiB."] if part == "memory" else []


@benchmark_command(
    "python benchmarks/scaling.py --output out",
    "python benchmarks/scaling.py --bundle bundle --device openvino --parts people,streams --output out",
)
@bundle_option(_MODEL)
@device_option(_MODEL)
@precision_option(_MODEL)
@threads_option(_MODEL)
@option(_PARTS, "--parts", default=",".join(PARTS), show_default=True, callback=word_list(PARTS), help="What to run.")
@option(_PARTS, "--people", callback=number_list(1, 1024), help="Numbers of people.  [default: 1 to 100]")
@option(_PARTS, "--streams", callback=number_list(1, 64), help="Numbers of streams.  [default: 1,2,4,8]")
@option(_PARTS, "--frames", type=Whole(50), help="Frames of the memory part.  [default: 10000]")
@option(_PARTS, "--quick", is_flag=True, help="A minute for all parts, to see that they run.")
@report_options("scaling.md and scaling.json", "parts")
def command(
    bundle: Path | None,
    device: str,
    precision: PrecisionChoice,
    threads: int | None,
    parts: list[str],
    people: list[int] | None,
    streams: list[int] | None,
    frames: int | None,
    quick: bool,
    output: Path,
    overwrite: bool,
    debug: bool,
) -> int:
    """Measure how people, frame sizes, streams and time change speed, memory and CPU."""
    machine = begin(output, "scaling.md", "scaling.json", overwrite=overwrite)
    opened = open_bundle(shipped_bundle() if bundle is None else bundle)
    entry = Entry("engine", device, choose_precision(opened, parse_device(device), precision))
    effort = QUICK if quick else Effort()
    effort = replace(
        effort, people=people or effort.people, streams=streams or effort.streams, frames=frames or effort.frames
    )
    report = PartsReport(
        "scaling",
        output,
        machine,
        f"{opened.model.name} on {device} in {entry.precision}, half of the people refined.",
        {
            "bundle": opened.model.name,
            "device": device,
            "precision": entry.precision,
            "command": command_to_repeat("scaling.py"),
        },
        _growth,
        long_parts=("memory",),
    )
    with (
        TemporaryDirectory(prefix="sharpose-scaling-") as folder,
        contextlib.closing(Scaling(opened, entry, threads, effort, Path(folder))) as scaling,
    ):
        report.measure(scaling, parts)
    return 0


def main() -> NoReturn:
    """Entry point."""
    run_command(command)


if __name__ == "__main__":
    main()
