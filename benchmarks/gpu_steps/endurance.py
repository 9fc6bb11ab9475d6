"""Whether results and memory stay as they are: in two threads, over many frames, opened again and again."""

from __future__ import annotations

import gc
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from latency import picture_with
from measuring.memory import gpu_mib, host_mib

from gpu_steps.device import (
    SAME,
    Crops,
    Keypoints,
    bundle_for_gpu,
    call,
    error_of,
    need_gpu,
    open_engines,
    run_once,
    scene_crops,
)
from gpu_steps.notes import CouldNotRunError, Notes, Outcome, Setup
from sharpose.bundle import Bundle
from sharpose.engines.device import detector_devices, parse_device
from sharpose.engines.stages import open_stages
from sharpose.runtime.detectors.onnx import Detector
from sharpose.runtime.pipeline import PoseEstimator

_FLAT_MIB, _SETTLED = 64, 10  # growth of memory that is no leak, after so many samples


def check_threads(setup: Setup, notes: Notes) -> Outcome:
    """A detector and the estimator in two threads at once: the same results as alone."""
    bundle = bundle_for_gpu(setup)
    image, boxes = picture_with(4)
    estimator = PoseEstimator.from_stages(bundle, open_engines(setup, bundle))
    detect = _detector(setup, bundle, notes)

    def repeat(what: str, run: Callable[[], Keypoints], expected: Keypoints) -> str:
        for number in range(setup.repeats):
            found = run()
            if found.shape != expected.shape or not np.allclose(found, expected, atol=SAME):
                return f"{what}: run {number} gave other results than alone"
        return ""

    jobs: list[tuple[str, Callable[[], Keypoints]]] = [
        ("estimator", lambda: estimator(image, boxes).keypoints),
        ("detector", lambda: detect(image)),
    ]
    alone = [run().copy() for _, run in jobs]
    started = time.perf_counter()
    with ThreadPoolExecutor(2) as pool:
        different = list(pool.map(repeat, *zip(*jobs, strict=True), alone))
    notes.add(f"seconds for {setup.repeats} runs of both", time.perf_counter() - started)
    estimator.close()
    return not any(different), "; ".join(filter(None, different)) or "the same results as alone"


def _detector(setup: Setup, bundle: Bundle, notes: Notes) -> Callable[[Crops], Keypoints]:
    """The detector that was given, or the coarse graph on the CPU in its place."""
    if setup.detector is not None:
        detector = Detector.from_onnx(setup.detector, device=detector_devices(setup.device))
        notes.add("detector", f"{setup.detector.name} on {detector.device}")
        return lambda image: detector(image).xyxy
    stages, crops = open_stages(bundle, "cpu", "fp32", threads=1), scene_crops(bundle, 1)
    notes.add("detector", "the coarse graph on the CPU")
    return lambda image: stages.coarse(crops)["keypoints"].astype(np.float32)


def check_reopening(setup: Setup, notes: Notes) -> Outcome:
    """Open, run and close, again and again: memory stays as it is."""
    bundle = bundle_for_gpu(setup)
    crops = scene_crops(bundle, 2)
    for _ in range(setup.openings):
        run_once(open_engines(setup, bundle), bundle, crops)
        gc.collect()
        _note_memory(setup, notes)
    flat, text = _judge_memory(notes)
    return flat, f"{setup.openings} times opened, run and closed; {text}"


def check_frames(setup: Setup, notes: Notes) -> Outcome:
    """A long run: memory, latency and results stay as they are."""
    bundle = bundle_for_gpu(setup)
    estimator = PoseEstimator.from_stages(bundle, open_engines(setup, bundle))
    image, everybody = picture_with(bundle.manifest.max_batch + 2)
    people = [everybody.xyxy[:count] for count in range(len(everybody) + 1)]
    first = [estimator(image, boxes).keypoints.copy() for boxes in people]
    times: list[float] = []
    moved = 0.0
    deadline = time.monotonic() + setup.long_run_s
    while len(times) < setup.frames and time.monotonic() < deadline:
        index = len(times) % len(people)
        started = time.perf_counter()
        found = estimator(image, people[index]).keypoints
        times.append((time.perf_counter() - started) * 1000)
        moved = float(np.max([moved, np.abs(found - first[index]).max(initial=0)]))  # which passes a NaN on
        if len(times) % max(1, setup.frames // 50) == 0:
            _note_memory(setup, notes)
    estimator.close()
    tenth = max(1, len(times) // 10)
    notes.add("p99 in ms, first tenth", float(np.percentile(times[:tenth], 99)))
    notes.add("p99 in ms, last tenth", float(np.percentile(times[-tenth:], 99)))
    flat, text = _judge_memory(notes)
    good = flat and moved < SAME and len(times) == setup.frames
    return good, f"{len(times)} of {setup.frames} frames; keypoints moved by {moved:.2g} px at most; {text}"


def _note_memory(setup: Setup, notes: Notes) -> None:
    """Note the MiB that this process uses, and that are used on the GPU (0 where nvidia-smi doesn't say)."""
    notes.row("memory in MiB", host=host_mib(), gpu=gpu_mib(parse_device(setup.device).index) or 0.0)


def _judge_memory(notes: Notes) -> Outcome:
    rows = notes.values["memory in MiB"]
    settled = rows[min(_SETTLED, len(rows) - 1)]
    grown = {name: rows[-1][name] - settled[name] for name in settled}
    text = "memory grew by " + ", ".join(f"{mib:.0f} MiB ({name})" for name, mib in grown.items())
    return max(grown.values()) < _FLAT_MIB, text


def check_sanitizer(setup: Setup, notes: Notes) -> Outcome:
    """Twenty frames under NVIDIA's memory checker."""
    need_gpu(setup)
    if (tool := shutil.which("compute-sanitizer")) is None:
        raise CouldNotRunError("compute-sanitizer is not on the PATH; it comes with the CUDA toolkit")
    words = ["run", "scene:people=2,frames=20", "--bundle", str(setup.bundle), "--device", setup.device]
    done = call(tool, "--error-exitcode", "9", sys.executable, "-m", "sharpose", *words)
    lines = [line.strip("= ") for line in done.stdout.splitlines() if line.startswith("=====")]
    notes.add("exit code", done.returncode)
    return done.returncode == 0, lines[-1] if lines else error_of(done) or "no summary"
