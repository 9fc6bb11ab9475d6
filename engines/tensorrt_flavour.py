"""Which TensorRT this machine has: NVIDIA TensorRT or TensorRT-RTX. One code path serves both."""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from typing import Literal, get_args

from sharpose.engines.untyped import Untyped
from sharpose.errors import EngineError

__all__ = ["FlavourName", "TensorRtFlavour", "find_flavour", "installed_flavours"]

FlavourName = Literal["tensorrt", "tensorrt_rtx"]

_OLDEST: dict[str, tuple[int, int]] = {"tensorrt": (10, 3), "tensorrt_rtx": (1, 2)}  # RTX 1.2: REQUIRE_USER_ALLOCATION
_TITLES = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
_HOW_TO_GET_IT = (
    "JetPack has it; for desktops see https://developer.nvidia.com/tensorrt, or install TensorRT-RTX: pip install "
    "tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings, then pip install --no-deps --no-build-isolation "
    "tensorrt-rtx-cu13"
)


@dataclass(frozen=True)
class TensorRtFlavour:
    """A TensorRT that loads and is recent enough.

    Attributes:
        name: The module's name.
        version: As the module says.
        module: The module. It has no types.
    """

    name: FlavourName
    version: str
    module: Untyped

    @property
    def is_rtx(self) -> bool:
        """TensorRT-RTX: builds without a GPU, compiles its kernels when it loads, runs on consumer GPUs."""
        return self.name == "tensorrt_rtx"

    def __str__(self) -> str:
        return f"{_TITLES[self.name]} {self.version}"


def find_flavour(name: str | None = None) -> TensorRtFlavour:
    """The TensorRT to use.

    Args:
        name: `tensorrt` or `tensorrt_rtx`; if None, TensorRT where it loads, else TensorRT-RTX.

    Raises:
        EngineError: none loads, the one named doesn't, or it is too old.
    """
    if name is not None and name not in get_args(FlavourName):
        raise EngineError(f"TensorRT flavour: expected {' or '.join(get_args(FlavourName))}, got {name!r}")
    found, reasons = installed_flavours(tuple(get_args(FlavourName)) if name is None else (name,))
    if not found:
        raise EngineError(f"TensorRT can't be used ({'; '.join(reasons)}). {_HOW_TO_GET_IT}")
    return found[0]


def installed_flavours(
    names: tuple[str, ...] = get_args(FlavourName),
) -> tuple[tuple[TensorRtFlavour, ...], tuple[str, ...]]:
    """The flavours that can be used, the preferred one first, and of each other one the reason why not."""
    found: list[TensorRtFlavour] = []
    reasons: list[str] = []
    for name in get_args(FlavourName):
        if name in names:
            result = _try(name)
            if isinstance(result, str):
                reasons.append(result)
            else:
                found.append(result)
    return tuple(found), tuple(reasons)


def _try(name: FlavourName) -> TensorRtFlavour | str:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == name:
            return f"{_TITLES[name]} is not installed"
        return f"{_TITLES[name]} is installed, but doesn't load: {error}"
    except Exception as error:  # the package's own loader, which raises what it likes where a library is missing
        return f"{_TITLES[name]} is installed, but doesn't load: {' '.join(str(error).split())}"
    version = str(getattr(module, "__version__", "unknown"))
    numbers = re.match(r"(\d+)\.(\d+)", version)
    oldest = _OLDEST[name]
    if numbers is None or (int(numbers[1]), int(numbers[2])) < oldest:
        return f"{_TITLES[name]} {version} is too old: expected {oldest[0]}.{oldest[1]} or later"
    return TensorRtFlavour(name, version, module)
