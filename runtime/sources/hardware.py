"""Decoding on a GPU or media engine through FFmpeg."""

from __future__ import annotations

from collections.abc import Callable

import av
from av.codec.codec import Codec
from av.codec.hwaccel import HWAccel, hwdevices_available
from av.video.stream import VideoStream

from sharpose.errors import InputError
from sharpose.runtime.sources.containers import reason

__all__ = ["Hardware"]


class Hardware:
    """Which device decodes. It may be used for one container after another.

    Args:
        choice: `none`, `auto` (the first that works, and the CPU where none does), or a device type of FFmpeg.
        name: What to call the source.
        say: Told once, with `auto`, what was taken.

    Raises:
        InputError: this FFmpeg doesn't have the device type, or it doesn't work on this machine.
    """

    def __init__(self, choice: str | None, name: str, say: Callable[[str], None]) -> None:
        self._auto = choice == "auto"
        self._name = name
        self._say = say
        self._said = False
        self.device: str | None = None
        if choice in (None, "none"):
            return
        present = hwdevices_available()
        if self._auto:
            self.device = next((device for device in present if _problem(device) is None), None)
            return
        known = ", ".join(["none", "auto", *present, "jetson"])
        if choice not in present:
            raise InputError(f"--hwaccel {choice}: expected one of those that this FFmpeg has: {known}")
        problem = _problem(choice)
        if problem is not None:
            raise InputError(
                f"--hwaccel {choice}: this FFmpeg has it, but it can't be used here ({problem}); is its driver there?"
            )
        self.device = choice

    def accelerator(self) -> HWAccel | None:
        """For `av.open`; None decodes on the CPU."""
        return None if self.device is None else HWAccel(self.device, allow_software_fallback=self._auto)

    def note(self, stream: VideoStream) -> None:
        """Say what decodes this stream, where `auto` chose it."""
        if self._auto and not self._said:
            self._said = True
            if self.device is None:
                what = f"no hardware decoder can be used here (tried {', '.join(hwdevices_available()) or 'none'})"
            elif not stream.codec_context.is_hwaccel:
                what = f"{self.device} can't decode {stream.codec_context.name}"
            else:
                self._say(f"{self._name}: decoding with {self.device}")
                return
            self._say(f"{self._name}: decoding on the CPU: {what}")


def _problem(device: str) -> str | None:
    """Why this device type can't be used on this machine, or None."""
    try:
        HWAccel(device, allow_software_fallback=False).create(Codec("h264", "r"))
    except NotImplementedError:
        return "it does not decode H.264"
    except (av.FFmpegError, OSError, ValueError) as error:
        return reason(error)
    return None
