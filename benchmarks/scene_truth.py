"""Frames of the built-in scene with what is true of them, and how good poses are by it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sharpose.runtime import Boxes
from sharpose.scene import Scene, SceneConfig, SceneFrame

__all__ = ["Interval", "bootstrap", "boxes_of", "keypoint_similarity", "scenes_with"]

_BODY_SHARE = 0.53  # of a box that its person covers, as COCO's tools take it where no area is labelled


@dataclass(frozen=True)
class Interval:
    """A mean with the bootstrap interval that holds it in 95 of 100 cases."""

    mean: float
    low: float
    high: float


def scenes_with(people: int, frames: int, count: int, size: tuple[int, int]) -> list[list[SceneFrame]]:
    """The frames of the first scenes with so many people in which somebody is in view at first.

    Args:
        people: In a scene.
        frames: Of a scene, consecutive.
        count: How many scenes.
        size: Height and width in pixels.
    """
    found: list[list[SceneFrame]] = []
    seed = 0
    while len(found) < count:
        scene = Scene(SceneConfig(seed=seed, people=people, frames=frames, height=size[0], width=size[1]))
        seed += 1
        first = scene.frame(0)
        if (first.keypoints[..., 2] > 0).any():
            found.append([first, *(scene.frame(index) for index in range(1, frames))])
    return found


def boxes_of(frame: SceneFrame) -> Boxes:
    """The true boxes."""
    return Boxes.from_xyxy(frame.boxes_xyxy)


def keypoint_similarity(
    keypoints: npt.NDArray[np.float32], frame: SceneFrame, sigmas: Sequence[float]
) -> npt.NDArray[np.float64]:
    """OKS of poses with the true ones, over the keypoints inside the picture.

    Args:
        keypoints: float32 [n, 17, 3], of the frame's people in order.
        frame: What is true.
        sigmas: COCO's constants.

    Returns:
        float [n]; NaN for people of whom no keypoint is inside.
    """
    truth = frame.keypoints.astype(np.float64)
    inside = truth[..., 2] > 0
    sides = frame.boxes_xyxy[:, 2:].astype(np.float64) - frame.boxes_xyxy[:, :2]
    area = np.maximum(sides.prod(axis=1) * _BODY_SHARE, 1.0)
    apart = np.square(keypoints[..., :2] - truth[..., :2]).sum(axis=-1)
    likeness = np.exp(-apart / (2.0 * area[:, None] * np.square(2.0 * np.asarray(sigmas))))
    counted = inside.sum(axis=1)
    similarity: npt.NDArray[np.float64] = np.where(
        counted > 0, (likeness * inside).sum(axis=1) / np.maximum(counted, 1), np.nan
    )
    return similarity


def bootstrap(values: Mapping[Hashable, Sequence[float]], *, rounds: int = 2000) -> Interval:
    """The mean of values that come in groups (a person's in all frames), groups drawn again and again.

    At least one value must be a number.

    Args:
        values: By group; NaN counts for nothing.
        rounds: How often all groups are drawn.
    """
    groups = [np.asarray(group, float)[~np.isnan(np.asarray(group, float))] for group in values.values()]
    sums = np.array([group.sum() for group in groups if len(group)])
    counts = np.array([len(group) for group in groups if len(group)])
    drawn = np.random.default_rng(0).integers(len(sums), size=(rounds, len(sums)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return Interval(float(sums.sum() / counts.sum()), float(low), float(high))
