"""Commands in forks of one process that has imported what they need: starting each takes milliseconds, not a second.

A fork has its own folder, environment, standard output and error, and ends as a process of its own does. What is about
Python's start, imports, pipes or signals runs the installed program instead.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_IMPORTED = (
    "sharpose.runtime.cli",
    "sharpose.runtime.assemble",
    "sharpose.runtime.run",
    "sharpose.runtime.sinks",
    "sharpose.runtime.sources",
    "sharpose.engines.onnxrt",
    "sharpose.scene",
    "numpy.ma",
    "numpy.random",
    "onnxruntime",
)
CLOSED = "closed"
"""A stream whose descriptor is closed."""
UNREAD = "unread"
"""A stream that is a pipe whose reader has gone."""


class CommandServer:
    """The process that forks; it starts with the first command and ends with `close`, or with the tests.

    Args:
        environment: Of the process, and of every command.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)
        self._process: subprocess.Popen[bytes] | None = None

    def run(
        self,
        command: str,
        arguments: Sequence[object],
        folder: Path,
        variables: Mapping[str, str] | None = None,
        *,
        stdout: str | None = None,
        stderr: str | None = None,
        seconds: float = 300,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; standard input is empty.

        Args:
            command: Its function in `sharpose.__main__`.
            arguments: Its command line.
            folder: The current folder.
            variables: Environment variables beside those of all commands.
            stdout: `CLOSED`, `UNREAD` or a file's path; None to return what is written there.
            stderr: Likewise.
            seconds: It is killed after so many.

        Raises:
            subprocess.TimeoutExpired: It was killed.
        """
        server = self._started()
        assert server.stdin is not None
        with tempfile.TemporaryDirectory() as temporary:
            kept = [Path(temporary, name) for name in ("stdout", "stderr")]
            for path in kept:
                path.touch()
            order = {
                "command": command,
                "arguments": list(map(str, arguments)),
                "folder": str(folder),
                "environment": self._environment | dict(variables or {}),
                "streams": [given or str(path) for given, path in zip((stdout, stderr), kept, strict=True)],
            }
            server.stdin.write(json.dumps(order).encode() + b"\n")
            pid = int(self._answer(120))  # it may be importing
            try:
                code = int(self._answer(seconds))
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                self._answer(120)
                raise subprocess.TimeoutExpired([command, *order["arguments"]], seconds) from None
            said, errors = (path.read_text("utf-8") for path in kept)
        return subprocess.CompletedProcess([command, *order["arguments"]], code, said, errors)

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                env=self._environment | {"OMP_NUM_THREADS": "1"},  # a process with threads can't be forked safely
            )
        return self._process

    def _answer(self, seconds: float) -> bytes:
        assert self._process is not None
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], seconds)
        if not ready:
            raise TimeoutError
        line = self._process.stdout.readline()
        assert line, "the process that forks has ended"
        return line

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.communicate()
            self._process = None


def _serve() -> str | None:
    """Fork for each line of standard input; returns in the fork, with its command, and at the end of standard input."""
    orders, answers = os.fdopen(os.dup(0), "r"), os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os.dup2(2, 1)
    for name in _IMPORTED:
        importlib.import_module(name)
    gc.freeze()
    os.getloadavg = lambda: (0.0, 0.0, 0.0)  # so that what batches cost is kept, though tests keep the machine busy
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    for line in orders:
        pid = os.fork()
        if pid == 0:
            orders.close()
            answers.close()
            return _become(json.loads(line))
        print(pid, file=answers)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), file=answers)
    return None


def _become(order: dict[str, Any]) -> str:
    """Take on what the order says; its command."""
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    for number, (stream, name) in enumerate(zip(order["streams"], ("stdout", "stderr"), strict=True), 1):
        if stream == CLOSED:
            os.close(number)
            setattr(sys, name, None)
            continue
        if stream == UNREAD:
            reading, writing = os.pipe()
            os.close(reading)
        else:
            writing = os.open(stream, os.O_WRONLY)
        os.dup2(writing, number)
        os.close(writing)
        encoding = os.environ.get("PYTHONIOENCODING", "utf-8")
        buffering = 1 if name == "stderr" else -1
        setattr(sys, name, open(number, "w", buffering, encoding, closefd=False))  # noqa: SIM115
    command: str = order["command"]
    sys.argv = [f"sharpose-{command}", *order["arguments"]]
    return command


if __name__ == "__main__":
    chosen = _serve()
    if chosen is not None:
        getattr(importlib.import_module("sharpose.__main__"), chosen)()
