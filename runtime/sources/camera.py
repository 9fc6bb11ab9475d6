"""Frames of a camera, through OpenCV."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from sharpose.errors import SourceError
from sharpose.runtime.frames import Frame, SourceHealth
from sharpose.runtime.sources.stderr import quiet_log

__all__ = ["CameraSource", "is_camera"]


def is_camera(spec: str) -> bool:
    """Whether `spec` is a camera's index (`0`) or device (`/dev/video0`)."""
    return re.fullmatch(r"[0-9]+|/dev/video[0-9]+", spec) is not None


class CameraSource:
    """The frames of a camera, until it stops or the caller does; `time` is when each one arrived.

    Args:
        spec: An index or a `/dev/video…`.

    Attributes:
        frame_rate: What the camera says it delivers, or None.

    Raises:
        SourceError: there is no such camera, or it can't be used.
    """

    def __init__(self, spec: str) -> None:
        self.name = spec if spec.startswith("/") else f"camera {spec}"
        self.frame_count: int | None = None
        self.image_ids: frozenset[int] | None = None
        self.warnings: list[str] = []
        self.live = True
        self.health = SourceHealth()
        with quiet_log():
            self._capture = cv2.VideoCapture(spec if spec.startswith("/") else int(spec))
            opened = self._capture.isOpened()
        if not opened:
            present = " ".join(sorted(str(path) for path in Path("/dev").glob("video*"))) or "none"
            raise SourceError(
                f"{self.name}: expected a camera that can be opened; cameras of this machine: {present} "
                "(is it in use, and may you read it?)"
            )
        # Without this the driver hands out old frames when the caller is slower than the camera.
        self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        self.frame_rate: float | None = float(self._capture.get(cv2.CAP_PROP_FPS)) or None

    def __iter__(self) -> Iterator[Frame]:
        """The frames. Raises `SourceError` where the camera delivers none, or none any more."""
        start: float | None = None
        index = 0
        while self._capture.isOpened():
            with quiet_log():
                read, image = self._capture.read()
            if not read or image is None:
                raise SourceError(
                    f"{self.name}: stopped delivering pictures after frame {index}; is it still connected?"
                )
            now = time.monotonic()
            start = now if start is None else start
            yield Frame(np.ascontiguousarray(image, dtype=np.uint8), index, now - start, index, arrived=now)
            index += 1

    def close(self) -> None:
        """Lets go of the camera."""
        self._capture.release()
