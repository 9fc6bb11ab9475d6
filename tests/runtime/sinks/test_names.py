from __future__ import annotations

import pytest

from sharpose.runtime.sinks.outputs import fill
from sharpose.runtime.sources.open import source_names


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("walk.mp4", "walk"),
        ("/data/my films/walk (1).mp4", "walk_1"),
        ("0", "camera0"),
        ("/dev/video2", "video2"),
        ("rtsp://user:secret@cam1:554/live", "cam1_554_live"),
        ("rtsp://user:se/cr@et@cam1/live", "cam1_live"),
        ("http://cam/a.mjpg?password=secret&x=1", "cam_a.mjpg"),
        ("rtsp://cam/user=admin&password=secret&channel=1", "cam_channel_1"),
        ("file:///data/walk.mp4", "walk"),
        ("scene:seed=3,people=2", "scene_seed_3_people_2"),
        ("scene", "scene"),
        ("frames/*.jpg", "source"),
        ("..", "source"),
        ("/", "source"),
        ("人.mp4", "source"),
        ("x" * 500 + ".mp4", "x" * 80),
    ],
)
def test_names_are_short_safe_and_without_passwords(source, name):
    assert source_names([source]) == [name]


def test_no_two_are_alike():
    assert source_names(["a/cam.mp4", "b/CAM.mp4", "cam-2.mp4", "c/cam.mkv"]) == ["cam", "CAM-2", "cam-2-2", "cam-3"]


def test_fill():
    assert fill("out/{source}.{other}/{source}.csv", "cam1") == "out/cam1.{other}/cam1.csv"
