"""The precision that both stages compute in: what a bundle and a device have, and what `auto` takes. Torch-free.

Nothing heavy is imported: command lines read `PRECISIONS` before they know whether anything will run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from sharpose.errors import EngineError, InputError

if TYPE_CHECKING:
    from sharpose.bundle import Bundle, Precision
    from sharpose.engines.device import Device
RunPrecision: TypeAlias = Literal["fp32", "fp16", "bf16", "int8"]
"""What a stage computes in: that of its graphs; or bf16, to which an engine rounds float32 graphs."""
PrecisionChoice: TypeAlias = Literal["auto", "fp32", "fp16", "bf16", "int8"]
"""What a user asks for: a precision, or the fastest right one."""
PRECISIONS: tuple[PrecisionChoice, ...] = get_args(PrecisionChoice)

_ON_CPU: tuple[RunPrecision, ...] = ("fp32", "int8", "fp16")  # by preference; fp16 is computed in float32, and slower
_ON_GPU: tuple[RunPrecision, ...] = ("fp16", "fp32", "int8")


def graphs_of(precision: RunPrecision) -> Precision:
    """The precision of the graphs that a stage computing in `precision` runs."""
    return "fp32" if precision == "bf16" else precision


def choose_precision(bundle: Bundle, device: Device, asked: str = "auto") -> RunPrecision:
    """The precision to compute in.

    Args:
        bundle: An opened bundle.
        device: Where it is to run.
        asked: One of `PRECISIONS`. `auto` takes fp32 on a CPU and, on a GPU, fp16 where the export verified it, else
            fp32; of a bundle without those, what it holds.

    Raises:
        InputError: `asked` is none of `PRECISIONS`.
        BundleError: the bundle has no graphs for it.
        EngineError: the device can't compute in it.
    """
    if asked not in PRECISIONS:
        *others, last = PRECISIONS
        raise InputError(f"precision: expected {', '.join(others)} or {last}, got {asked!r}")
    if asked == "auto":
        return _usual(bundle, device)
    if asked == "bf16" and device.kind != "openvino":
        raise EngineError(f"precision bf16: device {device} has none; expected --device openvino, or another precision")
    bundle.graph("coarse", graphs_of(asked))  # raises where the bundle has none
    return asked


def _usual(bundle: Bundle, device: Device) -> RunPrecision:
    """What is taken unless another was verified to be faster."""
    held, reports = bundle.precisions, bundle.manifest.parity
    if on_cpu(device):
        return next(precision for precision in _ON_CPU if precision in held)
    right = [precision for precision in held if precision in reports and not reports[precision].failures]
    return next((precision for precision in _ON_GPU if precision in right), held[0])


def on_cpu(device: Device) -> bool:
    """Whether a device is a CPU."""
    return device.kind == "cpu" or device.target == "CPU"
