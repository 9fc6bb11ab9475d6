"""The window, with a stand-in for OpenCV's: the one that is installed has none."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import cv2
import numpy as np
import pytest

from sharpose.errors import SinkError
from sharpose.runtime.sinks.window import WindowSink, check_window

SPACE, ESCAPE = 32, 27


@dataclass
class Screen:
    """OpenCV's windows, and a user who presses `keys`, one a look."""

    keys: list[int] = field(default_factory=list)
    gui: str = "QT5"
    shown: list[tuple[str, np.ndarray]] = field(default_factory=list)
    open: set[str] = field(default_factory=set)
    looks: int = 0
    closed_by_hand_at: int | None = None
    WINDOW_NORMAL = WINDOW_KEEPRATIO = WINDOW_GUI_NORMAL = 0
    WND_PROP_VISIBLE = 4

    def getBuildInformation(self) -> str:
        return f"General configuration\n  GUI:                           {self.gui}\n    QT: YES\n"

    def namedWindow(self, title: str, flags: int) -> None:
        self.open.add(title)

    def resizeWindow(self, title: str, width: int, height: int) -> None:
        assert title in self.open

    def imshow(self, title: str, picture: np.ndarray) -> None:
        assert title in self.open
        self.shown.append((title, picture))

    def waitKey(self, milliseconds: int) -> int:
        assert milliseconds > 0  # 0 would wait for ever
        self.looks += 1
        if self.looks == self.closed_by_hand_at:
            self.open.clear()
        return self.keys.pop(0) if self.keys else -1

    def getWindowProperty(self, title: str, what: int) -> float:
        return 1.0 if title in self.open else -1.0

    def destroyWindow(self, title: str) -> None:
        self.open.remove(title)


@pytest.fixture(autouse=True)
def a_display(monkeypatch):
    monkeypatch.setenv("DISPLAY", ":99")


def window(screen: Any, **more: Any) -> WindowSink:
    return WindowSink("walk", gui=screen, **more)


def test_every_picture_is_shown_until_it_is_closed(record):
    screen = Screen()
    sink = window(screen)
    assert not screen.open
    for index in range(3):
        sink.write(record(index, image=np.full((48, 64, 3), index, np.uint8)))
    assert [(title, int(picture[0, 0, 0])) for title, picture in screen.shown] == [
        ("walk", 0),
        ("walk", 1),
        ("walk", 2),
    ]
    assert not sink.closed_by_user
    sink.close()
    sink.close()
    assert not screen.open
    assert sink.abandon() is None


def test_a_picture_of_oblong_pixels_is_stretched(record):
    screen = Screen()
    given = record(image=np.full((48, 64, 3), 7, np.uint8))
    window(screen).write(replace(given, frame=replace(given.frame, sample_aspect_ratio=Fraction(64, 45))))
    ((_, picture),) = screen.shown
    assert picture.shape == (48, 91, 3)
    assert (picture == 7).all()


@pytest.mark.parametrize("key", [ord("q"), ord("Q"), ESCAPE, 0x100000 + ESCAPE])
def test_the_user_ends_it_with_a_key(record, key):
    screen = Screen(keys=[-1, key])
    sink = window(screen)
    for index in range(4):
        sink.write(record(index))
        assert sink.closed_by_user == (index >= 1)
    assert len(screen.shown) == 2
    assert not screen.open


def test_the_user_closes_the_window(record):
    screen = Screen(closed_by_hand_at=2)
    sink = window(screen)
    sink.write(record(0))
    assert not sink.closed_by_user
    sink.write(record(1))
    assert sink.closed_by_user
    sink.close()


def test_space_pauses_and_goes_on(record):
    screen = Screen(keys=[SPACE, -1, ord("x"), -1, SPACE])
    sink = window(screen)
    sink.write(record(0))
    assert screen.looks == 5
    sink.write(record(1))
    assert len(screen.shown) == 2
    assert not sink.closed_by_user


@pytest.mark.parametrize("keys", [[SPACE, -1, ESCAPE], [SPACE]])
def test_a_pause_ends_with_the_run(record, keys):
    screen = Screen(keys=keys, closed_by_hand_at=5)
    sink = window(screen)
    sink.write(record(0))
    assert sink.closed_by_user


def test_a_pause_ends_when_the_run_is_to_stop(record):
    asked: list[None] = []

    def stop() -> bool:
        asked.append(None)
        return len(asked) > 3

    screen = Screen(keys=[SPACE])
    sink = window(screen, stop=stop)
    sink.write(record(0))
    assert len(asked) == 4
    assert not sink.closed_by_user


def test_a_window_system_that_fails(record):
    screen = Screen()
    sink = window(screen)

    def fail(title: str, picture: np.ndarray) -> None:
        raise cv2.error("can't draw")

    screen.imshow = fail  # type: ignore[method-assign]
    with pytest.raises(SinkError, match="window 'walk': can't be shown: "):
        sink.write(record(0))


def test_an_opencv_without_windows():
    screen: Any = Screen(gui="NONE")
    with pytest.raises(SinkError, match=r"--show: this OpenCV has no windows .*pip install opencv-python"):
        check_window(screen)


def test_no_screen(monkeypatch):
    monkeypatch.delenv("DISPLAY")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    screen: Any = Screen()
    with pytest.raises(SinkError, match=r"--show: there is no screen here"):
        check_window(screen)
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    check_window(screen)


def test_the_opencv_that_is_installed():
    if "GUI:                           NONE" not in cv2.getBuildInformation():
        pytest.skip("this OpenCV has windows")
    with pytest.raises(SinkError, match="this OpenCV has no windows"):
        WindowSink("walk")
