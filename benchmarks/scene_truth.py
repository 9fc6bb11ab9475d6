"""Frames of the built-in scene with what is true of them, and how good poses are by it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sharpose.runtime import Boxes
from sharpose.scene import Scene, SceneConfig, SceneFrame
from sharpose.similarity import body_area, pose_oks

__all__ = ["Interval", "bootstrap", "boxes_of", "scenes_with", "true_oks"]


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


def true_oks(keypoints: npt.NDArray[np.float32], frame: SceneFrame, sigmas: Sequence[float]) -> npt.NDArray[np.float64]:
    """OKS of poses with the true ones, over the keypoints inside the picture.

    Args:
        keypoints: float32 [n, 17, 3], of the frame's people in order.
        frame: What is true.
        sigmas: COCO's constants.

    Returns:
        float [n]; NaN for people of whom no keypoint is inside.
    """
    truth = frame.keypoints
    return pose_oks(keypoints, truth, body_area(frame.boxes_xyxy), sigmas, truth[..., 2] > 0)


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
