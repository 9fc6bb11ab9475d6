"""Which CUDA binding to use: what is installed, or what was asked for."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

from sharpose.engines.memory import Memory
from sharpose.errors import EngineError

__all__ = ["CUDA_BINDINGS", "installed_bindings", "open_memory"]

CUDA_BINDINGS = ("cuda-python", "pycuda")
"""The preferred one first: it has CUDA graphs."""


def _cuda_python(index: int) -> Memory:
    from sharpose.engines.memory_cuda_python import CudaPythonMemory

    return CudaPythonMemory(index)


def _pycuda(index: int) -> Memory:
    from sharpose.engines.memory_pycuda import PycudaMemory

    return PycudaMemory(index)


_OPEN: dict[str, Callable[[int], Memory]] = {"cuda-python": _cuda_python, "pycuda": _pycuda}
_MODULES = {"cuda-python": ("cuda.bindings.driver", "cuda.cuda"), "pycuda": ("pycuda.driver",)}
_INSTALL = {
    "cuda-python": "pip install cuda-bindings",
    "pycuda": 'pip install "sharpose[pycuda]", which compiles it and wants the CUDA toolkit',
}


def installed_bindings() -> tuple[str, ...]:
    """The bindings that are installed, without importing them: pycuda can't be where there is no driver."""
    return tuple(name for name in CUDA_BINDINGS if any(_is_there(module) for module in _MODULES[name]))


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # its package isn't there
        return False


def open_memory(index: int = 0, name: str | None = None) -> Memory:
    """A GPU's memory.

    Args:
        index: The GPU.
        name: `cuda-python` or `pycuda`; the first that is installed if None.

    Raises:
        EngineError: the binding isn't there or can't use the GPU.
    """
    if name is not None and name not in CUDA_BINDINGS:
        raise EngineError(f"CUDA bindings: expected {' or '.join(CUDA_BINDINGS)}, got {name!r}")
    installed = installed_bindings()
    wanted = name or next(iter(installed), None)
    if wanted is None:
        raise EngineError(f"CUDA bindings: neither cuda-python nor pycuda is installed; {_INSTALL['cuda-python']}")
    if wanted not in installed:
        raise EngineError(f"CUDA bindings: {wanted} is not installed; {_INSTALL[wanted]}")
    try:
        return _OPEN[wanted](index)
    except ImportError as error:
        raise EngineError(f"CUDA bindings: {wanted} is installed, but doesn't load ({error})") from error
