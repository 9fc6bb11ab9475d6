"""The installed TensorRT: NVIDIA TensorRT or TensorRT-RTX, its messages, and the build options that it takes."""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from sharpose.engines import Untyped
from sharpose.errors import EngineError, how_to_install

FlavourName = Literal["tensorrt", "tensorrt_rtx"]

_OLDEST: dict[str, tuple[int, int]] = {"tensorrt": (10, 3), "tensorrt_rtx": (1, 2)}  # RTX 1.2: REQUIRE_USER_ALLOCATION
_TITLES = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
HOW_TO_INSTALL = (
    f"JetPack has it; on desktops: {how_to_install('tensorrt-cu13')}, or TensorRT-RTX for GeForce and RTX cards: "
    f"{how_to_install('tensorrt-rtx-cu13')} (-cu12 for drivers before 580)"
)


@dataclass(frozen=True)
class TensorRtFlavour:
    """A TensorRT that loads and is recent enough."""

    name: FlavourName  # the module's
    version: str  # as the module says
    module: Untyped

    @property
    def is_rtx(self) -> bool:
        """TensorRT-RTX: builds without a GPU, compiles its kernels when it loads, runs on consumer GPUs."""
        return self.name == "tensorrt_rtx"

    def __str__(self) -> str:
        return f"{_TITLES[self.name]} {self.version}"


def find_flavour(name: str | None = None) -> TensorRtFlavour:
    """The TensorRT to use; if `name` is None, TensorRT where it loads, else TensorRT-RTX.

    Raises:
        EngineError: none loads, the one named doesn't, or it is too old.
    """
    if name is not None and name not in get_args(FlavourName):
        raise EngineError(f"TensorRT flavour: expected {' or '.join(get_args(FlavourName))}, got {name!r}")
    found, reasons = installed_flavours(tuple(item for item in get_args(FlavourName) if name in (None, item)))
    if not found:
        raise EngineError(f"TensorRT can't be used ({'; '.join(reasons)}). {HOW_TO_INSTALL}")
    return found[0]


def installed_flavours(
    names: tuple[FlavourName, ...] = get_args(FlavourName),
) -> tuple[tuple[TensorRtFlavour, ...], tuple[str, ...]]:
    """The flavours that can be used, the preferred one first; and for each other one the reason why not."""
    results = [_load_flavour(name) for name in names]
    return (
        tuple(result for result in results if isinstance(result, TensorRtFlavour)),
        tuple(result for result in results if isinstance(result, str)),
    )


def _load_flavour(name: FlavourName) -> TensorRtFlavour | str:
    """The flavour, or why it can't be used."""
    try:
        module = importlib.import_module(name)
    except Exception as error:  # the package's own loader raises what it likes where a library is missing
        if isinstance(error, ModuleNotFoundError) and error.name == name:
            return f"{_TITLES[name]} is not installed"
        return f"{_TITLES[name]} is installed, but doesn't load: {' '.join(str(error).split())}"
    version = str(getattr(module, "__version__", "unknown"))
    numbers = re.match(r"(\d+)\.(\d+)", version)
    oldest = _OLDEST[name]
    if numbers is None or (int(numbers[1]), int(numbers[2])) < oldest:
        return f"{_TITLES[name]} {version} is too old: expected {oldest[0]}.{oldest[1]} or later"
    return TensorRtFlavour(name, version, module)


_log = logging.getLogger("sharpose.tensorrt")
_LEVELS = (logging.ERROR, logging.ERROR, logging.WARNING, logging.DEBUG, logging.DEBUG)  # by TensorRT's severity


class _Collectors(threading.local):
    """Of each thread, so that an error of a detector in another isn't taken for one of this call."""

    def __init__(self) -> None:
        self.opened: list[list[str]] = []  # the innermost last


_collectors = _Collectors()


@functools.cache
def tensorrt_logger(flavour: TensorRtFlavour) -> Untyped:
    """The one logger of a flavour: TensorRT keeps the first that it is given and complains about others."""
    base: type[Untyped] = flavour.module.ILogger

    class _Logger(base):  # type: ignore[misc]  # its base is known at run time only
        def __init__(self) -> None:
            base.__init__(self)

        def log(self, severity: Untyped, message: str) -> None:
            """Called by TensorRT, in the thread that called it or one of its own."""
            number = int(severity)
            if number <= 1 and _collectors.opened:
                _collectors.opened[-1].append(message)
                return
            _log.log(_LEVELS[min(number, len(_LEVELS) - 1)], message)

    return _Logger()


