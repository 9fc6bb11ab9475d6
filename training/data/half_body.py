"""Half bodies: a frame around the upper or the lower keypoints only."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sharpose.skeleton import Skeleton
from sharpose.training.data.affine import Frame, at_aspect

__all__ = ["HALF_BODY_PADDING", "half_body_frame", "upper_body"]

HALF_BODY_PADDING = 1.5
"""Growth of the frame around half a body, in place of the box's padding."""

_LOWER_WORDS = ("hip", "pelvis", "knee", "ankle", "heel", "toe", "foot")
_FEW = 2  # a half with no more keypoints than this gives way to the other
_UPPER_BELOW = 0.5  # a standard NORMAL number below it picks the upper half: 69 % of the time, as released


def upper_body(skeleton: Skeleton) -> npt.NDArray[np.bool_]:
    """Which keypoints lie above the hips, by their names: bool [J]."""
    return np.array([not any(word in name for word in _LOWER_WORDS) for name in skeleton.keypoints])


def half_body_frame(
    points: npt.NDArray[np.float32],
    labelled: npt.NDArray[np.bool_],
    skeleton: Skeleton,
    aspect: float,
    rng: np.random.Generator,
) -> Frame | None:
    """A frame around half of a body.

    Args:
        points: float32 [J, 2], picture pixels.
        labelled: bool [J].
        skeleton: Whose keypoints they are.
        aspect: Width over height of the frame.
        rng: Chooses the half.

    Returns:
        The frame, centred on the mean of the half's keypoints; None where there are too few of them.
    """
    is_upper = upper_body(skeleton)
    upper, lower = points[labelled & is_upper], points[labelled & ~is_upper]
    if rng.standard_normal() < _UPPER_BELOW and len(upper) > _FEW:
        chosen = upper
    elif len(lower) > _FEW:
        chosen = lower
    else:
        chosen = upper
    if len(chosen) < _FEW:
        return None
    width, height = (float(extent) for extent in chosen.max(axis=0) - chosen.min(axis=0))
    return Frame(chosen.mean(axis=0).astype(np.float32), at_aspect(width, height, aspect, HALF_BODY_PADDING))
