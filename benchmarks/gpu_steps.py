"""What `gpu_day.py` runs on a GPU, a function a step, each in a process of its own.

`check_NAME` returns whether the outcome is as expected, and the outcome in one line. It raises `CouldNotRunError` where
something that it needs isn't here; any other error is not as expected.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from logging.handlers import QueueHandler
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
from gpu_day import CouldNotRunError, Notes, Setup, run_check
from latency import Benchmark, Plan, picture_with
from measuring.contenders import BASELINES, STAGES, Entry, list_entries
from measuring.memory import gpu_mib, host_mib
from measuring.targets import ON_GPU, judge, judge_overhead

from sharpose.bundle import Bundle, open_bundle
from sharpose.engines.cuda.device import CUDA_BINDINGS, CudaDevice, CudaGraph, CudaStream, open_cuda_device
from sharpose.engines.device import detector_devices, parse_device
from sharpose.engines.gpu import probe_gpu
from sharpose.engines.load import load_two_stage
from sharpose.engines.precision import PrecisionChoice
from sharpose.engines.stages import open_stages
from sharpose.engines.tensorrt import load as tensorrt_load
from sharpose.engines.tensorrt.library import installed_flavours
from sharpose.engines.tensorrt.load import TensorRtSettings
from sharpose.engines.two_stage import TwoStage
from sharpose.errors import EngineError, one_line
from sharpose.export.pictures import ParityPictures, scene_pictures
from sharpose.export.verify import verify_bundle
from sharpose.heatmap import decode_heatmaps
from sharpose.runtime.detectors.onnx import Detector
from sharpose.runtime.pipeline import PoseEstimator
from sharpose.tokens import gather_patches

Outcome = tuple[bool, str]
Crops = npt.NDArray[np.uint8]
Keypoints = npt.NDArray[np.float32]

_MIB, _COPY = 1 << 20, 32 << 20
_SAME = 0.5  # crop pixels that keypoints of one picture may differ by between kernels
_FLAT_MIB, _SETTLED = 64, 10  # growth of memory that is no leak, after so many samples


def check_doctor(setup: Setup, notes: Notes) -> Outcome:
    """What `sharpose-doctor` says."""
    report = json.loads(_sharpose("doctor", "--device", setup.device, "--json").stdout)
    for item in report["findings"]:
        notes.row("findings", name=item["name"], found=item["found"], text=item["text"])
    kind = parse_device(setup.device).kind
    missing = [item for item in report["findings"] if not item["found"] and kind in item["needed_by"]]
    return report["can_run"], "; ".join(f"{item['name']}: {item['text']}" for item in missing) or "can run"


def check_bindings(setup: Setup, notes: Notes) -> Outcome:
    """Copies and graphs through each CUDA binding."""
    _need_gpu(setup)
    failed = []
    for name in CUDA_BINDINGS:
        try:
            cuda = open_cuda_device(parse_device(setup.device).index, name)
            try:
                outcome = _try_binding(cuda)
            finally:
                cuda.close()
        except EngineError as error:
            outcome = one_line(error)
        if outcome != "right":
            failed.append(f"{name}: {outcome}")
        notes.row("bindings", binding=name, outcome=outcome)
    return not failed, "; ".join(failed) or "copies and graphs are right"


def _try_binding(cuda: CudaDevice) -> str:
    with cuda.active():
        stream, there, back = cuda.stream(), cuda.buffer(_COPY), cuda.buffer(_COPY)
        source, target = cuda.pinned((_COPY,), np.uint8), cuda.pinned((_COPY,), np.uint8)

        def round_trip() -> None:
            cuda.upload(there, source, stream)
            cuda.copy(back, there, _COPY, stream)
            cuda.download(target, back, stream)

        runs = [("copies", round_trip)]
        if cuda.has_graphs:
            round_trip()
            graph = cuda.capture(stream, round_trip)
            runs += [(f"replay {number} of a graph", lambda: graph.launch(stream)) for number in (1, 2)]
        for seed, (what, run) in enumerate(runs):
            source[:] = np.random.default_rng(seed).integers(0, 256, _COPY, dtype=np.uint8)
            run()
            stream.synchronize()
            if not np.array_equal(source, target):
                return f"{what}: bytes were changed on the way"
        if cuda.has_graphs:
            graph.free()
        for thing in (there, back, stream):
            thing.free()
    return "right"


def check_engines(setup: Setup, notes: Notes) -> Outcome:
    """Engines of each TensorRT and precision: built, loaded, run, compared with the CPU."""
    bundle = _bundle_for_gpu(setup)
    crops = _scene_crops(bundle, min(4, bundle.manifest.max_batch))
    expected = _run_once(load_two_stage(bundle, "cpu"), bundle, crops)
    failed = []
    for flavour in installed_flavours()[0]:
        for precision in bundle.precisions:
            times, moved, error = [0.0, 0.0], 0.0, ""
            try:
                for opening in range(2):
                    started = time.perf_counter()
                    stages = _open(setup, bundle, flavour=flavour.name, precision=precision)
                    times[opening] = time.perf_counter() - started
                    moved = _distance(expected, _run_once(stages, bundle, crops))
            except EngineError as caught:
                error = one_line(caught)
            names = {"engine": str(flavour), "precision": precision}
            notes.row("engines", **names, first_s=times[0], second_s=times[1], median_px=moved, error=error)
            if error or moved > _SAME:
                failed.append(f"{flavour}, {precision}: {error or f'keypoints moved by {moved:.2g} px'}")
    return not failed, "; ".join(failed) or "all are built, loaded and right"


def check_parity(setup: Setup, notes: Notes) -> Outcome:
    """`--verify` with peaks in column 0, and each precision's decoding against numpy's."""
    _need_gpu(setup)
    try:
        from shifted_bundle import peak_columns, shift_heatmaps
    except ImportError as error:
        raise CouldNotRunError(f"{one_line(error)}; pip install onnx") from None
    with TemporaryDirectory() as folder:
        original = open_bundle(setup.bundle)
        crops = _scene_crops(original, min(8, original.manifest.max_batch))
        column = int(np.bincount(peak_columns(original, crops)).argmax())  # the most frequent
        bundle = shift_heatmaps(original, Path(folder) / "shifted", column)
        peaks = int((peak_columns(bundle, crops) == 0).sum())
        notes.add("peaks in column 0", peaks)
        floats = tuple(item for item in bundle.precisions if item != "int8")  # whose heatmaps were shifted
        verification = verify_bundle(bundle, ParityPictures(crops, "the built-in scene"), say=_say, precisions=floats)
        failed = verification.failures + ([] if peaks else ["no peak lies in column 0"])
        for item in verification.engines:
            of = item.report
            pixels = {"median_px": of.keypoint_pixels_median, "max_px": of.keypoint_pixels_max}
            notes.row("engines", device=item.device, precision=item.precision, **pixels, gate_flips=of.gate_flips)
        for line in verification.unusable:
            notes.row("not verified", line=line)
        for precision in floats:
            stages = open_stages(bundle, setup.device, precision, say=_say)
            found = stages.coarse(crops)
            stages.close()
            ours = decode_heatmaps(found["heatmaps"].astype(np.float32), bundle.model.crop_size)
            off = int((np.abs(ours - found["keypoints"].astype(np.float32)) > _SAME)[..., :2].any(axis=-1).sum())
            notes.add(f"keypoints that numpy decodes otherwise, {precision}", off)
            failed += [f"{precision}: numpy decodes {off} keypoints otherwise"] if off else []
    return not failed, "; ".join(failed) or f"within tolerance, {peaks} peaks in column 0"


def check_batches(setup: Setup, notes: Notes) -> Outcome:
    """Every number of people, all of them refined, with and without CUDA graphs: the same poses as one by one."""
    bundle = _bundle_for_gpu(setup)
    expected: list[tuple[Keypoints, Keypoints]] = []
    failed = []
    for graphs in (False, True):
        stages = _open(setup, bundle, cuda_graphs=graphs, warm_up=False)
        crops = _scene_crops(bundle, stages.max_batch)
        expected = expected or [_run(stages, bundle, crops[index : index + 1]) for index in range(len(crops))]
        for count in range(1, len(crops) + 1):
            times = []
            for _ in range(2):
                started = time.perf_counter()
                found = _run(stages, bundle, crops[:count])
                times.append((time.perf_counter() - started) * 1000)
            alone = tuple(np.concatenate(parts) for parts in zip(*expected[:count], strict=True))
            moved = _distance((alone[0], alone[1]), found)
            words = {"graphs": "on" if graphs else "off", "people": count}
            notes.row("calls", **words, first_ms=times[0], second_ms=times[1], median_px=moved)
            if not moved < _SAME:
                failed.append(f"{count} people, graphs {words['graphs']}: keypoints moved by {moved:.2g} px")
        stages.close()
    return not failed, "; ".join(failed) or "every batch size is right, with graphs and without"


def check_capture(setup: Setup, notes: Notes) -> Outcome:
    """A capture that is made to fail: a warning, and the same poses without a graph."""
    bundle = _bundle_for_gpu(setup)
    crops = _scene_crops(bundle, 3)
    expected = _run_once(_open(setup, bundle, cuda_graphs=False), bundle, crops)
    records: SimpleQueue[logging.LogRecord] = SimpleQueue()
    handler = QueueHandler(records)
    handler.setLevel(logging.WARNING)
    logging.getLogger("sharpose").addHandler(handler)
    vars(tensorrt_load)["open_cuda_device"] = _with_broken_capture  # this process runs no other step
    found = _run_once(_open(setup, bundle, cuda_graphs=True), bundle, crops)
    warnings = [records.get().getMessage() for _ in range(records.qsize())]
    notes.add("warnings", "; ".join(warnings))
    moved = _distance(expected, found)
    said = warnings[0] if warnings else "nothing was said of it"
    return bool(warnings) and moved < _SAME, f"keypoints moved by {moved:.2g} px; {said}"


def _with_broken_capture(index: int = 0, name: str | None = None) -> CudaDevice:
    """A device that waits for its stream in every capture, which CUDA forbids."""
    cuda = open_cuda_device(index, name)
    capture = cuda.capture

    def broken(stream: CudaStream, work: Callable[[], None]) -> CudaGraph:
        def forbidden() -> None:
            work()
            stream.synchronize()
            raise EngineError("waiting in a capture was not refused")

        return capture(stream, forbidden)

    cuda.capture = broken  # type: ignore[method-assign]
    return cuda


def check_latency(setup: Setup, notes: Notes) -> Outcome:
    """Latency by stage in each precision; what runs outside the engines."""
    bundle = _bundle_for_gpu(setup)
    entries = [Entry("engine", setup.device, precision) for precision in bundle.precisions]
    plan = Plan(sorted({1, bundle.manifest.max_batch}), (50, 100), setup.seconds, setup.rounds, 3, peak_s=setup.seconds)
    failed = judge_overhead(_measure(bundle, entries, plan, notes))
    return not failed, "; ".join(failed) or "a frame takes little more than its engines"


def check_baselines(setup: Setup, notes: Notes) -> Outcome:
    """The same frames in PyTorch, eager and compiled, and in a dense model of the same size, all in half."""
    bundle = _bundle_for_gpu(setup)
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
    """The cases of `latency.py`, with a row of notes for each contender; baselines that can't run here are noted."""
    with TemporaryDirectory() as folder:
        benchmark = Benchmark(bundle, entries, plan, Path(folder), may_be_left_out=BASELINES)
        with contextlib.closing(benchmark):
            benchmark.measure_peaks()
            benchmark.measure_cases()
    for line in benchmark.report.left_out:
        notes.row("left out", line=line)
    for case in benchmark.report.cases:
        for name, values in case["contenders"].items():
            cells = {stage: values["means"][stage] for stage in STAGES}
            shares = {f"{stage}_of_peak": values["share_of_peak"].get(stage) for stage in ("coarse", "fine")}
            notes.row("mean ms", what=name, people=case["people"], refined=case["refine_percent"], **cells, **shares)
    return benchmark.report.cases


