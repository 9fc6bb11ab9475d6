"""Opening a container with FFmpeg, decoding its video stream in software or hardware, and turning pictures upright."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import numpy as np
from av.codec.codec import Codec
from av.codec.hwaccel import HWAccel, hwdevices_available
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from sharpose.errors import InputError, SourceError, counted, one_line
from sharpose.runtime.result import Image
from sharpose.runtime.sources.timing import start_anew, wrap_of
from sharpose.runtime.sources.urls import password_hint

NO_ANSWER = "no answer in time"
_MOST_PIXELS = 80_000_000  # in a frame: 12K; a header can claim anything, and the decoder would take memory for it
# FFmpeg's H.265 decoder is silent about damage without this, and about wrong checksums, where a stream has those.
_DETECTING = {"hevc": {"err_detect": "crccheck+explode"}}


def open_stream(
    name: str,
    path: Path | None,
    url: str,
    *,
    timeout: float,
    options: Mapping[str, str],
    accelerator: HWAccel | None = None,
) -> tuple[InputContainer, VideoStream]:
    """Opens a file (`path`) or else an address (`url`) and picks its best video stream.

    Args:
        name: What to call it in errors.
        path: The file, or None.
        url: The address, used where `path` is None.
        timeout: Seconds to wait for an address, for opening and for each read.
        options: FFmpeg's, for an address.
        accelerator: What decodes; the CPU if None.

    Raises:
        SourceError: it can't be opened, or holds no moving picture that can be decoded.
    """
    try:
        if path is not None:
            # `file:` keeps FFmpeg from reading a protocol into a name such as `take1:2.mp4`.
            container = av.open(f"file:{path}", "r", metadata_errors="replace", hwaccel=accelerator)
        else:
            container = av.open(
                url, "r", options=dict(options), timeout=timeout, metadata_errors="replace", hwaccel=accelerator
            )
    except (av.FFmpegError, OSError, ValueError) as error:
        why = _reason(error)
        if path is not None and isinstance(error, av.error.InvalidDataError):
            why = "it is no video, or was cut off before the index that it ends with"
        if path is not None and isinstance(error, MemoryError):
            why = "its header claims more than fits into memory: it is damaged; repair the file"
        if isinstance(error, av.error.ProtocolNotFoundError):
            scheme = url.partition("://")[0]
            why = f"this FFmpeg has no {scheme}; receive it with another program and pipe it in, or use rtsp or udp"
        kind = "a stream" if path is None else "a video file"
        hint = password_hint(url) if path is None else None
        why += f"; {hint}" if hint else ""
        raise SourceError(f"{name}: expected {kind}, but it can't be opened as one: {why}") from None
    except RuntimeError:  # PyAV, where not one stream fits the accelerator; it names neither
        raise SourceError(f"{name}: the hardware decoder that was asked for can't decode its codec") from None
    try:
        stream = _video_stream(name, container)
        _pass_over_others(container, stream)
        return container, stream
    except BaseException:
        container.close()
        raise


def _pass_over_others(container: InputContainer, stream: VideoStream) -> None:
    """In MP4, keeps damaged tables of the other streams, such as the sound, from ending the video early."""
    discard = getattr(av.stream, "Discard", None)  # older PyAV has none
    if discard is not None and "mp4" in container.format.name:
        for other in container.streams:
            if other.index != stream.index:
                other.discard = discard.all


def _video_stream(name: str, container: InputContainer) -> VideoStream:
    if container.format.name == "tty":  # FFmpeg would draw a text file as terminal art
        raise SourceError(f"{name}: expected a video, found a text file")
    # A song's cover counts as video for FFmpeg.
    covers = [stream for stream in container.streams.video if stream.disposition & Disposition.attached_pic]
    streams = [stream for stream in container.streams.video if stream not in covers]
    if not streams:
        kinds = {"a cover picture" if stream in covers else stream.type for stream in container.streams}
        found = " and ".join(sorted(kinds, reverse=True)) or "nothing"
        raise SourceError(f"{name}: expected a video stream, found {found} only")
    best = container.streams.best("video")
    stream = next((stream for stream in streams if best is not None and stream.index == best.index), streams[0])
    codec = getattr(stream, "codec_context", None)
    if codec is None:
        raise SourceError(f"{name}: its video codec is unknown to this FFmpeg; convert it to H.264 first")
    if codec.width * codec.height > _MOST_PIXELS:
        raise SourceError(
            f"{name}: expected frames of at most {_MOST_PIXELS // 1_000_000} million pixels, but its header claims "
            f"{codec.width}x{codec.height}; scale it down, or repair it"
        )
    codec.options = {"max_pixels": str(_MOST_PIXELS)} | _DETECTING.get(codec.name, {})  # the size may change on the way
    return stream


class Hardware:
    """Which device decodes. It may be used for one container after another.

    Args:
        choice: `none`, `auto` (the first that works, and the CPU where none does), or a device type of FFmpeg.
        name: What to call the source.
        say: Called once, with `auto`, with a line that names the device.

    Attributes:
        device: FFmpeg's device type; None for the CPU.

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
            self.device = next((device for device in present if _why_unusable(device) is None), None)
            return
        known = ", ".join(["none", "auto", *present, "jetson"])
        if choice not in present:
            raise InputError(f"--hwaccel {choice}: expected one of those that this FFmpeg has: {known}")
        why = _why_unusable(choice)
        if why is not None:
            raise InputError(
                f"--hwaccel {choice}: this FFmpeg has it, but it can't be used here ({why}); is its driver there?"
            )
        self.device = choice

    def accelerator(self) -> HWAccel | None:
        """For `av.open`; None to decode on the CPU."""
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


