from __future__ import annotations

import numpy as np
import pytest

from sharpose.errors import SharposeError
from sharpose.runtime.sources.open import SceneSource, is_scene
from sharpose.scene import Scene, parse_scene

SPEC = "scene:seed=3,people=2,frames=4,size=120x160"


def test_the_scene_brings_its_boxes():
    source = SceneSource(SPEC)
    frames = list(source)
    drawn = list(Scene(parse_scene(SPEC)))
    assert len(frames) == source.info.frame_count == 4
    assert source.info.image_ids == {0, 1, 2, 3}
    for frame, original in zip(frames, drawn, strict=True):
        np.testing.assert_array_equal(frame.image, original.image)
        assert frame.image.shape == (120, 160, 3)
        assert frame.boxes is not None
        np.testing.assert_allclose(frame.boxes.xyxy, original.boxes_xyxy, atol=1e-4)
        assert (frame.index, frame.image_id, frame.time) == (original.index, original.index, original.time)
    assert source.info.frame_rate == pytest.approx(1 / (frames[1].time - frames[0].time))
    source.close()


def test_settings_that_are_not_understood():
    with pytest.raises(SharposeError, match="scene"):
        SceneSource("scene:colour=red")


def test_what_is_a_scene():
    assert is_scene("scene")
    assert is_scene("scene:people=3")
    assert not is_scene("./scene")
    assert not is_scene("scenery.mp4")
