"""The annotated pictures as a live stream: RTSP, RTMP, MPEG-TS over UDP or SRT."""

from __future__ import annotations

import contextlib
import json
import queue
import random
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
from av.container import OutputContainer

from sharpose.errors import InputError, ReceiverLostError, SinkError, counted, one_line
from sharpose.files import write_all
from sharpose.runtime.frames import FrameRecord
from sharpose.runtime.options import VideoSettings
from sharpose.runtime.result import Image
from sharpose.runtime.sinks.encoding import PictureEncoder, find_encoder
from sharpose.runtime.sources.urls import lower_scheme, password_hint, redact_text, redact_url

# TCP passes firewalls, and tells when the receiver has gone.
_RTSP = ("nut", "rtsp", {"rtsp_transport": "tcp"})
_RTMP = ("nut", "flv", {"flvflags": "no_duration_filesize"})
# MPEG-TS: each key frame brings what decoding needs, for receivers that come later.
_UDP = ("mpegts", "mpegts", {"pkt_size": "1316", "flush_packets": "1"})  # seven whole packets of MPEG-TS
_SRT = ("mpegts", "mpegts", {"flush_packets": "1"})

RESTREAM_SCHEMES = {"rtsp": _RTSP, "rtsps": _RTSP, "rtmp": _RTMP, "rtmps": _RTMP, "udp": _UDP, "srt": _SRT}
"""The schemes that can be sent to: FFmpeg's format in the pipe to the sender, the format sent, and its options."""

_QUEUE_SIZE = 4  # pictures; a newer one drops the oldest
_TIMEOUT = 10.0  # seconds after which a receiver that takes nothing is gone
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0  # seconds between attempts to connect
_CLOSE_SECONDS = 3.0  # that closing waits for what is still queued