def _why_unusable(device: str) -> str | None:
    """The reason why this machine can't use this device type, or None."""
    try:
        HWAccel(device, allow_software_fallback=False).create(Codec("h264", "r"))
    except NotImplementedError:
        return "it does not decode H.264"
    except (av.FFmpegError, OSError, ValueError) as error:
        return _reason(error)
    return None


_MAX_DELAY = 64  # packets between one and its picture
_MAX_DEMUX_FAILURES = 16  # in a row; a demuxer may recover, but it may also stand still


@dataclass(frozen=True, eq=False)
class _Origin:
    """Carried from a packet to its picture. PyAV tells these apart by identity, so a plain int won't do."""

    packet: int


class Decoded(NamedTuple):
    """A picture of a stream; `damaged`: decoded from damaged data, or with the help of a picture that was."""

    picture: VideoFrame
    damaged: bool


class Decoder:
    """Iterates over the pictures of a stream, in the order they are shown, and counts damage.

    Args:
        name: What to call the stream in errors.
        container: Open, at its beginning.
        stream: One of its video streams.
        live: Lossy transport: damaged pieces are skipped and counted.
        strict: Damage with good data after it is an error.

    Attributes:
        frames: Pictures handed out.
        skipped: Damaged pieces that were skipped: before the first key frame, or anywhere in a live stream.
        flagged: Packets that the container's own checks call damaged but that could be decoded.
        hidden: Packets that the container says are not to be shown.
        broken: Damaged pieces with good data after them.
        first_damage: Where the first of those was, and what.
        cut: What was wrong with the data at the end (for a live stream: why it ended), or None.
    """

    def __init__(
        self, name: str, container: InputContainer, stream: VideoStream, *, live: bool, strict: bool = False
    ) -> None:
        self._name = name
        self._container = container
        self._stream = stream
        self._live = live
        self._strict = strict
        self.reset()
        # Frame threads would report damage late, and lose the pictures under way when it is found. In H.264, slice
        # threads turn off FFmpeg's error concealment, which is what finds most damage.
        stream.thread_type = "NONE" if stream.codec_context.name == "h264" else "SLICE"
        stream.codec_context.copy_opaque = True

    def reset(self) -> None:
        """Reset all counts, after seeking; then iterate again."""
        self.frames = self.skipped = self.flagged = self.hidden = self.broken = 0
        self._lost = self._newest = 0  # with packets on the way; the newest whose picture came
        self._awaited: deque[int] = deque(maxlen=_MAX_DELAY)  # the last of the lost ones
        self._last_stamp: int | None = None
        self._in_order = True  # until stamps step back without damage
        self.cut: str | None = None
        self.first_damage = ""
        self._packets_read = self._last_good = 0
        self._key_seen = False
        self._suspect: tuple[int, int | None] | None = None  # a packet that the container's checks flag, and its stamp
        self._damaged_at: int | None = None  # the packet; until good data shows that it is not the end
        self._held: list[VideoFrame] = []  # pictures since then
        self._wrong_from: int | None = None  # packets whose pictures are damaged, up to the next key frame
        self._wrong_until: int | None = None

    @property
    def lost(self) -> int:
        """Packets from damage to the next key frame whose pictures did not come, or not in order."""
        return self._lost - sum(packet > self._newest for packet in self._awaited)

    def __iter__(self) -> Iterator[Decoded]:
        """The pictures. Raises `SourceError` where reading fails and, if strict, where good data follows damage."""
        for packet in self._packets():
            yield from self._decode(packet)
        yield from self._decode(None)
        self._newest = self._packets_read

    def _packets(self) -> Iterator[Packet[VideoStream]]:
        failures = 0
        while True:
            try:
                for packet in self._container.demux(self._stream):
                    failures = 0
                    if packet.size:  # an empty one would end decoding
                        yield packet
                return
            except (av.error.InvalidDataError, av.error.BlockingIOError) as error:
                failures += 1
                given_up = failures == _MAX_DEMUX_FAILURES
                # "Try again" says nothing about the data.
                if given_up or not isinstance(error, av.error.BlockingIOError):
                    self._note_damage(self._packets_read + 1, _reason(error))
                if given_up:
                    return
            except (av.FFmpegError, OSError) as error:
                if self._live:  # it has no length that it could fall short of
                    self.cut = _reason(error)
                    return
                raise SourceError(
                    f"{self._name}: reading broke off after {counted(self.frames, 'frame')}: {_reason(error)}"
                ) from None

    def _decode(self, packet: Packet[VideoStream] | None) -> Iterator[Decoded]:
        self._packets_read += 1
        number = self._packets_read
        if packet is not None:
            self._key_seen = self._key_seen or packet.is_keyframe
            self.hidden += packet.is_discard
            self.flagged += packet.is_corrupt
            packet.opaque = _Origin(number)
        try:
            pictures = self._stream.decode(packet)
        except av.FFmpegError as error:
            self._note_damage(number, _reason(error))
            self._await_wrong(number)
            return
        if packet is not None:
            self._judge_flagged(packet, number)
            yield from self._go_on()
            self._last_good = number
            if packet.is_keyframe and self._wrong_from is not None and self._wrong_until is None:
                self._wrong_until = number
            self._await_wrong(number)
        for picture in pictures:
            origin = picture.opaque.packet if isinstance(picture.opaque, _Origin) else number
            if picture.is_corrupt:
                self._note_damage(origin, "part of a picture is missing")
                if self._damaged_at is None:
                    continue
                self._held.append(picture)
                if self._last_good > origin:
                    yield from self._go_on()
                continue
            if self._damaged_at is not None and origin > self._damaged_at:
                yield from self._go_on()
            if self._damaged_at is None:
                yield from self._hand_out(picture, origin)
            else:
                self._held.append(picture)

    def _judge_flagged(self, packet: Packet[VideoStream], number: int) -> None:
        """A flagged packet is damaged, unless stamps restart after it: where files were glued, checks fail as well."""
        if self._suspect is not None:
            suspect, stamp = self._suspect
            base, wrap = packet.time_base, wrap_of(self._container)
            if packet.dts is not None and stamp is not None and start_anew(stamp, packet.dts, base, wrap):
                self._suspect = None
            elif number > suspect + 1:
                self._suspect = None
                self._count_damage("the container's own check fails")
                self._mark(suspect)
        if packet.is_corrupt and self._key_seen and not self._live:
            self._suspect = self._suspect or (number, packet.dts)

    def _go_on(self) -> Iterator[Decoded]:
        """Good data came: what was damaged before it is not the end."""
        if self._damaged_at is None:
            return
        if self._strict:
            raise SourceError(
                f"{self._name}: broken near frame {self.frames} ({self.cut}) with more video after it; "
                "repair the file or encode it again"
            )
        self._count_damage(self.cut)
        self._mark(self._damaged_at)
        held, self._held, self._damaged_at, self.cut = self._held, [], None, None
        for picture in held:
            origin = picture.opaque.packet if isinstance(picture.opaque, _Origin) else self._packets_read
            yield from self._hand_out(picture, origin)

    def _count_damage(self, what: str | None) -> None:
        self.broken += 1
        self.first_damage = self.first_damage or f"near frame {self.frames} ({what})"

    def _hand_out(self, picture: VideoFrame, origin: int) -> Iterator[Decoded]:
        """The picture, unless damage has made the decoder hand it out after one that is to be shown later."""
        wrong_from = None if self._wrong_until and origin >= self._wrong_until else self._wrong_from
        if picture.pts is not None:
            back = self._last_stamp is not None and picture.pts < self._last_stamp
            if back and self._in_order and wrong_from is not None:
                self._lost += origin not in self._awaited
                return
            self._in_order = self._in_order and not back
            self._last_stamp = picture.pts
        if origin in self._awaited:
            self._awaited.remove(origin)
            self._lost -= 1
        self._newest = max(self._newest, origin)
        self.frames += 1
        yield Decoded(picture, picture.is_corrupt or (wrong_from is not None and wrong_from <= origin))

    def _mark(self, packet: int) -> None:
        """Pictures of this packet, and of those after it up to the next key frame, are damaged."""
        if self._wrong_from is None or (self._wrong_until is not None and packet >= self._wrong_until):
            self._wrong_from, self._wrong_until = packet, None
            self._lost += self._packets_read + 1 - packet
            self._awaited.extend(range(max(packet, self._packets_read + 1 - _MAX_DELAY), self._packets_read + 1))

    def _await_wrong(self, packet: int) -> None:
        """Count a packet as lost until its picture comes, where it would be damaged."""
        if self._wrong_from is not None and self._wrong_until is None and packet not in self._awaited:
            self._lost += 1
            self._awaited.append(packet)

    def _note_damage(self, packet_number: int, what: str) -> None:
        if self._live or not self._key_seen:
            self.skipped += 1
        elif self._damaged_at is None or packet_number < self._damaged_at:
            self._damaged_at, self.cut = packet_number, what


