"""What is counted of a stream, on a clock that the test turns, and the table that ends a run."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from sharpose.runtime.frames import Frame, FrameRecord, SourceHealth, SourceInfo
from sharpose.runtime.result import Boxes, PoseResult
from sharpose.runtime.statistics import (
    AGE,
    BOUNDS,
    RECENT,
    STAGES,
    Durations,
    StreamSnapshot,
    StreamStatistics,
    summary_of,
    table_of_stages,
)

ZERO = dict.fromkeys(STAGES[:-1], 0.0)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make(clock: Clock) -> Callable[..., StreamStatistics]:
    def statistics(*, live: bool = False, health: SourceHealth | None = None) -> StreamStatistics:
        return StreamStatistics(SourceInfo("a", live=live, health=health or SourceHealth()), clock=clock)

    return statistics


def record(
    people: int = 0,
    refined: int = 0,
    wanted: int | None = None,
    *,
    age: float | None = None,
    stages: Mapping[str, float] | None = None,
    late: bool = False,
) -> FrameRecord:
    poses = PoseResult(
        Boxes.from_xyxy(np.tile([0, 0, 9, 9], (people, 1))),
        np.zeros((people, 17, 3), np.float32),
        np.zeros(people, np.float32),
        np.arange(people) < refined,
        wanted=None if wanted is None else np.arange(people) < wanted,
    )
    frame = Frame(np.zeros((48, 64, 3), np.uint8), 0, 0.0, 0)
    return FrameRecord(frame, poses, lambda image, _: image, stages or {}, age, late)


@pytest.fixture
def hundred_frames(make: Callable[..., StreamStatistics], clock: Clock) -> StreamSnapshot:
    """Frame i takes i ms to read, 2i in the coarse stage, 1 in the others; two people, every fourth of them refined."""
    statistics = make()
    for index in range(101):
        stages = {**dict.fromkeys(ZERO, 0.001), "read": 0.001 * index, "coarse": 0.002 * index}
        statistics.add(record(2, index % 2, stages=stages), write_seconds=0.25)
    clock.now += 20.0
    statistics.end(failed=False)
    return statistics.snapshot()


def test_totals_and_the_newest_frame(make: Callable[..., StreamStatistics]) -> None:
    statistics = make()
    statistics.add(record(5, 2))
    statistics.add(record(4, 1, 3, late=True))
    statistics.add(record(1, 0, 0))
    numbers = statistics.snapshot()
    assert (numbers.frames, numbers.people, numbers.refined, numbers.late) == (3, 10, 3, 1)
    assert (numbers.wanted, numbers.deferred) == (2 + 3, 2)  # without a deadline all wanted are refined
    assert (numbers.people_now, numbers.refined_now, numbers.deferred_now) == (1, 0, 0)
    assert numbers.refine_rate == numbers.recent_refine_rate == pytest.approx(0.3)
    assert numbers.size == (64, 48)


def test_nothing_run_is_all_zeros(make: Callable[..., StreamStatistics]) -> None:
    numbers = make().snapshot()
    assert numbers.refine_rate == numbers.recent_refine_rate == numbers.frame_rate == numbers.recent_frame_rate == 0.0
    assert list(numbers.durations) == [*STAGES, AGE]
    assert all(durations.percentiles(50, 99) == [0.0, 0.0] for durations in numbers.durations.values())


def test_frames_without_people_have_no_refine_rate(make: Callable[..., StreamStatistics], clock: Clock) -> None:
    statistics = make()
    statistics.add(record())
    clock.now += 2
    statistics.end(failed=False)
    numbers = statistics.snapshot()
    assert (numbers.frames, numbers.people, numbers.refine_rate, numbers.frame_rate) == (1, 0, 0.0, 0.5)


def test_the_recent_frame_rate_looks_back_five_seconds(make: Callable[..., StreamStatistics], clock: Clock) -> None:
    statistics = make(live=True)
    assert statistics.snapshot().recent_frame_rate == statistics.frame_rate == 0
    for _ in range(100):
        clock.now += 0.1
        statistics.add(record())
    clock.now += 0.1
    assert statistics.frame_rate == pytest.approx(10)  # the next one isn't late
    clock.now -= 0.1
    assert statistics.snapshot().recent_frame_rate == pytest.approx(10, abs=0.21)
    clock.now += 2.5
    assert statistics.snapshot().recent_frame_rate == pytest.approx(5, abs=0.21)
    assert statistics.snapshot().silence == pytest.approx(2.5)
    assert statistics.frame_rate == pytest.approx(29 / (2.9 + 2.4))  # of the newest 30, and of 2.4 s without one
    clock.now += 10
    assert statistics.snapshot().recent_frame_rate == 0
    clock.now += 3600
    assert statistics.frame_rate == pytest.approx(29 / 3615, rel=0.01)


def test_percentiles_are_milliseconds_of_each_stage(hundred_frames: StreamSnapshot) -> None:
    durations = hundred_frames.durations
    assert durations["read"].percentiles(50, 95, 99) == pytest.approx([50, 95, 99])
    assert durations["coarse"].percentiles(50, 95, 99) == pytest.approx([100, 190, 198])
    assert durations["map_back"].percentiles(50, 95, 99) == pytest.approx([1, 1, 1])
    assert durations["write"].percentiles(50, 95, 99) == pytest.approx([250, 250, 250])


def test_stages_stand_in_their_order() -> None:
    before, after = ("read", "boxes", "crop", "coarse", "gate", "gather", "fine"), ("map_back", "track", "write")
    assert (*before, "server", *after) == STAGES


def test_the_newest_ten_thousand_durations_are_kept_and_all_are_in_the_histogram() -> None:
    durations = Durations()
    for index in range(10_010):
        durations.add(9.0 if index < 10 else (index - 9710) / 299 if index >= 9710 else 0.25)
    assert durations.percentiles(100) == pytest.approx([1000 * 299 / 299])
    assert durations.percentiles(50) == pytest.approx([250])
    for same in (durations, Durations.total([durations])):
        assert same.percentiles(50, 95, newest=RECENT) == pytest.approx([500, 950])
    assert len(durations) == 10_010
    assert durations.cumulative[-1] == ("+Inf", 10_010)


def test_buckets() -> None:
    durations = Durations()
    for seconds in (0.0, 0.0005, 0.0006, 3.0, 100.0):
        durations.add(seconds)
    cumulative = dict(durations.cumulative)
    assert cumulative["0.0005"] == 2  # the bound belongs to its bucket
    assert cumulative["0.001"] == cumulative["2.5"] == 3
    assert cumulative["5.0"] == cumulative["10.0"] == 4
    assert cumulative["+Inf"] == 5
    assert len(cumulative) == len(BOUNDS) + 1
    assert durations.sum == pytest.approx(103.0011)


def test_age_tells_a_live_stream(make: Callable[..., StreamStatistics]) -> None:
    statistics = make()
    statistics.add(record())
    assert not statistics.snapshot().live
    assert not len(statistics.snapshot().durations[AGE])
    statistics.add(record(age=0.02))
    assert statistics.snapshot().live
    assert statistics.snapshot().durations[AGE].percentiles(50) == pytest.approx([20])


def test_health_is_that_of_the_moment(make: Callable[..., StreamStatistics]) -> None:
    health = SourceHealth(connected=False)
    statistics = make(live=True, health=health)
    assert not statistics.snapshot().connected
    health.connected = True
    assert statistics.snapshot().connected
    health.dropped, health.reconnects, health.connected = 8, 2, False
    numbers = statistics.snapshot()
    assert (numbers.dropped, numbers.reconnects, numbers.connected) == (8, 2, False)


def test_the_durations_of_a_stream_that_is_over_are_not_copied(make: Callable[..., StreamStatistics]) -> None:
    statistics = make()
    statistics.add(record(stages={"read": 0.1}))
    assert statistics.snapshot().durations["read"] is not statistics.snapshot().durations["read"]
    statistics.end(failed=False)
    assert statistics.snapshot().durations["read"] is statistics.snapshot().durations["read"]
    assert statistics.snapshot().durations["read"].percentiles(50) == pytest.approx([100])


def test_the_first_ending_counts(make: Callable[..., StreamStatistics], clock: Clock) -> None:
    statistics = make(live=True)
    clock.now += 3
    statistics.begin()
    clock.now += 5
    statistics.end(failed=True)
    clock.now += 1
    statistics.end(failed=False)
    numbers = statistics.snapshot()
    assert (numbers.ended, numbers.failed, numbers.connected, numbers.seconds) == (True, True, False, 5.0)


def test_a_snapshot_does_not_change(make: Callable[..., StreamStatistics]) -> None:
    statistics = make(live=True)
    statistics.add(record(1, age=0.1, stages={"read": 0.1}))
    numbers = statistics.snapshot()
    statistics.add(record(1, age=0.1, stages={"read": 0.1}))
    assert (numbers.frames, numbers.people) == (1, 1)
    assert [len(numbers.durations[name]) for name in ("read", AGE)] == [1, 1]
    assert statistics.snapshot().frames == 2


def test_snapshots_of_another_thread_are_consistent(make: Callable[..., StreamStatistics]) -> None:
    statistics, one = make(), record(2, 1, stages={"read": 0.001})

    def count() -> None:
        for _ in range(3000):
            statistics.add(one, write_seconds=0.25)

    run = threading.Thread(target=count)
    run.start()
    while run.is_alive():
        numbers = statistics.snapshot()
        assert numbers.people == 2 * numbers.frames == 2 * numbers.refined
        assert len(numbers.durations["read"]) == len(numbers.durations["write"]) == numbers.frames
    run.join()
    assert statistics.snapshot().frames == 3000


def shown(numbers: StreamSnapshot) -> str:
    text = io.StringIO()
    Console(file=text, width=60).print(table_of_stages(numbers))
    return text.getvalue()


def test_the_line_and_the_table_say_it_all(hundred_frames: StreamSnapshot) -> None:
    line = summary_of(hundred_frames, warm_up=1.54)
    assert line == "frames 101, people 202, refined 50 (25%), 5.0 frames a second (after 1.5 s of warm-up)"
    lines = shown(hundred_frames).splitlines()
    rows = [[cell.strip() for cell in line.strip("│|").replace("|", "│").split("│")] for line in lines]
    numbers = {row[0]: row[1:] for row in rows if len(row) == 4}
    assert numbers["read"] == ["50.00", "95.00", "99.00"]
    assert numbers["map back"] == ["1.00", "1.00", "1.00"]
    assert list(numbers)[-len(STAGES) :] == [stage.replace("_", " ") for stage in STAGES]  # no age: it isn't live


def test_a_live_run_says_what_it_lost(make: Callable[..., StreamStatistics]) -> None:
    statistics = make(live=True, health=SourceHealth(dropped=7, reconnects=2))
    for age in (0.01, 0.03):
        statistics.add(record(age=age))
    assert summary_of(statistics.snapshot()).endswith("dropped 7 frames, reconnected 2 times")
    assert "│ age" in shown(statistics.snapshot())


def test_a_deadline_is_accounted_for(make: Callable[..., StreamStatistics]) -> None:
    statistics = make()
    statistics.add(record(2, 1, 2, late=True))
    statistics.add(record(2, 1, 2))
    numbers = statistics.snapshot()
    assert (numbers.refined, numbers.deferred, numbers.late) == (2, 2, 1)
    assert "refinements wanted 4, done 2, deferred 2, frames on time 50.0%" in summary_of(numbers, deadline=True)
    assert "wanted" not in summary_of(numbers)


def test_a_refinement_of_an_earlier_frame_that_is_kept_was_wanted_too(make: Callable[..., StreamStatistics]) -> None:
    one = record(4, 1, 3)
    poses = replace(one.poses, carried=np.array([False, True, False, False]))
    statistics = make()
    statistics.add(replace(one, poses=poses))
    assert "refinements wanted 3, done 1, kept 1, deferred 1," in summary_of(statistics.snapshot(), deadline=True)


def test_several_streams_as_one(
    hundred_frames: StreamSnapshot, make: Callable[..., StreamStatistics], clock: Clock
) -> None:
    other = make()
    other.add(record(1, 1, stages={"read": 0.5}))
    clock.now += 30
    other.end(failed=False)
    total = StreamSnapshot.total([hundred_frames, other.snapshot()])
    assert (total.frames, total.people, total.refined) == (102, 203, 51)
    assert total.seconds == 50.0  # from the start of the first to the end of the second, which ran later
    assert total.durations["write"].percentiles(50) == pytest.approx([250])
    assert len(total.durations["read"]) == 102
    assert hundred_frames.frames == 101
    assert len(hundred_frames.durations["read"]) == 101
    assert StreamSnapshot.total([]).frames == 0
