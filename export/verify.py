"""`--verify`: compare every engine of this machine with the bundle's float32 ONNX graphs, and time it. Torch-free."""

from __future__ import annotations

import contextlib
import math
import re
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from typing import get_args

import numpy as np
from rich.console import Console
from rich.table import Table

from sharpose.bundle import MANIFEST_NAME, MOST_VERIFIED, BatchTime, Bundle, ParityReport, Verified, change_manifest
from sharpose.coco.ap import PictureMatches, average_precision, change_interval
from sharpose.engines.device import Device, engine_of, hardware_of, parse_device
from sharpose.engines.gpu import probe_gpus
from sharpose.engines.load import load_two_stage
from sharpose.engines.onnxrt import PROVIDERS
from sharpose.engines.openvino import find_device, precision_hint, visible_devices
from sharpose.engines.precision import (
    RunPrecision,
    ap_lost,
    check_graphs,
    choose_precision,
    graphs_of,
    jumps,
    on_cpu,
    tolerance_for,
    withheld,
)
from sharpose.engines.stages import EngineStages, open_stages
from sharpose.engines.tensorrt.library import find_flavour
from sharpose.engines.tensorrt.load import TensorRtSettings
from sharpose.engines.two_stage import HostTwoStage, TwoStage
from sharpose.errors import BundleError, EngineError, ExportError, SinkError, how_to_install
from sharpose.export.parity import compare_stages, ended_by_signals, run_stages
from sharpose.export.pictures import LabelledPictures, ParityPictures
from sharpose.runtime.pipeline import PoseEstimator

_TIMED_BATCH = 8  # people, beside one alone
_FEWEST_RUNS, _MOST_RUNS, _TIMED_SECONDS = 3, 20, 0.5  # of each stage and batch
_FIRST_COLUMN, _COLUMN = 31, 20  # characters of the table of results
_GPU_PROVIDERS = {PROVIDERS[kind]: kind for kind in ("cuda", "ort-tensorrt", "coreml", "directml")}


def available_engines(
    bundle: Bundle,
    say: Callable[[str], None] = lambda message: None,
    precisions: Collection[RunPrecision] = get_args(RunPrecision),
) -> Iterator[tuple[str, EngineStages] | str]:
    """Each device that is here with its engines, in every precision that it can run, opened when they are due.

    Instead of a device that is not usable comes one line that says why: onnxruntime-gpu lists providers whose
    libraries it then can't load. With a GPU and a TensorRT, its engines are taken from the bundle or the cache, or
    built, about which `say` is called with a line. Others than `precisions` are left out.
    """
    for device in ("cpu", *_other_devices()):
        for precision in (item for item in precisions if graphs_of(item) in bundle.precisions):
            if not _computes_in(parse_device(device), precision):
                continue
            try:
                yield device, open_stages(bundle, device, precision, say=say)
            except EngineError as error:
                if device == "cpu":
                    raise
                yield f"{device}, {precision}: {error}"


def _other_devices() -> list[str]:
    """The devices but `cpu` for which there is an engine."""
    try:
        import onnxruntime
    except ImportError:
        raise EngineError(f"verifying needs ONNX Runtime: {how_to_install('cpu')}") from None
    providers = onnxruntime.get_available_providers()
    found = [device for provider, device in _GPU_PROVIDERS.items() if provider in providers]
    try:
        probe_gpus()
        find_flavour()
        found.append("tensorrt")
    except EngineError:  # no GPU, or no TensorRT: nothing that should run here
        pass
    try:
        names = [item.name for item in visible_devices()]
    except EngineError:  # no OpenVINO
        names = []
    return [*found, *(f"openvino:{name}" for name in names if re.fullmatch(r"CPU|GPU(\.\d+)?|NPU", name))]


def _computes_in(device: Device, precision: RunPrecision) -> bool:
    if device.kind != "openvino":
        return precision != "bf16"
    try:
        precision_hint(precision, find_device(device))
    except EngineError:
        return False
    return True


@dataclass(frozen=True)
class VerifiedEngine:
    """One engine's result."""

    device: str  # as the user writes it
    precision: RunPrecision  # what it computed in
    report: ParityReport  # how far it is from the reference
    average_precision: float | None  # COCO keypoint AP on the labelled pictures, if there are any
    change_interval: tuple[float, float] | None  # 95 % interval of its change from the reference's
    times: tuple[BatchTime, ...]  # how long batches take; none until it was timed


