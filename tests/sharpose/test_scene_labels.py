"""That what the built-in scene says of people is what it draws."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scene_stage import KEYPOINT, camera, check_frame, person, stage

from sharpose.errors import InputError
from sharpose.scene import Scene, SceneConfig, draw_person_sample
from sharpose.scene import stage as stage_module
from sharpose.scene.canvas import Canvas
from sharpose.scene.keypoints import LABEL_STRIDE, owner_label, rows_of
from sharpose.scene.props import crate
from sharpose.skeleton import HALPE26, MPII16, Skeleton, get_skeleton


@pytest.fixture
def canvases(monkeypatch: pytest.MonkeyPatch) -> list[Canvas]:
    """The canvases that stages draw on, with their map of who owns which pixel."""
    made: list[Canvas] = []

    class Recorded(Canvas):
        def __init__(self, image: np.ndarray) -> None:
            super().__init__(image)
            made.append(self)

    monkeypatch.setattr(stage_module, "Canvas", Recorded)
    return made


@pytest.mark.parametrize(("height", "width"), [(180, 320), (320, 180), (64, 64)])
def test_keypoints_lie_in_their_boxes_and_boxes_in_the_picture(height: int, width: int):
    for seed in range(3):
        scene = Scene(SceneConfig(seed=seed, people=6, frames=60, height=height, width=width))
        for index in (0, 31):
            frame = scene.frame(index)
            assert len(frame.ids) > 0
            check_frame(frame, height, width)


def test_nobody():
    scene = Scene(SceneConfig(people=0, frames=2, height=90, width=120))
    frame = scene.frame(1)
    check_frame(frame, 90, 120)
    assert len(frame.ids) == 0
    np.testing.assert_array_equal(frame.image, scene.without_people(1).image)


def test_many_people():
    frame = Scene(SceneConfig(people=64, frames=1, height=180, width=320)).frame(0)
    check_frame(frame, 180, 320)
    assert len(frame.ids) > 50
    assert len(set(frame.ids.tolist())) == len(frame.ids)


def test_visible_wrists_and_ankles_are_drawn():
    changed = []
    for seed in range(4):
        scene = Scene(SceneConfig(seed=seed, people=5, frames=50, height=360, width=640))
        for index in (0, 30):
            frame, empty = scene.frame(index), scene.without_people(index)
            difference = np.abs(frame.image.astype(int) - empty.image).max(axis=2)
            for keypoints in frame.keypoints:
                for name in ("left_wrist", "right_wrist", "left_ankle", "right_ankle"):
                    x, y, v = keypoints[KEYPOINT[name]]
                    if v == 2:
                        changed.append(difference[round(float(y)), round(float(x))] > 6)
    assert len(changed) > 60
    assert np.mean(changed) > 0.95


def test_boxes_are_tight(canvases: list[Canvas]):
    for seed, yaw in enumerate((0.0, 1.2, 2.6, -1.6)):
        frame = stage([person(seed, yaw)]).render(0, 0.0)
        ys, xs = np.nonzero(canvases[-1].owner)
        drawn = np.array([xs.min(), ys.min(), xs.max(), ys.max()])
        np.testing.assert_allclose(frame.boxes_xyxy[0], drawn, atol=1.5)


@pytest.mark.parametrize("yaw", [0.0, 0.7, 1.57, 2.4, 3.14, -0.9, -2.0])
def test_each_visible_joint_lies_on_the_part_it_belongs_to(canvases: list[Canvas], yaw: float):
    from sharpose.scene.figure import LABELS

    frame = stage([person(5, yaw)]).render(0, 0.0)
    seen = 0
    for name in ("elbow", "wrist", "knee", "ankle"):
        for side in ("left", "right"):
            x, y, v = frame.keypoints[0, KEYPOINT[f"{side}_{name}"]]
            if v == 2:
                label = LABELS[int(canvases[-1].owner[round(float(y)), round(float(x))]) - 1]
                assert label.startswith(side)
                seen += 1
    assert seen >= 3


@pytest.mark.parametrize("yaw", [0.0, np.pi / 2, np.pi, -2.0])
def test_feet_head_and_hip_lie_on_the_parts_they_belong_to(canvases: list[Canvas], yaw: float):
    frame = replace(stage([person(yaw=yaw)]), rows=rows_of(HALPE26)).render(0, 0.0)
    check_frame(frame, 240, 320, joints=26)
    points = dict(zip(HALPE26.keypoints, frame.keypoints[0], strict=True))
    belongs = {
        "head": ["head", "hair"],
        "neck": ["neck", "torso", "hair"],
        "hip": ["torso", "pelvis", "left_thigh", "right_thigh"],
    }
    for side in ("left", "right"):
        belongs |= {f"{side}_{toe}": [f"{side}_foot"] for toe in ("big_toe", "small_toe")}
        belongs[f"{side}_heel"] = [f"{side}_foot", f"{side}_shank"]
    seen = 0
    for name, parts in belongs.items():
        x, y, v = points[name]
        row, column = round(float(y)), round(float(x))
        around = canvases[-1].owner[row - 1 : row + 2, column - 1 : column + 2]
        if v == 2:
            assert set(around.ravel().tolist()) & {owner_label(0, part) for part in parts}, name
            seen += 1
    assert seen >= 5
    for side, other in (("left", "right"), ("right", "left")):
        heel, big, small = (points[f"{side}_{name}"] for name in ("heel", "big_toe", "small_toe"))
        if yaw == np.pi:
            assert big[2] == small[2] == 1  # behind the heels
        if yaw in (0.0, np.pi):  # big toes lie inwards
            inwards = np.sign(points[f"{other}_hip"][0] - points[f"{side}_hip"][0])
            assert np.sign(big[0] - small[0]) == inwards
        else:
            assert np.sign(big[0] - heel[0]) == np.sign(np.sin(yaw))  # toes lie ahead
    np.testing.assert_allclose(points["hip"][:2], (points["left_hip"] + points["right_hip"])[:2] / 2, atol=0.6)
    assert points["head"][1] < points["nose"][1] < points["neck"][1] < points["hip"][1]


def test_labels_of_another_skeleton():
    """In its order and by its names; the picture and COCO's points stay the same bytes."""
    config = SceneConfig(seed=2, people=2, frames=3, height=180, width=320)
    coco, halpe = Scene(config).frame(1), Scene(config, HALPE26).frame(1)
    np.testing.assert_array_equal(coco.image, halpe.image)
    np.testing.assert_array_equal(coco.keypoints, halpe.keypoints[:, :17])
    own = Skeleton("boots", ("RBigToe", "nose"), (), (), (0.1, 0.1))
    found = Scene(config, own).frame(1).keypoints
    np.testing.assert_array_equal(found, halpe.keypoints[:, [HALPE26.keypoints.index("right_big_toe"), 0]])
    with pytest.raises(InputError, match="has no face_0, face_1, face_2 and 107 more, which skeleton coco_"):
        Scene(config, get_skeleton("coco_wholebody133"))
    with pytest.raises(InputError, match="has no pelvis, thorax, upper_neck and 1 more, which skeleton mpii16 has"):
        draw_person_sample(0, skeleton=MPII16)


