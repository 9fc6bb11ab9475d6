"""Turns in alternating order, percentiles and ratios of known times."""

from __future__ import annotations

import numpy as np
import pytest
from measuring import turns
from measuring.turns import Times, bootstrap_median, paired_ratio, refined_counts, take_turns


@pytest.mark.parametrize(
    ("people", "percent", "counts"),
    [
        (1, 0, [0]),
        (1, 50, [0, 1]),
        (1, 100, [1]),
        (3, 50, [1, 2]),
        (16, 50, [8]),
        (1, 25, [0, 0, 0, 1]),
        (7, 40, [2, 3, 3, 3, 3]),
    ],
)
def test_the_rate_is_kept_over_a_period(people: int, percent: int, counts: list[int]) -> None:
    assert refined_counts(people, percent) == counts
    assert sum(counts) * 100 == people * percent * len(counts)


class Clock:
    """Frames that say how long they took, without waiting for it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.order: list[str] = []
        monkeypatch.setattr(turns, "_PAUSE_S", 0.0)
        monkeypatch.setattr("time.perf_counter", lambda: self.now)

    def frame(self, name: str, seconds: float, per_refined: float = 0.0):
        def run(refined: int) -> dict[str, float]:
            spent = seconds + per_refined * refined
            self.now += spent
            self.order.append(name)
            return {"coarse": seconds, "fine": per_refined * refined, "end_to_end": spent}

        return run


def test_order_alternates_and_a_slower_contender_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    contenders = {"a": clock.frame("a", 0.2, 0.1), "b": clock.frame("b", 0.3, 0.15), "c": clock.frame("c", 0.8, 0.4)}
    times = take_turns(contenders, [0, 1], warm_up=1, seconds=0, min_rounds=3)
    assert {name: len(item.turns) for name, item in times.items()} == {"a": 4, "b": 4, "c": 4}  # made even
    measured = clock.order[6:][::2]  # after the warm-up, the first frame of each turn
    rounds = [measured[start : start + 3] for start in range(0, 12, 3)]
    assert rounds[1] == rounds[0][::-1]
    assert rounds[3] == rounds[2][::-1]
    assert all(sorted(names) == ["a", "b", "c"] for names in rounds)
    assert times["a"].mean() == pytest.approx(250)
    assert times["a"].mean("fine") == pytest.approx(50)
    assert times["a"].percentiles()["max"] == pytest.approx(300)
    assert times["a"].warm_up_ms == pytest.approx(500)
    assert times["a"].first_ms == pytest.approx(200)
    ratio = paired_ratio(times, "a", "b")
    assert (ratio.median, ratio.low, ratio.high, ratio.rounds) == pytest.approx((1.5, 1.5, 1.5, 4))
    assert paired_ratio(times, "c", "a").median == pytest.approx(0.25)


def test_short_frames_fill_a_turn_and_seconds_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    times = take_turns({"a": clock.frame("a", 0.015)}, [1], warm_up=2, seconds=1.0, min_rounds=2)
    assert {len(turn["coarse"]) for turn in times["a"].turns} == {7}  # 0.1 s
    assert len(times["a"].turns) == 10  # of 105 ms each, an even number of them


def test_meters_see_the_turns_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    spans: list[float] = []

    class Meter:
        def start(self) -> None:
            spans.append(-clock.now)

        def stop(self) -> None:
            spans[-1] += clock.now

    contenders = {"a": clock.frame("a", 0.2), "b": clock.frame("b", 0.3)}
    take_turns(contenders, [0], warm_up=1, seconds=0, min_rounds=2, meters={"b": Meter()})
    assert spans == pytest.approx([0.3, 0.3])


def test_percentiles_of_known_samples() -> None:
    values = list(map(float, range(1, 102)))
    times = Times([{"end_to_end": values[:40]}, {"end_to_end": values[40:]}])
    assert times.percentiles() == {"p50": 51, "p90": 91, "p95": 96, "p99": 100, "max": 101}
    assert times.turn_means().tolist() == [20.5, 71]


def test_the_interval_holds_the_median_and_shrinks_with_samples() -> None:
    values = np.random.default_rng(1).normal(2.0, 0.2, 400)
    median, low, high = bootstrap_median(values)
    assert low < median < high
    assert low < 2.0 < high
    _, few_low, few_high = bootstrap_median(values[:20])
    assert few_high - few_low > 2 * (high - low)
