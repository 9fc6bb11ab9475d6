"""A name for what comes from TensorRT and the CUDA bindings, which have no types."""

from __future__ import annotations

from typing import Any, TypeAlias

__all__ = ["Untyped"]

Untyped: TypeAlias = Any
