"""The precision that both stages compute in: what a bundle and a device have, and what `auto` takes. Torch-free.

Nothing heavy is imported: command lines read `PRECISIONS` before they know whether anything will run.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from sharpose.engines.device import Device, engine_of, hardware_of
from sharpose.errors import EngineError, InputError

if TYPE_CHECKING:
    from sharpose.bundle import Bundle, Precision, Verified

RunPrecision: TypeAlias = Literal["fp32", "fp16", "bf16", "int8"]
"""What a stage computes in: that of its graphs; or bf16, to which an engine rounds float32 graphs."""
PrecisionChoice: TypeAlias = Literal["auto", "fp32", "fp16", "bf16", "int8"]
"""What a user asks for: a precision, or the fastest right one."""
PRECISIONS: tuple[PrecisionChoice, ...] = get_args(PrecisionChoice)

_FASTER = 0.95  # of the usual precision's time: less of a difference may be chance
_ON_CPU: tuple[Precision, ...] = ("fp32", "int8", "fp16")  # by preference
_NEVER_FASTER = ("cpu", "fp16")  # ONNX Runtime computes it in float32; a measurement that says otherwise was disturbed
_ON_GPU: tuple[Precision, ...] = ("fp16", "fp32", "int8")


def graphs_of(precision: RunPrecision) -> Precision:
    """The precision of the graphs that a stage computing in `precision` runs."""
    return "fp32" if precision == "bf16" else precision


def graphs_for(bundle: Bundle, device: Device, precision: RunPrecision) -> Precision:
    """The same on a device: OpenVINO rounds float32 graphs to half precision where the bundle has no half graphs."""
    rounds = device.kind == "openvino" and precision == "fp16" and "fp16" not in bundle.precisions
    return "fp32" if rounds else graphs_of(precision)


def choose_precision(bundle: Bundle, device: Device, asked: str = "auto") -> RunPrecision:
    """The precision to compute in.

    Args:
        bundle: An opened bundle.
        device: Where it is to run.
        asked: One of `PRECISIONS`. `auto` takes the fastest that `sharpose-export --verify` found to be right on this
            kind of device; where that isn't known, fp32, on a GPU fp16 if the export verified it; and of a bundle
            without those, what it holds.

    Raises:
        InputError: `asked` is none of `PRECISIONS`.
        BundleError: the bundle has no graphs for it.
        EngineError: the device can't compute in it.
    """
    if asked not in PRECISIONS:
        *others, last = PRECISIONS
        raise InputError(f"precision: expected {', '.join(others)} or {last}, got {asked!r}")
    if asked == "auto":
        return _fastest(bundle, device)
    if asked == "bf16" and device.kind != "openvino":
        raise EngineError(f"precision bf16: device {device} has none; expected --device openvino, or another precision")
    bundle.graph("coarse", graphs_for(bundle, device, asked))  # raises where the bundle has none
    return asked


def _fastest(bundle: Bundle, device: Device) -> RunPrecision:
    """The fastest precision that was verified here; the usual one where it is as fast, or nothing is known."""
    found = {entry.precision: entry for entry in _verified_here(bundle, device)}
    wrong = [precision for precision, entry in found.items() if entry.parity.failures]
    usual = _usual(bundle, device, wrong)
    right = [entry for entry in found.values() if entry.is_right and (device.family, entry.precision) != _NEVER_FASTER]
    if usual not in found or not found[usual].is_right:
        return usual
    best = min(right, key=lambda entry: entry.milliseconds, default=found[usual])
    return best.precision if best.milliseconds < _FASTER * found[usual].milliseconds else usual


def _verified_here(bundle: Bundle, device: Device) -> list[Verified]:
    """What was verified with these graphs on this kind of device, with the engine that is here."""
    entries = [entry for entry in bundle.manifest.verified if entry.device == device.family]
    entries = [entry for entry in entries if graphs_of(entry.precision) in bundle.precisions]
    entries = [entry for entry in entries if entry.graphs_sha256 == bundle.graphs_sha256(graphs_of(entry.precision))]
    if not entries:
        return []
    try:
        here = hardware_of(device), engine_of(device)
    except EngineError:  # loading will say what is wrong
        return []
    return [entry for entry in entries if (entry.hardware, entry.engine) == here]


def _usual(bundle: Bundle, device: Device, wrong: Collection[RunPrecision]) -> RunPrecision:
    """What is taken unless another was verified to be faster; not one of `wrong`, if there is another."""
    held, reports = bundle.precisions, bundle.manifest.parity
    if device.target == "NPU" and held != ("int8",):
        return "fp16"  # it has no float32
    if on_cpu(device):
        right = [precision for precision in _ON_CPU if precision in held]
    else:
        right = [name for name in _ON_GPU if name in held and name in reports and not reports[name].failures]
    return next((precision for precision in right if precision not in wrong), (*right, *held)[0])


def on_cpu(device: Device) -> bool:
    """Whether a device is a CPU."""
    return device.kind == "cpu" or device.target == "CPU"