def _reason(error: BaseException) -> str:
    return NO_ANSWER if isinstance(error, av.error.ExitError) else one_line(error)


def upright(image: Image, matrix: bytes) -> Image:
    """`image` [H, W, 3] as it is to be looked at: [H, W, 3], or [W, H, 3] where x and y change places.

    Args:
        image: As stored.
        matrix: A display matrix, nine int32 `a b u c d v x y w`: a stored pixel (p, q) is shown at (a·p + c·q + x,
            b·p + d·q + y). Turns that are no multiple of 90 degrees are taken as the nearest one.
    """
    if len(matrix) < 36:
        return image
    a, b, c, d = _turn(matrix)
    transpose = is_turned(matrix)
    flip_x, flip_y = (c < 0, b < 0) if transpose else (a < 0, d < 0)
    turned = cv2.transpose(image) if transpose else image
    if flip_x or flip_y:
        turned = cv2.flip(turned, -1 if flip_x and flip_y else int(flip_x))
    return np.ascontiguousarray(turned, dtype=np.uint8)


def is_turned(matrix: bytes) -> bool:
    """Whether x and y change places."""
    if len(matrix) < 36:
        return False
    a, b, c, d = _turn(matrix)
    return abs(b) + abs(c) > abs(a) + abs(d)


def _turn(matrix: bytes) -> tuple[int, int, int, int]:
    a, b, _, c, d = np.frombuffer(matrix, np.int32, count=5).astype(np.int64).tolist()
    return a, b, c, d
