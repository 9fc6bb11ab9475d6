"""A run that is asked to stop: the first signal is noted, the second ends it."""

from __future__ import annotations

import os
import signal

import pytest

from sharpose.cli import Terminated
from sharpose.runtime.messages import StopRequest, stop_on_signals


def test_nothing_asked_for() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with stop_on_signals() as stop:
        assert not stop
    assert stop.exit_code == 0
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_is_noted(number: signal.Signals, code: int) -> None:
    with stop_on_signals() as stop:
        os.kill(os.getpid(), number)
        assert stop
    assert stop.signal == number
    assert stop.exit_code == code


@pytest.mark.parametrize(
    ("first", "second", "error"),
    [
        (signal.SIGINT, signal.SIGINT, KeyboardInterrupt),
        (signal.SIGTERM, signal.SIGINT, KeyboardInterrupt),
        (signal.SIGINT, signal.SIGTERM, Terminated),
        (signal.SIGTERM, signal.SIGTERM, Terminated),
    ],
)
def test_the_second_ends_it_at_once(first: signal.Signals, second: signal.Signals, error: type[BaseException]) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    stop = StopRequest()

    def block() -> None:
        nonlocal stop
        with stop_on_signals() as stop:
            os.kill(os.getpid(), first)
            os.kill(os.getpid(), second)

    with pytest.raises(error):
        block()
    assert stop.signal == first
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
