"""Cameras and pipelines through OpenCV: with a stand-in for its capture, and for real where it has GStreamer."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from sharpose.errors import InputError, SourceError
from sharpose.runtime.frames import Frame
from sharpose.runtime.sources import SourceOptions, camera, open_source
from sharpose.runtime.sources.camera import (
    CameraSource,
    GstreamerSource,
    has_gstreamer,
    is_camera,
    is_pipeline,
    jetson_pipeline,
    pipeline_of,
)


class Capture:
    """Delivers three pictures, with stamps 40 ms apart, and then no more."""

    made: list[Capture]
    opens = True
    pictures: tuple[np.ndarray, ...] = tuple(np.full((4, 6, 3), value, np.uint8) for value in (10, 20, 30))
    rate = 25.0

    def __init__(self, *arguments: object) -> None:
        self.arguments = arguments
        self.left = list(self.pictures)
        self.settings: dict[int, float] = {}
        self.released = False
        self.made.append(self)

    def isOpened(self) -> bool:
        return self.opens and not self.released

    def set(self, prop: int, value: float) -> bool:
        self.settings[prop] = value
        return True

    def get(self, prop: int) -> float:
        done = len(self.pictures) - len(self.left) - 1
        return {cv2.CAP_PROP_FPS: self.rate, cv2.CAP_PROP_POS_MSEC: 1000.0 + 40.0 * done}[prop]

    def read(self) -> tuple[bool, np.ndarray | None]:
        return (True, self.left.pop(0)) if self.left else (False, None)

    def release(self) -> None:
        self.released = True


@pytest.fixture
def capture(monkeypatch: pytest.MonkeyPatch) -> type[Capture]:
    made = type("Made", (Capture,), {"made": []})
    monkeypatch.setattr(camera, "has_gstreamer", lambda: True)
    monkeypatch.setattr(cv2, "VideoCapture", made)
    return made


def test_what_is_a_camera():
    assert [spec for spec in ["0", "12", "/dev/video3", "-1", "0.mp4", "/dev/video", ""] if is_camera(spec)] == [
        "0",
        "12",
        "/dev/video3",
    ]


def test_frames_until_it_is_pulled_out(capture, monkeypatch):
    ticks = iter([100.0, 100.5, 102.0])
    monkeypatch.setattr(camera.time, "monotonic", lambda: next(ticks))
    source = CameraSource("1")
    frames: list[Frame] = []
    with pytest.raises(SourceError, match="camera 1: stopped delivering pictures after frame 3"):
        frames.extend(source)
    assert [(frame.index, frame.time, frame.image_id, int(frame.image[0, 0, 0])) for frame in frames] == [
        (0, 0.0, 0, 10),
        (1, 0.5, 1, 20),
        (2, 2.0, 2, 30),
    ]
    (made,) = capture.made
    assert made.arguments == (1,)
    assert made.settings[cv2.CAP_PROP_BUFFERSIZE] == 1
    assert (source.info.frame_count, source.info.image_ids, source.info.frame_rate) == (None, None, 25.0)


def test_closing_ends_it(capture):
    source = CameraSource("/dev/video2")
    frames = iter(source)
    next(frames)
    source.close()
    source.close()
    assert list(frames) == []
    assert capture.made[0].arguments == ("/dev/video2",)


def test_no_such_camera_is_one_line(capfd):
    with pytest.raises(
        SourceError, match=r"camera 97: expected a camera that can be opened; cameras of this machine: "
    ):
        CameraSource("97")
    assert capfd.readouterr() == ("", "")


def test_pulled_out_and_plugged_in_again(capture):
    said: list[str] = []
    source = open_source("1", SourceOptions(buffer="all"), say=said.append)
    frames = iter(source)
    found = [next(frames) for _ in range(6)]
    source.close()
    assert [int(frame.image[0, 0, 0]) for frame in found] == [10, 20, 30] * 2
    assert [frame.index for frame in found] == list(range(6))
    times = [frame.time for frame in found]
    assert times == sorted(times)
    assert said[0] == (
        "camera 1: lost (stopped delivering pictures after frame 3; is it still connected?); reconnecting"
    )
    assert said[1].startswith("camera 1: reconnected after ")
    assert capture.made[0].released
    assert source.info.health.reconnects >= 1


def test_a_live_pipeline_that_stops_is_an_error(capture):
    source = open_source("gst:rtspsrc location=rtsp://me:hunter2@cam/a ! decodebin", SourceOptions("all", reconnect=0))
    frames = []
    with pytest.raises(SourceError, match="the pipeline delivers no picture after frame 3") as caught:
        frames.extend(source)
    assert [int(frame.image[0, 0, 0]) for frame in frames] == [10, 20, 30]
    assert source.info.frame_rate == 25.0
    (made,) = capture.made
    pipeline, backend = made.arguments
    assert backend == cv2.CAP_GSTREAMER
    assert pipeline.startswith("rtspsrc location=rtsp://me:hunter2@cam/a ! decodebin ! videoconvert ! ")
    assert made.released
    assert "hunter2" not in str(caught.value) + source.info.name
    source.close()


def test_a_file_through_a_jetsons_decoder(capture, tmp_path, make_video):
    path = str(make_video(tmp_path / "a.mp4", frames=3))
    source = open_source(path, SourceOptions(hwaccel="jetson", stride=2))
    frames = list(source)
    assert [frame.time for frame in frames] == pytest.approx([0.0, 0.08])
    assert [frame.index for frame in frames] == [0, 2]
    assert (source.info.live, frames[0].arrived) == (False, None)
    assert capture.made[0].arguments[0].startswith(f'filesrc location="{path}" ! parsebin ! nvv4l2decoder ! ')
    source.close()


def test_times_without_a_rate(capture, monkeypatch):
    monkeypatch.setattr(capture, "rate", 0.0)
    source = GstreamerSource("it", "a ! appsink", live=False)
    assert source.info.frame_rate is None
    assert [frame.time for frame in source] == pytest.approx([0.0, 0.04, 0.08])


def test_an_address_through_a_jetsons_decoder(capture):
    source = open_source("rtsp://cam/a", SourceOptions(hwaccel="jetson", rtsp_transport="udp"))
    assert source.info.live
    assert "protocols=udp" in capture.made[0].arguments[0]
    source.close()


def test_a_csi_camera(capture):
    source = open_source("csi://1")
    assert capture.made[0].arguments[0].startswith("nvarguscamerasrc sensor-id=1 ! ")
    assert source.info.name == "csi://1"
    source.close()


def test_a_pipeline_that_does_not_start(capture, monkeypatch):
    monkeypatch.setattr(capture, "opens", False)
    with pytest.raises(SourceError, match=r"gst:nosuch: expected a pipeline that starts; try it with gst-launch-1\.0"):
        open_source("gst:nosuch")


def test_pictures_that_are_not_bgr(capture, monkeypatch):
    monkeypatch.setattr(capture, "pictures", (np.zeros((4, 6), np.uint8),))
    with pytest.raises(SourceError, match=r"expected BGR pictures, got an array of shape \(4, 6\); put"):
        list(open_source("gst:grey ! appsink", SourceOptions(reconnect=0)))


def test_an_opencv_without_gstreamer_says_what_to_install():
    if has_gstreamer():
        pytest.skip("this OpenCV has GStreamer")
    with pytest.raises(InputError, match=r"gst:a: needs an OpenCV with GStreamer, and this one .*python3-opencv"):
        open_source("gst:a")
    with pytest.raises(InputError, match=r"csi://0: needs an OpenCV with GStreamer"):
        open_source("csi://0")


def test_a_real_pipeline():
    if not has_gstreamer():
        pytest.skip("this OpenCV has no GStreamer")
    source = GstreamerSource(
        "test",
        "videotestsrc num-buffers=5 ! video/x-raw,width=64,height=48 ! videoconvert ! "
        "video/x-raw,format=BGR ! appsink sync=false",
        live=False,
    )
    frames = list(source)
    assert [frame.image.shape for frame in frames] == [(48, 64, 3)] * 5
    source.close()


def test_what_is_a_pipeline():
    specs = {
        "gst:videotestsrc": True,
        "videotestsrc ! videoconvert ! appsink": True,
        "videotestsrc ! appsink name=sink drop=true": True,
        "videotestsrc ! appsink ! fakesink": False,
        "appsink.mp4": False,
        "rtsp://cam/appsink": False,
    }
    assert {spec: is_pipeline(spec) for spec in specs} == specs


def test_an_appsink_is_added_where_there_is_none():
    assert pipeline_of("gst:a ! appsink max-buffers=3") == "a ! appsink max-buffers=3"
    assert pipeline_of("a ! appsink") == "a ! appsink"
    assert pipeline_of("gst:videotestsrc") == (
        "videotestsrc ! videoconvert ! video/x-raw,format=BGR ! appsink drop=true max-buffers=1 sync=false"
    )
    with pytest.raises(InputError, match="gst: expected a pipeline after it"):
        pipeline_of("gst: ")


def test_the_pipeline_of_a_csi_camera():
    assert is_pipeline("csi://0")
    assert pipeline_of("csi://1?width=1920&height=1080&rate=60&flip=2") == (
        "nvarguscamerasrc sensor-id=1 ! video/x-raw(memory:NVMM),width=1920,height=1080,framerate=60/1 ! "
        "nvvidconv flip-method=2 ! video/x-raw,format=BGRx ! videoconvert ! video/x-raw,format=BGR ! "
        "appsink drop=true max-buffers=1 sync=false"
    )
    assert "width=1280,height=720,framerate=30/1 ! nvvidconv flip-method=0" in pipeline_of("csi://0")


@pytest.mark.parametrize("spec", ["csi://", "csi://a", "csi://0?size=3", "csi://0?rate=x", "csi://0/x"])
def test_a_csi_camera_written_otherwise(spec):
    with pytest.raises(InputError, match=r"expected a Jetson's camera as csi://SENSOR"):
        pipeline_of(spec)


def test_a_jetsons_decoder():
    assert jetson_pipeline("rtsp://me:pw@cam/a", "tcp").startswith(
        'rtspsrc location="rtsp://me:pw@cam/a" protocols=tcp latency=100 ! parsebin ! nvv4l2decoder ! nvvidconv ! '
    )
    file = jetson_pipeline('it "is" a\\b.mp4', "tcp")
    assert file.startswith('filesrc location="it \\"is\\" a\\\\b.mp4" ! parsebin ! nvv4l2decoder ! ')
    assert file.endswith("! appsink sync=false")  # of a file every picture is wanted
    with pytest.raises(InputError, match="--hwaccel jetson: expected a file or an rtsp"):
        jetson_pipeline("http://cam/a", "tcp")
