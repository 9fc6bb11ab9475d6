from __future__ import annotations

import cv2
import numpy as np
import pytest

from sharpose.errors import SourceError
from sharpose.runtime.sources import open as opening
from sharpose.runtime.sources import open_source
from sharpose.runtime.sources.pictures import PictureSource
from sharpose.runtime.sources.scene import SceneSource
from sharpose.runtime.sources.video import VideoSource


@pytest.fixture
def folder(tmp_path, make_video):
    make_video(tmp_path / "clip.mp4", frames=3)
    (tmp_path / "clip.mp4").rename(tmp_path / "clip.dat")
    for name in ("0.png", "a[1].png"):
        (tmp_path / name).write_bytes(cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tobytes())
    return tmp_path


def test_each_kind_finds_its_source(folder, monkeypatch):
    monkeypatch.chdir(folder)
    for spec, kind, count in [
        ("clip.dat", VideoSource, 3),
        (f"file://{folder}/clip.dat", VideoSource, 3),
        ("0.png", PictureSource, 1),
        (".", PictureSource, 2),
        ("*.png", PictureSource, 2),
        ("a[1].png", PictureSource, 1),
        ("scene:people=1,frames=2,size=64x64", SceneSource, 2),
    ]:
        source = open_source(spec)
        assert type(source) is kind, spec
        assert len(list(source)) == count
        source.close()


@pytest.mark.parametrize("spec", ["0", "/dev/video7"])
def test_cameras(monkeypatch, spec):
    monkeypatch.setattr(opening, "CameraSource", lambda spec: f"camera of {spec}")
    assert open_source(spec) == f"camera of {spec}"


def test_addresses_go_to_ffmpeg(monkeypatch):
    monkeypatch.setattr(opening, "VideoSource", lambda spec: f"video of {spec}")
    assert open_source("rtsp://cam/live") == "video of rtsp://cam/live"


def test_a_file_of_a_camera_or_scene_name_needs_a_dot(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "clip.dat").rename(folder / "0")
    assert type(open_source("./0")) is VideoSource


@pytest.mark.parametrize("spec", ["missing.mp4", "missing.jpg", "missing/", "", "x" * 5000, "nul\0byte"])
def test_nothing_there_says_what_was_expected(spec):
    with pytest.raises(
        SourceError, match="expected a video, a picture, a folder or glob of pictures, a camera"
    ) as caught:
        open_source(spec)
    assert "\n" not in str(caught.value)


def test_pictures_that_would_come_in_tiles_are_refused(tmp_path):
    (tmp_path / "phone.HEIC").write_bytes(b"x")
    with pytest.raises(SourceError, match="HEIC pictures can't be read; convert"):
        open_source(str(tmp_path / "phone.HEIC"))
