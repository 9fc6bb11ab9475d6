"""The annotated pictures as an H.264 or H.265 video file with the source's sound; it can be played at every moment."""

from __future__ import annotations

import contextlib
import os
import stat
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from sharpose.errors import InputError, SinkError, one_line
from sharpose.file_locks import open_to_write
from sharpose.files import mark_partial, removed_error, write_all
from sharpose.runtime.frames import Frame, FrameRecord
from sharpose.runtime.options import VideoSettings
from sharpose.runtime.result import Image
from sharpose.runtime.sinks.encoding import PictureEncoder, find_encoder
from sharpose.runtime.sinks.sound import Sound
from sharpose.runtime.sources.urls import redact_url

VIDEO_SUFFIXES = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska"}
"""The suffixes that can be written, with FFmpeg's names for the containers."""


class VideoSink:
    """Writes each record's `picture`, timed by its frame's `time`.

    The size is the first picture's, made even; others are letterboxed to it. While it grows the file is fragmented, so
    that it can be played after a kill: from a file, up to all but the last frame (the last three where it has sound),
    however slowly the frames come; from a live source, up to half a second and a frame before its end.

    The sound of the source is copied in step with the frames, and ends with them. Sound that can't be copied is left
    out with a line; it never ends the video.

    Args:
        path: Ends in `.mp4`, `.mov` or `.mkv`; created at the first record.
        frame_rate: Nominal frames per second, for the header, and for how long a single picture is shown; the last of
            several is shown as long as the one before it.
        settings: How to encode.
        live: The source has no end: no index is gathered for the end of the file, so memory doesn't grow. (The index
            takes about 110 bytes per frame, and per packet of sound.)
        sound: What FFmpeg opens for the sound that is copied, see `SourceInfo.sound`; None for no sound.
        say: Called with a line where sound is left out.
        clock: Monotonic seconds; a removed file is noticed within one.

    Raises:
        InputError: the path has another suffix, or the rate is not positive.
        SinkError: the encoder is not usable here.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        frame_rate: float | None = None,
        settings: VideoSettings | None = None,
        live: bool = False,
        sound: str | None = None,
        say: Callable[[str], None] = lambda line: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = Path(path)
        self.name = str(self.path)
        if self.path.suffix.lower() not in VIDEO_SUFFIXES:
            raise InputError(f"{self.path}: expected a video file's name ending in {' '.join(VIDEO_SUFFIXES)}")
        if frame_rate is not None and not 0 < frame_rate < float("inf"):
            raise InputError(f"expected a positive frame rate, got {frame_rate}")
        self._settings = settings or VideoSettings()
        self._encoder = find_encoder(self._settings, VIDEO_SUFFIXES[self.path.suffix.lower()])
        self._rate = frame_rate
        self._live = live
        self._sound_address = None if self._settings.audio == "none" else sound
        self._say = say
        self._clock = clock
        self._file: VideoFile | None = None
        self._container: OutputContainer | None = None
        self._pictures: PictureEncoder | None = None
        self._size: tuple[int, ...] = ()
        self._sound: Sound | None = None
        self._sound_stream: AudioStream | None = None
        self._sound_failures = 0  # in a row
        self._held: list[Packet[VideoStream]] = []  # of the newest picture
        self._start = self._newest = self._shift = 0.0  # seconds
        self._step = 1 / (frame_rate or 1.0)
        self._gaps_closed = 0
        self._opened = self._made = self._closed = self._lost = False

    def write(self, record: FrameRecord) -> None:
        """Encodes a picture. Raises `SinkError` where it can't be; the file then ends with the one before."""
        if self._closed:
            raise SinkError(f"{self.path}: is closed, no picture can be added")
        picture = record.picture
        with self._giving_up():
            if self._pictures is None:
                self._open(picture, record.frame)
            assert self._pictures is not None
            assert self._container is not None
            assert self._file is not None
            seconds = self._close_gap(record.frame.time - self._start)
            if seconds > self._newest:
                self._step = seconds - self._newest
            self._newest, self._shift = seconds, seconds - (record.frame.stamp or 0.0)
            packets = self._pictures.encode(picture, seconds)
            if self._sound_stream is not None:
                # Beside sound, MP4 goes by a packet's duration, which the next picture tells.
                packets, self._held = self._held, packets
                for packet in packets:
                    packet.duration = round(self._step / packet.time_base)
            self._container.mux(packets)
            self._copy_sound()
            self._file.commit()
            self._made = True

    def close(self) -> None:
        """Writes what is still in the encoder and ends the file. May be called twice. Raises `SinkError`."""
        if self._closed:
            return
        self._closed = True
        container, file, pictures = self._container, self._file, self._pictures
        if container is None or file is None:
            return
        if self._gaps_closed > 1:
            self._say(f"{self.path}: gaps that were closed: {self._gaps_closed}")
        with self._giving_up():
            if pictures is not None:
                container.mux([*self._held, *pictures.finish()])
                self._newest += self._step
                self._copy_sound()
            file.commit()
            container.close()
            file.commit()
            file.close()
        self._close_sound()
        self._container = self._pictures = self._file = None

    def abandon(self) -> Path | None:
        """Ends the file of a failed run and marks it as partial; its new path, or None where nothing was written."""
        with contextlib.suppress(SinkError):  # what led here was reported; what reached the file can be played
            self.close()
        return mark_partial(self.path) if self._made and not self._lost else None

    def _open(self, picture: Image, frame: Frame) -> None:
        self._start = frame.time
        self._size = picture.shape[:2]
        suffix = self.path.suffix.lower()
        file = self._file = VideoFile(self.path, boxes=suffix != ".mkv", clock=self._clock)
        endless = self._live or not file.seekable()
        options = _muxer_options(suffix, endless=endless)
        if self._sound_address is not None and frame.stamp is not None:
            self._sound = self._find_sound(self._sound_address, frame.stamp)
        if self._sound is not None:
            options = _options_with_sound(suffix, self._sound, endless=endless) or options
        self._container = av.open(file, "w", format=VIDEO_SUFFIXES[suffix], options=options)
        self._pictures = PictureEncoder(
            self._container,
            self._encoder,
            self._settings,
            picture=picture,
            frame_rate=self._rate,
            sample_aspect_ratio=frame.sample_aspect_ratio,
        )
        self._size = self._pictures.size
        if self._sound is not None:
            self._sound_stream = self._sound.stream_in(self._container)
        self._container.start_encoding()
        self._opened = True

    def _close_gap(self, seconds: float) -> float:
        """The time of a picture in the file, `seconds` unless that is more than the container can hold."""
        suffix, step = self.path.suffix.lower(), seconds - self._newest
        longest = _LONGEST_STEP if self._sound is None else min(_LONGEST_STEP, (1 << 31) / self._sound.rate - 1)
        if suffix == ".mkv" or step <= longest:
            return seconds
        self._gaps_closed += 1
        if self._gaps_closed == 1:
            self._say(
                f"{self.path}: the gap of {step / 3600:.1f} h after {self._newest:.2f} s is closed: {suffix} holds at "
                f"most {longest / 3600:.1f} h without a picture; take .mkv to keep it"
            )
        self._start += step - self._step
        return self._newest + self._step

    def _find_sound(self, address: str, stamp: float) -> Sound | None:
        """The sound from `stamp` on; None, with a line, where there is none or the container doesn't take it."""
        source = redact_url(address.removeprefix("file:"))
        try:
            sound = Sound(address, stamp)
        except SinkError as error:
            self._say(f"{self.path}: the sound of {source} is left out: {error}")
            return None
        takers = [suffix for suffix in VIDEO_SUFFIXES if _options_with_sound(suffix, sound, endless=False)]
        suffix = self.path.suffix.lower()
        if suffix in takers:
            return sound
        others = f"; take {' or '.join(takers)}" if takers else ""
        self._say(f"{self.path}: the sound of {source} is left out: {suffix} can't hold {sound.codec}{others}")
        sound.close()
        return None

    def _copy_sound(self) -> None:
        """The packets of sound up to the newest picture."""
        if self._sound is None:
            return
        assert self._sound_stream is not None
        assert self._container is not None
        assert self._file is not None
        for packet in self._sound.until(self._newest, self._shift):
            packet.stream = self._sound_stream
            try:
                self._container.mux(packet)
                self._sound_failures = 0
            except av.FFmpegError as error:
                if self._file.error is not None or self._file.removed:
                    raise
                self._sound_failures += 1
                if self._sound_failures == _MOST_FAILURES:
                    self._end_sound(one_line(error))
                    return
        if self._sound.broken is not None:
            self._end_sound(self._sound.broken)

    def _end_sound(self, why: str) -> None:
        self._say(f"{self.path}: its sound ends after {self._newest:.1f} s, as it is damaged: {why}")
        self._close_sound()

    def _close_sound(self) -> None:
        if self._sound is not None:
            self._sound.close()
            self._sound = None

    @contextlib.contextmanager
    def _giving_up(self) -> Iterator[None]:
        """Turns what goes wrong into a `SinkError`, and closes the file without adding to it."""
        try:
            yield
        except (av.FFmpegError, OSError) as error:
            file_error = None if self._file is None else self._file.error  # PyAV hides what `commit` met
            cause = file_error if file_error is not None and file_error.errno else error
            self._close_as_it_is()
            what = f"the video ({self._size[1]}x{self._size[0]})" if self._size else "the video"
            opening = not self._opened and isinstance(cause, av.FFmpegError)
            why, name = one_line(cause), self._encoder.name
            if opening:
                other = "" if name == "libx264" else ", such as libx264"
                why = f"{name} doesn't open for this size ({why}), though it did for another; "
                why += f"give another --encoder{other}"
            raise SinkError(f"{self.path}: {what} can't be written: {why}") from None
        except SinkError:
            self._lost = True
            self._close_as_it_is()
            raise

    def _close_as_it_is(self) -> None:
        self._closed = True
        container, file = self._container, self._file
        self._container = self._pictures = self._file = None
        self._close_sound()
        if file is not None:
            file.take_back()
        if container is not None:
            with contextlib.suppress(av.FFmpegError, OSError):
                container.close()
        if file is not None:
            with contextlib.suppress(OSError):
                if file.seekable() and not self._lost and not (self._made and _holds_a_picture(self.path)):
                    self._made = False
                    file.remove()
                file.close()


