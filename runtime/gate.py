"""The gate: who is worth a second, closer look."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from sharpose.errors import InputError

__all__ = ["Refine", "check_refine", "gate"]

Refine = Literal["auto", "always", "never"]


def check_refine(refine: str) -> Refine:
    """`refine` if it is one of the modes; raises `InputError` otherwise."""
    for mode in get_args(Refine):
        if refine == mode:
            return mode  # type: ignore[no-any-return]
    raise InputError(f"refine: expected one of {', '.join(get_args(Refine))}, got {refine!r}")


def gate(quality: npt.NDArray[np.float32], threshold: float, refine: Refine) -> npt.NDArray[np.int32]:
    """Rows of a coarse batch that go on to the fine stage.

    Args:
        quality: float32 [N], predicted quality.
        threshold: Rows strictly below it are refined, compared in float32; NaN is not below anything.
        refine: `auto` asks the threshold, `always` takes every row, `never` none.

    Returns:
        int32 [M], ascending.
    """
    if refine == "never":
        return np.zeros(0, dtype=np.int32)
    if refine == "always":
        return np.arange(len(quality), dtype=np.int32)
    return np.flatnonzero(quality < np.float32(threshold)).astype(np.int32)