@dataclass(frozen=True)
class Verification:
    """The results of all engines."""

    pictures: str  # what the crops were taken from
    crops: int  # how many
    engines: tuple[VerifiedEngine, ...]  # one result an engine
    unusable: tuple[str, ...]  # A line for each device that should be here and can't be used
    average_precision: float | None  # the reference's

    @property
    def failures(self) -> list[str]:
        """What is beyond tolerance, a line each."""
        return [f"{item.device} {item.precision}: {line}" for item in self.engines for line in item.report.failures]


def verify_bundle(
    bundle: Bundle,
    pictures: ParityPictures,
    labels: LabelledPictures | None = None,
    say: Callable[[str], None] = lambda message: None,
    precisions: Collection[RunPrecision] | None = None,
) -> Verification:
    """Run every engine that is available against the float32 ONNX graphs on the CPU.

    The reference runs crops one by one and the engines run them in batches of 1, 3 and 8, so that the CPU's own float32
    graphs are a candidate like the others: for them it is batching that is judged.

    Args:
        bundle: The bundle.
        pictures: Crops to compare on.
        labels: Pictures to measure average precision on.
        say: Called with a line about what is being run.
        precisions: Those to compute in, as far as the devices can; if None, all that the bundle has graphs for.

    Raises:
        BundleError: the bundle has no float32 graphs, or none for one of `precisions`.
        ExportError: there are no crops, or nothing here computes in one of `precisions`.
        EngineError: the reference can't be run, or no engine can.
    """
    if "fp32" not in bundle.precisions:
        raise BundleError(
            f"bundle {bundle.path}: holds {', '.join(bundle.precisions)} graphs, but verifying needs fp32 ones; "
            "export it with --precision fp32,fp16"
        )
    for asked in precisions or ():
        check_graphs(bundle, asked, graphs_of(asked))
    wanted: Collection[RunPrecision] = precisions or get_args(RunPrecision)
    if len(pictures.crops) == 0:
        raise ExportError(f"{pictures.origin}: no crops to verify on")
    devices = ("cpu", *_other_devices())
    if not any(_computes_in(parse_device(device), item) for device in devices for item in wanted):
        raise ExportError(f"nothing on this machine runs {bundle.path} in {' or '.join(wanted)}")
    say(f"running the float32 reference on {pictures.origin}")
    stages = open_stages(bundle, "cpu", "fp32")
    outputs = run_stages(stages, pictures.crops, (1,))
    reference_matches = _matches(bundle, stages, labels)
    reference = None if reference_matches is None else _ap(reference_matches)
    stages.close()
    engines: list[VerifiedEngine] = []
    unusable: list[str] = []
    threshold = bundle.manifest.gate.quality_threshold
    untimed: list[tuple[VerifiedEngine, EngineStages]] = []  # of one CPU: they take turns, so that nothing else decides

    def time_group(group: Sequence[tuple[VerifiedEngine, EngineStages]]) -> None:
        try:
            engines.extend(_timed(bundle, group, pictures))
        except EngineError as error:
            if len(group) > 1:  # the others' results are worth having
                for one in group:
                    time_group([one])
                return
            item, _ = group[0]
            unusable.append(f"{item.device}, {item.precision}: {error}")
            if item.report.failures:
                engines.append(item)  # without times: that it is beyond tolerance stays said

    def time_them() -> None:
        try:
            time_group(untimed)
        finally:
            for _, stages in untimed:
                stages.close()
            untimed.clear()

    for found in available_engines(bundle, say, wanted):
        if isinstance(found, str):
            unusable.append(found)
            continue
        device, stages = found
        if untimed and not (untimed[0][0].device == device and on_cpu(parse_device(device))):
            time_them()
        say(f"running {device}, {stages.precision}")
        judged = f"{device} in {stages.precision} against the float32 ONNX graphs"
        tolerance = tolerance_for(stages.precision, device)
        try:
            report = compare_stages(outputs, stages, pictures, threshold, tolerance, judged)
            matches = _matches(bundle, stages, labels)
        except EngineError as error:  # out of memory, for example: the others' results are worth having
            stages.close()
            unusable.append(f"{device}, {stages.precision}: {error}")
            continue
        precision, interval = None, None
        if matches is not None and reference_matches is not None and reference is not None:
            precision, interval = _ap(matches), change_interval(reference_matches, matches)
            lines = ap_lost(precision - reference, interval)
            report = report.model_copy(update={"failures": (*report.failures, *lines)})
        untimed.append((VerifiedEngine(device, stages.precision, report, precision, interval, ()), stages))
    if untimed:
        time_them()
    if not engines:
        raise EngineError(f"no engine could be verified: {'; '.join(unusable)}")
    return Verification(pictures.origin, len(pictures.crops), tuple(engines), tuple(unusable), reference)


