"""Single people drawn as samples."""

from __future__ import annotations

import numpy as np
import pytest
from scene_stage import KEYPOINT, check_frame, digest

from sharpose.errors import InputError
from sharpose.scene import draw_person_sample


def test_samples_are_repeatable_varied_and_well_formed():
    framed = []
    views = set()
    for seed in range(24):
        frame = draw_person_sample(seed, (128, 96))
        check_frame(frame, 128, 96)
        assert frame.ids.tolist() == [0]
        framed.append((frame.keypoints[0, :, 2] > 0).mean())
        left, right = (frame.keypoints[0, KEYPOINT[f"{side}_shoulder"], 0] for side in ("left", "right"))
        views.add(bool(left > right))
    assert np.mean(framed) > 0.8
    assert min(framed) < 1
    assert views == {True, False}
    assert digest(draw_person_sample(5, (128, 96))) == digest(draw_person_sample(5, (128, 96)))


def test_a_sample_with_companions_labels_them_all():
    counts = [len(draw_person_sample(seed, (128, 160), companions=2).ids) for seed in range(6)]
    assert max(counts) == 3
    assert draw_person_sample(1, (128, 160), companions=2).ids[0] == 0


@pytest.mark.parametrize(("seed", "size", "companions"), [(-1, (128, 96), 0), (0, (63, 96), 0), (0, (128, 96), 9)])
def test_samples_refuse_bad_arguments(seed: int, size: tuple[int, int], companions: int):
    with pytest.raises(InputError, match="expected"):
        draw_person_sample(seed, size, companions=companions)
