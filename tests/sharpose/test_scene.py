"""The built-in scene: its words, its determinism, and that what it says of people is what it draws."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from sharpose.errors import ConfigError, InputError
from sharpose.scene import Scene, SceneConfig, SceneFrame, draw_person_sample, parse_scene
from sharpose.scene import stage as stage_module
from sharpose.scene.camera import Camera
from sharpose.scene.canvas import Canvas
from sharpose.scene.cast import Person, cast_person
from sharpose.scene.cloth import Light
from sharpose.scene.exercises import EXERCISES
from sharpose.scene.gestures import GESTURES
from sharpose.scene.gestures import gesture as gesture_pose
from sharpose.scene.motion import shuttle
from sharpose.scene.ordering import Layer, painter_order
from sharpose.scene.props import PROPS, Sprite, crate, make_prop
from sharpose.scene.stage import Effects, Stage
from sharpose.scene.visibility import LABEL_STRIDE
from sharpose.skeleton import COCO17

KEYPOINT = {name: index for index, name in enumerate(COCO17.keypoints)}
SMALL = SceneConfig(seed=4, people=4, frames=40, height=180, width=320)


def digest(frame: SceneFrame) -> str:
    parts = (frame.image, frame.boxes_xyxy, frame.keypoints, frame.ids)
    return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()


def camera(height: int = 240, width: int = 320) -> Camera:
    return Camera(0.8 * height * 4 / 1.75, width / 2, height / 2, 0.9, 0.0)


def stage(people: list[Person], props: tuple[Sprite, ...] = (), height: int = 240, width: int = 320) -> Stage:
    background = np.full((height, width, 3), (200, 120, 40), np.uint8)
    light = Light(0.4, -0.5, 0.75, 0.6)
    return Stage(background, camera(height, width), light, tuple(people), props, Effects(1, 0, 0, None, (0,)))


def person(seed: int = 1, yaw: float = 0.0, x: float = 0.0, away: float = 4.0, kind: str = "walk") -> Person:
    """Someone walking on the spot's path; walkers face where they go, so their yaw is exact."""
    spot = np.array([x, -away])
    path = None
    if kind == "walk":
        ahead = np.array([np.sin(yaw), np.cos(yaw)])
        path = shuttle(spot - ahead, spot + ahead, 0.001)
    return cast_person((seed,), kind, camera(), spot, yaw, path=path, offset=1.0)


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


# --- words ---------------------------------------------------------------------------------------------------------


def test_parse_scene_defaults_and_settings():
    assert parse_scene("scene") == SceneConfig(seed=0, people=5, frames=150, height=720, width=1280, fps=25.0)
    assert parse_scene("scene:seed=3,people=7,frames=20,size=480x640") == SceneConfig(3, 7, 20, 480, 640)
    assert parse_scene("scene: size=100x200 , fps=12.5") == SceneConfig(height=100, width=200, fps=12.5)


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ("scene:sed=3", "'sed'"),
        ("scene:seed=x", "'x'"),
        ("scene:seed=-1", "'-1'"),
        ("scene:people=2.5", "'2.5'"),
        ("scene:size=720", "'720'"),
        ("scene:size=720x", "'720x'"),
        ("scene:size=axb", "'axb'"),
        ("scene:fps=fast", "'fast'"),
        ("scene:seed=1,seed=2", "'seed'"),
        ("scene:seed", "'seed'"),
        ("scene:seed=1,", "''"),
    ],
)
def test_parse_scene_names_what_is_wrong_and_what_is_known(spec: str, named: str):
    with pytest.raises(ConfigError) as caught:
        parse_scene(spec)
    message = str(caught.value)
    assert named in message
    assert "seed, people, frames, size" in message
    assert "\n" not in message


@pytest.mark.parametrize("spec", ["", "scen", "scene:", "scenery", "video.mp4", "scene seed=1"])
def test_parse_scene_refuses_what_is_no_scene(spec: str):
    with pytest.raises(ConfigError, match="expected 'scene'"):
        parse_scene(spec)


@pytest.mark.parametrize(
    "spec",
    ["scene:people=65", "scene:frames=0", "scene:size=63x640", "scene:size=640x63", "scene:fps=0", "scene:fps=nan"],
)
def test_values_out_of_range_are_refused_with_expected_and_got(spec: str):
    with pytest.raises(ConfigError, match=r"expected .* got"):
        parse_scene(spec)


def test_config_checks_types():
    with pytest.raises(ConfigError, match="people"):
        SceneConfig(people=2.0)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="seed"):
        SceneConfig(seed=-1)


# --- determinism ---------------------------------------------------------------------------------------------------


