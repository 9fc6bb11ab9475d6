"""The annotated pictures in a window on this machine's screen."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import cv2

from sharpose.errors import SinkError
from sharpose.runtime.frames import FrameRecord

_ESCAPE = 27
_SPACE = 32
_QUIT = (_ESCAPE, ord("q"), ord("Q"))
_PAUSED_LOOK = 30  # milliseconds between looks at the keys


def check_window(gui: ModuleType = cv2) -> None:
    """Raises `SinkError` where no window can be shown: OpenCV has none, or there is no screen."""
    line = next((line for line in gui.getBuildInformation().splitlines() if line.strip().startswith("GUI:")), "")
    if line.split(":")[-1].strip() in ("", "NONE"):
        raise SinkError(
            "--show: this OpenCV has no windows (opencv-python-headless never has); pip uninstall "
            "opencv-python-headless, then pip install opencv-python, or give --output FILE.mp4 or --serve instead"
        )
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise SinkError(
            "--show: there is no screen here (neither DISPLAY nor WAYLAND_DISPLAY is set); "
            "give --output FILE.mp4 or --serve instead"
        )


class WindowSink:
    """Shows each record's `square_picture`. Space pauses and resumes; q, Esc or closing the window ends the run.

    While it is paused `write` doesn't return, so the run waits. To be used in the main thread only.

    Args:
        title: Of the window; no two may have the same.
        stop: Whether the run is to end, which ends a pause.
        gui: OpenCV, or a stand-in for its windows.

    Attributes:
        closed_by_user: Whether the run should end. Nothing is shown from then on.

    Raises:
        SinkError: no window can be shown here.
    """

    keeps_nothing = True  # what is shown is gone afterwards
    main_thread_only = True

    def __init__(self, title: str, *, stop: Callable[[], bool] = lambda: False, gui: ModuleType = cv2) -> None:
        check_window(gui)
        self.name = f"window {title!r}"
        self.closed_by_user = False
        self._title = title
        self._stop = stop
        self._gui = gui
        self._opened = False

    def write(self, record: FrameRecord) -> None:
        """Shows the picture; waits while paused. Raises `SinkError` where it can't be shown."""
        if self.closed_by_user:
            return
        try:
            if not self._opened:
                # GUI_NORMAL: without Qt's bar of buttons, for which it makes the picture smaller
                flags = self._gui.WINDOW_NORMAL | self._gui.WINDOW_KEEPRATIO | self._gui.WINDOW_GUI_NORMAL
                self._gui.namedWindow(self._title, flags)
                height, width = record.square_picture.shape[:2]
                self._gui.resizeWindow(self._title, width, height)
                self._opened = True
            self._gui.imshow(self._title, record.square_picture)
            key = self._key(1)
            if key == _SPACE:
                self._pause()
            elif key in _QUIT or self._is_closed():
                self._end()
        except cv2.error as error:
            self.close()
            raise SinkError(f"{self.name}: can't be shown: {error.err}") from None

    def close(self) -> None:
        """Closes the window. May be called twice."""
        opened, self._opened = self._opened, False
        if opened and not self._is_closed():
            self._gui.destroyWindow(self._title)
            self._gui.waitKey(1)  # lets it happen

    def abandon(self) -> Path | None:
        """Closes the window; there is nothing to keep."""
        self.close()
        return None

    def _pause(self) -> None:
        while not self._stop():
            key = self._key(_PAUSED_LOOK)
            if key == _SPACE:
                return
            if key in _QUIT or self._is_closed():
                self._end()
                return

    def _end(self) -> None:
        self.closed_by_user = True
        self.close()

    def _key(self, milliseconds: int) -> int:
        key = self._gui.waitKey(milliseconds)
        return -1 if key < 0 else int(key) & 0xFF

    def _is_closed(self) -> bool:
        try:
            return bool(self._gui.getWindowProperty(self._title, self._gui.WND_PROP_VISIBLE) < 1)
        except cv2.error:  # some window systems forget it at once
            return True