class RestreamSink:
    """Sends each record's `picture` at once, from a thread and a process of its own; `write` never waits.

    Where the receiver is slow, older pictures are dropped for newer ones. Where it can't be reached at all, the next
    `write` raises. Where it was reached and goes away, the sink reconnects after 1, 2, 4 … 30 seconds (±20 %), without
    limit, and drops the pictures of the meantime. Dropped pictures are counted, and said at the end.

    A picture's stamp is the time at which it was written, so that a receiver shows it at once, whatever the source's
    own clock says and however slow the run is.

    Args:
        target: `rtsp://…`, `rtsps://…`, `rtmp://…`, `rtmps://…`, `udp://…` or `srt://…`.
        settings: How to encode.
        frame_rate: Nominal frames per second, for the header.
        say: Called with one line: from the sink's thread when the connection is lost and when it is back, and in
            `close` where pictures were not sent.
        clock: Monotonic seconds, for the stamps.
        pause: Waits before the next attempt; called with an event that ends the wait, and seconds.

    Attributes:
        dropped: Pictures that were not sent.
        reconnects: How often it reconnected.

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
        self._target = lower_scheme(target)
        self._scheme = scheme
        self._settings = settings or VideoSettings()
        form = RESTREAM_SCHEMES[scheme][1]
        self._encoder = find_encoder(self._settings, "mpegts" if form == "rtsp" else form)  # RTSP's needs a connection
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
        self._connected_once = self._waiting = self._reported = self._cut_off = False
        self._lost: str | None = None  # why the receiver is away
        self._written = 0
        self._aspect = Fraction(1)
        self.dropped = 0
        self.reconnects = 0

    def write(self, record: FrameRecord) -> None:
        """Queues the picture. Raises `SinkError` where the receiver could not be reached."""
        if self._failure is not None:
            self._reported = True
            raise self._failure
        if self._ended.is_set():
            raise SinkError(f"{self.name}: is closed, no picture can be added")
        self._written += 1
        with self._changed:
            if self._waiting:  # nobody there: not worth drawing
                self.dropped += 1
                return
        entry = record.picture, self._clock()
        self._aspect = record.frame.sample_aspect_ratio
        with self._changed:
            if len(self._queue) >= _QUEUE_SIZE:
                self._queue.popleft()
                self.dropped += 1
            self._queue.append(entry)
            self._changed.notify()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=f"restream {self.name}", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Sends what is queued, for some seconds at most, and disconnects. May be called twice.

        Raises:
            SinkError: the receiver could not be reached, and no `write` has said so.
            ReceiverLostError: it was reached, but is away now.
        """
        already = self._ended.is_set()
        with self._changed:
            self._ended.set()
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(_CLOSE_SECONDS)
            if self._sender is not None and self._thread.is_alive():  # the receiver takes nothing
                self._cut_off = True
                self._sender.kill()
                self._thread.join(_CLOSE_SECONDS)
        if already:
            return
        self.dropped += len(self._queue)
        unsent = f"{self.dropped} of {counted(self._written, 'picture')} not sent"
        if self._failure is None and self._lost is not None:
            self._failure = ReceiverLostError(
                f"{self.name}: connection lost ({self._lost}), and not back at the end; {unsent}"
            )
        elif self._failure is None and self.dropped:
            self._say(f"{self.name}: {unsent}: the receiver was slower than the run, or away")
        if self._failure is not None and not self._reported:
            self._reported = True
            raise self._failure

    def abandon(self) -> Path | None:
        """Disconnects; nothing is kept."""
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
                why = one_line(error)
            if why == "protocol":
                why = f"the FFmpeg inside PyAV was built without {self._scheme}://; take rtsp, rtmp or udp"
            why = redact_text(why.replace(self._target, self.name))
            hint = password_hint(self._target)
            why += f"; {hint}" if hint else ""
            if not self._connected_once:
                self._failure = SinkError(f"{self.name}: can't be reached: {why}")
                return
            if self._cut_off and self._sender is not None and self._sender.connected:
                self._lost = None  # it is slow, but there
                return
            self._lost = why
            if self._ended.is_set():
                return
            if time.monotonic() - began > _LONGEST_PAUSE:  # it had worked for a while
                pause = _FIRST_PAUSE
            self._say(f"{self.name}: connection lost ({why}), reconnecting in {pause:.0f} s")
            with self._changed:
                self._waiting = True
                self.dropped += len(self._queue)
                self._queue.clear()
            self._pause(self._ended, pause * random.uniform(0.8, 1.2))
            self._waiting = False
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _send_until_the_end(self) -> None:
        first = self._next()
        if first is None:
            return
        pipe, form, options = RESTREAM_SCHEMES[self._scheme]
        sender = self._sender = Sender(self._target, pipe=pipe, form=form, options=options, timeout=_TIMEOUT)
        try:
            container = av.open(sender, "w", format=pipe, options={"flush_packets": "1"})
            self._send(container, sender, *first)
            container.close()
            sender.end(_CLOSE_SECONDS)
            sender.check_answered()
            self._lost = None
        finally:
            sender.end(0.0)

    def _send(self, container: OutputContainer, sender: Sender, picture: Image, start: float) -> None:
        pictures = PictureEncoder(
            container,
            self._encoder,
            self._settings,
            picture=picture,
            frame_rate=self._rate,
            sample_aspect_ratio=self._aspect,
        )
        container.start_encoding()
        entry: tuple[Image, float] | None = (picture, start)
        noted = False
        while entry is not None:
            container.mux(pictures.encode(entry[0], entry[1] - start))
            sender.check()
            if sender.connected and not noted:
                noted = True
                if self._connected_once:
                    self.reconnects += 1
                    self._say(f"{self.name}: reconnected")
                self._connected_once = True
                self._lost = None
            entry = self._next()
        container.mux(pictures.finish())

    def _next(self) -> tuple[Image, float] | None:
        """The next picture, waited for; None once the sink is closed and the queue is empty."""
        with self._changed:
            while not self._queue:
                if self._ended.is_set():
                    return None
                self._changed.wait()
            return self._queue.popleft()


