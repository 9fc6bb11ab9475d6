"""`sharpose-run --server` and `sharpose-doctor --server` with a real tritonserver, and what `deploy/` says of it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
import yaml
from cli_files import lines_of
from forked_commands import CommandServer
from monitored_metrics import asked_for

if TYPE_CHECKING:
    from measuring.triton_server import TritonServer

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
SCENES = [f"scene:seed={seed},frames=4,size=180x320,people=1" for seed in range(4)]


def metrics_of(server: TritonServer) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Labels and values of all samples, by name."""
    with urllib.request.urlopen(server.metrics_url) as answer:
        text = answer.read().decode()
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    # As it is: prometheus-client's parser would add `_total`.
    for name, labels, value in re.findall(r"^(\w+)(?:\{(.*)\})? (\S+)$", text, re.MULTILINE):
        found.setdefault(name, []).append((dict(re.findall(r'(\w+)="(.*?)"', labels)), float(value)))
    return found


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


@pytest.fixture
def start(environment: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `sharpose COMMAND …` in `tmp_path`; ended after the test."""
    with contextlib.ExitStack() as stack:

        def run(*words: object) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [sys.executable, "-m", "sharpose", *map(str, words)],
                env=environment,
                cwd=tmp_path,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            stack.callback(process.communicate)
            stack.callback(process.kill)
            return process

        yield run


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and what it said on standard error."""
    _, said = process.communicate(timeout=180)
    return process.returncode, said


def test_alerts_and_dashboard_ask_for_metrics_that_triton_has(triton_server: TritonServer) -> None:
    served = metrics_of(triton_server)
    for name, labels in asked_for("(?:nv|sharpose_served)_").items():
        assert name in served
        assert labels - {"instance"} <= {label for own, _ in served[name] for label in own}, name
    reasons = {own["reason"] for own, _ in served["nv_inference_request_failure"]}
    text = (DEPLOY / "prometheus" / "rules.yaml").read_text("utf-8")
    assert set(re.findall(r'reason="(\w+)"', text)) <= reasons


class _Gate(socketserver.BaseRequestHandler):
    """Passes a connection on to Triton, once the gate is open."""

    def handle(self) -> None:
        here: socket.socket = self.request
        gate: Any = self.server
        first = here.recv(65536)
        gate.arrived.release()
        gate.open.wait()
        with socket.create_connection(gate.beyond) as there:
            there.sendall(first)
            back = threading.Thread(target=self.pass_on, args=(there, here), daemon=True)
            back.start()
            self.pass_on(here, there)
            back.join()

    def pass_on(self, source: socket.socket, target: socket.socket) -> None:
        gate: Any = self.server
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
                if data.startswith(b"POST"):
                    gate.asked.release()
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)


@pytest.fixture
def gate(triton_server: TritonServer) -> Iterator[Any]:
    """A gate before Triton: `arrived` counts who waits there, `open` lets all in, `asked` counts who asks for poses."""
    server: Any = socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Gate)
    server.daemon_threads = True
    server.arrived, server.asked = threading.Semaphore(0), threading.Semaphore(0)
    server.open = threading.Event()
    address = urllib.parse.urlsplit(triton_server.address)
    server.beyond = (address.hostname, address.port)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield server
    server.open.set()
    server.shutdown()
    server.server_close()


