"""`--device auto`: the best device that this machine really has. Devices are tried, not only looked up."""

from __future__ import annotations

import contextlib
import io
import logging
import platform
import sys
import warnings
from collections.abc import Callable
from typing import TypeVar

from sharpose.engines.device import UNTRIED, Device, parse_device
from sharpose.errors import EngineError

AUTO = "auto"
"""As a device: the best one here."""

_BEST_FIRST = ("tensorrt", "cuda", "openvino", "cpu")
_OF_SYSTEM = {"darwin": ("coreml",), "win32": ("directml",)}  # tried before the CPU there, and only named
# An ONNX file of one Identity: the smallest session that a provider can prove itself with.
_IDENTITY = bytes.fromhex(
    "08083a370a100a017812017922084964656e746974791201675a0f0a0178120a0a08080112040a020801620f0a0179120a0a08"
    "080112040a02080142040a00100d"
)
_log = logging.getLogger("sharpose.engines")
_Loaded = TypeVar("_Loaded")


def load_on(device: str, load: Callable[[str], _Loaded], say: Callable[[str], None] | None = None) -> _Loaded:
    """What `load` makes of a device; of the best one that works here and that `load` can use, if it is `auto`.

    Args:
        device: As users write it.
        load: Called with a device.
        say: Called with one line on what `auto` takes and why not the better ones, and another for each device that
            `load` can't use; logged if None.

    Raises:
        EngineError: `load` can't use the device, or none.
    """
    if device != AUTO:
        return load(device)
    say = say or _log.info
    problems: dict[str, str] = {}  # by kind
    for kind in (*_BEST_FIRST[:-1], *_OF_SYSTEM.get(sys.platform, ()), _BEST_FIRST[-1]):
        where = parse_device(kind)
        problem = device_problem(where)
        if problem is not None:
            problems[kind] = problem
            continue
        say(f"device auto takes {where}{_why_not(problems)}")
        try:
            return load(str(where))
        except EngineError as error:
            if kind == _BEST_FIRST[-1]:
                raise
            problems = {kind: str(error)}
    raise AssertionError("the last device has no problem before it is loaded")


def _why_not(problems: dict[str, str]) -> str:
    """Kinds with the same problem together: `; not tensorrt, cuda: no GPU driver`."""
    kinds: dict[str, list[str]] = {}
    for kind, problem in problems.items():
        kinds.setdefault(problem, []).append(kind)
    return "".join(f"; not {', '.join(names)}: {problem}" for problem, names in kinds.items())


def device_problem(device: Device) -> str | None:
    """Why nothing should run on a device here, in one line; None if its driver and libraries work, as on every CPU."""
    if device.kind == "cpu":
        return None
    if device.kind == "openvino":
        return _openvino_problem(device)
    if device.kind in UNTRIED:
        return _provider_problem(device.kind) or "not known to be right, nor to be faster; name it to try it"
    from sharpose.engines.gpu import probe_gpu

    try:
        probe_gpu(device.index)
    except EngineError as error:  # its message says what is wrong, a colon, and what mends it
        return str(error).partition(": ")[0]
    return _tensorrt_problem() if device.kind == "tensorrt" else _provider_problem(device.kind)


def _openvino_problem(device: Device) -> str | None:
    """OpenVINO is taken on x86-64: in the batches of docs/openvino.md it was as fast as ONNX Runtime, or faster."""
    from sharpose.engines.openvino import find_device

    try:
        find_device(device)
    except EngineError as error:  # as above
        return str(error).partition(": ")[0]
    on_x86 = platform.machine() in ("x86_64", "AMD64")  # as Windows calls it
    return None if on_x86 else f"not known to be faster on {platform.machine()}"


def _tensorrt_problem() -> str | None:
    from sharpose.engines.cuda.device import import_binding, installed_bindings
    from sharpose.engines.tensorrt.library import installed_flavours, runtime_problem

    found, reasons = installed_flavours()
    if not found:
        return "; ".join(reasons)
    problem = runtime_problem(found[0])
    if problem is not None:
        return f"{found[0]} doesn't start: {problem}"
    binding = next(iter(installed_bindings()), None)
    if binding is None:
        return "no CUDA bindings are installed"
    try:
        import_binding(binding)
    except ImportError as error:
        return f"{binding} doesn't load ({' '.join(str(error).split())})"
    return None


def _provider_problem(kind: str) -> str | None:
    try:
        import onnxruntime as ort
    except ImportError:
        return "ONNX Runtime is not installed"
    from sharpose.engines.onnxrt import ON_NVIDIA, PROVIDERS, missing_library, preload_cuda

    if PROVIDERS[kind] not in ort.get_available_providers():
        return f"this ONNX Runtime has no {PROVIDERS[kind]}"
    if kind in ON_NVIDIA:
        preload_cuda()
    if provider_works(PROVIDERS[kind]):
        return None
    missing = missing_library(kind) if kind in ON_NVIDIA else None
    return f"{PROVIDERS[kind]} can't start" if missing is None else missing.problem


def provider_works(provider: str) -> bool:
    """Whether a session of ONNX Runtime really gets a provider, whatever the package lists."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    # ONNX Runtime prints when it falls back to another provider; standard output is for results.
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            session = ort.InferenceSession(_IDENTITY, options, providers=[provider])
        except Exception:  # ONNX Runtime's exceptions share no public base class
            return False
    return provider in session.get_providers()