_CHANGED_LATENCY = """
import runpy, sys, onnxruntime
if sys.argv[1] == "without":
    vars(onnxruntime).pop("preload_dlls", None)
del sys.argv[:2]
runpy.run_path("latency.py", run_name="__main__")
"""


def check_providers(setup: Setup, notes: Notes) -> Outcome:
    """ONNX Runtime's CUDA and TensorRT providers, with and without `preload_dlls`."""
    _need_gpu(setup)
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
            done = _call(sys.executable, "-c", _CHANGED_LATENCY, *words)
            error = _error_of(done)
            cases = [] if error else json.loads((folder / "latency.json").read_text("utf-8"))["cases"]
            one, four = [next(iter(case["contenders"].values()))["mean_ms"] for case in cases] or (None, None)
            notes.row("mean ms", device=device, preload=preload, one_person=one, four_people=four, error=error)
            if error and preload == "with":
                failed.append(f"{device}: {error}")
    return not failed, "; ".join(failed) or "both providers run"


def check_threads(setup: Setup, notes: Notes) -> Outcome:
    """A detector and the estimator in two threads at once: the same results as alone."""
    bundle = _bundle_for_gpu(setup)
    image, boxes = picture_with(4)
    estimator = PoseEstimator.from_stages(bundle, _open(setup, bundle))
    detect = _detector(setup, bundle, notes)

    def repeat(what: str, run: Callable[[], Keypoints], expected: Keypoints) -> str:
        for number in range(setup.repeats):
            found = run()
            if found.shape != expected.shape or not np.allclose(found, expected, atol=_SAME):
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
    stages, crops = open_stages(bundle, "cpu", "fp32", threads=1), _scene_crops(bundle, 1)
    notes.add("detector", "the coarse graph on the CPU")
    return lambda image: stages.coarse(crops)["keypoints"].astype(np.float32)


