from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import av
import numpy as np
import pytest

from sharpose.errors import InputError, SinkError
from sharpose.runtime.sinks import RestreamSink

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
    thread: threading.Thread | None = None

    def start(self) -> Receiver:
        self.thread = threading.Thread(target=self._receive, daemon=True)
        self.thread.start()
        return self

    def _receive(self) -> None:
        try:
            with av.open(self.url, options=self.options, timeout=PATIENCE) as container:
                for frame in container.decode(video=0):
                    self.size = frame.height, frame.width
                    self.brightness.append(float(frame.to_ndarray(format="gray").mean()))
                    self.times.append(float(frame.time))
                    if self.stop_after is not None and len(self.times) >= self.stop_after:
                        return
        except (av.FFmpegError, OSError):
            return

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
        return url, Receiver(url, {"rtsp_flags": "listen", **probing})
    url = f"udp://127.0.0.1:{free_port(socket.SOCK_DGRAM)}"
    return url, Receiver(f"{url}?timeout=3000000", probing)


@pytest.fixture
def write(record) -> Iterator[Callable[..., None]]:
    def to(sink: RestreamSink, count: int, *, gap: float = 0.02, size: tuple[int, int] = (48, 64)) -> None:
        for index in range(count):
            sink.write(record(index, image=np.full((*size, 3), 150, np.uint8)))
            time.sleep(gap)

    yield to


@pytest.mark.parametrize("scheme", ["rtmp", "rtsp", "udp"])
def test_pictures_arrive(write, scheme):
    url, other_end = receiver(scheme)
    other_end.start()
    time.sleep(1.0)  # it has to listen first
    sink = RestreamSink(url)
    started = time.monotonic()
    write(sink, 60, gap=0.03)
    took = time.monotonic() - started
    sink.close()
    other_end.join()
    assert other_end.size == (48, 64)
    assert len(other_end.times) >= 15
    assert np.median(other_end.brightness) == pytest.approx(150, abs=8)
    assert (np.diff(other_end.times) > 0).all()
    # Stamps are the wall clock's: they span what the writing took, not the 2.4 seconds of the source.
    assert other_end.times[-1] - other_end.times[0] <= took + 0.5
    assert sink.dropped + len(other_end.times) <= 60


def test_nobody_there_ends_it_with_one_line(record):
    sink = RestreamSink(f"rtmp://user:secret@127.0.0.1:{free_port()}/live/a")
    sink.write(record(0))
    with pytest.raises(SinkError, match=r"rtmp://\*\*\*@127\.0\.0\.1:\d+/live/a: can't be reached: ") as failed:
        for index in range(1, int(PATIENCE / 0.05)):
            time.sleep(0.05)
            sink.write(record(index))
    assert "secret" not in str(failed.value)
    assert "\n" not in str(failed.value)
    sink.close()
    assert sink.abandon() is None


def test_a_protocol_that_this_ffmpeg_lacks(record):
    sink = RestreamSink("srt://127.0.0.1:1")
    sink.write(record(0))
    assert sink._thread is not None
    sink._thread.join(PATIENCE)
    try:
        sink.write(record(1))
    except SinkError as error:
        if "built without" not in str(error):
            pytest.skip("this FFmpeg has srt://")
        assert str(error) == (
            "srt://127.0.0.1:1: can't be reached: the FFmpeg inside PyAV was built without srt://; "
            "take rtsp, rtmp or udp"
        )
    sink.close()


def test_a_receiver_that_goes_away_is_found_again(record, write):
    url, first = receiver("rtmp")
    first.stop_after = 5
    first.start()
    time.sleep(1.0)
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
    time.sleep(1.0)
    again.set()
    wait_for(lambda: not sink._waiting)
    write(sink, 60, gap=0.03, size=(96, 128))  # the size may change
    sink.close()
    second.join()
    assert second.size == (96, 128)
    assert sink.reconnects == 1
    assert 0.8 <= waits[0] <= 1.2
    assert said[0].startswith(f"{url}: connection lost (")
    assert said[0].endswith("), trying again in 1 s")
    assert said[1] == f"{url}: connected again"
    assert len(sink.warnings) == 1
    assert f"{sink.dropped} of " in sink.warnings[0]


def test_a_receiver_that_takes_nothing_does_not_slow_the_run(record):
    """It accepts the connection and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        sink = RestreamSink(f"rtmp://127.0.0.1:{server.getsockname()[1]}/live/a")
        drawn = 0
        worst = 0.0
        for index in range(200):
            given = record(index)
            began = time.process_time()
            sink.write(given)
            worst = max(worst, time.process_time() - began)
            drawn += "picture" in given.__dict__
        assert len(sink._queue) <= 4
        assert sink.dropped >= 190
        assert drawn == 200
        began_closing = time.monotonic()
        sink.close()
        sink.close()
        assert time.monotonic() - began_closing < 30
        (warning,) = sink.warnings
        assert f"{sink.dropped} of 200 pictures were not sent" in warning


def test_without_records_nobody_is_called():
    sink = RestreamSink("rtmp://127.0.0.1:1/a")
    sink.close()
    assert sink.warnings == []
    assert sink.abandon() is None


def test_after_the_end_it_takes_no_more(record):
    sink = RestreamSink("udp://127.0.0.1:9")
    sink.close()
    with pytest.raises(SinkError, match="is closed"):
        sink.write(record(0))


def test_other_schemes():
    with pytest.raises(InputError, match=r"https://\*\*\*@h/a: expected an address that begins with one of rtsp://"):
        RestreamSink("https://u:p@h/a")
