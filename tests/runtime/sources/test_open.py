"""From what the user types to a source and its short name; what means nothing for its kind; the scene."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import pytest

from sharpose.errors import InputError, SharposeError, SourceError
from sharpose.runtime.frames import Frame, SourceInfo
from sharpose.runtime.sources import LiveSource, SourceOptions, open_source
from sharpose.runtime.sources import open as opening
from sharpose.runtime.sources.open import SceneSource, TrimmedSource, source_names
from sharpose.runtime.sources.pictures import PictureSource
from sharpose.runtime.sources.video import VideoSource
from sharpose.scene import Scene, parse_scene


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
        ("RTSP://cam/Live", "VideoSource", "rtsp://cam/Live"),
        ("Rtmp://cam/live/hunter2", "VideoSource", "rtmp://cam/live/***"),
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
    with pytest.raises(SourceError, match="expected a video, a picture, a folder or glob of them, a camera") as caught:
        open_source(spec)
    assert "\n" not in str(caught.value)


def test_pictures_that_would_come_in_tiles_are_refused(tmp_path):
    (tmp_path / "phone.HEIC").write_bytes(b"x")
    with pytest.raises(SourceError, match="HEIC pictures can't be read; convert"):
        open_source(str(tmp_path / "phone.HEIC"))


def test_the_scene_brings_its_boxes():
    spec = "scene:seed=3,people=2,frames=4,size=120x160"
    source = SceneSource(spec)
    frames = list(source)
    drawn = list(Scene(parse_scene(spec)))
    assert len(frames) == source.info.frame_count == 4
    assert source.info.image_ids == range(4)
    for frame, original in zip(frames, drawn, strict=True):
        np.testing.assert_array_equal(frame.image, original.image)
        assert frame.image.shape == (120, 160, 3)
        assert frame.boxes is not None
        np.testing.assert_allclose(frame.boxes.xyxy, original.boxes_xyxy, atol=1e-4)
        assert (frame.index, frame.image_id, frame.time) == (original.index, original.index, original.time)
    assert source.info.frame_rate == pytest.approx(1 / (frames[1].time - frames[0].time))
    source.close()


def test_scene_settings_that_are_not_understood():
    with pytest.raises(SharposeError, match="scene"):
        SceneSource("scene:colour=red")


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("walk.mp4", "walk"),
        ("/data/my films/walk (1).mp4", "walk_1"),
        ("0", "camera0"),
        ("/dev/video2", "video2"),
        ("rtsp://user:secret@cam1:554/live", "cam1_554_live"),
        ("rtsp://user:se/cr@et@cam1/live", "cam1_live"),
        ("RTMP://cam1/live/secret?a=secret", "cam1_live"),
        ("http://cam/a.mjpg?password=secret&x=1", "cam_a.mjpg"),
        ("rtsp://cam/user=admin&password=secret&channel=1", "cam_channel_1"),
        ("file:///data/walk.mp4", "walk"),
        ("scene:seed=3,people=2", "scene_seed_3_people_2"),
        ("scene", "scene"),
        ("frames/*.jpg", "source"),
        ("..", "source"),
        ("/", "source"),
        ("人.mp4", "人"),
        ("видео ü.mkv", "видео_ü"),
        ("u\u0308.mp4", "ü"),
        ("हिन्दी (1).mp4", "हिन्दी_1"),
        ("人" * 90 + ".mp4", "人" * 53),
        ("\udcff.mp4", "source"),
        ("x" * 500 + ".mp4", "x" * 80),
    ],
)
def test_names_are_short_safe_and_without_passwords(source, name):
    assert source_names([source]) == [name]


def test_no_two_names_are_alike():
    assert source_names(["a/cam.mp4", "b/CAM.mp4", "cam-2.mp4", "c/cam.mkv"]) == ["cam", "CAM-2", "cam-2-2", "cam-3"]


@pytest.mark.parametrize(
    ("given", "spec", "message"),
    [
        ({"start": 3.0}, "rtsp://me:hunter2@cam/live", r"--start is for .*, but rtsp://\*\*\*@cam/live is an RTSP"),
        ({"start": 3.0}, "0", "--start is for .*, but 0 is a camera; leave it out"),
        ({"buffer": "all"}, "clip.mp4", "--buffer is for a GStreamer pipeline, a camera, .*, but clip.mp4 is a video"),
        ({"reconnect": 3}, "clip.mp4", "--reconnect is for .*, but clip.mp4 is a video file"),
        ({"timeout": 3.0}, "clip.mp4", "--timeout is for .*, but clip.mp4 is a video file"),
        ({"hwaccel": "cuda"}, "scene", "--hwaccel is for .*, but scene is the built-in scene"),
        ({"hwaccel": "auto"}, "0", "--hwaccel is for .*, but 0 is a camera"),
        ({"duration": 3.0}, "pictures", "--duration is for .*, but pictures is pictures"),
        ({"stdin_size": (4, 4)}, "scene", "--stdin-size is for standard input, but scene is the built-in scene"),
        ({"stdin_rate": 4.0}, "0", "--stdin-rate is for standard input"),
        ({"rtsp_transport": "udp"}, "http://h/v", "--rtsp-transport is for an RTSP stream, but http://h/v is a live"),
        ({"start": 1.0}, "-", "--start is for .*, but - is standard input"),
        ({"start": 1.0}, "gst:videotestsrc user-pw=hunter2 ! appsink", "but gst:.* is a GStreamer pipeline"),
    ],
)
def test_what_would_do_nothing_is_refused(tmp_path, make_video, monkeypatch, given, spec, message):
    monkeypatch.chdir(tmp_path)
    make_video(tmp_path / "clip.mp4", frames=2)
    (tmp_path / "pictures").mkdir()
    with pytest.raises(InputError, match=message) as caught:
        open_source(spec, SourceOptions(**given))
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_part_of_the_scene():
    spec = "scene:people=1,frames=100,size=64x64"
    whole = list(open_source(spec))
    rate = open_source(spec).info.frame_rate
    assert rate is not None
    source = open_source(spec, SourceOptions(start=10 / rate, duration=21 / rate, stride=5))
    frames = list(source)
    assert [frame.index for frame in frames] == [10, 15, 20, 25, 30]
    np.testing.assert_array_equal(frames[1].image, whole[15].image)
    assert frames[1].boxes is not None
    assert source.info.frame_rate == rate / 5


@pytest.mark.parametrize(
    ("rate", "start", "duration", "first", "last"),
    [
        (10, 0.1, 0.2, 1, 2),
        (10, 0.2, 0.4, 2, 5),
        (10, 0.3, 0.3, 3, 5),
        (30, 1.1, 0.1, 33, 35),
        (2000, 0.001, 0.002, 2, 5),
    ],
)
def test_a_part_is_exact_to_the_frame_whatever_the_sums_of_its_seconds_are(rate, start, duration, first, last):
    class Timed:
        info = SourceInfo("a", frame_rate=float(rate))

        def __iter__(self) -> Iterator[Frame]:
            return (Frame(np.zeros((2, 2, 3), np.uint8), index, index / rate, index) for index in range(50))

        def close(self) -> None: ...

    frames = TrimmedSource(Timed(), start=start, duration=duration)
    assert [frame.index for frame in frames] == list(range(first, last + 1))


def test_pictures_take_a_stride(tmp_path):
    for index in range(7):
        cv2.imwrite(str(tmp_path / f"{index}.png"), np.full((4, 4, 3), index, np.uint8))
    source = open_source(str(tmp_path), SourceOptions(stride=3))
    assert source.info.frame_count == 3
    assert [frame.image_id for frame in source] == [0, 3, 6]
