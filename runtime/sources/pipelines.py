"""GStreamer pipelines: which specs are one, the ready-made ones for Jetson, and how to name them without secrets."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, urlsplit

from sharpose.errors import InputError
from sharpose.runtime.sources.urls import is_url

__all__ = ["csi_pipeline", "is_csi", "is_pipeline", "jetson_pipeline", "pipeline_of"]

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
