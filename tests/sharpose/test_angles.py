"""Joint angles: their values in poses that were laid out by hand, and where there are none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from sharpose.angles import ANGLES, angles_of, joint_angles
from sharpose.errors import InputError
from sharpose.skeleton import COCO17, MPII16, Skeleton

# A person seen from the front, arms hanging, legs straight; x to the right, y down.
UPRIGHT = {
    "left_shoulder": (60, 20), "right_shoulder": (40, 20), "left_elbow": (60, 40), "right_elbow": (40, 40),
    "left_wrist": (60, 60), "right_wrist": (40, 60), "left_hip": (60, 70), "right_hip": (40, 70),
    "left_knee": (60, 100), "right_knee": (40, 100), "left_ankle": (60, 130), "right_ankle": (40, 130),
}  # fmt: skip


def person(skeleton: Skeleton = COCO17, **moved: tuple[float, float]) -> npt.NDArray[np.float32]:
    """[1, J, 3]: upright but for the keypoints that are given; what has no place is left at a score of 0."""
    keypoints = np.zeros((1, skeleton.num_keypoints, 3), np.float32)
    for name, place in (UPRIGHT | moved).items():
        keypoints[0, skeleton.keypoints.index(name)] = (*place, 0.9)
    return keypoints


def angle(name: str, keypoints: npt.NDArray[np.float32], skeleton: Skeleton = COCO17) -> float:
    (value,) = joint_angles(keypoints, skeleton)[name].tolist()
    return float(value)


@pytest.mark.parametrize("skeleton", [COCO17, MPII16], ids=lambda skeleton: skeleton.name)
def test_upright_with_hanging_arms(skeleton: Skeleton) -> None:
    found = joint_angles(person(skeleton), skeleton)
    assert list(found) == list(ANGLES)
    assert all(values.dtype == np.float32 for values in found.values())
    for name, values in found.items():
        expected = 0 if name in ("left_shoulder", "right_shoulder", "trunk_lean") else 180
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
    changed = {name for name in ANGLES if straight[name].tolist() != bent[name].tolist()}
    assert changed == {"left_hip", "left_knee"}


@pytest.mark.parametrize(("threshold", "known"), [(0.3, True), (0.31, False)])
def test_the_threshold_itself_is_enough(threshold: float, known: bool) -> None:
    keypoints = person()
    keypoints[0, COCO17.keypoints.index("right_hip"), 2] = np.float32(0.3)
    found = joint_angles(keypoints, COCO17, np.float32(threshold))
    missing = {name for name, values in found.items() if np.isnan(values).all()}
    assert missing == (set() if known else {"right_shoulder", "right_hip", "right_knee", "trunk_lean"})


def test_each_person_has_their_own() -> None:
    bent, low = person(left_ankle=(90, 100)), person()
    low[:, :, 2] = 0.1
    found = joint_angles(np.concatenate([person(), low, bent]), COCO17)["left_knee"]
    np.testing.assert_allclose(found, [180, np.nan, 90], atol=1e-4)
    assert {name: values.shape for name, values in joint_angles(low[:0], COCO17).items()} == dict.fromkeys(ANGLES, (0,))


@pytest.mark.parametrize("place", [(60, 100), (np.nan, 130), (np.inf, 130)])
def test_a_direction_without_length_or_end_has_no_angle(place: tuple[float, float]) -> None:
    with np.errstate(all="raise"):
        found = joint_angles(person(left_ankle=place), COCO17)
    assert {name for name, values in found.items() if np.isnan(values).any()} == {"left_knee"}


def test_angles_that_a_skeleton_cannot_give_are_left_out() -> None:
    names = tuple(name if name != "right_hip" else "pelvis" for name in COCO17.keypoints)
    skeleton = replace(COCO17, name="no right hip", keypoints=names)
    expected = [name for name in ANGLES if name not in ("right_shoulder", "right_hip", "right_knee", "trunk_lean")]
    assert list(angles_of(skeleton)) == list(joint_angles(person(), skeleton)) == expected


def test_keypoints_of_another_skeleton() -> None:
    with pytest.raises(InputError, match=r"expected shape \[n, 16, 3\] of skeleton 'mpii16', got \[1, 17, 3\]"):
        joint_angles(person(), MPII16)
