"""Scenes: what may be asked of them, single people, and the order in which parts are drawn."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from scene_stage import KEYPOINT, camera, check_frame, digest

from sharpose.errors import ConfigError, InputError
from sharpose.scene import Scene, SceneConfig, draw_person_sample, parse_scene
from sharpose.scene.figure import Layer, painter_order
from sharpose.scene.props import PROPS, make_prop

SMALL = SceneConfig(seed=4, people=4, frames=40, height=180, width=320)


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
    [
        "scene:people=65",
        "scene:frames=0",
        "scene:size=4321x7680",
        "scene:size=63x640",
        "scene:size=640x63",
        "scene:fps=0",
        "scene:fps=nan",
        "scene:fps=1e300",
        "scene:frames=1" + "0" * 400,
        "scene:seed=1" + "0" * 400,
    ],
)
def test_values_out_of_range_are_refused_with_expected_and_got(spec: str):
    with pytest.raises(ConfigError, match=r"expected .* got"):
        parse_scene(spec)


def test_config_checks_types():
    with pytest.raises(ConfigError, match="people"):
        SceneConfig(people=2.0)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="seed"):
        SceneConfig(seed=-1)


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
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
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


@pytest.mark.parametrize(("height", "width"), [(64, 560), (64, 1000), (64, 2048), (2048, 64), (100, 3000)])
@pytest.mark.parametrize("people", [0, 1, 64])
def test_pictures_of_any_shape_are_drawn(height: int, width: int, people: int):
    for seed in range(1 if people == 64 else 2):
        frame = Scene(SceneConfig(seed=seed, people=people, frames=1, height=height, width=width)).frame(0)
        assert frame.image.shape == (height, width, 3)
        assert frame.image.std() > 2
        assert len(frame.ids) == len(frame.boxes_xyxy) <= people
        assert np.isfinite(frame.keypoints).all()
        assert people < 64 or len(frame.ids) >= 3
