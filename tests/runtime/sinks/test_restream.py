from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from sharpose.errors import InputError, ReceiverLostError, SinkError
from sharpose.runtime.sinks.group import SinkGroup, failure_of
from sharpose.runtime.sinks.restream import RestreamSink

PATIENCE = 60.0  # seconds, on a busy machine


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(what: Callable[[], object]) -> None:
    until = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)


@dataclass
class Receiver:
    """FFmpeg's own receiver, in a thread: takes one connection and decodes what comes."""

    url: str
    options: dict[str, str]
    stop_after: int | None = None
    brightness: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    size: tuple[int, int] = (0, 0)
    sample_aspect_ratio: Fraction | None = None
    ended_on: str = ""
    thread: threading.Thread | None = None

    def start(self) -> Receiver:
        self.thread = threading.Thread(target=self._receive, daemon=True)
        self.thread.start()
        wait_for(self._listens)
        return self

    def _listens(self) -> bool:
        """Seen in the system's tables: it takes one connection, which is not for trying out."""
        port = int(re.findall(r":(\d+)", self.url)[0])
        tcp, udp = Path("/proc/net/tcp").read_text(), Path("/proc/net/udp").read_text()
        return bool(re.search(rf":{port:04X} 00000000:0000 0A", tcp) or re.search(rf":{port:04X} 00000000:0000", udp))

    def _receive(self) -> None:
        try:
            with av.open(self.url, options=self.options, timeout=PATIENCE) as container:
                for frame in container.decode(video=0):
                    self.size = frame.height, frame.width
                    self.sample_aspect_ratio = container.streams.video[0].codec_context.sample_aspect_ratio
                    self.brightness.append(float(frame.to_ndarray(format="gray").mean()))
                    self.times.append(float(frame.time))
                    if self.stop_after is not None and len(self.times) >= self.stop_after:
                        return
        except (av.FFmpegError, OSError) as error:
            self.ended_on = str(error)

    def join(self) -> None:
        assert self.thread is not None
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()


def receiver(scheme: str) -> tuple[str, Receiver]:
    probing = {"probesize": "200000", "analyzeduration": "300000"}
    if scheme == "rtmp":
        url = f"rtmp://127.0.0.1:{free_port()}/live/a"
        return url, Receiver(url, {"listen": "1", **probing})
    if scheme == "rtsp":
        url = f"rtsp://127.0.0.1:{free_port()}/a"
        return url, Receiver(url, {"rtsp_flags": "listen", "listen_timeout": "60", **probing})
    url = f"udp://127.0.0.1:{free_port(socket.SOCK_DGRAM)}"
    # With that little to go by it may never meet the picture's size, which comes with a key frame.
    return url, Receiver(f"{url}?timeout=1500000", {})


@pytest.fixture
def write(record) -> Callable[..., None]:
    def to(sink: RestreamSink | SinkGroup, count: int, *, gap: float = 0.02, size: tuple[int, int] = (48, 64)) -> None:
        for index in range(count):
            given = record(index, image=np.full((*size, 3), 150, np.uint8))
            sink.write(replace(given, frame=replace(given.frame, sample_aspect_ratio=Fraction(64, 45))))
            time.sleep(gap)

    return to


@pytest.mark.parametrize("scheme", ["rtmp", "rtsp", "udp"])
def test_pictures_arrive(write, scheme):
    url, other_end = receiver(scheme)
    other_end.start()
    sink = RestreamSink(url)
    started = time.monotonic()
    write(sink, 60, gap=0.03)
    took = time.monotonic() - started
    sink.close()
    other_end.join()
    assert other_end.size == (48, 64)
    assert other_end.sample_aspect_ratio == Fraction(64, 45)
    assert len(other_end.times) >= 15
    assert np.median(other_end.brightness) == pytest.approx(150, abs=8)
    assert (np.diff(other_end.times) > 0).all()
    # Stamps are the wall clock's: they span what the writing took, not the 2.4 seconds of the source.
    assert other_end.times[-1] - other_end.times[0] <= took + 0.5
    assert sink.dropped + len(other_end.times) <= 60


def test_nobody_there_ends_it_with_one_line(record):
    sink = RestreamSink(f"rtmp://user:secret@127.0.0.1:{free_port()}/live/a")

    def write_on() -> None:
        for index in range(int(PATIENCE / 0.05)):
            sink.write(record(index))
            time.sleep(0.05)

    with pytest.raises(SinkError, match=r"rtmp://\*\*\*@127\.0\.0\.1:\d+/live/\*\*\*: can't be reached: ") as failed:
        write_on()
    assert "secret" not in str(failed.value)
    assert "\n" not in str(failed.value)
    sink.close()
    assert sink.abandon() is None


def test_capitals_work_and_a_password_that_ends_too_early_is_explained(record):
    sink = RestreamSink(f"RTMP://user:my#secret@127.0.0.1:{free_port()}/live/a")
    sink.write(record(0))
    with pytest.raises(SinkError, match=r"write # as %23, / as %2F and [?] as %3F") as failed:
        sink.close()
    assert "secret" not in str(failed.value)
    sink = RestreamSink(f"RTMP://127.0.0.1:{free_port()}/live/secret")
    sink.write(record(0))
    with pytest.raises(SinkError, match="can't be reached: Connection refused") as failed:
        sink.close()
    assert "secret" not in str(failed.value)


