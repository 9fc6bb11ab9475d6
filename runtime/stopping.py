"""Ending a run cleanly on Ctrl-C and SIGTERM: the frame at hand is finished, then the run stops."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

from sharpose.command import EXIT_INTERRUPTED, EXIT_TERMINATED, Terminated

__all__ = ["StopRequest", "stop_on_signals"]

_EXIT_CODES: dict[int, int] = {signal.SIGINT: EXIT_INTERRUPTED, signal.SIGTERM: EXIT_TERMINATED}


class StopRequest:
    """Whether, and how, the run was asked to stop.

    Attributes:
        signal: The signal that asked, or None.
        closed: Whether the user closed a window, which is a good end.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.closed = False

    def __bool__(self) -> bool:
        return self.closed or self.signal is not None

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, 143 after SIGTERM, 0 if the run wasn't asked to stop."""
        return 0 if self.signal is None else _EXIT_CODES[self.signal]


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Note the first signal; a second one ends the run at once."""
    request = StopRequest()

    def handle(signum: int, frame: FrameType | None) -> None:
        if request:
            raise KeyboardInterrupt if signum == signal.SIGINT else Terminated
        request.signal = signum

    previous = {number: signal.signal(number, handle) for number in _EXIT_CODES}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
