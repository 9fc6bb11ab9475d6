"""From the start of a process to its first poses, and the memory it takes: each sample in a fresh process."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from measuring.contenders import Entry
    from sharpose.bundle import Bundle
    from sharpose.runtime import Boxes

_AFTERWARDS = 3  # frames after the first, in which memory may still grow
_MOST_S = 600


@dataclass(frozen=True)
class ColdStart:
    """Medians over some fresh processes; everybody is refined."""

    seconds: float  # from the start of the process to the first poses
    imports_s: float  # of it: Python starts and imports the package
    load_s: float  # of it: opening the bundle and its engines
    first_frame_s: float  # of it: the first frame
    host_peak_mib: float  # most memory of the process, after some more frames
    gpu_mib: float | None  # memory of the GPU that came to be in use; None where nvidia-smi doesn't say
    error: str = ""  # why there are no numbers


def measure_cold_start(
    entry: Entry,
    bundle: Bundle,
    folder: Path,
    threads: int | None,
    image: np.ndarray[Any, Any],
    boxes: Boxes,
    *,
    times: int,
) -> ColdStart:
    """Start an entry some times; see `open_contender` for the first four arguments.

    One start more, the first, isn't counted: batches are measured in it, which happens once a machine where that isn't
    busy.
    """
    from measuring.memory import gpu_mib
    from sharpose.engines.device import parse_device

    samples = []
    with TemporaryDirectory() as scratch:
        picture = Path(scratch) / "picture.npz"
        np.savez(picture, image=image, boxes=boxes.xyxy)
        job = {
            "entry": asdict(entry),
            "bundle": str(bundle.path),
            "alpha": bundle.model.alpha,
            "folder": str(folder),
            "threads": threads,
            "picture": str(picture),
        }
        index = parse_device(entry.device).index
        for number in range(times + 1):
            gpu_before = gpu_mib(index)
            began = time.perf_counter()
            command = [sys.executable, str(Path(__file__).resolve()), json.dumps(job)]
            # Unbuffered: what readline took beyond its line would be lost to communicate.
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)
            assert process.stdout is not None
            try:
                first = process.stdout.readline()
                seconds = time.perf_counter() - began
                try:
                    rest, errors = process.communicate(timeout=_MOST_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    rest, errors = process.communicate()
            finally:  # Ctrl-C
                process.kill()
                process.wait()
            if process.returncode != 0 or not first:
                said = errors.decode(errors="replace").strip().splitlines()
                reason = (said or [f"exit code {process.returncode}"])[-1]
                return ColdStart(0, 0, 0, 0, 0, None, reason)
            found = json.loads(rest)
            if gpu_before is not None and found["gpu_mib"] is not None:
                found["gpu_mib"] -= gpu_before
            if number:  # the first one measures batches, once a machine
                samples.append({"seconds": seconds, **found})
    middle = {name: statistics.median(sample[name] for sample in samples) for name in samples[0] if name != "gpu_mib"}
    gpu = [sample["gpu_mib"] for sample in samples if sample["gpu_mib"] is not None]
    return ColdStart(**middle, gpu_mib=max(gpu, default=None))


def _run() -> None:
    """The fresh process: prints a line at its first poses, then what it measured as JSON."""
    job = json.loads(sys.argv[1])
    began = time.perf_counter()
    since_start = _seconds_since_start()
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from measuring.contenders import Entry, open_contender
    from measuring.memory import gpu_mib, host_peak_mib
    from sharpose.bundle import open_bundle
    from sharpose.engines.device import parse_device
    from sharpose.runtime import Boxes

    imported = time.perf_counter()
    opening = time.perf_counter()
    entry = Entry(**job["entry"])
    bundle = open_bundle(job["bundle"]).at_alpha(job["alpha"])
    contender = open_contender(entry, bundle, Path(job["folder"]), job["threads"])
    opened = time.perf_counter()
    with np.load(job["picture"]) as picture:
        image, boxes = picture["image"], Boxes.from_xyxy(picture["boxes"])
    frame = contender.frame(image, boxes)
    first = frame(len(boxes))["end_to_end"]
    print("first poses", flush=True)
    for _ in range(_AFTERWARDS):
        frame(len(boxes))
    values = {
        "imports_s": since_start + imported - began,
        "load_s": opened - opening,
        "first_frame_s": first,
        "host_peak_mib": host_peak_mib(),
        "gpu_mib": gpu_mib(parse_device(job["entry"]["device"]).index),  # of all that runs there
    }
    print(json.dumps(values))


def _seconds_since_start() -> float:
    """How long this process has run, to 10 ms."""
    ticks = int(Path("/proc/self/stat").read_text("ascii").rpartition(")")[2].split()[19])
    uptime = float(Path("/proc/uptime").read_text("ascii").split()[0])
    import os

    return max(0.0, uptime - ticks / os.sysconf("SC_CLK_TCK"))


if __name__ == "__main__":
    _run()
