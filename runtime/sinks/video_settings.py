"""How the user wants pictures encoded."""

from __future__ import annotations

from dataclasses import dataclass

from sharpose.errors import InputError

__all__ = ["VideoSettings"]

_WORST_CRF = 51


@dataclass(frozen=True)
class VideoSettings:
    """How pictures are encoded.

    Attributes:
        encoder: `h264` or `h265` (software where FFmpeg has it), `auto` (H.264 in hardware where an encoder for that
            opens, else as `h264`), or the name of one of FFmpeg's encoders, such as `libx265` or `h264_nvenc`.
        crf: Constant quality, 0 (best) to 51; the encoder's usual one if None. Excludes `bitrate`.
        bitrate: Bits a second, or None.
        preset: One of the encoder's own, such as `veryfast`; a fast one if None.

    Raises:
        InputError: a number is out of its range, or quality and bitrate are both given.
    """

    encoder: str = "h264"
    crf: int | None = None
    bitrate: int | None = None
    preset: str | None = None

    def __post_init__(self) -> None:
        if self.crf is not None and not 0 <= self.crf <= _WORST_CRF:
            raise InputError(f"video quality: expected a crf of 0 (best) to {_WORST_CRF}, got {self.crf}")
        if self.bitrate is not None and self.bitrate < 1000:
            raise InputError(f"video bitrate: expected bits a second, at least 1000, got {self.bitrate}")
        if self.crf is not None and self.bitrate is not None:
            raise InputError("video quality and bitrate exclude each other: give a crf or bits a second")
