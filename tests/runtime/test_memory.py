"""Memory of long runs: it stays where it was once everything has been used."""

from __future__ import annotations

import contextlib
import socketserver
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from cli_files import PROGRAM, lines_of
from rtsp_server import RtspServer

pytestmark = pytest.mark.soak

GROWTH = 6  # MiB that a run may gain after it has warmed up: the allocator's own ups and downs


class MeasuredRun:
    """`sharpose-run` in a process of its own; `memory` is what it held, in MiB, when it had written so many lines."""

    def __init__(self, environment: dict[str, str], results: Path, *arguments: object) -> None:
        self.results = results
        self.memory: dict[int, int] = {}
        command: list[str] = [str(PROGRAM), *map(str, arguments), "--threads", "1", "--json", str(results), "--quiet"]
        self.process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    def frames(self) -> int:
        return self.results.read_bytes().count(b"\n") if self.results.exists() else 0

    def note(self) -> int:
        """Take down the memory now; MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        frames = self.frames()
        self.memory[frames] = int(status.split("VmRSS:")[1].split()[0]) >> 10
        return frames

    def wait_for(self, frames: int, seconds: float = 300.0) -> None:
        until = time.monotonic() + seconds
        while self.frames() < frames and self.process.poll() is None:
            assert time.monotonic() < until, self.memory
            time.sleep(0.05)


def picture(index: int) -> np.ndarray:
    image = np.full((96, 128, 3), 90, np.uint8)
    image[:, index % 128] = 250
    return image


def test_ten_thousand_frames(environment: dict[str, str], nano_bundle: Path, tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt = 96, 128, "yuv420p"
        for index in range(10_000):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(index), "bgr24")))
        container.mux(stream.encode())
    outputs = ["--output", tmp_path / "o.mp4", "--csv", tmp_path / "o.csv", "--mot", tmp_path / "o.txt"]
    arguments = [tmp_path / "a.mp4", "--bundle", nano_bundle, "--full-frame", "--track", "--smooth", *outputs]
    run = MeasuredRun(environment, tmp_path / "o.jsonl", *arguments)
    while run.process.poll() is None and run.note() < 9900:
        run.wait_for(run.frames() + 500)
    _, errors = run.process.communicate()
    assert (run.process.returncode, errors) == (0, "")
    assert len(lines_of(tmp_path / "o.jsonl")) == 10_000
    print(f"resident MiB by frames: {run.memory}")
    warm = [size for frames, size in run.memory.items() if frames > 1500]
    assert len(warm) > 5
    assert max(warm) - warm[0] <= GROWTH


class _Sender(socketserver.BaseRequestHandler):
    """Answers a request with Motion JPEG, and breaks off after a while."""

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            self._send()

    def _send(self) -> None:
        self.request.recv(4096)
        head = b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=x\r\n\r\n"
        self.request.sendall(head)
        for index in range(200):
            jpeg = cv2.imencode(".jpg", picture(index))[1].tobytes()
            part = b"--x\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg)
            self.request.sendall(part + jpeg + b"\r\n")
            time.sleep(0.02)


@pytest.fixture
def http() -> Iterator[str]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Sender) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


def reconnects(run: MeasuredRun, break_off: Callable[[], None]) -> None:
    """Twelve times: some frames, the memory, and the end of the connection."""
    for _ in range(12):
        run.wait_for(run.frames() + 60)
        run.note()
        break_off()
    run.process.terminate()
    _, errors = run.process.communicate(timeout=30)
    assert run.process.returncode == 143, errors
    print(f"resident MiB by frames: {run.memory}")
    assert len(run.memory) == 12
    sizes = list(run.memory.values())
    assert max(sizes[2:]) - sizes[2] <= GROWTH


def test_ten_reconnects_over_http(environment: dict[str, str], nano_bundle: Path, tmp_path: Path, http: str) -> None:
    arguments = [http, "--bundle", nano_bundle, "--full-frame", "--timeout", 5]
    run = MeasuredRun(environment, tmp_path / "o.jsonl", *arguments)

    def wait_for_the_next() -> None:
        run.wait_for(run.frames() + 140)  # of the 200 of a connection

    reconnects(run, wait_for_the_next)


def test_ten_reconnects_over_rtsp(
    environment: dict[str, str], nano_bundle: Path, tmp_path: Path, rtsp: RtspServer
) -> None:
    rtsp.start()
    arguments = [rtsp.url, "--bundle", nano_bundle, "--full-frame", "--timeout", 5]
    run = MeasuredRun(environment, tmp_path / "o.jsonl", *arguments)
    reconnects(run, rtsp.start)
