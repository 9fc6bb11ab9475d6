"""A real tritonserver 2.51, out of a wheel, in an environment with numpy < 2 that is made once and kept."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from sharpose.file_locks import file_lock

ROOT = Path(__file__).resolve().parents[2]
_SERVER = ["nvidia-pytriton==0.7.0", "tritonclient==2.73.0"]  # without their dependencies: for their files alone
_PACKAGES = ["numpy<2", "onnxruntime", "pydantic", "pyyaml"]  # what the product needs to serve on a CPU
_VERSION = "2"  # of all that is made here


class NoTritonError(Exception):
    """Why there is no server here."""


class TritonFailedError(Exception):
    """A server didn't start; the end of its log."""


class TritonHome:
    """Where the server and its Python live.

    Raises:
        NoTritonError: this machine can't run it, or the package index doesn't have it.
    """

    def __init__(self, folder: Path = ROOT / "build" / "triton") -> None:
        self.library = Path(str(sysconfig.get_config_var("LIBDIR"))) / str(sysconfig.get_config_var("INSTSONAME"))
        if (sys.platform, platform.machine()) != ("linux", "x86_64"):
            raise NoTritonError(f"the wheel is for Linux on x86-64, this is {sys.platform} on {platform.machine()}")
        if not (3, 8) <= sys.version_info[:2] <= (3, 12):
            raise NoTritonError(
                f"numpy < 2 and the wheel are for Python 3.8 to 3.12, this is {platform.python_version()}"
            )
        if not self.library.is_file():
            raise NoTritonError(f"Triton needs a Python with a shared library; {self.library} is none")
        self.python = folder / "bin" / "python"
        self.site = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
        self.server = self.site / "pytriton" / "tritonserver"
        folder.parent.mkdir(exist_ok=True)
        with file_lock(folder.with_suffix(".lock")):
            marker, wanted = folder / "made", f"{_VERSION} {sys.version} {_SERVER} {_PACKAGES}"
            if not (marker.is_file() and marker.read_text() == wanted):
                shutil.rmtree(folder, ignore_errors=True)
                self._make(folder)
                marker.write_text(wanted)

    def _make(self, folder: Path) -> None:
        venv.create(folder, symlinks=True)
        constraints = folder / "constraints.txt"
        lines = (ROOT / "constraints.txt").read_text().splitlines()
        constraints.write_text("\n".join(line for line in lines if not line.startswith(("numpy==", "#"))))
        self._install("-c", str(constraints), *_PACKAGES)
        self._install("--no-deps", *_SERVER)
        backend = self.server / "backends" / "python"
        stub = self.server / "python_backend_stubs" / f"{sys.version_info.major}.{sys.version_info.minor}"
        for path in stub.iterdir():
            shutil.copy(path, backend / path.name)
        (self.site / "checkout.pth").write_text(f"{ROOT}\n")
        for path in (self.server / "bin" / "tritonserver", backend / "triton_python_backend_stub"):
            path.chmod(0o755)

    def _install(self, *arguments: str) -> None:
        pip = [sys.executable, "-m", "pip", "--python", str(self.python), "install", "--quiet", "--no-compile"]
        pip += ["--only-binary", ":all:", "--retries", "1", "--disable-pip-version-check"]
        done = subprocess.run([*pip, *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            raise NoTritonError(f"the package index gives no {arguments[-1]}: {done.stderr.strip().splitlines()[-1]}")

    def config_proto(self) -> ModuleType:
        """The module of Triton's model configuration of tritonclient, which alone takes newer protobufs."""
        import importlib.util

        path = self.site / "tritonclient" / "grpc" / "model_config_pb2.py"
        spec = importlib.util.spec_from_file_location("model_config_pb2", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def environment(self) -> dict[str, str]:
        """For the server: its models' Python is the first on PATH. (They don't see PYTHONPATH.)"""
        own = dict(os.environ) | {"OMP_NUM_THREADS": "1"}
        paths = {"PATH": str(self.python.parent), "LD_LIBRARY_PATH": str(self.library.parent)}
        return own | {key: os.pathsep.join(filter(None, [path, own.get(key)])) for key, path in paths.items()}


class TritonServer:
    """A server on free ports of 127.0.0.1, not started yet.

    Args:
        home: The program.
        repository: Of models.
        log: File that it writes to.
        options: More options of its command line.
        packages: Folder of Python packages that its models see before their own: its working folder.

    Attributes:
        url: Of the model, as `sharpose-run --server` takes it.
        address: Of the server, without the model.
        grpc_url: As `url`.
        metrics_url: Of Prometheus' metrics.
        log: What it writes.
    """

    def __init__(
        self,
        home: TritonHome,
        repository: Path,
        log: Path,
        options: Sequence[str] = (),
        packages: Path | None = None,
    ) -> None:
        self._home, self._repository, self.log = home, repository, log
        self._options, self._folder = list(options), packages or log.parent
        self._ports = _free_ports(3)
        http, grpc, metrics = self._ports
        self.address = f"http://127.0.0.1:{http}"
        self.url = f"{self.address}/sharpose"
        self.grpc_url = f"grpc://127.0.0.1:{grpc}/sharpose"
        self.metrics_url = f"http://127.0.0.1:{metrics}/metrics"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, ready: bool = True) -> None:
        """Start it, and wait until it is ready or, where it never will be (`ready=False`), until it has ended.

        Raises:
            TritonFailedError: it isn't ready within a minute, or ends before.
        """
        flags = {
            "--model-repository": self._repository,
            "--backend-directory": self._home.server / "backends",
            "--exit-timeout-secs": 3,
            "--allow-gpu-metrics": "false",
        }
        for kind, port in zip(("http", "grpc", "metrics"), self._ports, strict=True):
            flags |= {f"--{kind}-address": "127.0.0.1", f"--{kind}-port": port}
        command = [str(self._home.server / "bin" / "tritonserver"), "--disable-auto-complete-config"]
        command += [f"{key}={value}" for key, value in flags.items()]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *self._options],
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env=self._home.environment(),
            )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                if ready:
                    raise TritonFailedError(self.log.read_text(errors="replace")[-3000:])
                return
            with contextlib.suppress(OSError):
                if ready and urllib.request.urlopen(f"{self.address}/v2/health/ready").status == 200:
                    urllib.request.urlopen(self.metrics_url).close()  # the last that it opens
                    return
            time.sleep(0.05)
        raise TritonFailedError(self.log.read_text(errors="replace")[-3000:])

    def stop(self) -> None:
        """End it, as SIGTERM does."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def kill(self) -> None:
        """End it at once, with its models' processes."""
        if self._process is None:
            return
        models = self.model_processes()
        self._process.kill()
        self._process.wait()
        self._process = None
        for model in models:
            with contextlib.suppress(ProcessLookupError):
                os.kill(model, signal.SIGKILL)

    def model_processes(self) -> list[int]:
        """The processes that run models in Python."""
        assert self._process is not None, "the server isn't running"
        children = Path(f"/proc/{self._process.pid}/task").glob("*/children")
        found = [int(child) for path in children for child in path.read_text().split()]
        return [pid for pid in found if "python_backend_stub" in Path(f"/proc/{pid}/cmdline").read_text()]

    def get(self, path: str) -> Any:  # noqa: ANN401
        """JSON of a path below the server's address, such as `/v2/models/sharpose/config`."""
        with urllib.request.urlopen(self.address + path) as answer:
            return json.loads(answer.read())

    def counted(self, at_least: int = 0) -> tuple[int, int]:
        """Requests that the model served, and executions that they took.

        Triton counts a request a little after its answer, so this waits up to 5 s for `at_least` requests.
        """
        deadline = time.monotonic() + 5
        while True:
            (model,) = self.get("/v2/models/sharpose/stats")["model_stats"]
            requests = int(model["inference_stats"]["success"]["count"])
            if requests >= at_least or time.monotonic() > deadline:
                return requests, int(model["execution_count"])
            time.sleep(0.02)


def _free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)]
        return [item.getsockname()[1] for item in sockets]
