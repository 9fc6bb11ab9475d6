"""The annotated pictures as a live stream to somebody else: RTSP, RTMP, MPEG-TS over UDP or SRT."""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import av
from av.container import OutputContainer

from sharpose.errors import InputError, SinkError, one_line
from sharpose.runtime.frames import FrameRecord, Image
from sharpose.runtime.options import VideoSettings
from sharpose.runtime.sinks.encoding import PictureEncoder, find_encoder
from sharpose.runtime.sources.urls import redact_url

__all__ = ["RESTREAM_SCHEMES", "RestreamSink", "Sender"]

_NO_ANSWER = "it did not answer"
_PROGRAM = Path(__file__).with_name("sending.py")


class Sender:
    """A process of `sending.py`, and the pipe to it, which PyAV writes to as to a file.

    Failures are remembered, not raised while PyAV writes: `check` raises them.

    Args:
        target: The address.
        pipe: The format of what will be written, as FFmpeg calls it.
        form: The format of what is sent.
        options: Of FFmpeg, for what is sent.
        patience: Seconds that the pipe may be full before the receiver counts as gone.

    Attributes:
        connected: Whether the receiver has answered; as of the last `check`.

    Raises:
        OSError: no process can be started.
    """

    name = "pipe"

    def __init__(self, target: str, *, pipe: str, form: str, options: dict[str, str], patience: float) -> None:
        self.connected = False
        self._patience = patience
        self._failure: str | None = None
        self._said = b""
        self._process = subprocess.Popen(
            [sys.executable, str(_PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,  # Ctrl-C is for us; it ends when the pipe does
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to = self._process.stdin.fileno()
        self._from = self._process.stdout.fileno()
        os.set_blocking(self._to, False)
        os.set_blocking(self._from, False)
        order = {"target": target, "pipe": pipe, "format": form, "options": options}
        self.write(json.dumps(order).encode() + b"\n")

    def write(self, data: bytes) -> int:
        """Passes `data` on, waiting while the pipe is full."""
        view = memoryview(data)
        while view and self._failure is None:
            try:
                view = view[os.write(self._to, view) :]
            except BlockingIOError:
                if not select.select([], [self._to], [], self._patience)[1]:
                    self._failure = f"it took nothing for {self._patience:.0f} s"
            except OSError:
                self._failure = "it hung up"
        return len(data)

    def check(self) -> None:
        """Raises `ConnectionError` with the reason where the receiver can't be reached any more."""
        self._listen()
        if self._failure is None and self._process.poll() is not None:
            self._failure = "it hung up"
        if self._failure is not None:
            if self._process.poll() is None and self._failure == "it hung up":
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(1.0)  # for its last words
            self._listen()
            raise ConnectionError(self._reason() or self._failure)

    def end(self, seconds: float) -> None:
        """Ends the stream and gives the process that long to hang up before it is killed."""
        until = time.monotonic() + seconds
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, until - time.monotonic()))
        self.kill()
        self._process.wait()
        self._listen()
        self._from = -1
        self._process.stdout.close()

    def check_answered(self) -> None:
        """After the end: raises `ConnectionError` where the receiver never answered."""
        if not self.connected:
            raise ConnectionError(self._reason() or _NO_ANSWER)

    def kill(self) -> None:
        """Ends the process at once, from any thread: it did not answer in time."""
        self._failure = self._failure or _NO_ANSWER
        with contextlib.suppress(OSError):
            self._process.kill()

    def _listen(self) -> None:
        with contextlib.suppress(BlockingIOError, OSError, ValueError):
            while found := os.read(self._from, 4096):
                self._said += found
        self.connected = self.connected or b"connected\n" in self._said

    def _reason(self) -> str | None:
        lines = [line for line in self._said.decode(errors="replace").splitlines() if line.startswith("lost ")]
        return lines[-1].removeprefix("lost ") if lines else None


@dataclass(frozen=True)
class _Way:
    """How a scheme is served: the format in the pipe to the sender, and what the sender makes of it."""

    pipe: str
    form: str
    options: dict[str, str] = field(default_factory=dict)


# TCP passes firewalls, and tells when the receiver has gone.
_RTSP = _Way("nut", "rtsp", {"rtsp_transport": "tcp"})
_RTMP = _Way("nut", "flv", {"flvflags": "no_duration_filesize"})
# Each key frame brings what decoding needs, for receivers that come later.
_UDP = _Way("mpegts", "mpegts", {"pkt_size": "1316", "flush_packets": "1"})  # seven whole packets of MPEG-TS
_SRT = _Way("mpegts", "mpegts", {"flush_packets": "1"})

RESTREAM_SCHEMES = {
    "rtsp": _RTSP,
    "rtsps": _RTSP,
    "rtmp": _RTMP,
    "rtmps": _RTMP,
    "udp": _UDP,
    "srt": _SRT,
}
"""The schemes that can be sent to, and how."""

_QUEUE = 4  # pictures; an older one gives way to a newer
_SILENCE = 10.0  # seconds after which a receiver that takes nothing is gone
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0  # seconds between attempts to connect
_GOODBYE = 3.0  # seconds that closing waits for what is still queued


class RestreamSink:
    """Sends each record's `picture` as it comes, from a thread and a process of its own; `write` never waits.

    Where the receiver is slow, older pictures are dropped for newer ones, and counted. Where it can't be reached at
    all, the next `write` raises. Where it was reached and goes away, the connection is made anew, after 1, 2, 4 … 30
    seconds (±20 %), without an end: pictures drawn meanwhile are dropped, and counted.

    A picture's stamp is the wall clock when it was written, so that a receiver shows it at once, whatever the source's
    own clock says and however slow the run is.

    Args:
        target: `rtsp://…`, `rtsps://…`, `rtmp://…`, `rtmps://…`, `udp://…` or `srt://…`.
        settings: How to encode.
        frame_rate: Nominal frames a second, for the header.
        say: Told of lost and new connections, a line each, from the sink's thread.
        clock: Seconds, for the stamps.
        pause: Waits before a new attempt; called with an event that ends the wait, and seconds.

    Attributes:
        dropped: Pictures that were not sent.
        reconnects: How often the connection was made anew.
        warnings: Lines for the user; complete when the sink is closed.

    Raises:
        InputError: another scheme.
        SinkError: the encoder is not usable here.
    """

    def __init__(
        self,
        target: str,
        *,
        settings: VideoSettings | None = None,
        frame_rate: float | None = None,
        say: Callable[[str], None] = lambda line: None,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[threading.Event, float], object] = threading.Event.wait,
    ) -> None:
        self.name = redact_url(target)
        scheme = target.partition("://")[0].lower()
        if scheme not in RESTREAM_SCHEMES:
            known = " ".join(f"{known}://" for known in RESTREAM_SCHEMES)
            raise InputError(f"{self.name}: expected an address that begins with one of {known}")
        self._target = target
        self._scheme = scheme
        self._settings = settings or VideoSettings()
        self._encoder = find_encoder(self._settings)
        self._rate = frame_rate
        self._say = say
        self._clock = clock
        self._pause = pause
        self._queue: deque[tuple[Image, float]] = deque()
        self._changed = threading.Condition()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._sender: Sender | None = None
        self._failure: SinkError | None = None
        self._connected_once = self._waiting = self._reported = False
        self._written = 0
        self.dropped = 0
        self.reconnects = 0
        self.warnings: list[str] = []

    def write(self, record: FrameRecord) -> None:
        """Queues the picture. Raises `SinkError` where the receiver could not be reached."""
        if self._failure is not None:
            self._reported = True
            raise self._failure
        if self._ended.is_set():
            raise SinkError(f"{self.name}: is closed, no picture can be added")
        self._written += 1
        if self._waiting:  # nobody there: not worth drawing
            self.dropped += 1
            return
        entry = record.picture, self._clock()
        with self._changed:
            if len(self._queue) >= _QUEUE:
                self._queue.popleft()
                self.dropped += 1
            self._queue.append(entry)
            self._changed.notify()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=f"restream {self.name}", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Sends what is queued, for some seconds at most, and hangs up. May be called twice.

        Raises:
            SinkError: the receiver could not be reached, and no `write` has said so.
        """
        already = self._ended.is_set()
        with self._changed:
            self._ended.set()
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(_GOODBYE)
            if self._sender is not None and self._thread.is_alive():  # the receiver takes nothing
                self._sender.kill()
                self._thread.join(_GOODBYE)
        if already:
            return
        self.dropped += len(self._queue)
        if self.dropped:
            self.warnings.append(
                f"{self.name}: {self.dropped} of {self._written} pictures were not sent: the receiver was slower than "
                "the run, or away"
            )
        if self._failure is not None and not self._reported:
            self._reported = True
            raise self._failure

    def abandon(self) -> Path | None:
        """Hangs up; nothing is kept."""
        with contextlib.suppress(SinkError):
            self.close()
        return None

    def _work(self) -> None:
        pause = _FIRST_PAUSE
        while not self._ended.is_set():
            began = time.monotonic()
            try:
                self._send_until_the_end()
                return
            except (av.FFmpegError, OSError, ValueError) as error:
                why = self._reason(error)
            if not self._connected_once:
                self._failure = SinkError(f"{self.name}: can't be reached: {why}")
                return
            if self._ended.is_set():
                return
            if time.monotonic() - began > _LONGEST_PAUSE:
                pause = _FIRST_PAUSE  # it had been well
            self._say(f"{self.name}: connection lost ({why}), trying again in {pause:.0f} s")
            self._forget_queue()
            self._pause(self._ended, pause * random.uniform(0.8, 1.2))
            self._waiting = False
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _forget_queue(self) -> None:
        with self._changed:
            self._waiting = True
            self.dropped += len(self._queue)
            self._queue.clear()

    def _send_until_the_end(self) -> None:
        first = self._next()
        if first is None:
            return
        way = RESTREAM_SCHEMES[self._scheme]
        sender = self._sender = Sender(
            self._target, pipe=way.pipe, form=way.form, options=way.options, patience=_SILENCE
        )
        try:
            container = av.open(sender, "w", format=way.pipe, options={"flush_packets": "1"})
            self._send(container, sender, *first)
            container.close()
            sender.end(_GOODBYE)
            sender.check_answered()
        finally:
            sender.end(0.0)

    def _send(self, container: OutputContainer, sender: Sender, picture: Image, start: float) -> None:
        pictures = PictureEncoder(container, self._encoder, self._settings, picture=picture, frame_rate=self._rate)
        container.start_encoding()
        entry: tuple[Image, float] | None = (picture, start)
        greeted = False
        while entry is not None:
            container.mux(pictures.encode(entry[0], entry[1] - start))
            sender.check()
            if sender.connected and not greeted:
                greeted = True
                self._greet()
            entry = self._next()
        container.mux(pictures.finish())

    def _greet(self) -> None:
        if self._connected_once:
            self.reconnects += 1
            self._say(f"{self.name}: connected again")
        self._connected_once = True

    def _next(self) -> tuple[Image, float] | None:
        """The next picture, waited for; None once the sink is closed and the queue is empty."""
        with self._changed:
            while not self._queue:
                if self._ended.is_set():
                    return None
                self._changed.wait()
            return self._queue.popleft()

    def _reason(self, error: Exception) -> str:
        said = one_line(error)
        if said == "protocol":
            return f"the FFmpeg inside PyAV was built without {self._scheme}://; take rtsp, rtmp or udp"
        return redact_url(said.replace(self._target, self.name))
