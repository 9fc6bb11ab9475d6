"""Entry points of the commands; `python -m sharpose run …` is `sharpose-run …`.

Ctrl-C, SIGTERM or SIGHUP while modules are still being imported ends a command as it does later, with 130, 143 or 129
and one line.
"""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import NoReturn

_MODULES = {
    "run": "sharpose.runtime.cli",
    "archive": "sharpose.archive.cli",
    "export": "sharpose.export.cli",
    "train": "sharpose.training.train_cli",
    "eval": "sharpose.training.eval_cli",
    "doctor": "sharpose.runtime.doctor.cli",
}


_ENDS: dict[int, tuple[int, bytes]]  # the exit code and the word for each signal
if sys.platform == "win32":  # SIGBREAK is Ctrl-Break, a closed console, and what stands for SIGTERM there
    _ENDS = {
        signal.SIGINT: (130, b"interrupted"),
        signal.SIGTERM: (143, b"terminated"),
        signal.SIGBREAK: (143, b"terminated"),
    }
else:
    _ENDS = {
        signal.SIGINT: (130, b"interrupted"),
        signal.SIGTERM: (143, b"terminated"),
        signal.SIGHUP: (129, b"hung up"),
    }


def _end(signum: int, frame: FrameType | None) -> None:
    """Nothing has been opened or written yet."""
    code, word = _ENDS[signum]
    try:
        os.write(2, b"error: " + word + b"\n")
    finally:  # standard error may be closed
        os._exit(code)


def end_on_signals() -> None:
    """Let Ctrl-C, SIGTERM and SIGHUP end the process at once, with one line, until `sharpose.cli.interruptible`."""
    for number, (code, _) in _ENDS.items():
        if code != 129 or signal.getsignal(number) is not signal.SIG_IGN:  # as nohup leaves SIGHUP
            signal.signal(number, _end)


def _start(name: str) -> NoReturn:
    end_on_signals()
    from importlib import import_module

    import_module(_MODULES[name]).main()
    raise AssertionError("commands end by SystemExit")


def run() -> NoReturn:
    """`sharpose-run`."""
    _start("run")


def archive() -> NoReturn:
    """`sharpose-archive`."""
    _start("archive")


def export() -> NoReturn:
    """`sharpose-export`."""
    _start("export")


def train() -> NoReturn:
    """`sharpose-train`."""
    _start("train")


def evaluate() -> NoReturn:
    """`sharpose-eval`."""
    _start("eval")


def doctor() -> NoReturn:
    """`sharpose-doctor`."""
    _start("doctor")


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in _MODULES:
        print(f"error: expected a command, one of {', '.join(_MODULES)}: python -m sharpose run …", file=sys.stderr)
        sys.exit(2)
    command = sys.argv.pop(1)
    sys.argv[0] = f"python -m sharpose {command}"  # in the help
    _start(command)
