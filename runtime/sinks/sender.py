"""Our end of the process that sends a restream."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path

__all__ = ["Sender"]

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
