"""Python, its packages, OpenCV, and what PyAV's FFmpeg encodes and decodes."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterator

from sharpose.errors import how_to_install
from sharpose.runtime.doctor.findings import ALL_DEVICES, Finding, import_problem, installed, words

_OLDEST_PYTHON = (3, 10)
_PACKAGES = ("numpy", "pydantic", "click", "rich")
_OPENCV = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")
_DECODERS = ("h264", "hevc", "vp9", "av1")
_SYSTEM_OPENCV = (
    "sudo apt install python3-opencv, make the venv with --system-site-packages, pip uninstall opencv-python-headless"
    if sys.platform == "linux"
    else "build OpenCV with -DWITH_GSTREAMER=ON"
)


def check_python() -> Iterator[Finding]:
    """The interpreter and the machine it runs on."""
    text = f"{platform.python_version()}, {platform.system()} {platform.machine()}"
    if sys.platform != "linux":
        text += "; nothing of sharpose was tried on this system yet"
    mend = f"install Python {'.'.join(map(str, _OLDEST_PYTHON))} or later and make the environment again"
    yield Finding("Python", sys.version_info >= _OLDEST_PYTHON, text, mend, ALL_DEVICES)


def check_packages() -> Iterator[Finding]:
    """The packages that everything needs, and this one."""
    own = installed("sharpose")
    yield Finding("sharpose", own is not None, own or "not installed as a package", how_to_install("cpu"))
    for name in _PACKAGES:
        problem = import_problem(name)
        text = problem or installed(name) or "of unknown version"
        yield Finding(name, problem is None, text, f"pip install --force-reinstall {name}", ALL_DEVICES)


def check_opencv() -> Iterator[Finding]:
    """OpenCV and what it was built with."""
    distributions = [name for name in _OPENCV if installed(name) is not None]
    try:
        import cv2
    except ImportError as error:
        text = f"doesn't load ({words(error)})" if distributions else "not installed"
        yield Finding("OpenCV", False, text, "pip install --force-reinstall opencv-python-headless", ALL_DEVICES)
        return
    origin = " and ".join(distributions) or "the system's"
    yield Finding("OpenCV", True, f"{cv2.__version__}, {origin}", needed_by=ALL_DEVICES)
    if len(distributions) > 1:
        mend = f"pip uninstall {' '.join(distributions)}, then pip install opencv-python-headless"
        yield Finding("OpenCV packages", False, f"{origin} overwrite each other's files", mend)
    build = cv2.getBuildInformation()
    gstreamer, window = _build_option(build, "GStreamer"), _build_option(build, "GUI")
    yield Finding("GStreamer in OpenCV", gstreamer is not None, gstreamer or "not built in", _SYSTEM_OPENCV)
    mend = "pip uninstall opencv-python-headless, then pip install opencv-python"
    yield Finding("windows in OpenCV", window is not None, window or "not built in", mend)


def _build_option(build: str, name: str) -> str | None:
    """What OpenCV's build information says of an option; None for NO, NONE and nothing."""
    match = re.search(rf"^ *{name}: *(.*?) *$", build, re.MULTILINE)
    return None if match is None or match[1].upper() in ("", "NO", "NONE") else match[1]


def check_video() -> Iterator[Finding]:
    """PyAV, and what its FFmpeg encodes and decodes."""
    reinstall = "pip install --force-reinstall --only-binary av av"
    try:
        import av
    except ImportError as error:
        there = installed("av") is not None
        text = f"doesn't load ({words(error)})" if there else "not installed"
        yield Finding("PyAV", False, text, reinstall if there else "pip install av", ALL_DEVICES)
        return
    codec_version = ".".join(map(str, av.library_versions.get("libavcodec", ())))
    yield Finding("PyAV", True, f"{av.__version__}, libavcodec {codec_version}", needed_by=ALL_DEVICES)
    encoder = next((name for name in ("libx264", "h264") if _has_codec(name, "w")), None)
    yield Finding("H.264 encoder", encoder is not None, encoder or "none: --output can't write video", reinstall)
    decoders = [name for name in _DECODERS if _has_codec(name, "r")]
    missing = [name for name in _DECODERS if name not in decoders]
    text = " ".join(decoders) + (f" (no {', '.join(missing)})" if missing else "")
    yield Finding("video decoders", "h264" in decoders, text.strip(), reinstall)
    yield from _hardware_decoders()


def _has_codec(name: str, mode: str) -> bool:
    from av.codec import Codec

    try:
        Codec(name, "w" if mode == "w" else "r")
    except Exception:  # UnknownCodecError has moved between PyAV's versions
        return False
    return True


def _hardware_decoders() -> Iterator[Finding]:
    """Devices that FFmpeg was built for and that open here; nothing needs them, frames are decoded on the CPU."""
    name = "hardware decoders"
    from av.codec import Codec

    try:
        from av.codec.hwaccel import HWAccel, hwdevices_available
    except ImportError:
        yield Finding(name, False, "this PyAV can't say", "pip install --upgrade av")
        return
    built = hwdevices_available()
    opened = []
    for kind in built:
        try:
            HWAccel(kind, allow_software_fallback=False).create(Codec("h264", "r"))
        except Exception:  # FFmpeg's errors for a device that isn't there are as many as devices
            continue
        opened.append(kind)
    none = f"FFmpeg knows {', '.join(built) or 'none'}, none opens here; the CPU decodes"
    yield Finding(name, bool(opened), ", ".join(opened) or none)