def check_reopening(setup: Setup, notes: Notes) -> Outcome:
    """Open, run and close, again and again: memory stays as it is."""
    bundle = _bundle_for_gpu(setup)
    crops = _scene_crops(bundle, 2)
    for _ in range(setup.openings):
        _run_once(_open(setup, bundle), bundle, crops)
        gc.collect()
        _note_memory(setup, notes)
    flat, text = _judge_memory(notes)
    return flat, f"{setup.openings} times opened, run and closed; {text}"


def check_frames(setup: Setup, notes: Notes) -> Outcome:
    """A long run: memory, latency and results stay as they are."""
    bundle = _bundle_for_gpu(setup)
    estimator = PoseEstimator.from_stages(bundle, _open(setup, bundle))
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
        moved = max(moved, float(np.abs(found - first[index]).max(initial=0)))
        if len(times) % max(1, setup.frames // 50) == 0:
            _note_memory(setup, notes)
    estimator.close()
    tenth = max(1, len(times) // 10)
    notes.add("p99 in ms, first tenth", float(np.percentile(times[:tenth], 99)))
    notes.add("p99 in ms, last tenth", float(np.percentile(times[-tenth:], 99)))
    flat, text = _judge_memory(notes)
    good = flat and moved < _SAME and len(times) == setup.frames
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
    _need_gpu(setup)
    if (tool := shutil.which("compute-sanitizer")) is None:
        raise CouldNotRunError("compute-sanitizer is not on the PATH; it comes with the CUDA toolkit")
    words = ["run", "scene:people=2,frames=20", "--bundle", str(setup.bundle), "--device", setup.device]
    done = _call(tool, "--error-exitcode", "9", sys.executable, "-m", "sharpose", *words)
    lines = [line.strip("= ") for line in done.stdout.splitlines() if line.startswith("=====")]
    notes.add("exit code", done.returncode)
    return done.returncode == 0, lines[-1] if lines else _error_of(done) or "no summary"


def check_video(setup: Setup, notes: Notes) -> Outcome:
    """Video decoded and encoded in hardware, and in software to compare with."""
    _need_gpu(setup)
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
            error = _error_of(_sharpose("run", *words))
            notes.row("video", what=name, seconds=time.perf_counter() - started, error=error)
            failed += [f"{name}: {error}"] if error else []
    return not failed, "; ".join(failed) or "decoded and encoded in hardware"


def _need_gpu(setup: Setup) -> None:
    try:
        probe_gpu(parse_device(setup.device).index)
    except EngineError as error:
        raise CouldNotRunError(one_line(error)) from None


def _bundle_for_gpu(setup: Setup) -> Bundle:
    _need_gpu(setup)
    if not installed_flavours()[0]:
        raise CouldNotRunError("; ".join(installed_flavours()[1]))
    return open_bundle(setup.bundle)


def _open(setup: Setup, bundle: Bundle, precision: str = "auto", **settings: Any) -> TwoStage:  # noqa: ANN401
    """The engines; `settings` are those of TensorRtSettings."""
    return load_two_stage(bundle, setup.device, precision=precision, tensorrt=TensorRtSettings(say=_say, **settings))


def _run(stages: TwoStage, bundle: Bundle, crops: Crops) -> tuple[Keypoints, Keypoints]:
    """Keypoints of the coarse and of the fine stage, everybody refined."""
    stages.crops[: len(crops)] = crops
    coarse = stages.run_coarse(len(crops))
    keypoints, rows = coarse.keypoints.copy(), np.arange(len(crops), dtype=np.int32)
    stages.patches[: len(crops)] = gather_patches(crops, rows, coarse.region_order, bundle.model.num_selected)
    return keypoints, stages.run_fine(rows).copy()


def _run_once(stages: TwoStage, bundle: Bundle, crops: Crops) -> tuple[Keypoints, Keypoints]:
    try:
        return _run(stages, bundle, crops)
    finally:
        stages.close()


def _distance(expected: tuple[Keypoints, Keypoints], found: tuple[Keypoints, Keypoints]) -> float:
    """The median distance of keypoints in crop pixels, of the stage where it is larger."""
    pairs = zip(expected, found, strict=True)
    return max(float(np.median(np.linalg.norm((ours - theirs)[..., :2], axis=-1))) for ours, theirs in pairs)


def _scene_crops(bundle: Bundle, count: int) -> Crops:
    return scene_pictures(bundle.model.crop_size, count).crops


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _sharpose(*words: str) -> subprocess.CompletedProcess[str]:
    return _call(sys.executable, "-m", "sharpose", *words)


def _call(*words: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
    _say(f"{done.stdout}\n{done.stderr}")
    return done


def _error_of(done: subprocess.CompletedProcess[str]) -> str:
    return "" if done.returncode == 0 else next(iter(done.stderr.strip().splitlines()), f"exit code {done.returncode}")


if __name__ == "__main__":
    run_check(globals())
