"""`LiveSource` where the inner source falls silent or hangs; the clock, waits and jitter are the test's."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from live_stand_ins import Factory, Inner, frame, some, then

from sharpose.errors import SourceError
from sharpose.runtime.frames import Frame
from sharpose.runtime.options import FOREVER, SourceOptions
from sharpose.runtime.sources.live import Backoff


def test_silence_is_a_loss_even_where_the_library_does_not_notice(made):
    release, said = threading.Event(), []
    hanging = Inner(then(2, lambda: release.wait(60)))
    source = made(
        Factory(hanging, Inner(some(2))), SourceOptions(buffer="all", timeout=0.2, reconnect=FOREVER), say=said.append
    )
    frames = iter(source)
    assert [next(frames).index for _ in range(4)] == [0, 1, 2, 3]
    assert said[0] == "cam: lost (no picture for 0.2 s); trying again"
    assert not hanging.closed.is_set()  # its own thread has it
    release.set()
    assert hanging.closed.wait(10)


def test_silence_without_reconnecting_is_an_error(made):
    release = threading.Event()
    source = made(
        Factory(Inner(then(1, lambda: release.wait(60)))), SourceOptions(buffer="all", timeout=0.2, reconnect=0)
    )
    with pytest.raises(SourceError, match=r"cam: no picture for 0\.2 s; is it still there"):
        list(source)
    release.set()


def test_pictures_that_are_left_out_are_no_silence(made):
    inner = Inner(lambda: decode())
    inner.progress = 0  # type: ignore[attr-defined]

    def decode() -> Iterator[Frame]:
        for _ in range(40):
            time.sleep(0.05)
            inner.progress += 1  # type: ignore[attr-defined]
        yield frame(40)

    source = made(Factory(inner), SourceOptions(buffer="all", timeout=0.2, reconnect=0))
    assert [found.index for found in source] == [40]


def test_a_late_answer_of_an_abandoned_attempt_is_let_go(made):
    release, late = threading.Event(), Inner(some(3))
    calls = 0

    def factory() -> Inner:
        nonlocal calls
        calls += 1
        if calls == 1:
            release.wait(60)
            return late
        return Inner(some(1))

    source = made(factory, SourceOptions(buffer="all", timeout=0.2, reconnect=FOREVER))
    assert next(iter(source)).index == 0
    release.set()
    assert late.closed.wait(10)


def test_hanging_attempts_do_not_pile_up(made):
    release, calls = threading.Event(), []

    def factory() -> Inner:
        calls.append(1)
        release.wait(60)
        raise SourceError("cam: too late")

    source = made(factory, SourceOptions(timeout=0.01, reconnect=FOREVER))
    time.sleep(5)
    assert len(calls) <= 4
    release.set()
    source.close()


@pytest.mark.parametrize("where", ["connecting", "reading"])
def test_closing_does_not_wait_for_what_hangs(made, where):
    release = threading.Event()

    def factory() -> Inner:
        if where == "connecting":
            release.wait(60)
        return Inner(then(1, lambda: release.wait(60)))

    source = made(factory, SourceOptions(buffer="all", reconnect=FOREVER))
    if where == "reading":
        assert next(iter(source)).index == 0
    began = time.monotonic()
    source.close()
    source.close()
    assert time.monotonic() - began < 10
    assert list(source) == []
    assert source.queue.ended
    release.set()


def test_closing_ends_a_wait_for_the_next_attempt(made):
    source = made(
        Factory(Inner(some(1)), SourceError("cam: refused")),
        sleep=None,
        backoff=Backoff(600.0, 600.0, uniform=lambda: 0.0),
    )
    time.sleep(0.1)
    source.close()
    assert source.queue.ended
    assert not any("supervisor of cam" in thread.name and thread.is_alive() for thread in threading.enumerate())
