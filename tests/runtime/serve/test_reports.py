"""What is said of a stream's state, and when a run isn't well."""

from __future__ import annotations

import json

import pytest

from sharpose.runtime.frames import SourceHealth, SourceInfo
from sharpose.runtime.serve.handler import state_json, status_of, trouble
from sharpose.runtime.statistics import StreamSnapshot, StreamStatistics


@pytest.fixture
def counted(clock):
    def make(*, live: bool = True, connected: bool = True) -> StreamStatistics:
        return StreamStatistics(SourceInfo("a", live=live, health=SourceHealth(connected=connected)), clock=clock)

    return make


def test_status(counted, clock, make_record) -> None:
    one = counted()
    assert status_of(one.snapshot(), 10) == "waiting"
    one.add(make_record(0, age=0.01))
    assert status_of(one.snapshot(), 10) == "running"
    clock.now += 10.5
    assert status_of(one.snapshot(), 10) == "silent"
    one.end(failed=False)
    assert status_of(one.snapshot(), 10) == "ended"
    assert status_of(counted(connected=False).snapshot(), 10) == "reconnecting"
    bad = counted()
    bad.end(failed=True)
    assert status_of(bad.snapshot(), 10) == "failed"


def snapshots(**streams: StreamStatistics) -> dict[str, StreamSnapshot]:
    return {name: statistics.snapshot() for name, statistics in streams.items()}


def test_a_live_stream_must_not_be_silent(counted, clock, make_record) -> None:
    one, other = counted(), counted()
    for index in range(3):
        one.add(make_record(index, age=0.01))
    clock.now += 9
    other.add(make_record(0, age=0.01))
    assert trouble(snapshots(a=one, b=other), 10) is None
    clock.now += 3
    assert trouble(snapshots(a=one, b=other), 10) == "a: no frame for 12 s"
    one.end(failed=False)
    assert trouble(snapshots(a=one, b=other), 10) is None


def test_a_live_stream_that_never_began(counted, clock) -> None:
    one = counted()
    assert trouble(snapshots(a=one), 10) is None
    clock.now += 11
    assert trouble(snapshots(a=one), 10) == "a: no frame for 11 s"


def test_a_file_may_take_its_time(counted, clock, make_record) -> None:
    one = counted(live=False)
    one.add(make_record(0))
    clock.now += 1000
    assert trouble(snapshots(a=one), 10) is None


def test_failed_streams(counted) -> None:
    one, other = counted(), counted()
    one.end(failed=True)
    assert trouble(snapshots(a=one), 10) == "a: the stream has failed"
    assert trouble(snapshots(a=one, b=other), 10) is None  # the other goes on
    other.end(failed=True)
    assert trouble(snapshots(a=one, b=other), 10) == "every stream has failed"
    assert trouble({}, 10) is None


def test_json(counted, make_record) -> None:
    one = counted()
    one.add(make_record(0, people=4, refined=1, wanted=3, age=0.0123456, stages={"map_back": 0.002}))
    text = state_json({'tür "1" </script>': one.snapshot()}, 10)
    assert text.isascii()
    state = json.loads(text)
    assert state["trouble"] is None
    (stream,) = state["streams"]
    assert stream["name"] == 'tür "1" </script>'
    assert stream["now"] == {"people": 4, "refined": 1, "deferred": 2}
    assert (stream["wanted"], stream["deferred"], stream["live"]) == (3, 2, True)
    assert stream["age_ms"] == [12.346, 12.346]
    assert stream["stages"] == [{"name": "map_back", "p50_ms": 2.0, "p95_ms": 2.0}]