def test_facing_the_camera_ones_left_is_on_the_right_of_the_picture():
    keypoints = stage([person(yaw=0.0)]).render(0, 0.0).keypoints[0]
    for part in ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle"):
        left, right = keypoints[KEYPOINT[f"left_{part}"]], keypoints[KEYPOINT[f"right_{part}"]]
        assert left[0] > right[0], part
    assert (keypoints[[KEYPOINT["nose"], KEYPOINT["left_eye"], KEYPOINT["right_eye"]], 2] == 2).all()


def test_a_bob_covers_the_ears():
    def ears(style: str) -> list[float]:
        walker = person()
        dressed = replace(walker, looks=replace(walker.looks, hair_style=style, hat="none"))
        return stage([dressed]).render(0, 0.0).keypoints[0, 3:5, 2].tolist()

    assert ears("bob") == [1, 1]
    assert ears("crop") == [2, 2]


def test_from_behind_left_is_left_and_the_face_is_hidden():
    keypoints = stage([person(yaw=np.pi)]).render(0, 0.0).keypoints[0]
    for part in ("shoulder", "elbow", "hip", "knee", "ankle"):
        assert keypoints[KEYPOINT[f"left_{part}"], 0] < keypoints[KEYPOINT[f"right_{part}"], 0], part
    assert (keypoints[:3, 2] == 1).all()
    assert (keypoints[[KEYPOINT["left_shoulder"], KEYPOINT["right_hip"]], 2] == 2).all()


