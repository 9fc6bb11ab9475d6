"""Frames of a GStreamer pipeline, through OpenCV."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import cv2
import numpy as np

from sharpose.errors import InputError, SourceError
from sharpose.runtime.frames import Frame, SourceHealth
from sharpose.runtime.sources.stderr import quiet_log

__all__ = ["GstreamerSource", "has_gstreamer"]


def has_gstreamer() -> bool:
    """Whether this OpenCV was built with GStreamer; those on PyPI are not."""
    return re.search(r"^\s*GStreamer:\s*YES", cv2.getBuildInformation(), re.MULTILINE) is not None


class GstreamerSource:
    """The pictures that come out of a pipeline's appsink.

    Args:
        name: What to call it, without secrets.
        pipeline: In the language of `gst-launch-1.0`, with an appsink at its end that takes BGR.
        live: Whether pictures come when they come; `time` is when each one arrived then, else it follows from the frame
            rate, since OpenCV hands out no stamps.

    Attributes:
        frame_rate: What the pipeline negotiated, or None.

    Raises:
        InputError: this OpenCV has no GStreamer.
        SourceError: the pipeline doesn't start.
    """

    def __init__(self, name: str, pipeline: str, *, live: bool = True) -> None:
        if not has_gstreamer():
            raise InputError(
                f"{name}: needs an OpenCV with GStreamer, and this one ({cv2.__version__}) was built without: use the "
                "system's (JetPack's, or Debian's python3-opencv, in a venv made with --system-site-packages), after "
                "`pip uninstall opencv-python-headless`, or build OpenCV with -DWITH_GSTREAMER=ON"
            )
        self.name = name
        self.frame_count: int | None = None
        self.image_ids: frozenset[int] | None = None
        self.warnings: list[str] = []
        self.live = live
        self.health = SourceHealth()
        self._closed = False
        with quiet_log():
            self._capture = cv2.VideoCapture(pipeline, cv2.CAP_GSTREAMER)
            opened = self._capture.isOpened()
        if not opened:
            raise SourceError(
                f"{name}: expected a pipeline that starts; try it with gst-launch-1.0 (appsink replaced by fakesink), "
                "which says which element is missing or can't be linked"
            )
        rate = float(self._capture.get(cv2.CAP_PROP_FPS))
        self.frame_rate: float | None = rate if 0 < rate < float("inf") else None

    def __iter__(self) -> Iterator[Frame]:
        """The frames. Raises `SourceError` where the pipeline delivers none, or (live) none any more."""
        index = 0
        begin: float | None = None
        last = 0.0
        while not self._closed:
            with quiet_log():
                read, image = self._capture.read()
            now = time.monotonic()
            if not read or image is None:
                if self.live or index == 0:
                    raise SourceError(f"{self.name}: the pipeline delivers no picture after frame {index}")
                return
            if image.ndim != 3 or image.shape[2] != 3:
                raise SourceError(
                    f"{self.name}: expected BGR pictures, got an array of shape {image.shape}; put `videoconvert ! "
                    "video/x-raw,format=BGR` before the appsink"
                )
            seconds = now if self.live else self._position(index)
            begin = seconds if begin is None else begin
            last = max(last, seconds - begin)
            picture = np.ascontiguousarray(image, dtype=np.uint8)
            yield Frame(picture, index, last, index, arrived=now if self.live else None)
            index += 1

    def _position(self, index: int) -> float:
        # OpenCV asks the pipeline where it is, not the picture, and the pipeline runs ahead.
        if self.frame_rate is not None:
            return index / self.frame_rate
        return float(self._capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000.0

    def close(self) -> None:
        """Stops the pipeline."""
        if not self._closed:
            self._closed = True
            self._capture.release()
