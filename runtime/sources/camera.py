"""Frames that OpenCV captures: from a camera, or from a GStreamer pipeline."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import cv2
import numpy as np

from sharpose.errors import InputError, SourceError
from sharpose.runtime.frames import Frame, SourceInfo
from sharpose.runtime.sources.pictures import quiet_opencv
from sharpose.runtime.sources.urls import RTSP, is_url, scheme_of

_PERMISSIONS = {
    "darwin": "may this terminal use it (System Settings, Privacy & Security, Camera)",
    "win32": "may programs use it (Settings, Privacy & security, Camera)",
}


def _unusable_camera() -> str:
    """Why a camera can't be opened, as far as this system tells."""
    if sys.platform in _PERMISSIONS:
        may = _PERMISSIONS[sys.platform]
        return f"expected the index of a camera that can be opened, 0 for the first; is it in use, and {may}?"
    present = " ".join(sorted(str(path) for path in Path("/dev").glob("video*"))) or "none"
    there = f"cameras of this machine: {present} (is it in use, and may you read it?)"
    return f"expected a camera that can be opened; {there}"


def is_camera(spec: str) -> bool:
    """Whether `spec` is a camera's index (`0`) or device (`/dev/video0`)."""
    return re.fullmatch(r"[0-9]+|/dev/video[0-9]+", spec) is not None


def camera_name(spec: str) -> str:
    """What to call such a camera: `camera 0`, `/dev/video0`."""
    return spec if spec.startswith("/") else f"camera {spec}"


class _CaptureSource:
    """What `cv2.VideoCapture(*arguments)` captures.

    Args:
        name: What to call it, without secrets.
        arguments: OpenCV's.
        live: Whether frames come in real time: `time` is when each one arrived then. Else it follows from the frame
            rate, since OpenCV hands out no stamps.
        unusable: Why it can't be opened, as an error says it.
        lost: That no frame came, as an error says it.

    Raises:
        SourceError: it can't be opened.
    """

    def __init__(self, name: str, *arguments: object, live: bool, unusable: str, lost: str) -> None:
        self._lost = lost
        self._closed = False
        with quiet_opencv():
            self._capture = cv2.VideoCapture(*arguments)
            opened = self._capture.isOpened()
        if not opened:
            raise SourceError(f"{name}: {unusable}")
        rate = float(self._capture.get(cv2.CAP_PROP_FPS))
        self.info = SourceInfo(name, frame_rate=rate if 0 < rate < float("inf") else None, live=live)

    def __iter__(self) -> Iterator[Frame]:
        """The frames. Raises `SourceError` where there is none, or (live) none any more."""
        live = self.info.live
        index = 0
        begin: float | None = None
        last = 0.0
        while not self._closed:
            with quiet_opencv():
                read, image = self._capture.read()
            if not read or image is None:
                if live or index == 0:
                    raise SourceError(f"{self.info.name}: {self._lost.format(index=index)}")
                return
            if image.ndim != 3 or image.shape[2] != 3:
                raise SourceError(
                    f"{self.info.name}: expected BGR pictures, got an array of shape {image.shape}; put "
                    "`videoconvert ! video/x-raw,format=BGR` before the appsink"
                )
            now = time.monotonic()
            seconds = now if live else self._position(index)
            begin = seconds if begin is None else begin
            last = max(last, seconds - begin)
            picture = np.ascontiguousarray(image, dtype=np.uint8)
            yield Frame(picture, index, last, index, arrived=now if live else None)
            index += 1

    def _position(self, index: int) -> float:
        # OpenCV asks the pipeline where it is, not the picture, and the pipeline runs ahead.
        if self.info.frame_rate is not None:
            return index / self.info.frame_rate
        return float(self._capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000.0

    def close(self) -> None:
        """Lets go of the camera, or stops the pipeline."""
        if not self._closed:
            self._closed = True
            self._capture.release()


class CameraSource(_CaptureSource):
    """The frames of a camera, until it stops or the caller does; `time` is when each one arrived.

    Args:
        spec: An index or, on Linux, a `/dev/video…`.

    Raises:
        SourceError: there is no such camera, or it can't be used.
    """

    def __init__(self, spec: str) -> None:
        super().__init__(
            camera_name(spec),
            spec if spec.startswith("/") else int(spec),
            live=True,
            unusable=_unusable_camera(),
            lost="stopped delivering pictures after frame {index}; is it still connected?",
        )
        # Without this the driver hands out old frames when the caller is slower than the camera.
        self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)