def _matches(bundle: Bundle, stages: EngineStages, labels: LabelledPictures | None) -> dict[int, PictureMatches] | None:
    if labels is None:
        return None
    with ended_by_signals(stages):
        return labels.matches(PoseEstimator.from_stages(bundle, _two_stage(stages)))


def _timed(
    bundle: Bundle, engines: Sequence[tuple[VerifiedEngine, EngineStages]], pictures: ParityPictures
) -> list[VerifiedEngine]:
    """The results with the times of their engines, which take turns."""
    times = measure_times(bundle, [item.device for item, _ in engines], [stages for _, stages in engines], pictures)
    return [replace(item, times=found) for (item, _), found in zip(engines, times, strict=True)]


def _ap(matches: dict[int, PictureMatches]) -> float:
    return average_precision(list(matches.values()))


def _two_stage(stages: EngineStages) -> HostTwoStage:
    return HostTwoStage(stages.coarse_runner, stages.fine_runner, stages.precision)


def measure_times(
    bundle: Bundle, devices: Sequence[str], engines: Sequence[EngineStages], pictures: ParityPictures
) -> list[tuple[BatchTime, ...]]:
    """The shortest of several runs of both stages as the pipeline runs them, alone and in a batch that all can run.

    The engines take turns, so that whatever else the machine does slows all of them alike.
    """
    with contextlib.ExitStack() as stack:
        opened: list[TwoStage] = []
        for device, stages in zip(devices, engines, strict=True):
            if parse_device(device).kind == "tensorrt":  # which has CUDA graphs, and copies less
                settings = TensorRtSettings(tf32=False)
                opened.append(load_two_stage(bundle, device, precision=stages.precision, tensorrt=settings))
                stack.callback(opened[-1].close)
            else:
                opened.append(_two_stage(stages))
        times: list[tuple[BatchTime, ...]] = [()] * len(opened)
        largest = min((_TIMED_BATCH, *(two_stage.max_batch for two_stage in opened)))
        for people in dict.fromkeys((1, largest)):
            rows = np.arange(people, dtype=np.int32)
            for two_stage in opened:
                two_stage.crops[:people] = np.resize(pictures.crops, (people, *pictures.crops.shape[1:]))
                two_stage.patches[:people] = 0  # what they show makes no difference
            with ended_by_signals(*engines):
                coarse = _shortest([partial(two_stage.run_coarse, people) for two_stage in opened])
                fine = _shortest([partial(two_stage.run_fine, rows) for two_stage in opened])
            for place, seconds in enumerate(zip(coarse, fine, strict=True)):
                first, second = (1000 * one / people for one in seconds)
                times[place] += (BatchTime(people=people, coarse=first, fine=second),)
    return times


def _shortest(runs: Sequence[Callable[[], object]]) -> list[float]:
    """Seconds of each, in turns; the first run, which may prepare what is kept, doesn't count."""
    for run in runs:
        run()
    shortest = [math.inf] * len(runs)
    began, turns = time.perf_counter(), 0
    while turns < _FEWEST_RUNS or (turns < _MOST_RUNS and time.perf_counter() - began < _TIMED_SECONDS * len(runs)):
        for place, run in enumerate(runs):
            started = time.perf_counter()
            run()
            shortest[place] = min(shortest[place], time.perf_counter() - started)
        turns += 1
    return shortest


def store_verification(bundle: Bundle, verification: Verification) -> Bundle:
    """Write the results into `bundle.json`, for `--precision auto` to go by; returns the changed bundle.

    A result takes the place of an earlier one of the same kind of device, engine and precision.

    Raises:
        BundleError: `bundle.json` can't be written, or the bundle was exported again meanwhile.
    """
    entries = [_entry(bundle, item, verification.average_precision) for item in verification.engines]
    new = {entry.place: entry for entry in entries}  # of several GPUs of a kind the last

    def change(now: Bundle) -> dict[str, object]:
        if now.manifest.files != bundle.manifest.files:
            raise BundleError(f"bundle {bundle.path}: was exported again meanwhile; verify it again")
        kept = [entry for entry in now.manifest.verified if entry.place not in new]
        return {"verified": (*kept, *new.values())[-MOST_VERIFIED:]}

    return change_manifest(bundle.path, change)