def _holds_a_picture(path: Path) -> bool:
    """Whether a video has more than its header: muxers write a picture once the next one has come."""
    try:
        with av.open(f"file:{path}") as container:
            return any(packet.size for packet in container.demux(video=0))
    except (av.FFmpegError, OSError, IndexError):
        return False


_MOST_FAILURES = 16  # in a row
_LIVE_FRAGMENT = 500_000  # microseconds
_LONGEST_DELAY = 1.0  # seconds
_LONGEST_STEP = 6.5 * 3600  # seconds: MP4 counts them in 31 bits of 90 kHz, and FFmpeg ends the process beyond


def _muxer_options(suffix: str, *, endless: bool) -> dict[str, str]:
    options = {"flush_packets": "1"}  # or the last 256 KiB would wait in memory
    if suffix == ".mkv":
        # A cluster is written when the next begins: one a frame.
        return options | {"cluster_time_limit": "1"} | ({"live": "1"} if endless else {})
    plain = "empty_moov+default_base_moof"
    if endless:
        return options | {"movflags": f"{plain}+skip_trailer", "frag_duration": str(_LIVE_FRAGMENT)}
    # Hybrid: fragments while it grows, an ordinary index with the number of frames once it is closed.
    hybrid = "hybrid_fragmented+" if av.library_versions["libavformat"] >= (61, 7) else ""
    return options | {"movflags": f"{hybrid}frag_every_frame+{plain}"}


