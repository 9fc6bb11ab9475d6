"""What is said of a stream's state, and when a run isn't well."""

from __future__ import annotations

import json

import pytest

from sharpose.runtime.frames import SourceHealth
from sharpose.runtime.serve.handler import state_json, status_of, trouble
from sharpose.runtime.serve.numbers import StreamCounter


@pytest.fixture
def counter(clock):
    def make(name: str = "a", *, live: bool = True, connected: bool = True) -> StreamCounter:
        return StreamCounter(name, live=live, health=SourceHealth(connected=connected), clock=clock)

    return make


def test_status(counter, clock, make_record) -> None:
    one = counter()
    assert status_of(one.read(), 10) == "waiting"
    one.add(make_record(0, age=0.01))
    assert status_of(one.read(), 10) == "running"
    clock.now += 10.5
    assert status_of(one.read(), 10) == "silent"
    one.end(failed=False)
    assert status_of(one.read(), 10) == "ended"
    assert status_of(counter(connected=False).read(), 10) == "reconnecting"
    bad = counter()
    bad.end(failed=True)
    assert status_of(bad.read(), 10) == "failed"


def test_a_live_stream_must_not_be_silent(counter, clock, make_record) -> None:
    one, other = counter("cam 1"), counter("cam 2")
    for index in range(3):
        one.add(make_record(index, age=0.01))
    clock.now += 9
    other.add(make_record(0, age=0.01))
    assert trouble([one.read(), other.read()], 10) is None
    clock.now += 3
    assert trouble([one.read(), other.read()], 10) == "cam 1: no frame for 12 s"
    one.end(failed=False)
    assert trouble([one.read(), other.read()], 10) is None


def test_a_live_stream_that_never_began(counter, clock) -> None:
    one = counter("cam")
    assert trouble([one.read()], 10) is None
    clock.now += 11
    assert trouble([one.read()], 10) == "cam: no frame for 11 s"


def test_a_file_may_take_its_time(counter, clock, make_record) -> None:
    one = counter(live=False)
    one.add(make_record(0))
    clock.now += 1000
    assert trouble([one.read()], 10) is None


def test_failed_streams(counter) -> None:
    one, other = counter("a"), counter("b")
    one.end(failed=True)
    assert trouble([one.read()], 10) == "a: the stream has failed"
    assert trouble([one.read(), other.read()], 10) is None  # the other goes on
    other.end(failed=True)
    assert trouble([one.read(), other.read()], 10) == "every stream has failed"
    assert trouble([], 10) is None


def test_json(counter, make_record) -> None:
    one = counter('tür "1" </script>')
    one.add(make_record(0, people=4, refined=1, wanted=3, age=0.0123456, stages={"map_back": 0.002}))
    text = state_json([one.read()], 10)
    assert text.isascii()
    state = json.loads(text)
    assert state["trouble"] is None
    (stream,) = state["streams"]
    assert stream["name"] == 'tür "1" </script>'
    assert stream["now"] == {"people": 4, "refined": 1, "deferred": 2}
    assert (stream["wanted"], stream["deferred"], stream["live"]) == (3, 2, True)
    assert stream["age_ms"] == [12.346, 12.346]
    assert stream["stages"] == [{"name": "map_back", "p50_ms": 2.0, "p95_ms": 2.0}]