def test_frames_do_not_depend_on_the_order_or_on_the_scene_object():
    first, second = Scene(SMALL), Scene(SMALL)
    forwards = {index: digest(first.frame(index)) for index in (0, 7, 23)}
    backwards = {index: digest(second.frame(index)) for index in (23, 7, 0)}
    assert forwards == backwards
    assert len(set(forwards.values())) == 3


def test_frames_do_not_depend_on_the_process():
    code = (
        "import hashlib; from sharpose.scene import Scene, SceneConfig\n"
        "f = Scene(SceneConfig(seed=4, people=4, frames=40, height=180, width=320)).frame(7)\n"
        "parts = (f.image, f.boxes_xyxy, f.keypoints, f.ids)\n"
        "print(hashlib.sha256(b''.join(p.tobytes() for p in parts)).hexdigest())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "123"}
    run = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert run.stdout.strip() == digest(Scene(SMALL).frame(7))


def test_iteration_gives_every_frame_in_order():
    config = SceneConfig(seed=1, people=1, frames=3, height=64, width=96, fps=10)
    scene = Scene(config)
    frames = list(scene)
    assert len(scene) == len(frames) == 3
    assert [frame.index for frame in frames] == [0, 1, 2]
    assert [frame.time for frame in frames] == [0.0, 0.1, 0.2]
    assert [digest(frame) for frame in frames] == [digest(scene.frame(index)) for index in range(3)]


@pytest.mark.parametrize("index", [-1, 40])
def test_a_frame_that_is_not_there_is_refused(index: int):
    with pytest.raises(InputError, match="0 to 39"):
        Scene(SMALL).frame(index)


def test_seeds_differ():
    pictures = [Scene(SceneConfig(seed=seed, people=2, height=90, width=120)).frame(0) for seed in range(6)]
    for index, one in enumerate(pictures):
        for other in pictures[:index]:
            assert np.abs(one.image.astype(int) - other.image).mean() > 5


# --- what is said is what is drawn -----------------------------------------------------------------------------------


def check_frame(frame: SceneFrame, height: int, width: int) -> None:
    count = len(frame.ids)
    assert frame.image.shape == (height, width, 3)
    assert frame.image.dtype == np.uint8
    assert frame.boxes_xyxy.shape == (count, 4)
    assert frame.boxes_xyxy.dtype == np.float32
    assert frame.keypoints.shape == (count, 17, 3)
    assert frame.keypoints.dtype == np.float32
    for box, keypoints in zip(frame.boxes_xyxy, frame.keypoints, strict=True):
        x1, y1, x2, y2 = box
        assert 0 <= x1 <= x2 <= width - 1
        assert 0 <= y1 <= y2 <= height - 1
        assert set(np.unique(keypoints[:, 2])) <= {0, 1, 2}
        x, y, v = keypoints.T
        outside = (x < 0) | (y < 0) | (x > width - 1) | (y > height - 1)
        np.testing.assert_array_equal(v == 0, outside)
        inside = v > 0
        assert (x[inside] >= x1).all()
        assert (x[inside] <= x2).all()
        assert (y[inside] >= y1).all()
        assert (y[inside] <= y2).all()


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


# --- motion ----------------------------------------------------------------------------------------------------------


def test_motion_is_continuous_and_identities_last():
    for seed in (0, 3):
        height = 180
        scene = Scene(SceneConfig(seed=seed, people=6, frames=120, height=height, width=320))
        last: dict[int, np.ndarray] = {}
        travelled: dict[int, float] = {}
        for index in range(40, 62):
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


# --- parts and samples -----------------------------------------------------------------------------------------------


def test_arms_go_between_what_they_overlap():
    def layer(index: int, depth: float, *, order: float | None = None, loose: bool = False) -> Layer:
        return Layer(depth, depth if order is None else order, (0, 0, 1, 1), loose, index)

    trunk, thigh = layer(0, 4.0), layer(1, 3.95, order=4.1)
    assert painter_order([trunk, thigh, layer(2, 3.7, loose=True)]) == [1, 0, 2]
    assert painter_order([trunk, thigh, layer(2, 4.3, loose=True)]) == [2, 1, 0]


@pytest.mark.parametrize("name", PROPS)
def test_every_prop_is_drawn_where_it_stands(name: str):
    spot = np.array([0.3, -5.0])
    prop = make_prop(np.random.default_rng(3), name, camera(), spot)
    assert prop.mask.max() == 255
    foot = camera().project(np.array([0.3, 0.0, -5.0]))[0]
    assert prop.x < foot[0] < prop.x + prop.mask.shape[1]
    assert prop.y < foot[1] <= prop.y + prop.mask.shape[0] + 2


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
