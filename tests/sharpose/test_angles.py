"""Angles: their values in poses that were laid out by hand, where there are none, and that their page has them all."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from sharpose.angles import ANGLES, angles_of, facing_of, joint_angles
from sharpose.errors import InputError
from sharpose.skeleton import COCO17, HALPE26, MPII16, Skeleton, get_skeleton

# A person seen from the front, arms hanging, legs straight; x to the right, y down.
UPRIGHT = {
    "left_shoulder": (60, 20), "right_shoulder": (40, 20), "left_elbow": (60, 40), "right_elbow": (40, 40),
    "left_wrist": (60, 60), "right_wrist": (40, 60), "left_hip": (60, 70), "right_hip": (40, 70),
    "left_knee": (60, 100), "right_knee": (40, 100), "left_ankle": (60, 130), "right_ankle": (40, 130),
    "head": (50, 0), "head_top": (50, 0), "neck": (50, 20), "hip": (50, 70), "pelvis": (50, 70),
    "left_heel": (55, 135), "left_big_toe": (75, 135), "right_heel": (35, 135), "right_big_toe": (55, 135),
}  # fmt: skip
SKELETONS = pytest.mark.parametrize("skeleton", [COCO17, MPII16, HALPE26], ids=lambda skeleton: skeleton.name)


def person(skeleton: Skeleton = COCO17, **moved: tuple[float, float]) -> npt.NDArray[np.float32]:
    """[1, J, 3]: upright but for the keypoints that are given; what has no place is left at a score of 0."""
    keypoints = np.zeros((1, skeleton.num_keypoints, 3), np.float32)
    for name, place in (UPRIGHT | moved).items():
        if name in skeleton.keypoints:
            keypoints[0, skeleton.keypoints.index(name)] = (*place, 0.9)
    return keypoints


def angle(name: str, keypoints: npt.NDArray[np.float32], skeleton: Skeleton = COCO17) -> float:
    (value,) = joint_angles(keypoints, skeleton)[name].tolist()
    return float(value)


@SKELETONS
def test_upright_with_hanging_arms(skeleton: Skeleton) -> None:
    found = joint_angles(person(skeleton), skeleton)
    without = {COCO17.name: ("ankle", "foot", "head"), MPII16.name: ("ankle", "foot"), HALPE26.name: ()}
    assert list(found) == [name for name in ANGLES if not any(word in name for word in without[skeleton.name])]
    assert all(values.dtype == np.float32 for values in found.values())
    upwards, level = ("trunk_segment", "head_segment"), ("foot_segment", "pelvis_segment", "shoulders_segment")
    for name, values in found.items():
        if ANGLES[name].kind == "segment":
            expected = 90 if name in upwards else 0 if name.endswith(level) else -90
        else:
            expected = 180 if ANGLES[name].kind == "joint" and not name.endswith("shoulder") else 0
        np.testing.assert_allclose(values, [expected], atol=1e-4, err_msg=name)


@pytest.mark.parametrize("skeleton", [COCO17, MPII16], ids=lambda skeleton: skeleton.name)
@pytest.mark.parametrize(
    ("name", "moved", "degrees"),
    [
        ("left_knee", {"left_ankle": (90, 100)}, 90),
        ("left_knee", {"left_ankle": (30, 100)}, 90),  # the same to the other side
        ("right_knee", {"right_ankle": (70, 70)}, 45),
        ("left_hip", {"left_knee": (110, 70)}, 90),
        ("right_hip", {"right_knee": (40, 40)}, 0),
        ("left_elbow", {"left_wrist": (80, 20)}, 45),
        ("right_elbow", {"right_wrist": (20, 60)}, 135),
        ("left_shoulder", {"left_elbow": (90, 20)}, 90),
        ("right_shoulder", {"right_elbow": (40, 0)}, 180),
        ("trunk_lean", {"left_shoulder": (110, 20), "right_shoulder": (90, 20)}, 45),
        ("trunk_lean", {"left_shoulder": (10, 20), "right_shoulder": (-10, 20)}, -45),
        ("trunk_lean", {"left_shoulder": (0, 70), "right_shoulder": (0, 70)}, -90),
        ("trunk_lean", {"left_shoulder": (60, 120), "right_shoulder": (40, 120)}, 180),
    ],
)
def test_angles_by_hand(skeleton: Skeleton, name: str, moved: dict[str, tuple[float, float]], degrees: float) -> None:
    assert angle(name, person(skeleton, **moved), skeleton) == pytest.approx(degrees, abs=1e-4)


# Of somebody who faces right; signs and zeros are those of Sports2D.
FLEXED = [
    ("left_knee_flexion", {"left_ankle": (30, 100)}, 90),
    ("right_knee_flexion", {"right_ankle": (52, 127.7)}, -23.4),  # over-extended
    ("left_hip_flexion", {"left_knee": (90, 70)}, 90),
    ("right_hip_flexion", {"right_knee": (25, 96)}, -30),
    ("left_shoulder_flexion", {"left_elbow": (90, 20)}, 90),
    ("left_shoulder_flexion", {"left_elbow": (60, 0)}, -180),  # straight up is the end of the scale
    ("left_shoulder_flexion", {"left_elbow": (60.1, 0)}, 179.7),
    ("right_elbow_flexion", {"right_wrist": (60, 40)}, 90),
    ("right_elbow_flexion", {"right_wrist": (20, 40)}, -90),
    ("left_ankle_dorsiflexion", {"left_heel": (55, 135), "left_big_toe": (70, 120)}, 45),
    ("right_ankle_dorsiflexion", {"right_heel": (40, 120), "right_big_toe": (40.1, 150)}, -89.8),
    ("left_foot_segment", {"left_big_toe": (65, 125)}, 45),
    ("right_shank_segment", {"right_ankle": (60, 120)}, -45),
    ("left_thigh_segment", {"left_knee": (90, 70)}, 0),
    ("right_arm_segment", {"right_elbow": (20, 0)}, 135),
    ("left_forearm_segment", {"left_wrist": (80, 60)}, -45),
    ("pelvis_segment", {"left_hip": (60, 50)}, 45),
    ("pelvis_segment", {"left_hip": (20, 50)}, -45),  # the same line from its other end
    ("trunk_segment", {"neck": (100, 20)}, 45),
    ("shoulders_segment", {"right_shoulder": (60, 40)}, -90),
    ("head_segment", {"head": (30, 20)}, -180),
]


@pytest.mark.parametrize(("name", "moved", "degrees"), FLEXED)
def test_flexions_and_segments_by_hand(name: str, moved: dict[str, tuple[float, float]], degrees: float) -> None:
    keypoints = person(HALPE26, **moved)
    assert angle(name, keypoints, HALPE26) == pytest.approx(degrees, abs=0.1)
    mirrored = keypoints.copy()
    mirrored[:, :, 0] = 100 - mirrored[:, :, 0]  # faces left, which the feet tell
    turned = angle(name, mirrored, HALPE26)
    assert turned == pytest.approx(degrees, abs=0.1)
    (told,) = joint_angles(mirrored, HALPE26, facing="left")[name]
    assert told == turned
    (wrong,) = joint_angles(mirrored, HALPE26, facing="right")[name]
    if ANGLES[name].kind == "flexion" and not name.endswith("dorsiflexion"):
        assert (wrong + degrees + 180) % 360 - 180 == pytest.approx(0, abs=0.1)


def test_where_somebody_faces_is_told_by_the_feet_that_are_seen() -> None:
    def faced(*hidden: str, **moved: tuple[float, float]) -> float:
        keypoints = person(HALPE26, **moved)
        keypoints[:, [HALPE26.keypoints.index(name) for name in hidden], 2] = 0.1
        used = np.where(keypoints[:, :, 2:] >= 0.3, keypoints[:, :, :2], np.nan).astype(np.float64)
        (side,) = facing_of(used, HALPE26)
        (flexion,) = joint_angles(keypoints, HALPE26)["left_knee_flexion"]
        assert np.isnan(flexion) == np.isnan(side)
        return float(side)

    assert faced() == 1
    assert faced(left_big_toe=(54, 135)) == 1  # both together
    assert faced("right_heel", left_big_toe=(54, 135)) == -1
    assert np.isnan(faced("right_heel", "left_big_toe"))
    (lean,) = joint_angles(person(HALPE26, left_heel=(np.nan, 0), right_heel=(np.nan, 0)), HALPE26)["left_knee"]
    assert lean == 180  # joints need no side


def test_who_has_no_feet_faces_right_unless_said_otherwise() -> None:
    bent = person(left_ankle=(30, 100))
    assert angle("left_knee_flexion", bent) == 90
    assert joint_angles(bent, COCO17, facing="left")["left_knee_flexion"] == -90
    with pytest.raises(InputError, match="facing: expected auto, right or left, got 'up'"):
        joint_angles(bent, COCO17, facing="up")  # type: ignore[arg-type]


def test_the_page_has_every_angle() -> None:
    page = (Path(__file__).parents[2] / "docs" / "biomechanics.md").read_text("utf-8")
    named = {
        name.replace("SIDE", side) for name in re.findall(r"^\| `(\w+)`", page, re.M) for side in ("left", "right")
    }
    assert named == set(ANGLES)


def test_angles_are_those_of_square_pixels() -> None:
    straight, squeezed = person(left_ankle=(90, 130), left_shoulder=(85, 20)), person()
    squeezed[:] = straight
    squeezed[:, :, 0] /= 2
    for name, degrees in joint_angles(straight, COCO17).items():
        np.testing.assert_allclose(joint_angles(squeezed, COCO17, sample_aspect_ratio=2)[name], degrees, atol=1e-4)
    assert joint_angles(squeezed, COCO17)["left_knee"] != pytest.approx(
        joint_angles(straight, COCO17)["left_knee"], abs=3
    )


def test_one_keypoint_moves_only_its_angles() -> None:
    straight, bent = joint_angles(person(), COCO17), joint_angles(person(left_knee=(80, 100)), COCO17)
    changed = {name for name in angles_of(COCO17) if straight[name].tolist() != bent[name].tolist()}
    legs = {"left_hip_flexion", "left_knee_flexion", "left_thigh_segment", "left_shank_segment"}
    assert changed == {"left_hip", "left_knee"} | legs


@pytest.mark.parametrize(("threshold", "known"), [(0.3, True), (0.31, False)])
def test_the_threshold_itself_is_enough(threshold: float, known: bool) -> None:
    keypoints = person()
    keypoints[0, COCO17.keypoints.index("right_hip"), 2] = np.float32(0.3)
    found = joint_angles(keypoints, COCO17, np.float32(threshold))
    missing = {name for name, values in found.items() if np.isnan(values).all() and ANGLES[name].kind != "segment"}
    joints = {"right_shoulder", "right_hip", "right_knee", "trunk_lean", "right_knee_flexion"}
    of_trunk = {f"{side}_{joint}_flexion" for side in ("left", "right") for joint in ("hip", "shoulder")}
    assert missing == (set() if known else joints | of_trunk)


def test_each_person_has_their_own() -> None:
    bent, low = person(left_ankle=(90, 100)), person()
    low[:, :, 2] = 0.1
    found = joint_angles(np.concatenate([person(), low, bent]), COCO17)["left_knee"]
    np.testing.assert_allclose(found, [180, np.nan, 90], atol=1e-4)
    assert {name: values.shape for name, values in joint_angles(low[:0], COCO17).items()} == dict.fromkeys(
        angles_of(COCO17), (0,)
    )


@pytest.mark.parametrize("place", [(60, 100), (np.nan, 130), (np.inf, 130)])
def test_a_direction_without_length_or_end_has_no_angle(place: tuple[float, float]) -> None:
    with np.errstate(all="raise"):
        found = joint_angles(person(left_ankle=place), COCO17)
    assert {name for name, values in found.items() if np.isnan(values).any()} == {
        "left_knee", "left_knee_flexion", "left_shank_segment",
    }  # fmt: skip


def test_angles_that_a_skeleton_cannot_give_are_left_out() -> None:
    names = tuple(name if name != "right_hip" else "pelvis" for name in COCO17.keypoints)
    skeleton = replace(COCO17, name="no right hip", keypoints=names)
    lacking = {"right_shoulder", "right_hip", "right_knee", "trunk_lean", "right_hip_flexion", "right_knee_flexion"}
    lacking |= {"right_thigh_segment", "pelvis_segment"}
    expected = [name for name in angles_of(COCO17) if name not in lacking]
    assert list(angles_of(skeleton)) == list(joint_angles(person(skeleton), skeleton)) == expected
    assert "left_hip_flexion" in expected  # the pelvis is the middle of the hips


def test_names_that_others_write() -> None:
    def other(name: str) -> str:
        side, _, rest = name.partition("_")
        return f"{side[0].upper()}{rest.title().replace('_', '')}" if side in ("left", "right") else name.title()

    skeleton = replace(HALPE26, name="others'", keypoints=tuple(map(other, HALPE26.keypoints)))
    assert "LBigToe" in skeleton.keypoints
    keypoints = person(HALPE26, left_ankle=(30, 100), right_wrist=(60, 40))
    expected = joint_angles(keypoints, HALPE26)
    for name, values in joint_angles(keypoints, skeleton).items():
        np.testing.assert_array_equal(values, expected[name])
    assert angles_of(skeleton) == (*angles_of(get_skeleton("coco_wholebody133")), "head_segment")


def test_keypoints_of_another_skeleton() -> None:
    with pytest.raises(InputError, match=r"expected shape \[n, 16, 3\] of skeleton 'mpii16', got \[1, 17, 3\]"):
        joint_angles(person(), MPII16)