@contextlib.contextmanager
def collect_errors(*, log_after: bool = False) -> Iterator[list[str]]:
    """Collect TensorRT's error messages of this thread inside the block, instead of logging them.

    Args:
        log_after: Log them after a block that raised nothing, or leave them to the block around it: a call that logs
            an error may still say that it succeeded.
    """
    messages: list[str] = []
    _collectors.opened.append(messages)
    try:
        yield messages
    finally:
        _collectors.opened.pop()
    if log_after and _collectors.opened:
        _collectors.opened[-1].extend(messages)
    elif log_after:
        for message in messages:
            _log.error(message)


def because(messages: list[str], otherwise: str = "") -> str:
    """The first of TensorRT's errors in one line and in brackets, as the end of a message."""
    reason = " ".join(messages[0].split()) if messages else otherwise
    return f" ({reason})" if reason else ""


def runtime_problem(flavour: TensorRtFlavour) -> str | None:
    """Why a TensorRT can't run engines on this machine, by its own first error; None if its runtime starts."""
    with collect_errors() as messages:
        try:
            flavour.module.Runtime(tensorrt_logger(flavour))
        except Exception as error:  # TypeError is pybind's way of saying that the constructor returned null
            return " ".join((messages or [str(error)])[0].split())
    return " ".join(messages[0].split()) if messages else None


_MAX_LEVEL = 5
_JETSON = Path("/etc/nv_tegra_release")

HardwareLevel = Literal["ampere-plus", "same-compute-capability"]
"""The GPUs besides its own that an engine runs on: Ampere and later ones, or those of its own compute capability."""


@dataclass(frozen=True)
class BuildOptions:
    """Options of TensorRT's builder.

    Raises:
        EngineError: a value is out of range, or the batch sizes are out of order.
    """

    max_batch: int = 16  # people in a run of the coarse stage, rows in one of the fine stage
    min_batch: int = 1  # smaller batches are padded
    opt_batch: tuple[int, ...] | None = None  # sizes to be fastest at, a profile each; see `batch_ranges` if None
    workspace_mib: int | None = None  # limit of scratch memory in MiB; TensorRT's own choice if None
    optimization_level: int | None = None  # 0 (quick to build) to 5 (quick to run); TensorRT's own choice if None
    timing_cache: Path | None = None  # file of kernel timings to read and to extend; one beside the engines if None
    tf32: bool = False  # float32 graphs multiply matrices in TF32, with the mantissa of a half; others never do
    hardware_compatible: HardwareLevel | None = None  # also run on other GPUs
    version_compatible: bool = False  # also run with later versions of TensorRT of the same major version

    def __post_init__(self) -> None:
        best = (self.max_batch,) if self.opt_batch is None else self.opt_batch
        ascending = best == tuple(sorted(set(best))) and len(best) > 0
        if not ascending or not 1 <= self.min_batch <= best[0] or not best[-1] <= self.max_batch:
            raise EngineError(
                "batch sizes: expected 1 <= min <= opt <= max, and several opt ascending, got "
                f"min {self.min_batch}, opt {', '.join(map(str, best))}, max {self.max_batch}"
            )
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise EngineError(f"workspace: expected at least 1 MiB, got {self.workspace_mib}")
        if self.optimization_level is not None and not 0 <= self.optimization_level <= _MAX_LEVEL:
            raise EngineError(f"optimization level: expected 0 to {_MAX_LEVEL}, got {self.optimization_level}")


def check_options(options: BuildOptions, flavour: TensorRtFlavour) -> None:
    """Raise `EngineError` for an option that a flavour doesn't support."""
    level = options.hardware_compatible
    if flavour.is_rtx:
        # Its builder takes all of these. Tried with 1.7: level 0 and 5 give one plan, the timing cache and hardware
        # compatibility do nothing, and version compatibility looks for a library that isn't there.
        refused = {
            "--optimization-level": options.optimization_level is not None,
            "--timing-cache": options.timing_cache is not None,
            "--hardware-compatible": level is not None,
            "--version-compatible": options.version_compatible,
        }
        reason = f"{flavour} doesn't honour it"
    else:
        refused = {"--hardware-compatible": level is not None and _JETSON.exists()}
        reason = f"{flavour} doesn't support it on Jetson"
    for name, given in refused.items():
        if given:
            raise EngineError(f"{name}: {reason}; leave it out")
    if level is not None and hardware_level(flavour, level) is None:
        raise EngineError(f"--hardware-compatible: {flavour} doesn't know {level}; use ampere-plus, or leave it out")


def hardware_level(flavour: TensorRtFlavour, level: HardwareLevel) -> Untyped | None:
    """TensorRT's own name of a level of hardware compatibility; None where its version is too old to have it."""
    return getattr(flavour.module.HardwareCompatibilityLevel, level.replace("-", "_").upper(), None)
