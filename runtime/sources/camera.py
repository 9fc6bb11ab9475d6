"""Frames of a camera or of a GStreamer pipeline, through OpenCV."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import cv2
import numpy as np

from sharpose.errors import InputError, SourceError
from sharpose.runtime.frames import Frame, SourceInfo
from sharpose.runtime.sources.base import quiet_log
from sharpose.runtime.sources.urls import is_url

__all__ = [
    "CameraSource",
    "GstreamerSource",
    "csi_pipeline",
    "has_gstreamer",
    "is_camera",
    "is_csi",
    "is_pipeline",
    "jetson_pipeline",
    "pipeline_of",
]

# Every element after the decoder lets go of old pictures, so that the newest one is read.
_NEWEST = "appsink drop=true max-buffers=1 sync=false"
_EVERY = "appsink sync=false"
# The Jetson's own memory to BGR, through the only formats that both converters share.
_TO_BGR = "nvvidconv ! video/x-raw,format=BGRx ! videoconvert ! video/x-raw,format=BGR"
_CSI_KEYS = ("width", "height", "rate", "flip")


def is_pipeline(spec: str) -> bool:
    """Whether `spec` is `gst:PIPELINE`, or a pipeline that ends in an appsink."""
    return spec.startswith("gst:") or re.search(r"!\s*appsink[^!]*$", spec) is not None


def pipeline_of(spec: str) -> str:
    """The pipeline of such a spec, an appsink added where it ends without one."""
    pipeline = spec.removeprefix("gst:").strip()
    if not pipeline:
        raise InputError("gst: expected a pipeline after it, such as gst:v4l2src ! videoconvert ! appsink")
    if re.search(r"\bappsink\b", pipeline):
        return pipeline
    return f"{pipeline} ! videoconvert ! video/x-raw,format=BGR ! {_NEWEST}"


def is_csi(spec: str) -> bool:
    """Whether `spec` names a CSI camera of a Jetson (`csi://0`)."""
    return spec.lower().startswith("csi://")


def csi_pipeline(spec: str) -> str:
    """The pipeline for `csi://SENSOR?width=1280&height=720&rate=30&flip=0` (these are the defaults).

    Raises:
        InputError: it is written otherwise.
    """
    parts = urlsplit(spec)
    settings = {"width": 1280, "height": 720, "rate": 30, "flip": 0}
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    wrong = [key for key, value in pairs if key not in _CSI_KEYS or re.fullmatch("[0-9]+", value) is None]
    if wrong or re.fullmatch("[0-9]+", parts.netloc) is None or parts.path not in ("", "/"):
        raise InputError(
            f"{spec}: expected a Jetson's camera as csi://SENSOR, with settings as in "
            "csi://0?width=1280&height=720&rate=30&flip=0"
        )
    settings.update((key, int(value)) for key, value in pairs)
    return (
        f"nvarguscamerasrc sensor-id={int(parts.netloc)} ! "
        f"video/x-raw(memory:NVMM),width={settings['width']},height={settings['height']},"
        f"framerate={settings['rate']}/1 ! nvvidconv flip-method={settings['flip']} ! "
        f"video/x-raw,format=BGRx ! videoconvert ! video/x-raw,format=BGR ! {_NEWEST}"
    )


def jetson_pipeline(spec: str, transport: str) -> str:
    """The pipeline that reads an RTSP address or a file with a Jetson's decoder, whatever codec it is in.

    Raises:
        InputError: it is another kind of address.
    """
    if not is_url(spec):
        return f"filesrc location={_quoted(spec)} ! parsebin ! nvv4l2decoder ! {_TO_BGR} ! {_EVERY}"
    if not spec.lower().startswith(("rtsp://", "rtsps://")):
        raise InputError("--hwaccel jetson: expected a file or an rtsp:// address; write a pipeline (gst:…) for others")
    return (
        f"rtspsrc location={_quoted(spec)} protocols={transport} latency=100 ! parsebin ! "
        f"nvv4l2decoder ! {_TO_BGR} ! {_NEWEST}"
    )


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


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
        self.info = SourceInfo(name, live=live)
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
        self.info.frame_rate = rate if 0 < rate < float("inf") else None

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
                if self.info.live or index == 0:
                    raise SourceError(f"{self.info.name}: the pipeline delivers no picture after frame {index}")
                return
            if image.ndim != 3 or image.shape[2] != 3:
                raise SourceError(
                    f"{self.info.name}: expected BGR pictures, got an array of shape {image.shape}; put "
                    "`videoconvert ! video/x-raw,format=BGR` before the appsink"
                )
            seconds = now if self.info.live else self._position(index)
            begin = seconds if begin is None else begin
            last = max(last, seconds - begin)
            picture = np.ascontiguousarray(image, dtype=np.uint8)
            yield Frame(picture, index, last, index, arrived=now if self.info.live else None)
            index += 1

    def _position(self, index: int) -> float:
        # OpenCV asks the pipeline where it is, not the picture, and the pipeline runs ahead.
        if self.info.frame_rate is not None:
            return index / self.info.frame_rate
        return float(self._capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000.0

    def close(self) -> None:
        """Stops the pipeline."""
        if not self._closed:
            self._closed = True
            self._capture.release()


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
        self.info = SourceInfo(spec if spec.startswith("/") else f"camera {spec}", live=True)
        with quiet_log():
            self._capture = cv2.VideoCapture(spec if spec.startswith("/") else int(spec))
            opened = self._capture.isOpened()
        if not opened:
            present = " ".join(sorted(str(path) for path in Path("/dev").glob("video*"))) or "none"
            raise SourceError(
                f"{self.info.name}: expected a camera that can be opened; cameras of this machine: {present} "
                "(is it in use, and may you read it?)"
            )
        # Without this the driver hands out old frames when the caller is slower than the camera.
        self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        self.info.frame_rate = float(self._capture.get(cv2.CAP_PROP_FPS)) or None

    def __iter__(self) -> Iterator[Frame]:
        """The frames. Raises `SourceError` where the camera delivers none, or none any more."""
        start: float | None = None
        index = 0
        while self._capture.isOpened():
            with quiet_log():
                read, image = self._capture.read()
            if not read or image is None:
                raise SourceError(
                    f"{self.info.name}: stopped delivering pictures after frame {index}; is it still connected?"
                )
            now = time.monotonic()
            start = now if start is None else start
            yield Frame(np.ascontiguousarray(image, dtype=np.uint8), index, now - start, index, arrived=now)
            index += 1

    def close(self) -> None:
        """Lets go of the camera."""
        self._capture.release()
