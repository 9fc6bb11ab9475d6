"""Whether the device can run, copies every byte, and its engines compute what the CPU does."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from logging.handlers import QueueHandler
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory

import numpy as np

from gpu_steps.device import (
    SAME,
    SAME_INT8,
    Keypoints,
    bundle_for_gpu,
    distance,
    need_gpu,
    open_engines,
    run_both,
    run_once,
    run_sharpose,
    say,
    scene_crops,
)
from gpu_steps.notes import CouldNotRunError, Notes, Outcome, Setup
from sharpose.bundle import open_bundle
from sharpose.engines.cuda.device import (
    CUDA_BINDINGS,
    CudaDevice,
    CudaGraph,
    CudaStream,
    installed_bindings,
    open_cuda_device,
)
from sharpose.engines.device import parse_device
from sharpose.engines.load import load_two_stage
from sharpose.engines.stages import open_stages
from sharpose.engines.tensorrt import load as tensorrt_load
from sharpose.engines.tensorrt.library import installed_flavours
from sharpose.errors import EngineError, one_line
from sharpose.export.pictures import ParityPictures
from sharpose.export.verify import verify_bundle
from sharpose.heatmap import decode_heatmaps

_COPY = 32 << 20  # bytes


def check_doctor(setup: Setup, notes: Notes) -> Outcome:
    """What `sharpose-doctor` says."""
    report = json.loads(run_sharpose("doctor", "--device", setup.device, "--json").stdout)
    for item in report["findings"]:
        notes.row("findings", name=item["name"], found=item["found"], text=item["text"])
    kind = parse_device(setup.device).kind
    missing = [item for item in report["findings"] if not item["found"] and kind in item["needed_by"]]
    return report["can_run"], "; ".join(f"{item['name']}: {item['text']}" for item in missing) or "can run"


def check_bindings(setup: Setup, notes: Notes) -> Outcome:
    """Copies and graphs through each CUDA binding."""
    need_gpu(setup)
    names, failed = installed_bindings(), []
    if not names:
        raise CouldNotRunError(f"none of {', '.join(CUDA_BINDINGS)} is installed")
    for name in names:
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
    bundle = bundle_for_gpu(setup)
    crops = scene_crops(bundle, min(4, bundle.manifest.max_batch))
    expected = run_once(load_two_stage(bundle, "cpu", precision="fp32"), bundle, crops)
    failed = []
    for flavour in installed_flavours()[0]:
        for precision in bundle.precisions:
            times, moved, error = [0.0, 0.0], 0.0, ""
            try:
                for opening in range(2):
                    started = time.perf_counter()
                    stages = open_engines(setup, bundle, flavour=flavour.name, precision=precision)
                    times[opening] = time.perf_counter() - started
                    moved = distance(expected, run_once(stages, bundle, crops))
            except EngineError as caught:
                error = one_line(caught)
            names = {"engine": str(flavour), "precision": precision}
            notes.row("engines", **names, first_s=times[0], second_s=times[1], median_px=moved, error=error)
            if error or not moved < (SAME_INT8 if precision == "int8" else SAME):
                failed.append(f"{flavour}, {precision}: {error or f'keypoints moved by {moved:.2g} px'}")
    return not failed, "; ".join(failed) or "all are built, loaded and right"


def check_parity(setup: Setup, notes: Notes) -> Outcome:
    """`--verify` with peaks in column 0, and each precision's decoding against numpy's."""
    need_gpu(setup)
    try:
        from gpu_steps.shifted_bundle import peak_columns, shift_heatmaps
    except ImportError as error:
        raise CouldNotRunError(f"{one_line(error)}; pip install onnx") from None
    with TemporaryDirectory() as folder:
        original = open_bundle(setup.bundle)
        crops = scene_crops(original, min(8, original.manifest.max_batch))
        column = int(np.bincount(peak_columns(original, crops)).argmax())  # the most frequent
        bundle = shift_heatmaps(original, Path(folder) / "shifted", column)
        peaks = int((peak_columns(bundle, crops) == 0).sum())
        notes.add("peaks in column 0", peaks)
        floats = tuple(item for item in bundle.precisions if item != "int8")  # whose heatmaps were shifted
        verification = verify_bundle(bundle, ParityPictures(crops, "the built-in scene"), say=say, precisions=floats)
        failed = verification.failures + ([] if peaks else ["no peak lies in column 0"])
        for item in verification.engines:
            of = item.report
            pixels = {"median_px": of.keypoint_pixels_median, "max_px": of.keypoint_pixels_max}
            notes.row("engines", device=item.device, precision=item.precision, **pixels, gate_flips=of.gate_flips)
        for line in verification.unusable:
            notes.row("not verified", line=line)
        for precision in floats:
            stages = open_stages(bundle, setup.device, precision, say=say)
            found = stages.coarse(crops)
            stages.close()
            ours = decode_heatmaps(found["heatmaps"].astype(np.float32), bundle.model.crop_size)
            off = int((np.abs(ours - found["keypoints"].astype(np.float32)) > SAME)[..., :2].any(axis=-1).sum())
            notes.add(f"keypoints that numpy decodes otherwise, {precision}", off)
            failed += [f"{precision}: numpy decodes {off} keypoints otherwise"] if off else []
    return not failed, "; ".join(failed) or f"within tolerance, {peaks} peaks in column 0"


def check_batches(setup: Setup, notes: Notes) -> Outcome:
    """Every number of people, all of them refined, with and without CUDA graphs: the same poses as one by one."""
    bundle = bundle_for_gpu(setup)
    expected: list[tuple[Keypoints, Keypoints]] = []
    failed = []
    for graphs in (False, True):
        stages = open_engines(setup, bundle, cuda_graphs=graphs, warm_up=False)
        crops = scene_crops(bundle, stages.max_batch)
        expected = expected or [run_both(stages, bundle, crops[index : index + 1]) for index in range(len(crops))]
        for count in range(1, len(crops) + 1):
            times = []
            for _ in range(2):
                started = time.perf_counter()
                found = run_both(stages, bundle, crops[:count])
                times.append((time.perf_counter() - started) * 1000)
            alone = tuple(np.concatenate(parts) for parts in zip(*expected[:count], strict=True))
            moved = distance((alone[0], alone[1]), found)
            words = {"graphs": "on" if graphs else "off", "people": count}
            notes.row("calls", **words, first_ms=times[0], second_ms=times[1], median_px=moved)
            if not moved < SAME:
                failed.append(f"{count} people, graphs {words['graphs']}: keypoints moved by {moved:.2g} px")
        stages.close()
    return not failed, "; ".join(failed) or "every batch size is right, with graphs and without"


def check_capture(setup: Setup, notes: Notes) -> Outcome:
    """A capture that is made to fail: a warning, and the same poses without a graph."""
    bundle = bundle_for_gpu(setup)
    crops = scene_crops(bundle, 3)
    expected = run_once(open_engines(setup, bundle, cuda_graphs=False), bundle, crops)
    records: SimpleQueue[logging.LogRecord] = SimpleQueue()
    handler = QueueHandler(records)
    handler.setLevel(logging.WARNING)
    logging.getLogger("sharpose").addHandler(handler)
    vars(tensorrt_load)["open_cuda_device"] = _with_broken_capture  # this process runs no other step
    found = run_once(open_engines(setup, bundle, cuda_graphs=True), bundle, crops)
    warnings = [records.get().getMessage() for _ in range(records.qsize())]
    notes.add("warnings", "; ".join(warnings))
    moved = distance(expected, found)
    said = next((line for line in warnings if "without CUDA graphs" in line), None)
    return said is not None and moved < SAME, f"keypoints moved by {moved:.2g} px; {said or 'nothing was said of it'}"


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
