"""What is counted of a stream, on a clock that the test turns."""

from __future__ import annotations

import pytest

from sharpose.runtime.frames import SourceHealth
from sharpose.runtime.serve.numbers import BOUNDS, Histogram, StreamCounter


def test_totals_and_the_newest_frame(clock, make_record) -> None:
    counter = StreamCounter("a", live=False, health=SourceHealth(), clock=clock)
    counter.add(make_record(0, people=5, refined=2))
    counter.add(make_record(1, people=4, refined=1, wanted=3))
    counter.add(make_record(2, people=1, refined=0, wanted=0))
    numbers = counter.read()
    assert (numbers.frames, numbers.people, numbers.refined) == (3, 10, 3)
    assert (numbers.wanted, numbers.deferred) == (2 + 3, 2)  # without a deadline all wanted are refined
    assert (numbers.people_now, numbers.refined_now, numbers.deferred_now) == (1, 0, 0)
    assert numbers.refine_rate == pytest.approx(0.3)
    assert numbers.size == (64, 48)


def test_frame_rate_looks_back_five_seconds(clock, make_record) -> None:
    counter = StreamCounter("a", live=True, health=SourceHealth(), clock=clock)
    assert counter.read().frame_rate == 0
    for index in range(100):
        clock.now += 0.1
        counter.add(make_record(index))
    assert counter.read().frame_rate == pytest.approx(10, abs=0.21)
    clock.now += 2.5
    assert counter.read().frame_rate == pytest.approx(5, abs=0.21)
    assert counter.read().silence == pytest.approx(2.5)
    clock.now += 10
    assert counter.read().frame_rate == 0


def test_percentiles_of_the_newest_frames(clock, make_record) -> None:
    counter = StreamCounter("a", live=False, health=SourceHealth(), clock=clock)
    for index in range(400):
        counter.add(make_record(index, stages={"read": 9.0 if index < 100 else (index - 100) / 299, "fine": 0.25}))
    numbers = counter.read()
    assert list(numbers.stages) == ["read", "fine"]
    assert numbers.stages["read"].p50 == pytest.approx(0.5)
    assert numbers.stages["read"].p95 == pytest.approx(0.95)
    assert numbers.stages["fine"].p95 == pytest.approx(0.25)
    assert numbers.stage_seconds["fine"].sum == pytest.approx(100)
    assert numbers.stage_seconds["read"].cumulative[-1] == ("+Inf", 400)


def test_age_tells_a_live_stream(clock, make_record) -> None:
    counter = StreamCounter("a", live=False, health=SourceHealth(), clock=clock)
    counter.add(make_record(0))
    assert counter.read().age is None
    assert not counter.read().live
    counter.add(make_record(1, age=0.02))
    numbers = counter.read()
    assert numbers.live
    assert numbers.age is not None
    assert numbers.age.p50 == pytest.approx(0.02)


def test_health_is_read_when_it_is_asked_for(clock, make_record) -> None:
    before = SourceHealth(connected=False)
    counter = StreamCounter("a", live=True, health=before, clock=clock)
    assert not counter.read().connected
    health = SourceHealth(dropped=3)
    counter.add(make_record(0, health=health))
    assert counter.read().connected
    health.dropped, health.reconnects, health.connected = 8, 2, False  # its own thread goes on
    numbers = counter.read()
    assert (numbers.dropped, numbers.reconnects, numbers.connected) == (8, 2, False)


def test_the_first_ending_counts(clock) -> None:
    counter = StreamCounter("a", live=True, health=SourceHealth(), clock=clock)
    counter.end(failed=True)
    counter.end(failed=False)
    numbers = counter.read()
    assert numbers.ended
    assert numbers.failed
    assert not numbers.connected


def test_what_was_read_does_not_change(clock, make_record) -> None:
    counter = StreamCounter("a", live=True, health=SourceHealth(), clock=clock)
    counter.add(make_record(0, age=0.1, stages={"read": 0.1}))
    numbers = counter.read()
    counter.add(make_record(1, age=0.1, stages={"read": 0.1}))
    assert numbers.age_seconds.cumulative[-1][1] == 1
    assert numbers.stage_seconds["read"].cumulative[-1][1] == 1


def test_buckets() -> None:
    histogram = Histogram()
    for seconds in (0.0, 0.0005, 0.0006, 3.0, 100.0):
        histogram.add(seconds)
    cumulative = dict(histogram.cumulative)
    assert cumulative["0.0005"] == 2  # the bound belongs to its bucket
    assert cumulative["0.001"] == 3
    assert cumulative["2.5"] == 3
    assert cumulative["5.0"] == 4
    assert cumulative["10.0"] == 4
    assert cumulative["+Inf"] == 5
    assert len(cumulative) == len(BOUNDS) + 1
    assert histogram.sum == pytest.approx(103.0011)
