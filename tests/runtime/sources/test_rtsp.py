"""`open_source` on a real RTSP server: killed, restarted with another size, gone silent, slowly read."""

from __future__ import annotations

import contextlib
import itertools
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rtsp_server import read_stamp

from sharpose.errors import SourceError
from sharpose.runtime.frames import Frame
from sharpose.runtime.sources import FOREVER, SourceOptions, open_source

PATIENCE = 60.0  # what a busy machine may take to start a server and connect


def read_until(frames: Iterator[Frame], wanted: Callable[[Frame], bool]) -> list[Frame]:
    """The frames up to the first that is as wanted."""
    until = time.monotonic() + PATIENCE
    found = []
    for frame in frames:
        found.append(frame)
        if wanted(frame):
            return found
        assert time.monotonic() < until, "it did not come"
    raise AssertionError("the stream ended")


def test_killed_and_back_with_another_size(rtsp):
    rtsp.start((240, 320))
    said: list[str] = []
    source = open_source(rtsp.url, SourceOptions(timeout=5.0), say=said.append)
    assert (source.info.live, source.info.frame_count, source.info.name) == (True, None, rtsp.url)
    with contextlib.closing(source):
        frames = iter(source)
        before = read_until(frames, lambda frame: frame.index >= 10)
        rtsp.kill()
        rtsp.start((120, 160))
        after = read_until(frames, lambda frame: frame.height == 120)
        after += itertools.islice(frames, 5)
        times = [frame.time for frame in before + after]
        assert times == sorted(times)
        assert {frame.image.shape for frame in after[-6:]} == {(120, 160, 3)}
        indices = [frame.index for frame in before + after]
        assert all(earlier < later for earlier, later in itertools.pairwise(indices))
        # The gap is the time that really passed between the two pictures.
        lost, back = (before + after)[-7], after[-6]
        assert lost.height == 240
        assert lost.arrived is not None
        assert back.arrived is not None
        assert back.time - lost.time == pytest.approx(back.arrived - lost.arrived, abs=1.0)
        assert source.info.health.reconnects == 1
        assert source.info.health.connected
    assert said[0].startswith(f"{rtsp.url}: lost (")
    assert said[0].endswith("; reconnecting")
    assert said[1].startswith(f"{rtsp.url}: reconnected after ")
    assert said[1].endswith(", now 160x120 instead of 320x240")
    assert len(said) == 2


def test_silence_longer_than_the_timeout(rtsp):
    rtsp.start()
    said: list[str] = []
    source = open_source(rtsp.url, SourceOptions(timeout=1.0), say=said.append)
    with contextlib.closing(source):
        frames = iter(source)
        read_until(frames, lambda frame: frame.index >= 5)
        rtsp.pause()
        until = time.monotonic() + PATIENCE
        while not said and time.monotonic() < until:
            time.sleep(0.05)
        assert said == [f"{rtsp.url}: lost (no frame for 1 s); reconnecting"]
        assert not source.info.health.connected
        time.sleep(0.5)  # new connections hang meanwhile
        rtsp.resume()
        read_until(frames, lambda frame: source.info.health.reconnects == 1)
        # What the server had made before it fell silent is not taken for new.
        read_until(frames, lambda frame: time.monotonic() - read_stamp(frame.image) < 1.0)
    assert len(said) == 2


