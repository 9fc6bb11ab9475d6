from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import pytest

from sharpose.errors import SourceError
from sharpose.runtime.frames import Frame, SourceInfo
from sharpose.runtime.sources import LiveSource, SourceOptions, open_source
from sharpose.runtime.sources import open as opening
from sharpose.runtime.sources.open import SceneSource
from sharpose.runtime.sources.pictures import PictureSource
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


class Stub:
    """A live source of two frames that then ends."""

    def __init__(self, spec: str, *rest: object, **more: object) -> None:
        self.spec = spec
        self.info = SourceInfo(spec, frame_rate=30.0, live=True)

    def __iter__(self) -> Iterator[Frame]:
        for index in range(2):
            yield Frame(np.full((4, 6, 3), len(self.spec), np.uint8), index, index / 30, index)

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("spec", "kind", "name"),
    [
        ("0", "CameraSource", "camera 0"),
        ("/dev/video7", "CameraSource", "/dev/video7"),
        ("rtsp://cam/live", "VideoSource", "rtsp://cam/live"),
        ("udp://@:1234", "VideoSource", "udp://@:1234"),
        ("http://me:hunter2@cam/live", "VideoSource", "http://***@cam/live"),
    ],
)
def test_what_is_live_is_read_by_a_thread_of_its_own(monkeypatch, spec, kind, name):
    monkeypatch.setattr(opening, kind, Stub)
    source = open_source(spec, SourceOptions(buffer="all", reconnect=0))
    assert type(source) is LiveSource
    assert source.info.name == name
    assert [int(frame.image[0, 0, 0]) for frame in source] == [len(spec)] * 2
    assert source.queue.ended
    source.close()


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
