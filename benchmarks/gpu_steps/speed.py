"""How fast poses are on the GPU, beside PyTorch and ONNX Runtime, and video in hardware."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from latency import Benchmark, Plan
from measuring import contenders
from measuring.contenders import BASELINES, STAGES, Entry, list_entries
from measuring.targets import ON_GPU, judge, judge_overhead

from gpu_steps.device import bundle_for_gpu, call, error_of, need_gpu, run_sharpose
from gpu_steps.notes import CouldNotRunError, Notes, Outcome, Setup
from sharpose.bundle import Bundle
from sharpose.engines.precision import PrecisionChoice
from sharpose.errors import EngineError, one_line


def check_latency(setup: Setup, notes: Notes) -> Outcome:
    """Latency by stage in each precision; what runs outside the engines."""
    bundle = bundle_for_gpu(setup)
    entries = [Entry("engine", setup.device, precision) for precision in bundle.precisions]
    plan = Plan(sorted({1, bundle.manifest.max_batch}), (50, 100), setup.seconds, setup.rounds, 3, peak_s=setup.seconds)
    cases = _measure(bundle, entries, plan, notes)
    failed = [*(row["line"] for row in notes.values.get("left out", [])), *judge_overhead(cases)]
    return not failed, "; ".join(failed) or "a frame takes little more than its engines"


def check_baselines(setup: Setup, notes: Notes) -> Outcome:
    """The same frames in PyTorch, eager and compiled, and in a dense model of the same size, all in half."""
    bundle = bundle_for_gpu(setup)
    _need_pytorch_with_cuda()
    precision: PrecisionChoice = "fp16" if "fp16" in bundle.precisions else "fp32"
    entries = list_entries(bundle, (setup.device,), (precision,), ("torch-eager", "torch-compiled", "dense"), ())
    most = bundle.manifest.max_batch
    targets = [replace(target, people=min(target.people, most)) for target in ON_GPU]
    people = sorted({target.people for target in targets})
    plan = Plan(people, (50, 100), setup.seconds, setup.rounds, 3, peak_s=0)
    verdicts = judge(_measure(bundle, entries, plan, notes), targets)
    for verdict in verdicts:
        notes.row("targets", met=str(verdict.met), what=str(verdict))
    missed = [str(verdict) for verdict in verdicts if not verdict.met]
    return not missed, "; ".join(missed) or "faster than each baseline, as expected"


def _measure(bundle: Bundle, entries: list[Entry], plan: Plan, notes: Notes) -> list[dict[str, Any]]:
    """The cases of `latency.py`, noted one by one, so that they stay where the step's time ends; what can't run is too.

    Raises `EngineError` where no engine is left.
    """

    def note(case: dict[str, Any]) -> None:
        for name, values in case["contenders"].items():
            cells = {stage: values["means"][stage] for stage in STAGES}
            shares = {f"{stage}_of_peak": values["share_of_peak"].get(stage) for stage in ("coarse", "fine")}
            notes.row("mean ms", what=name, people=case["people"], refined=case["refine_percent"], **cells, **shares)

    with TemporaryDirectory() as folder:
        benchmark = Benchmark(bundle, entries, plan, Path(folder), may_be_left_out=("engine", *BASELINES))
        with contextlib.closing(benchmark):
            for line in benchmark.report.left_out:
                notes.row("left out", line=line)
            benchmark.measure_peaks()
            benchmark.measure_cases(note)
    return benchmark.report.cases


def _need_pytorch_with_cuda() -> None:
    """Raises `CouldNotRunError` without it."""
    try:
        contenders.check_packages(("torch-eager", "torch-compiled", "dense"))
    except EngineError as error:
        raise CouldNotRunError(one_line(error)) from None
    import torch

    if not torch.cuda.is_available():
        raise CouldNotRunError(f"PyTorch {torch.__version__} has no CUDA here; install its CUDA build")


_CHANGED_LATENCY = """
import runpy, sys, onnxruntime
if sys.argv[1] == "without":
    vars(onnxruntime).pop("preload_dlls", None)
del sys.argv[:2]
runpy.run_path("latency.py", run_name="__main__")
"""


def check_providers(setup: Setup, notes: Notes) -> Outcome:
    """ONNX Runtime's CUDA and TensorRT providers, with and without `preload_dlls`."""
    need_gpu(setup)
    import onnxruntime

    providers = onnxruntime.get_available_providers()
    if "CUDAExecutionProvider" not in providers:
        raise CouldNotRunError(f"ONNX Runtime {onnxruntime.__version__} has only {', '.join(providers)}")
    failed = []
    for device in ("cuda", "ort-tensorrt"):
        for preload in ("with", "without"):
            folder = setup.folder / f"latency-{device}-{preload}-preload"
            options = ["--people", "1,4", "--refine", "100", "--seconds", str(setup.seconds), "--device", device]
            options += ["--peak-seconds", "0", "--overwrite"]
            words = [preload, "latency.py", *options, "--bundle", str(setup.bundle), "--output", str(folder)]
            done = call(sys.executable, "-c", _CHANGED_LATENCY, *words)
            error = error_of(done)
            cases = [] if error else json.loads((folder / "latency.json").read_text("utf-8"))["cases"]
            one, four = [next(iter(case["contenders"].values()))["mean_ms"] for case in cases] or (None, None)
            notes.row("mean ms", device=device, preload=preload, one_person=one, four_people=four, error=error)
            if error and preload == "with":
                failed.append(f"{device}: {error}")
    return not failed, "; ".join(failed) or "both providers run"


def check_video(setup: Setup, notes: Notes) -> Outcome:
    """Video decoded and encoded in hardware, and in software to compare with."""
    need_gpu(setup)
    failed = []
    with TemporaryDirectory() as folder:
        video, options = f"{folder}/h264.mp4", ["--refine", "never", "--bundle", str(setup.bundle)]
        scene, file = ["scene:people=2,frames=50", *options], [video, *options, "--full-frame"]
        jobs = {
            "encode": [*scene, "--output", video],
            "encode with h264_nvenc": [*scene, "--output", f"{folder}/nvenc.mp4", "--encoder", "h264_nvenc"],
            "decode": file,
            "decode with cuda": [*file, "--hwaccel", "cuda"],
        }
        for name, words in jobs.items():
            started = time.perf_counter()
            error = error_of(run_sharpose("run", *words))
            notes.row("video", what=name, seconds=time.perf_counter() - started, error=error)
            failed += [f"{name}: {error}"] if error else []
    return not failed, "; ".join(failed) or "decoded and encoded in hardware"