def test_a_slow_reader_gets_new_pictures(rtsp):
    rtsp.start(rate=25)
    source = open_source(rtsp.url, SourceOptions(timeout=5.0))
    with contextlib.closing(source):
        frames = iter(source)
        read_until(frames, lambda frame: frame.index >= 20)
        dropped, ages = source.info.health.dropped, []
        for frame in itertools.islice(frames, 15):
            assert frame.arrived is not None
            ages.append(time.monotonic() - frame.arrived)
            time.sleep(0.16)  # four times the stream's interval
        assert source.info.health.dropped - dropped > 22
        assert sorted(ages)[len(ages) // 2] < 2 / 25  # not all: the machine may be busy


def test_all_frames_are_kept_where_that_is_asked_for(rtsp):
    rtsp.start(rate=25)
    source = open_source(rtsp.url, SourceOptions(buffer="all", queue_size=200))
    with contextlib.closing(source):
        frames = iter(source)
        found = [next(frames)]
        time.sleep(1.0)
        found += itertools.islice(frames, 20)
    assert [frame.index for frame in found] == list(range(21))
    assert source.info.health.dropped == 0


def test_stride_and_duration(rtsp):
    rtsp.start(rate=25)
    source = open_source(rtsp.url, SourceOptions(buffer="all", stride=5, duration=2.0))
    with contextlib.closing(source):
        found = list(source)
    assert [frame.index % 5 for frame in found] == [0] * len(found)
    assert 7 <= len(found) <= 11
    assert found[-1].time < 2.0


def test_closing_is_prompt_while_it_is_silent(rtsp):
    rtsp.start()
    source = open_source(rtsp.url, SourceOptions(timeout=30.0))
    next(iter(source))
    rtsp.pause()
    time.sleep(0.5)
    began = time.monotonic()
    source.close()
    assert time.monotonic() - began < 5  # not 30


def test_over_udp(rtsp):
    rtsp.start()
    source = open_source(rtsp.url, SourceOptions(rtsp_transport="udp", timeout=5.0))
    with contextlib.closing(source):
        assert read_until(iter(source), lambda frame: frame.index >= 10)[-1].image.shape == (240, 320, 3)


def test_a_process_ends_while_its_stream_is_silent(rtsp):
    rtsp.start()
    program = (
        "import sys; from sharpose.runtime.sources import SourceOptions, open_source\n"
        "source = open_source(sys.argv[1], SourceOptions(timeout=60.0))\n"
        "print(next(iter(source)).height, flush=True)\n"
        "sys.stdin.readline(); source.close(); print('closed', source.queue.ended)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, rtsp.url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "240\n"
    rtsp.pause()
    time.sleep(0.2)
    output, complaints = process.communicate("\n", timeout=30)  # not 60
    assert (process.returncode, output, complaints) == (0, "closed True\n", "")


def test_a_login_works_and_is_never_shown(rtsp, capfd):
    rtsp.start(login=True)
    said: list[str] = []
    with pytest.raises(SourceError, match="401 Unauthorized") as caught:
        open_source(rtsp.url, say=said.append)
    assert "\n" not in str(caught.value)
    source = open_source(rtsp.secret_url, SourceOptions(timeout=5.0, reconnect=1), say=said.append)
    with contextlib.closing(source):
        frames = iter(source)
        read_until(frames, lambda frame: frame.index >= 5)
        rtsp.kill()
        with pytest.raises(SourceError, match="not back after 1 attempt") as lost:
            read_until(frames, lambda frame: False)
    texts = [source.info.name, str(lost.value), *said, *source.info.warnings, *capfd.readouterr()]
    assert source.info.name == rtsp.url.replace("//", "//***@")
    assert not any("hunter2" in text for text in texts)


def test_no_server_at_the_start(rtsp):
    with pytest.raises(SourceError, match=r"rtsp://\*\*\*@127.0.0.1.*can't be opened as one: Connection refused"):
        open_source(rtsp.secret_url)


def test_waiting_for_a_server_that_starts_later(rtsp):
    said: list[str] = []
    source = open_source(rtsp.url, SourceOptions(reconnect=FOREVER), say=said.append)
    with contextlib.closing(source):
        time.sleep(0.5)
        assert source.info.frame_rate is None
        rtsp.start()
        assert next(iter(source)).image.shape == (240, 320, 3)
        assert source.info.frame_rate == pytest.approx(25.0, abs=1.0)
    assert said[0].startswith(f"{rtsp.url}: not there yet (")


def test_an_encrypted_stream_with_a_login(rtsp, tmp_path):
    if shutil.which("openssl") is None or not list(Path("/usr/lib").glob("*/gio/modules/libgio*tls.so")):
        pytest.skip("no openssl command, or no TLS for GLib (Debian: openssl, glib-networking)")
    files = ["-keyout", tmp_path / "key.pem", "-out", tmp_path / "certificate.pem"]
    subject = ["-subj", "/CN=127.0.0.1", "-days", "2"]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *files, *subject]
    subprocess.run(made, check=True, capture_output=True)
    both = tmp_path / "both.pem"
    both.write_text((tmp_path / "certificate.pem").read_text() + (tmp_path / "key.pem").read_text())
    rtsp.start((120, 160), login=True, tls=both)
    source = open_source(rtsp.secret_url.replace("rtsp:", "rtsps:"), SourceOptions(timeout=5.0, reconnect=0))
    with contextlib.closing(source):
        frames = read_until(iter(source), lambda frame: frame.index >= 5)
        assert {frame.image.shape for frame in frames} == {(120, 160, 3)}
        assert abs(time.monotonic() - read_stamp(frames[-1].image)) < PATIENCE
        assert source.info.name == rtsp.url.replace("rtsp:", "rtsps:").replace("//", "//***@")
    with pytest.raises(SourceError, match=r"rtsp://127\.0\.0\.1"):  # who doesn't encrypt isn't let in
        open_source(rtsp.url, SourceOptions(timeout=5.0, reconnect=0))


@pytest.mark.soak
def test_ten_restarts_and_a_minute_of_silence(rtsp):
    """Also that memory is flat, and that pictures stay new while each takes four intervals to use."""
    rtsp.start((240, 320))
    said: list[str] = []
    source = open_source(rtsp.url, SourceOptions(timeout=5.0), say=said.append)
    memory, ages, lags = [], [], []
    with contextlib.closing(source):
        frames = iter(source)

        def use(seconds: float) -> None:
            until = time.monotonic() + seconds
            for frame in frames:
                assert frame.arrived is not None
                if source.info.health.connected:
                    ages.append(time.monotonic() - frame.arrived)
                    lags.append(time.monotonic() - read_stamp(frame.image))
                time.sleep(0.16)
                if time.monotonic() > until:
                    return

        for restart in range(10):
            use(10.0)
            memory.append(_resident())
            rtsp.kill()
            rtsp.start((480, 640) if restart == 5 else (240, 320))
            read_until(frames, lambda frame, made=restart + 1: source.info.health.reconnects == made)  # type: ignore[misc]
        use(5.0)
        rtsp.pause()
        time.sleep(60)
        rtsp.resume()
        read_until(frames, lambda frame: source.info.health.reconnects >= 11)
        use(10.0)
        memory.append(_resident())
    ages.sort()
    shares = {share: round(ages[len(ages) * share // 100], 4) for share in (50, 90, 95, 99)}
    print(f"age of {len(ages)} frames in s, by percentile: {shares}")
    print(f"seconds since a picture was made, median: {sorted(lags)[len(lags) // 2]:.4f}")
    print(f"resident MiB after each restart: {[round(size / 2**20) for size in memory]}")
    assert shares[90] < 2 / 25
    assert sorted(lags)[len(lags) // 2] < 0.5
    assert memory[-1] - memory[4] < 30 * 2**20
    assert len(said) >= 22
    assert len(said) == 2 * source.info.health.reconnects


def _resident() -> int:
    with open("/proc/self/statm", encoding="ascii") as status:  # noqa: PTH123
        return int(status.read().split()[1]) * resource.getpagesize()
