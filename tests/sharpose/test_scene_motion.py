"""How the people of the built-in scene move."""

from __future__ import annotations

import numpy as np
import pytest
from scene_stage import KEYPOINT, person, stage

from sharpose.scene import Scene, SceneConfig
from sharpose.scene.motion import EXERCISES, GESTURES
from sharpose.scene.motion import gesture as gesture_pose


def test_motion_is_continuous_and_identities_last():
    for seed in (0, 3):
        height = 180
        scene = Scene(SceneConfig(seed=seed, people=6, frames=120, height=height, width=320))
        last: dict[int, np.ndarray] = {}
        travelled: dict[int, float] = {}
        for index in range(40, 54):
            frame = scene.frame(index)
            assert (np.diff(frame.ids) > 0).all()
            now = dict(zip(frame.ids.tolist(), frame.keypoints, strict=True))
            for who in now.keys() & last.keys():
                size = frame.boxes_xyxy[frame.ids == who][0]
                tall = max(float(size[3] - size[1]), 0.25 * height)
                step = np.linalg.norm(now[who][:, :2] - last[who][:, :2], axis=1)
                assert step.max() < 0.16 * tall
                travelled[who] = travelled.get(who, 0.0) + float(step.mean())
            last = now
        assert len(travelled) >= 4
        assert all(distance > 0 for distance in travelled.values())


def test_walkers_face_the_way_they_go():
    walker = person(8, np.pi / 2, away=5.0)
    early, late = (stage([walker]).render(0, time).keypoints[0] for time in (0.0, 0.4))
    assert late[KEYPOINT["left_hip"], 0] > early[KEYPOINT["left_hip"], 0] + 5
    assert late[KEYPOINT["nose"], 0] > late[KEYPOINT["right_ear"], 0]


@pytest.mark.parametrize("kind", ["stand", "sit", *EXERCISES])
def test_those_who_stay_keep_their_feet_on_the_ground(kind: str):
    actor = person(9, 0.4, kind=kind).actor
    for time in np.linspace(0, 6, 25):
        joints = actor.joints(float(time))
        soles = np.minimum(joints.heels[:, 1], joints.toes[:, 1])
        assert 0 < soles.min() < 0.12
        middle = 0.5 * (joints.ankles[0] + joints.ankles[1])
        assert np.hypot(middle[0], middle[2] + 4) < 0.75


@pytest.mark.parametrize("name", GESTURES)
def test_gestures_are_mirrored_exactly(name: str):
    pose = gesture_pose(name, 1.0, 2.0)
    twice = pose.mirrored().mirrored()
    np.testing.assert_array_equal(pose.vector, twice.vector)
    np.testing.assert_array_equal(pose.mirrored().limbs[0], pose.limbs[1])


def test_bones_keep_their_length():
    actor = person(10, 0.3, kind="dance").actor
    for time in (0.0, 0.7, 1.9):
        joints = actor.joints(time)
        for start, end, length in (
            (joints.shoulders, joints.elbows, actor.body.upper_arm),
            (joints.elbows, joints.wrists, actor.body.forearm),
            (joints.hips, joints.knees, actor.body.thigh),
            (joints.knees, joints.ankles, actor.body.shank),
        ):
            np.testing.assert_allclose(np.linalg.norm(end - start, axis=1), length, rtol=1e-9)