def _options_with_sound(suffix: str, sound: Sound, *, endless: bool) -> dict[str, str] | None:
    """The muxer's options for pictures with this sound; None where the container doesn't take it."""
    options = _muxer_options(suffix, endless=endless)
    options["max_interleave_delta"] = "1"  # microseconds: where sound pauses, a picture waits for the next one only
    tries = [options]
    if suffix != ".mkv":
        # Of two streams, `frag_every_frame` gives packets the time of the next; fragments of a microsecond do not.
        options.setdefault("frag_duration", "1")
        flags = options["movflags"].replace("frag_every_frame+", "")
        tries = [options | {"movflags": f"{flags}+frag_discont"}]
        if av.library_versions["libavformat"] >= (62,):
            # Says when sound begins, once the file is closed; else its first packet is put at 0.
            tries[0]["use_editlist"] = "1"
        else:
            flags = flags.replace("hybrid_fragmented+", "")  # it makes no whole index with the next option
        if sound.first < _LONGEST_DELAY:  # AC-3's header is made from its first packet
            tries.append(options | {"movflags": f"{flags}+delay_moov"})
    return next((one for one in tries if sound.fits(VIDEO_SUFFIXES[suffix], one)), None)


_LOOK_EVERY = 1.0  # seconds
_BOX_HEADER = 8  # bytes: size and name