def test_four_runs_at_once_give_the_poses_of_local_ones_in_shared_executions(
    triton_server: TritonServer,
    gate: Any,
    start: Callable[..., subprocess.Popen[str]],
    command_server: CommandServer,
    tmp_path: Path,
) -> None:
    requests, executions = triton_server.counted()
    (model,) = triton_server.model_processes()

    url = f"http://127.0.0.1:{gate.server_address[1]}/sharpose"
    runs = [
        start("run", scene, "--server", url, "--json", f"{number}.jsonl", "--quiet")
        for number, scene in enumerate(SCENES)
    ]
    for _ in runs:
        assert gate.arrived.acquire(timeout=120)
    os.kill(model, signal.SIGSTOP)  # so that their first requests meet; Triton gives a model up after some seconds
    try:
        gate.open.set()
        for _ in runs:
            assert gate.asked.acquire(timeout=120)
        time.sleep(0.5)  # for Triton to queue the last one
    finally:
        os.kill(model, signal.SIGCONT)
    assert [ended(run) for run in runs] == [(0, "")] * 4
    for number, scene in enumerate(SCENES):
        words = [scene, "--json", f"local-{number}.jsonl", "--batch", "1", "--threads", "1", "--quiet"]
        assert command_server.run("run", words, tmp_path).returncode == 0
        assert (tmp_path / f"{number}.jsonl").read_bytes() == (tmp_path / f"local-{number}.jsonl").read_bytes()
    people = sum(len(line["people"]) for number in range(4) for line in lines_of(tmp_path / f"{number}.jsonl"))
    assert people >= 12
    warm_ups = len(SCENES)
    requests_now, executions_now = triton_server.counted(requests + people + warm_ups)
    assert requests_now - requests == people + warm_ups
    assert executions_now - executions <= people + warm_ups - 2


class _Camera(BaseHTTPRequestHandler):
    """A picture twenty times a second, for ever."""

    def do_GET(self) -> None:
        encoded = cv2.imencode(".jpg", np.full((96, 72, 3), 120, np.uint8))[1].tobytes()
        head = b"--x\r\nContent-Type: image/jpeg\r\nContent-Length: " + str(len(encoded)).encode() + b"\r\n\r\n"
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=x")
        self.end_headers()
        with contextlib.suppress(OSError):
            while True:
                self.wfile.write(head + encoded + b"\r\n")
                time.sleep(0.05)

    def log_message(self, format: str, *args: object) -> None:
        """Tests are quiet."""


@pytest.fixture
def camera() -> Iterator[str]:
    """The address of a live MJPEG stream."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Camera)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/live.mjpg"
    server.shutdown()
    server.server_close()


def manifest_options() -> list[str]:
    """What the Kubernetes manifest starts Triton with, but for its repository and addresses."""
    (deployment,) = [
        item
        for item in yaml.safe_load_all((DEPLOY / "kubernetes" / "triton.yaml").read_text("utf-8"))
        if item["kind"] == "Deployment"
    ]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return [word for word in container["args"] if "address" not in word and "repository" not in word]


def test_runs_outlive_a_dead_model_and_a_restart(
    start_triton: Callable[..., TritonServer],
    product_repository: Path,
    camera: str,
    start: Callable[..., subprocess.Popen[str]],
    command_server: CommandServer,
    tmp_path: Path,
) -> None:
    server = start_triton(product_repository, *manifest_options())
    with pytest.raises(urllib.error.HTTPError):  # nobody loads a model
        urllib.request.urlopen(f"{server.address}/v2/repository/models/sharpose/load", data=b"{}")
    words = [camera, "--full-frame", "--server", server.url, "--reconnect", "forever", "--json", "live.jsonl"]
    live = start("run", *words)
    path = tmp_path / "live.jsonl"

    def written() -> int:
        return len(path.read_text("utf-8").splitlines()) if path.exists() else 0

    wait_until(lambda: written() >= 3 or live.poll() is not None, "poses before")
    (model,) = server.model_processes()
    os.kill(model, signal.SIGKILL)
    assert command_server.run("doctor", ["--server", server.url], tmp_path).returncode == 1
    assert urllib.request.urlopen(f"{server.address}/v2/health/ready").status == 200  # which is why there is the doctor
    server.kill()
    video = start("run", SCENES[0], "--server", server.url, "--json", "file.jsonl", "--quiet")
    before = written()
    server.start()
    wait_until(lambda: written() >= before + 3 or live.poll() is not None, "poses after")
    assert ended(video)[0] == 0
    assert len(lines_of(tmp_path / "file.jsonl")) == 4
    assert command_server.run("doctor", ["--server", server.url], tmp_path).returncode == 0
    live.send_signal(signal.SIGINT)
    code, said = ended(live)
    assert code == 130, said
    indices = [line["frame"] for line in lines_of(path)]
    assert indices == sorted(set(indices))
    assert len(indices) < indices[-1] + 1  # frames were dropped meanwhile
