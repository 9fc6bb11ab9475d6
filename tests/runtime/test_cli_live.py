"""`sharpose-run` on a stream that dies, comes back, changes its size and falls silent."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_files import PROGRAM, frames_of, lines_of
from rtsp_server import RtspServer


class LiveRun:
    """The program on a stream, its results in a folder, its messages as JSON."""

    def __init__(self, url: str, bundle: Path, folder: Path, environment: dict[str, str], *options: object) -> None:
        self.folder, self._log = folder, folder / "log"
        arguments = [url, "--bundle", bundle, "--threads", 1, "--full-frame", "--json-logs",
                     "--json", folder / "o.jsonl", "--output", folder / "o.mp4", *options]  # fmt: skip
        self.process = subprocess.Popen(
            [PROGRAM, *map(str, arguments)], env=environment, stderr=self._log.open("w"), stdout=subprocess.DEVNULL
        )

    @property
    def lines(self) -> list[dict[str, Any]]:
        path = self.folder / "o.jsonl"
        text = path.read_bytes() if path.exists() else b""
        return [json.loads(line) for line in text[: text.rfind(b"\n") + 1].splitlines()]

    @property
    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._log.read_text().splitlines()]

    def wait_for(self, more: int, seconds: float = 60.0) -> None:
        """Until so many more frames have come."""
        wanted, until = len(self.lines) + more, time.monotonic() + seconds
        while len(self.lines) < wanted:
            assert self.process.poll() is None, self._log.read_text()
            assert time.monotonic() < until, self._log.read_text()
            time.sleep(0.05)

    def wait_for_losses(self, wanted: int, seconds: float = 60.0) -> None:
        """Until the stream has been lost so many times since the start."""
        until = time.monotonic() + seconds
        while sum("; reconnecting" in entry["message"] for entry in self.log) < wanted:
            assert time.monotonic() < until, self._log.read_text()
            time.sleep(0.05)

    def memory(self) -> int:
        """Resident MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) // 1024

    def end(self) -> dict[str, Any]:
        """SIGTERM; the counts that it closes with."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(30) == 143
        assert time.monotonic() - began < 20
        (done,) = [entry for entry in self.log if entry["message"] == "run done"]
        return done


_SLOW = ("--timeout", 5, "--refine", "always")


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


@contextlib.contextmanager
def _ended(run: LiveRun) -> Iterator[LiveRun]:
    try:
        yield run
    finally:
        run.process.kill()


@pytest.fixture
def server(rtsp: RtspServer) -> RtspServer:
    rtsp.start(login=True)
    return rtsp


def test_a_stream_that_comes_back_in_another_size(
    server: RtspServer, environment: dict[str, str], nano_bundle: Path, tmp_path: Path
) -> None:
    with _ended(
        LiveRun(server.secret_url, nano_bundle, tmp_path, environment, "--refine", "never", "--timeout", 1)
    ) as run:
        run.wait_for(10)
        server.kill()
        server.start((480, 640), login=True)
        run.wait_for(10)
        server.pause()
        run.wait_for_losses(2)
        time.sleep(0.5)  # new connections hang meanwhile
        server.resume()
        run.wait_for(10)
        done = run.end()
    lines = lines_of(tmp_path / "o.jsonl")
    assert done["frames"] == len(lines) >= 30
    assert done["reconnects"] >= 2
    assert {(line["height"], line["width"]) for line in lines} == {(240, 320), (480, 640)}
    times = [line["time"] for line in lines]
    assert times == sorted(times)
    assert len(lines) - 1 <= frames_of(tmp_path / "o.mp4") <= len(lines)
    said = [entry["message"] for entry in run.log]
    assert any("lost" in line and "reconnecting" in line for line in said)
    assert any("now 640x480 instead of 320x240" in line for line in said)
    assert "hunter2" not in (tmp_path / "log").read_text() + (tmp_path / "o.jsonl").read_text()


def test_a_stream_that_is_not_there_is_said_at_once(
    environment: dict[str, str], nano_bundle: Path, tmp_path: Path
) -> None:
    run = LiveRun("rtsp://me:hunter2@127.0.0.1:9/live", nano_bundle, tmp_path, environment)
    assert run.process.wait(60) == 2
    (entry,) = run.log
    assert entry["level"] == "error"
    assert entry["message"].startswith("rtsp://***@127.0.0.1:9/live")
    assert not (tmp_path / "o.jsonl").exists()


@pytest.mark.soak
def test_ten_restarts_and_a_minute_of_silence_while_inference_is_slower_than_the_stream(
    server: RtspServer, environment: dict[str, str], small_bundle: Path, tmp_path: Path
) -> None:
    server.start((240, 320), 10, login=True)
    with _ended(LiveRun(server.secret_url, small_bundle, _made(tmp_path / "alone"), environment, *_SLOW)) as run:
        run.wait_for(30)
        took = run.end()["stages"]
    rate = round(4000 / sum(took[stage]["p50_ms"] for stage in ("crop", "coarse", "gather", "fine")))
    print(f"stages alone {took}; so {rate} pictures a second")
    server.start((240, 320), rate, login=True)
    with _ended(LiveRun(server.secret_url, small_bundle, _made(tmp_path / "long"), environment, *_SLOW)) as run:
        run.wait_for(50)
        server.kill()
        memory = []
        for attempt in range(10):
            server.start((480, 640) if attempt == 5 else (240, 320), rate, login=True)
            run.wait_for(60, 120)
            memory.append(run.memory())
            server.kill()
        server.start((240, 320), rate, login=True)
        run.wait_for(60, 120)
        server.pause()
        time.sleep(60)
        server.resume()
        run.wait_for(150, 120)
        memory.append(run.memory())
        done = run.end()
    age = done["stages"]["age"]
    print(f"memory {memory} MiB, age {age}, {done['reconnects']} reconnects, {done['dropped']} dropped")
    assert done["reconnects"] >= 10
    assert done["dropped"] > 2 * done["frames"]
    assert max(memory[-3:]) < memory[3] + 40
    assert age["p95_ms"] < 2 * 1000 / rate
    lines = lines_of(tmp_path / "long" / "o.jsonl")
    assert done["frames"] == len(lines)
    assert [line["time"] for line in lines] == sorted(line["time"] for line in lines)
