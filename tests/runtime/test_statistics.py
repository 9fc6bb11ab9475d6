"""What a run counts, and the table that ends it."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
from rich.console import Console

from sharpose.runtime.frames import SourceHealth
from sharpose.runtime.result import Boxes, PoseResult, StageTimings
from sharpose.runtime.statistics import AGE, STAGES, RunStatistics, print_statistics, summary_of


def poses(refined: list[bool], timings: StageTimings) -> PoseResult:
    people = len(refined)
    return PoseResult(
        Boxes.from_xyxy(np.tile([0, 0, 9, 9], (people, 1))),
        np.zeros((people, 17, 3), np.float32),
        np.zeros(people, np.float32),
        np.array(refined, dtype=np.bool_),
        timings,
    )


@pytest.fixture
def hundred_frames() -> RunStatistics:
    """Frame i takes i ms to read, 2i in the coarse stage, 1 in the others; two people, every fourth of them refined."""
    statistics = RunStatistics(warm_up=1.5, seconds=20.0)
    for index in range(101):
        timings = StageTimings(0.001, 0.002 * index, 0.001, 0.001, 0.001, 0.001)
        stages = {"read": 0.001 * index, "boxes": 0.001, **vars(timings), "write": 0.25}
        statistics.add(poses([index % 2 == 1, False], timings), stages)
    return statistics


def test_counts_frames_and_people(hundred_frames: RunStatistics) -> None:
    assert (hundred_frames.frames, hundred_frames.people, hundred_frames.refined) == (101, 202, 50)
    assert hundred_frames.refine_rate == pytest.approx(50 / 202)
    assert hundred_frames.frame_rate == pytest.approx(101 / 20)


def test_percentiles_are_milliseconds_of_each_stage(hundred_frames: RunStatistics) -> None:
    assert hundred_frames.percentiles("read") == pytest.approx((50, 95, 99))
    assert hundred_frames.percentiles("coarse") == pytest.approx((100, 190, 198))
    assert hundred_frames.percentiles("map_back") == pytest.approx((1, 1, 1))
    assert hundred_frames.percentiles("write") == pytest.approx((250, 250, 250))


def test_stages_stand_in_their_order() -> None:
    assert STAGES == ("read", "boxes", "crop", "coarse", "gate", "gather", "fine", "map_back", "track", "write")


def test_nothing_run_is_all_zeros() -> None:
    statistics = RunStatistics()
    assert statistics.refine_rate == statistics.frame_rate == 0.0
    assert all(statistics.percentiles(stage) == (0.0, 0.0, 0.0) for stage in STAGES)


def test_frames_without_people_have_no_refine_rate() -> None:
    statistics = RunStatistics(seconds=2.0)
    statistics.add(poses([], StageTimings()), {"read": 0.1, "boxes": 0.1, "write": 0.1})
    assert (statistics.frames, statistics.people, statistics.refine_rate, statistics.frame_rate) == (1, 0, 0.0, 0.5)


def test_only_the_last_ten_thousand_timings_are_kept() -> None:
    statistics = RunStatistics()
    nobody = poses([], StageTimings())
    for index in range(10_010):
        statistics.add(nobody, {"read": 5.0 if index < 10 else 0.001})
    assert statistics.frames == 10_010
    assert statistics.percentiles("read") == pytest.approx((1, 1, 1))
    assert len(statistics._timings["read"]) == 10_000


def test_the_table_says_it_all(hundred_frames: RunStatistics) -> None:
    text = io.StringIO()
    print_statistics(hundred_frames, Console(file=text, width=60))
    lines = text.getvalue().splitlines()
    assert lines[0] == "frames 101, people 202, refined 50 (25%), 5.0 frames a second (warm-up apart: 1.50 s)"
    rows = [[cell.strip() for cell in line.strip("│|").replace("|", "│").split("│")] for line in lines[1:]]
    numbers = {row[0]: row[1:] for row in rows if len(row) == 4}
    assert numbers["read"] == ["50.00", "95.00", "99.00"]
    assert numbers["map back"] == ["1.00", "1.00", "1.00"]
    assert [name for name in numbers if name in {stage.replace("_", " ") for stage in STAGES}] == [
        stage.replace("_", " ") for stage in STAGES
    ]


def test_a_live_run_says_what_it_lost() -> None:
    statistics = RunStatistics(seconds=1.0)
    health = SourceHealth(dropped=7, reconnects=2)
    for age in (0.01, 0.03):
        statistics.add(poses([], StageTimings()), {}, age=age, health=health)
    assert (statistics.dropped, statistics.reconnects) == (7, 2)
    assert statistics.percentiles(AGE)[0] == pytest.approx(20)
    text = io.StringIO()
    print_statistics(statistics, Console(file=text, width=60))
    assert "passed over 7 frames for newer ones, connected anew 2 times" in text.getvalue()
    assert "│ age" in text.getvalue()


def test_a_deadline_is_accounted_for() -> None:
    statistics = RunStatistics(seconds=1.0)
    two = poses([True, False], StageTimings())
    two = dataclasses.replace(two, wanted=np.array([True, True]))
    statistics.add(two, {}, late=True)
    statistics.add(two, {})
    assert (statistics.refined, statistics.deferred, statistics.late) == (2, 2, 1)
    assert "refinements wanted 4, done 2, deferred 2, frames on time 50.0%" in summary_of(statistics, deadline=True)
    assert "wanted" not in summary_of(statistics)


def test_several_streams_as_one(hundred_frames: RunStatistics) -> None:
    other = RunStatistics(seconds=30.0)
    other.add(poses([True], StageTimings()), {"read": 0.5})
    total = RunStatistics.of_all([hundred_frames, other])
    assert (total.frames, total.people, total.refined, total.seconds) == (102, 203, 51, 30.0)
    assert total.percentiles("write")[0] == pytest.approx(250)
    assert hundred_frames.frames == 101
    assert RunStatistics.of_all([]).frames == 0