def test_nobody_there_is_said_at_the_end_of_a_short_run(record):
    sink = RestreamSink(f"rtmp://127.0.0.1:{free_port()}/live/a")
    sink.write(record(0))
    with pytest.raises(SinkError, match="can't be reached: Connection refused"):
        sink.close()
    sink.close()
    assert sink.abandon() is None


def test_a_protocol_that_this_ffmpeg_lacks(record):
    sink = RestreamSink("srt://127.0.0.1:1")

    def write_on() -> None:
        for index in range(int(PATIENCE / 0.05)):
            sink.write(record(index))
            time.sleep(0.05)

    with pytest.raises(SinkError, match=r"srt://127\.0\.0\.1:1: can't be reached: ") as failed:
        write_on()
    sink.close()
    if "built without" in str(failed.value):
        assert str(failed.value).endswith("was built without srt://; take rtsp, rtmp or udp")


def test_a_receiver_that_goes_away_is_found_again(record, write):
    url, first = receiver("rtmp")
    first.stop_after = 5
    first.start()
    said: list[str] = []
    waits: list[float] = []
    again = threading.Event()

    def pause(ended: threading.Event, seconds: float) -> None:
        waits.append(seconds)
        again.wait(PATIENCE)

    sink = RestreamSink(url, say=said.append, pause=pause)
    until = time.monotonic() + PATIENCE
    while not waits and time.monotonic() < until:
        write(sink, 5)
    first.join()
    dropped = sink.dropped
    write(sink, 7, gap=0)  # nobody there: neither waits nor fails
    assert sink.dropped == dropped + 7
    second = Receiver(url, first.options).start()
    again.set()
    wait_for(lambda: not sink._waiting)
    write(sink, 60, gap=0.03, size=(96, 128))  # the size may change
    sink.close()
    second.join()
    assert second.size == (96, 128)
    assert sink.reconnects == 1
    assert 0.8 <= waits[0] <= 1.2
    assert said[0].startswith(f"{sink.name}: connection lost (")
    assert said[0].endswith("), reconnecting in 1 s")
    assert said[1:] == [
        f"{sink.name}: reconnected",
        f"{sink.name}: {sink.dropped} of {sink._written} pictures not sent: the receiver was slower than the run, or "
        "away",
    ]


def test_a_receiver_that_is_away_at_the_end_is_a_failure(write):
    url, other_end = receiver("rtmp")
    other_end.stop_after = 5
    other_end.start()
    said: list[str] = []
    sink = RestreamSink(url, say=said.append, pause=lambda ended, seconds: ended.wait(PATIENCE))
    group = SinkGroup([sink], said.append)
    until = time.monotonic() + PATIENCE
    while not said and time.monotonic() < until:
        write(group, 5)
    group.flush()
    with pytest.raises(ReceiverLostError, match=r"connection lost \(.+\), and not back at the end; ") as failed:
        group.close()
    assert str(failed.value).endswith(f"{sink.dropped} of {sink._written} pictures not sent")
    assert (len(said), group.complete) == (1, [])
    ended = failure_of(failed.value, group, sink._written)
    assert getattr(ended, "exit_code", None) == 3
    other_end.join()


def test_a_receiver_that_takes_nothing_does_not_slow_the_run(record):
    """It accepts the connection and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        said: list[str] = []
        sink = RestreamSink(f"rtmp://127.0.0.1:{server.getsockname()[1]}/live/a", say=said.append)
        began = time.monotonic()
        for index in range(200):
            noise = np.random.default_rng(index).integers(0, 255, (96, 128, 3), dtype=np.uint8)
            sink.write(record(index, image=noise))
        assert time.monotonic() - began < PATIENCE / 2
        assert len(sink._queue) <= 4
        assert sink.dropped >= 100
        began_closing = time.monotonic()
        with pytest.raises(SinkError, match="can't be reached: it did not answer"):
            sink.close()
        sink.close()
        assert time.monotonic() - began_closing < PATIENCE / 2
        assert said == []  # the failure is enough


def test_the_sender_ends_with_a_run_that_is_killed(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        script = f"""
import os, sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from conftest import make_record
from sharpose.runtime.sinks.restream import RestreamSink
sink = RestreamSink("rtmp://127.0.0.1:{server.getsockname()[1]}/live/a")
sink.write(make_record(0))
while sink._sender is None:
    time.sleep(0.01)
print(sink._sender._process.pid, flush=True)
time.sleep(0.5)
signal.raise_signal(9)
"""
        done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    sender = int(done.stdout)
    wait_for(lambda: not Path(f"/proc/{sender}").exists() or "Z" in Path(f"/proc/{sender}/stat").read_text().split())


def test_without_records_nobody_is_called():
    sink = RestreamSink("rtmp://127.0.0.1:1/a")
    sink.close()
    assert sink.abandon() is None


def test_after_the_end_it_takes_no_more(record):
    sink = RestreamSink("udp://127.0.0.1:9")
    sink.close()
    with pytest.raises(SinkError, match="is closed"):
        sink.write(record(0))


def test_other_schemes():
    with pytest.raises(InputError, match=r"https://\*\*\*@h/a: expected an address that begins with one of rtsp://"):
        RestreamSink("https://u:p@h/a")