@pytest.mark.parametrize(("yaw", "near", "far"), [(np.pi / 2, "right", "left"), (-np.pi / 2, "left", "right")])
def test_in_profile_the_far_side_is_hidden(yaw: float, near: str, far: str):
    keypoints = stage([person(yaw=yaw)]).render(0, 0.0).keypoints[0]
    for part in ("eye", "ear", "shoulder", "hip"):
        # The near arm may swing across the near hip.
        assert keypoints[KEYPOINT[f"{near}_{part}"], 2] == 2 or part == "hip", part
        assert keypoints[KEYPOINT[f"{far}_{part}"], 2] == 1, part
    ahead = keypoints[KEYPOINT["nose"], 0] - keypoints[KEYPOINT[f"{near}_ear"], 0]
    assert np.sign(ahead) == np.sign(yaw)


def test_someone_behind_another_is_hidden_where_covered(canvases: list[Canvas]):
    near, far = person(2, 0.0, away=3.4), person(3, 0.0, x=0.12, away=5.5)
    both = stage([near, far]).render(0, 0.0)
    alone = stage([far]).render(0, 0.0)
    owner = canvases[-2].owner
    covered = 0
    for (x, y, v), (_, _, before) in zip(both.keypoints[1], alone.keypoints[0], strict=True):
        patch = owner[round(float(y)) - 2 : round(float(y)) + 3, round(float(x)) - 2 : round(float(x)) + 3]
        if ((patch > 0) & (patch <= LABEL_STRIDE)).all():
            assert v == 1
            covered += int(before) == 2
        elif (patch > LABEL_STRIDE).all():
            assert v == before
    assert covered >= 5
    np.testing.assert_array_equal(both.keypoints[0], stage([near]).render(0, 0.0).keypoints[0])
    np.testing.assert_array_equal(both.boxes_xyxy[1], alone.boxes_xyxy[0])


def test_a_prop_in_front_hides_the_legs():
    rng = np.random.default_rng(0)
    box = crate(rng, camera(), np.array([0.0, -3.0]), 0.7, 1.4, 0.0)
    free = stage([person(6)]).render(0, 0.0).keypoints[0, :, 2]
    hidden = stage([person(6)], (box,)).render(0, 0.0).keypoints[0, :, 2]
    legs = [KEYPOINT[f"{side}_ankle"] for side in ("left", "right")]
    assert (free[legs] == 2).all()
    assert (hidden[legs] == 1).all()
    assert hidden[KEYPOINT["nose"]] == 2


def test_someone_at_the_border_is_cut_off_and_someone_beyond_is_left_out():
    reach = 160 / camera().focal * 4
    frame = stage([person(1, 0.0, x=50.0), person(2, 0.0, x=reach)]).render(0, 0.0)
    assert frame.ids.tolist() == [1]
    check_frame(frame, 240, 320)
    assert frame.boxes_xyxy[0, 2] == 319
    v = frame.keypoints[0, :, 2]
    assert 0 < (v == 0).sum() < 17
    assert (frame.keypoints[0, v == 0, 0] > 319).all()