class VideoFile:
    """A new file with the methods that PyAV asks for: `write`, and `seek` and `tell` where it is no pipe.

    What the muxer writes waits for `commit`, which makes it part of the file in one step, even if the process is
    killed: an MP4 is a row of boxes, and readers skip one called `free`, even where its end is missing. So a piece is
    written as one such box, and then, in eight bytes, gets its own first header.

    After a failed write nothing more reaches the file, so that the muxer, when it is closed, can't announce an index
    that there was no room for.

    Args:
        path: Created, with its folders; an existing file is replaced.
        boxes: Whether it consists of boxes (MP4, MOV).
        clock: Monotonic seconds; a removed file is noticed within one.

    Attributes:
        error: The first failure, or None.
        removed: Whether the file was removed.

    Raises:
        OSError: it can't be created.
        OutputTakenError: another run is writing it.
    """

    def __init__(self, path: Path, *, boxes: bool, clock: Callable[[], float] = time.monotonic) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.name = str(path)  # PyAV reads it
        self.error: OSError | None = None
        self.removed = False
        self._path = path
        self._boxes = boxes
        self._waiting = bytearray()
        self._position = 0
        self._clock = clock
        self._descriptor = open_to_write(path)
        self._regular = stat.S_ISREG(os.fstat(self._descriptor).st_mode)
        self._looked = clock()
        self._whole = 0

    def seekable(self) -> bool:
        """Whether it is a file, not a pipe or a device."""
        return self._regular

    def write(self, data: bytes) -> int:
        """Keeps `data` until `commit`."""
        self._waiting += data
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves to `offset`, after all before it was written; where that fails, the next `commit` says so."""
        with contextlib.suppress(OSError, SinkError):  # PyAV would print it
            self.commit()
        self._position = os.lseek(self._descriptor, offset, whence)
        return self._position

    def tell(self) -> int:
        """The offset."""
        return self._position + len(self._waiting)

    def commit(self) -> None:
        """Writes what waits. Raises `OSError`, and `SinkError` where the file was removed."""
        data, self._waiting = bytes(self._waiting), bytearray()
        if self.removed:
            raise removed_error(self._path)
        if self.error is not None:
            raise self.error
        try:
            if not self._regular:
                write_all(self._descriptor, data)
            elif self._boxes and self._position == self._whole and len(data) > _BOX_HEADER:
                free = struct.pack(">I4s", len(data), b"free") + data[_BOX_HEADER:]
                write_all(self._descriptor, free, self._position)
                write_all(self._descriptor, data[:_BOX_HEADER], self._position)
            else:
                write_all(self._descriptor, data, self._position)
        except OSError as error:
            self.error = error
            raise
        self._position += len(data)
        self._whole = max(self._whole, self._position)
        if self._regular and self._clock() - self._looked >= _LOOK_EVERY:
            self._looked = self._clock()
            if os.fstat(self._descriptor).st_nlink == 0:
                self.removed = True
                raise removed_error(self._path)

    def take_back(self) -> None:
        """Cuts off what was written since it was last complete, and refuses any more."""
        if self.error is None:
            self.error = OSError(0, "the file was given up")
        if self._regular:
            self._waiting.clear()
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self._whole)

    def remove(self) -> None:
        """Removes the file, before it is closed; a link, a pipe and a device stay. Raises `OSError`."""
        if self._regular and not self._path.is_symlink():
            self._path.unlink()

    def close(self) -> None:
        """Closes it; what waits is lost. May be called twice. Raises `OSError`."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