_NO_ANSWER = "it did not answer"
_HUNG_UP = "it hung up"


class Sender:
    """A process of `sending.py`, and the pipe to it, which PyAV writes to as to a file.

    Failures are not raised while PyAV writes: `check` raises them.

    Args:
        target: The address.
        pipe: FFmpeg's name for the format in the pipe.
        form: For the format that is sent.
        options: FFmpeg's, for what is sent.
        timeout: Seconds that the pipe may be full before the receiver counts as gone.

    Attributes:
        connected: Whether the receiver has answered.

    Raises:
        OSError: no process can be started.
    """

    name = "pipe"

    def __init__(self, target: str, *, pipe: str, form: str, options: dict[str, str], timeout: float) -> None:
        self.connected = False
        self._timeout = timeout
        self._failure: str | None = None
        self._lost: str | None = None  # the reason that the process gave
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("sending.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            # Ctrl-C is for us; it ends when the pipe does.
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),  # the same on Windows
        )
        # Windows' pipes can't be asked whether they are full, so threads wait for them.
        self._waiting: queue.Queue[bytes | None] = queue.Queue(1)
        self._writer = threading.Thread(target=self._pass_on, name=f"write {self.name}", daemon=True)
        self._listener = threading.Thread(target=self._listen, name=f"read {self.name}", daemon=True)
        self._writer.start()
        self._listener.start()
        order = {"target": target, "pipe": pipe, "format": form, "options": options}
        self.write(json.dumps(order).encode() + b"\n")

    def write(self, data: bytes) -> int:
        """Passes `data` on, waiting while the pipe is full."""
        if self._failure is None:
            try:
                self._waiting.put(bytes(data), timeout=self._timeout)
            except queue.Full:
                self._failure = f"it took nothing for {self._timeout:.0f} s"
        return len(data)

    def check(self) -> None:
        """Raises `ConnectionError` with the reason where the receiver can't be reached any more."""
        if self._failure is None and self._process.poll() is not None:
            self._failure = _HUNG_UP
        if self._failure is not None:
            if self._process.poll() is None and self._failure == _HUNG_UP:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(1.0)  # for its reason
            if self._process.poll() is not None:
                self._listener.join(1.0)
            raise ConnectionError(self._lost or self._failure)

    def end(self, seconds: float) -> None:
        """Ends the stream and gives the process that long to hang up before it is killed."""
        if not self._writer.is_alive():  # it was ended before
            return
        until = time.monotonic() + seconds
        with contextlib.suppress(queue.Full):
            self._waiting.put(None, timeout=seconds)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, until - time.monotonic()))
        self.kill()
        self._process.wait()
        while self._writer.is_alive():  # it drops what nobody takes any more
            with contextlib.suppress(queue.Full):
                self._waiting.put(None, timeout=0.1)
            self._writer.join(0.1)
        self._listener.join()

    def check_answered(self) -> None:
        """After the end: raises `ConnectionError` where the receiver never answered."""
        if not self.connected:
            raise ConnectionError(self._lost or _NO_ANSWER)

    def kill(self) -> None:
        """Ends the process at once, from any thread: it did not answer in time."""
        self._failure = self._failure or _NO_ANSWER
        with contextlib.suppress(OSError):
            self._process.kill()

    def _pass_on(self) -> None:
        """Write what waits until the end; after a failure it is dropped."""
        pipe = self._process.stdin
        assert pipe is not None
        while (data := self._waiting.get()) is not None:
            try:
                if self._failure is None:
                    write_all(pipe.fileno(), data)
            except OSError:
                self._failure = self._failure or _HUNG_UP
        with contextlib.suppress(OSError):
            pipe.close()

    def _listen(self) -> None:
        """Note what the process says until it ends."""
        pipe = self._process.stdout
        assert pipe is not None
        with pipe:
            for line in pipe:
                said = line.decode(errors="replace").strip()
                self.connected = self.connected or said == "connected"
                self._lost = said.removeprefix("lost ") if said.startswith("lost ") else self._lost
