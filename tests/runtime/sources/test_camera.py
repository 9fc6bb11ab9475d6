from __future__ import annotations

import cv2
import numpy as np
import pytest

from sharpose.errors import SourceError
from sharpose.runtime.frames import Frame
from sharpose.runtime.sources import SourceOptions, camera, open_source
from sharpose.runtime.sources.camera import CameraSource, is_camera


class FakeCapture:
    """A camera that delivers three pictures and is then pulled out."""

    def __init__(self, device: int | str) -> None:
        self.device = device
        self.pictures = [np.full((4, 6, 3), value, np.uint8) for value in (10, 20, 30)]
        self.settings: dict[int, float] = {}
        self.open = True

    def isOpened(self) -> bool:
        return self.open

    def set(self, prop: int, value: float) -> bool:
        self.settings[prop] = value
        return True

    def get(self, prop: int) -> float:
        return {cv2.CAP_PROP_FPS: 30.0}[prop]

    def read(self) -> tuple[bool, np.ndarray | None]:
        return (True, self.pictures.pop(0)) if self.pictures else (False, None)

    def release(self) -> None:
        self.open = False


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> list[FakeCapture]:
    made: list[FakeCapture] = []

    def make(device: int | str) -> FakeCapture:
        made.append(FakeCapture(device))
        return made[-1]

    monkeypatch.setattr(camera.cv2, "VideoCapture", make)
    return made


def test_what_is_a_camera():
    assert [spec for spec in ["0", "12", "/dev/video3", "-1", "0.mp4", "/dev/video", ""] if is_camera(spec)] == [
        "0",
        "12",
        "/dev/video3",
    ]


def test_frames_until_it_is_pulled_out(captures, monkeypatch):
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
    assert captures[0].device == 1
    assert captures[0].settings[cv2.CAP_PROP_BUFFERSIZE] == 1
    assert (source.info.frame_count, source.info.image_ids, source.info.frame_rate) == (None, None, 30.0)


def test_closing_ends_it(captures):
    source = CameraSource("/dev/video2")
    frames = iter(source)
    next(frames)
    source.close()
    source.close()
    assert list(frames) == []
    assert captures[0].device == "/dev/video2"


def test_no_such_camera_is_one_line(capfd):
    with pytest.raises(
        SourceError, match=r"camera 97: expected a camera that can be opened; cameras of this machine: "
    ):
        CameraSource("97")
    assert capfd.readouterr() == ("", "")


def test_pulled_out_and_plugged_in_again(captures):
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
        "camera 1: lost (stopped delivering pictures after frame 3; is it still connected?); trying again"
    )
    assert said[1].startswith("camera 1: back after ")
    assert all(not capture.open for capture in captures[:1])
    assert source.info.health.reconnects >= 1
