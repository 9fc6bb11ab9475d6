"""What all command-line tools share: one line for an error, the agreed exit codes, `--debug` for the traceback."""

from __future__ import annotations

import io
import os
import signal
import sys
import traceback
from types import FrameType
from typing import NoReturn

import click

from sharpose.errors import SharposeError

__all__ = ["EXIT_FAILED", "EXIT_INTERRUPTED", "EXIT_REFUSED", "EXIT_TERMINATED", "EXIT_USER", "Terminated", "main"]

EXIT_REFUSED = 1
"""A check said no."""
EXIT_USER = 2
"""The user's mistake, or unusable input."""
EXIT_FAILED = 3
"""Something failed on the way, and partial results were kept."""
EXIT_INTERRUPTED = 130
"""Ctrl-C."""
EXIT_TERMINATED = 143
"""SIGTERM."""


class Terminated(BaseException):
    """SIGTERM, as an exception, so that `finally` blocks run."""


def main(command: click.Command, arguments: list[str] | None = None) -> NoReturn:
    """Run a click command and exit with its code: what it returns, or that of the error it ends on.

    Args:
        command: Its callback returns an exit code, or None for 0.
        arguments: The command line; the process's own if None.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    signal.signal(signal.SIGTERM, _terminate)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file's name may hold what the terminal can't show
    try:
        code = command.main(args=arguments, standalone_mode=False)
        sys.stdout.flush()
    except (KeyboardInterrupt, click.Abort):
        _say("interrupted")
        sys.exit(EXIT_INTERRUPTED)
    except Terminated:
        _say("terminated")
        sys.exit(EXIT_TERMINATED)
    except (SharposeError, click.ClickException) as error:
        if "--debug" in arguments:
            traceback.print_exc()
        _say(error.format_message() if isinstance(error, click.ClickException) else str(error))
        sys.exit(error.exit_code)
    except (BrokenPipeError, SystemExit):  # the reader of our output went away; click makes a SystemExit(1) of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python flushes into the pipe once more
        sys.exit(EXIT_FAILED)
    except Exception as error:
        if "--debug" in arguments:
            traceback.print_exc()
        _say(f"unexpected {type(error).__name__}: {error} (a defect in this program; --debug shows where)")
        sys.exit(EXIT_FAILED)
    sys.exit(code if isinstance(code, int) else 0)


def _say(message: str) -> None:
    sys.stdout.flush()
    print(f"error: {' '.join(message.split())}", file=sys.stderr, flush=True)


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise Terminated
