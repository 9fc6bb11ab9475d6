"""Pipelines through OpenCV: with a stand-in for its capture, and for real where OpenCV has GStreamer."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from sharpose.errors import InputError, SourceError
from sharpose.runtime.sources import SourceOptions, open_source
from sharpose.runtime.sources import camera as gstreamer
from sharpose.runtime.sources.camera import GstreamerSource, has_gstreamer


class Capture:
    """Delivers its pictures with stamps 40 ms apart, and then no more."""

    made: list[Capture]
    opens = True
    pictures: tuple[np.ndarray, ...] = tuple(np.full((4, 6, 3), value, np.uint8) for value in (10, 20, 30))
    rate = 25.0

    def __init__(self, pipeline: str, backend: int) -> None:
        self.pipeline, self.backend = pipeline, backend
        self.left = list(self.pictures)
        self.released = False
        self.made.append(self)

    def isOpened(self) -> bool:
        return self.opens

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
    monkeypatch.setattr(gstreamer, "has_gstreamer", lambda: True)
    monkeypatch.setattr(gstreamer.cv2, "VideoCapture", made)
    return made


def test_a_live_pipeline_that_stops_is_an_error(capture):
    source = open_source("gst:rtspsrc location=rtsp://me:hunter2@cam/a ! decodebin", SourceOptions("all", reconnect=0))
    frames = []
    with pytest.raises(SourceError, match="the pipeline delivers no picture after frame 3") as caught:
        frames.extend(source)
    assert [int(frame.image[0, 0, 0]) for frame in frames] == [10, 20, 30]
    assert source.info.frame_rate == 25.0
    (made,) = capture.made
    assert made.backend == cv2.CAP_GSTREAMER
    assert made.pipeline.startswith("rtspsrc location=rtsp://me:hunter2@cam/a ! decodebin ! videoconvert ! ")
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
    assert capture.made[0].pipeline.startswith(f'filesrc location="{path}" ! parsebin ! nvv4l2decoder ! ')
    source.close()


def test_times_without_a_rate(capture, monkeypatch):
    monkeypatch.setattr(capture, "rate", 0.0)
    source = GstreamerSource("it", "a ! appsink", live=False)
    assert source.info.frame_rate is None
    assert [frame.time for frame in source] == pytest.approx([0.0, 0.04, 0.08])


def test_an_address_through_a_jetsons_decoder(capture):
    source = open_source("rtsp://cam/a", SourceOptions(hwaccel="jetson", rtsp_transport="udp"))
    assert source.info.live
    assert "protocols=udp" in capture.made[0].pipeline
    source.close()


def test_a_csi_camera(capture):
    source = open_source("csi://1")
    assert capture.made[0].pipeline.startswith("nvarguscamerasrc sensor-id=1 ! ")
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
