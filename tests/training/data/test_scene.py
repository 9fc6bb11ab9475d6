"""The scene as a dataset: the same picture for the same number, another every epoch."""

from __future__ import annotations

import numpy as np
import pytest

from sharpose.errors import InputError
from sharpose.training.data.scene import SceneDataset


def test_a_number_gives_its_picture_and_epochs_go_on() -> None:
    scene = SceneDataset(seed=5, length=3)
    first, again = scene.load(1), SceneDataset(seed=5, length=3).load(1)
    assert np.array_equal(first.image_bgr, again.image_bgr)
    assert np.array_equal(first.keypoints, again.keypoints)
    assert len(scene) == 3
    assert {scene.load(1, epoch).image_id for epoch in range(3)} == {1, 4, 7}
    assert not np.array_equal(first.keypoints, scene.load(1, 1).keypoints)
    assert not np.array_equal(first.keypoints, SceneDataset(seed=6, length=3).load(1).keypoints)


def test_labels_lie_in_the_picture_near_the_box() -> None:
    scene = SceneDataset(seed=0, length=10)
    for index in range(6):
        sample = scene.load(index)
        height, width = sample.image_bgr.shape[:2]
        labelled = sample.weights > 0
        x, y = sample.keypoints[labelled, 0], sample.keypoints[labelled, 1]
        assert labelled.any()
        assert (x >= -0.5).all()
        assert (x <= width - 0.5).all()
        assert (y >= -0.5).all()
        assert (y <= height - 0.5).all()
        assert not sample.keypoints[~labelled].any()


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(InputError, match="seed >= 0 and length >= 1"):
        SceneDataset(seed=-1)


def test_a_scene_that_repeats_itself_gives_the_same_people_in_every_epoch() -> None:
    scene = SceneDataset(seed=5, length=3, repeat=True)
    first, later = scene.load(2), scene.load(2, epoch=4)
    assert np.array_equal(first.image_bgr, later.image_bgr)
    assert (first.image_id, later.image_id) == (2, 2)
    assert np.array_equal(first.image_bgr, SceneDataset(seed=5, length=3).load(2).image_bgr)