def keep_verification(bundle: Bundle, verification: Verification) -> str:
    """`store_verification`, and a line on what `--precision auto` takes now, and why nothing else that was verified.

    Raises:
        SinkError: the results can't be stored.
    """
    try:
        bundle = store_verification(bundle, verification)
    except BundleError as error:
        raise SinkError(f"results not stored, so --precision auto goes on as before: {error}") from error
    devices = dict.fromkeys(item.device for item in verification.engines)
    taken = [f"{choose_precision(bundle, parse_device(device))} on {device}" for device in devices]
    others: dict[str, list[str]] = {}  # by reason
    for device in devices:
        for precision, reason in withheld(bundle, parse_device(device)).items():
            others.setdefault(reason, []).append(f"{precision} on {device}")
    lines = [f"--precision auto takes {', '.join(taken)}"]
    lines += [f"not {', '.join(names)}: {reason}" for reason, names in others.items()]
    return f"stored in {bundle.path / MANIFEST_NAME}: {'; '.join(lines)}"


def _entry(bundle: Bundle, item: VerifiedEngine, reference: float | None) -> Verified:
    device = parse_device(item.device)
    engine = engine_of(device)
    change = None
    if item.average_precision is not None and reference is not None:
        change = item.average_precision - reference
    return Verified(
        device=device.family,
        hardware=hardware_of(device),
        engine=engine,
        engine_version=import_module(engine).__version__,
        precision=item.precision,
        graphs_sha256=bundle.graphs_sha256(graphs_of(item.precision)),
        parity=item.report,
        average_precision_change=change,
        times=item.times,
    )


def print_verification(verification: Verification, console: Console) -> None:
    """Print all results, as many engines in a table as fit beside each other, then what can't be used."""
    title = f"Against the float32 ONNX graphs on the CPU: {verification.crops} crops from {verification.pictures}"
    console.print(title, highlight=False, markup=False, soft_wrap=True)
    beside = max(1, (console.width - _FIRST_COLUMN) // _COLUMN)
    for first in range(0, len(verification.engines), beside):
        console.print(_table(verification.engines[first : first + beside], verification.average_precision))
    for line in verification.unusable:
        console.print(f"not verified: {line}", soft_wrap=True, highlight=False, markup=False)


def _table(engines: Sequence[VerifiedEngine], reference: float | None) -> Table:
    """Results beside each other; `reference` is the reference's average precision."""
    table = Table()
    table.add_column("max / mean difference")
    for engine in engines:
        table.add_column(f"{engine.device}\n{engine.precision}", justify="right")
    for rows in zip(*(engine.report.outputs for engine in engines), strict=True):
        differences = (f"{item.max_abs_difference:.1e} / {item.mean_abs_difference:.1e}" for item in rows)
        table.add_row(f"{rows[0].graph} {rows[0].output}", *differences)
    table.add_section()
    reports = [engine.report for engine in engines]
    table.add_row("keypoints, median", *(f"{report.keypoint_pixels_median:.2g} px" for report in reports))
    table.add_row("keypoints, 99th percentile", *(f"{report.keypoint_pixels_p99:.2g} px" for report in reports))
    table.add_row("same set of regions", *(f"{report.region_set_agreement:.1%}" for report in reports))
    table.add_row("same regions", *(f"{report.region_slot_agreement or 0:.1%}" for report in reports))
    table.add_row("gate flips", *(f"{report.gate_flips} of {report.crops}" for report in reports))
    table.add_row(
        "of those near the threshold",
        *(f"{report.gate_flips_near_threshold} of {report.gate_near_threshold}" for report in reports),
    )
    if reference is not None:
        table.add_row("AP", *(_precision(engine, reference) for engine in engines))
        table.add_row("change in AP, 95 % interval", *map(_interval, engines))
    for people in sorted({item.people for engine in engines for item in engine.times}):
        batch = "alone" if people == 1 else f"in a batch of {people}"
        table.add_row(f"ms a person {batch}", *(_milliseconds(engine, people) for engine in engines))
    table.add_section()
    table.add_row("verdict", *map(_verdict, engines))
    return table


def _milliseconds(engine: VerifiedEngine, people: int) -> str:
    """Of both stages in a batch of so many; empty where that wasn't timed."""
    return "".join(f"{item.coarse:.1f} + {item.fine:.1f}" for item in engine.times if item.people == people)


def _verdict(engine: VerifiedEngine) -> str:
    if engine.report.failures:
        return "beyond tolerance"
    # what AP there is, is within its limit: else there were failures
    jumped = jumps(engine.report, tolerance_for(engine.precision, engine.device), engine.average_precision)
    return "keypoints jump" if jumped else "within tolerance"


def _precision(engine: VerifiedEngine, reference: float) -> str:
    assert engine.average_precision is not None
    return f"{engine.average_precision:.3f} ({engine.average_precision - reference:+.3f})"


def _interval(engine: VerifiedEngine) -> str:
    assert engine.change_interval is not None
    low, high = engine.change_interval
    return f"{low:+.3f} to {high:+.3f}"