def has_gstreamer() -> bool:
    """Whether this OpenCV was built with GStreamer; those on PyPI are not."""
    return re.search(r"^\s*GStreamer:\s*YES", cv2.getBuildInformation(), re.MULTILINE) is not None


class GstreamerSource(_CaptureSource):
    """The frames that come out of a pipeline's appsink.

    Args:
        name: What to call it, without secrets.
        pipeline: In the language of `gst-launch-1.0`, with an appsink at its end that takes BGR.
        live: False for a file: its end is no error, and frames are timed by their rate.

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
        super().__init__(
            name,
            pipeline,
            cv2.CAP_GSTREAMER,
            live=live,
            unusable="expected a pipeline that starts; try it with gst-launch-1.0 (appsink replaced by fakesink), "
            "which says which element is missing or can't be linked",
            lost="the pipeline delivers no picture after frame {index}",
        )


# Every element after the decoder drops old frames, so that the newest one is read.
_NEWEST = "appsink drop=true max-buffers=1 sync=false"
_EVERY = "appsink sync=false"
# The Jetson's own memory to BGR, through the only formats that both converters share.
_FROM_BGRX = "video/x-raw,format=BGRx ! videoconvert ! video/x-raw,format=BGR"
_CSI_SETTINGS = {"width": 1280, "height": 720, "rate": 30, "flip": 0}


def is_pipeline(spec: str) -> bool:
    """Whether `spec` is `gst:PIPELINE`, a pipeline that ends in an appsink, or a CSI camera of a Jetson (`csi://0`)."""
    return spec.startswith("gst:") or _is_csi(spec) or re.search(r"!\s*appsink[^!]*$", spec) is not None


def _is_csi(spec: str) -> bool:
    return spec.lower().startswith("csi://")


def pipeline_of(spec: str) -> str:
    """The pipeline of such a spec, an appsink added where it ends without one.

    A CSI camera is written as `csi://SENSOR?width=1280&height=720&rate=30&flip=0` (these are the defaults).

    Raises:
        InputError: it is written otherwise.
    """
    if _is_csi(spec):
        return _csi_pipeline(spec)
    pipeline = spec.removeprefix("gst:").strip()
    if not pipeline:
        raise InputError("gst: expected a pipeline after it, such as gst:v4l2src ! videoconvert ! appsink")
    if re.search(r"\bappsink\b", pipeline):
        return pipeline
    return f"{pipeline} ! videoconvert ! video/x-raw,format=BGR ! {_NEWEST}"


def _csi_pipeline(spec: str) -> str:
    parts = urlsplit(spec)
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    wrong = [key for key, value in pairs if key not in _CSI_SETTINGS or re.fullmatch("[0-9]+", value) is None]
    if wrong or re.fullmatch("[0-9]+", parts.netloc) is None or parts.path not in ("", "/"):
        raise InputError(
            f"{spec}: expected a Jetson's camera as csi://SENSOR, with settings as in "
            "csi://0?width=1280&height=720&rate=30&flip=0"
        )
    settings = _CSI_SETTINGS | {key: int(value) for key, value in pairs}
    return (
        f"nvarguscamerasrc sensor-id={int(parts.netloc)} ! "
        f"video/x-raw(memory:NVMM),width={settings['width']},height={settings['height']},"
        f"framerate={settings['rate']}/1 ! nvvidconv flip-method={settings['flip']} ! {_FROM_BGRX} ! {_NEWEST}"
    )


def jetson_pipeline(spec: str, transport: str) -> str:
    """The pipeline that reads an RTSP address or a file with a Jetson's decoder, whatever codec it is in.

    Raises:
        InputError: it is another kind of address.
    """
    escaped = spec.replace("\\", "\\\\").replace('"', '\\"')
    if not is_url(spec):
        source, sink = f'filesrc location="{escaped}"', _EVERY
    elif scheme_of(spec) in RTSP:
        source, sink = f'rtspsrc location="{escaped}" protocols={transport} latency=100', _NEWEST
    else:
        raise InputError("--hwaccel jetson: expected a file or an rtsp:// address; write a pipeline (gst:…) for others")
    return f"{source} ! parsebin ! nvv4l2decoder ! nvvidconv ! {_FROM_BGRX} ! {sink}"
