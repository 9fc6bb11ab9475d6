"""Engines: compiled graphs, and what runs them. Inputs are checked once, in `base`; the backends stay thin."""

from typing import Any, TypeAlias

Untyped: TypeAlias = Any  # what comes from a module without types: TensorRT, the CUDA bindings, libcuda
