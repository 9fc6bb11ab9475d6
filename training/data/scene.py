"""The built-in scene as an endless dataset of people."""

from __future__ import annotations

import numpy as np

from sharpose.errors import InputError
from sharpose.scene import draw_person_sample
from sharpose.scene.keypoints import rows_of
from sharpose.skeleton import COCO17, Skeleton
from sharpose.training.data.sample import Sample

_HEIGHTS = (192, 320)  # pixels of a drawn picture, from, to
_ASPECTS = (0.7, 1.4)  # width over height, from, to
_COMPANIONS = (0.65, 0.25, 0.10)  # probabilities of nobody, one or two others close by
_ATTEMPTS = 16


class SceneDataset:
    """Drawn people with exact labels; another picture for every index and, unless it repeats, every epoch.

    Args:
        seed: Seed of all that is drawn; 0 or more.
        length: People in an epoch.
        repeat: Whether every epoch has the same people; drawing takes long, so they may be kept (`CachedDataset`).
        skeleton: Of the labels: COCO's, or another whose keypoints the scene knows, such as `halpe26`.

    Raises:
        InputError: `seed` or `length` is out of range, or the scene lacks a keypoint of the skeleton.
    """

    def __init__(self, seed: int, length: int = 10_000, *, repeat: bool = False, skeleton: Skeleton = COCO17) -> None:
        if seed < 0 or length < 1:
            raise InputError(f"scene dataset: expected seed >= 0 and length >= 1, got {seed} and {length}")
        self.name = "scene"
        rows_of(skeleton)
        self.skeleton = skeleton
        self._seed = seed
        self._length = length
        self._repeat = repeat

    def __len__(self) -> int:
        return self._length

    def load(self, index: int, epoch: int = 0) -> Sample:
        """See `PoseDataset.load`."""
        number = index if self._repeat else epoch * self._length + index
        for attempt in range(_ATTEMPTS):
            rng = np.random.default_rng([self._seed, number, attempt])
            height = int(rng.integers(*_HEIGHTS))
            width = round(height * float(rng.uniform(*_ASPECTS)))
            companions = int(rng.choice(len(_COMPANIONS), p=list(_COMPANIONS)))
            seed = int(rng.integers(1 << 62))
            frame = draw_person_sample(seed, (height, width), companions=companions, skeleton=self.skeleton)
            if not len(frame.ids) or frame.ids[0] != 0:  # the person stands outside the picture
                continue
            box, keypoints = frame.boxes_xyxy[0], frame.keypoints[0].copy()
            labelled = keypoints[:, 2] > 0
            if not labelled.any() or (box[2:] - box[:2]).min() < 1:
                continue
            keypoints[~labelled] = 0
            return Sample(
                image_bgr=frame.image,
                box_xyxy=box,
                keypoints=keypoints,
                weights=labelled.astype(np.float32),
                image_id=number,
                annotation_id=number,
                source=f"scene seed {self._seed}, picture {number}",
            )
        where = f"seed {self._seed}, index {number}"
        raise InputError(f"scene dataset, {where}: expected a person in view, found none in {_ATTEMPTS} pictures")
