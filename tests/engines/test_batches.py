"""Sizes of batches, what they cost, how people are cut into them, and the file that remembers the costs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sharpose.bundle import open_bundle
from sharpose.engines.batches import BatchBuckets, BatchCache, settle
from sharpose.errors import EngineError


@pytest.mark.parametrize(
    ("smallest", "largest", "sizes"),
    [
        (1, 16, (1, 2, 3, 4, 6, 8, 12, 16)),
        (1, 1, (1,)),
        (1, 5, (1, 2, 3, 4, 5)),
        (4, 20, (4, 6, 8, 12, 16, 20)),
        (5, 5, (5,)),
    ],
)
def test_buckets(smallest, largest, sizes):
    assert BatchBuckets(smallest, largest).sizes == sizes


def test_every_count_fits_with_at_most_half_as_much_again_in_vain():
    buckets = BatchBuckets(1, 64)
    for count in range(1, 65):
        assert count <= buckets.fit(count) <= 1.5 * count


def test_exact_sizes_pad_only_below_the_smallest():
    buckets = BatchBuckets(3, 6, exact=True)
    assert [buckets.fit(count) for count in range(1, 7)] == [3, 3, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("parts", "sizes"),
    [(1, range(1, 10)), (2, (1, 2, 4, 6, 8, 9)), (3, (1, 2, 3, 6, 9)), (4, (1, 2, 3, 4, 8, 9)), (12, range(1, 10))],
)
def test_of_sizes_that_are_computed_in_parts_only_multiples_are_buckets(parts, sizes):
    assert BatchBuckets(1, 9, exact=True, parts=parts).sizes == tuple(sizes)


def test_an_odd_number_of_people_is_cut_where_its_parts_would_be_unequal() -> None:
    buckets = BatchBuckets(1, 16, exact=True, divisible=True, parts=2)
    buckets.learn({1: 0.008, 2: 0.011, 4: 0.021, 8: 0.041, 16: 0.081})
    assert [buckets.cut(count) for count in (1, 2, 3, 4, 7)] == [(1,), (2,), (2, 1), (4,), (6, 1)]
    assert buckets.cost(3) == pytest.approx(0.019)
    assert buckets.cost(6) == pytest.approx(0.031)


def known(seconds: dict[int, float], *, largest: int = 16, exact: bool = True, divisible: bool = True) -> BatchBuckets:
    buckets = BatchBuckets(1, largest, exact=exact, divisible=divisible)
    buckets.learn(seconds)
    return buckets


def test_nothing_is_cut_while_nothing_is_known() -> None:
    buckets = BatchBuckets(1, 16, exact=True, divisible=True)
    assert [buckets.cut(count) for count in (1, 5, 16)] == [(1,), (5,), (16,)]
    assert [buckets.cost(count) for count in (0, 1, 16)] == [0, 0, 0]


def test_people_are_cut_one_by_one_where_batches_cost_more_a_person() -> None:
    buckets = known({1: 0.039, 2: 0.090, 4: 0.185, 16: 0.740})
    assert buckets.cut(1) == (1,)
    assert buckets.cut(5) == (1,) * 5
    assert buckets.cut(16) == (1,) * 16
    assert [buckets.cost(count) for count in (0, 1, 16)] == pytest.approx([0, 0.039, 16 * 0.039])


def test_people_are_not_cut_where_batches_cost_less_a_person() -> None:
    buckets = known({1: 0.010, 2: 0.011, 4: 0.013, 8: 0.017, 16: 0.025})
    assert [buckets.cut(count) for count in range(1, 17)] == [(count,) for count in range(1, 17)]
    assert buckets.cost(3) == pytest.approx(0.012)  # between two measured sizes


def test_the_cheapest_sizes_are_put_together() -> None:
    buckets = known({1: 0.010, 2: 0.015, 4: 0.040, 8: 0.100})
    assert buckets.cut(4) == (2, 2)
    assert buckets.cut(7) == (2, 2, 2, 1)
    assert buckets.cost(7) == pytest.approx(0.055)


def test_every_cut_holds_everybody_and_is_the_cheapest() -> None:
    """Compared with all ways to write a number as a sum."""
    seconds = {1: 0.020, 2: 0.036, 4: 0.071, 8: 0.160}
    buckets = known(seconds, largest=12)
    whole = known(seconds, divisible=False)
    each = {size: whole.cost(size) for size in range(1, 9)}

    def cheapest(count: int) -> float:
        return min((each[size] + cheapest(count - size) for size in each if size <= count), default=0.0)

    for count in range(1, 13):
        batches = buckets.cut(count)
        assert sum(batches) == count
        assert sum(each[size] for size in batches) == pytest.approx(cheapest(count))
        assert buckets.cost(count) == pytest.approx(cheapest(count))


def test_of_equals_the_largest_batch_is_taken() -> None:
    assert known({1: 0.25, 2: 0.5, 4: 1.0}).cut(4) == (4,)


def test_sizes_beyond_the_measured_ones_are_not_used_where_runs_can_be_cut() -> None:
    buckets = known({1: 0.010, 2: 0.018})
    assert buckets.cut(5) == (2, 2, 1)
    assert known({1: 0.010, 2: 0.018}, divisible=False).cost(5) == pytest.approx(0.045)


def test_people_are_padded_where_that_is_cheaper() -> None:
    flat = known({1: 0.010, 2: 0.011, 4: 0.012, 8: 0.013}, exact=False)
    assert flat.cut(5) == (5,)  # computed as 6
    assert flat.cost(5) == flat.cost(6) == pytest.approx(0.0125)
    steep = known({1: 0.010, 2: 0.020, 4: 0.040, 8: 0.080}, exact=False)
    assert steep.cut(5) == (4, 1)
    assert steep.cost(5) == pytest.approx(0.050)


def test_one_batch_stays_one_where_a_run_can_not_be_cut() -> None:
    buckets = known({1: 0.010, 8: 0.400}, divisible=False)
    assert buckets.cut(8) == (8,)
    assert buckets.cost(8) == pytest.approx(0.4)


def test_what_was_known_is_forgotten() -> None:
    buckets = known({1: 0.010, 8: 0.400})
    buckets.learn({})
    assert buckets.cut(8) == (8,)
    assert buckets.cost(8) == 0


class Machine:
    """Runs both stages on a clock of its own."""

    def __init__(self, coarse: Callable[[int], float], fine: Callable[[int], float]) -> None:
        self.coarse, self.fine = coarse, fine
        self.now = 50.0
        self.runs: list[int] = []

    def clock(self) -> float:
        return self.now

    def run(self, people: int) -> tuple[float, float]:
        self.runs.append(people)
        taken = self.coarse(people), self.fine(people)
        self.now += sum(taken)
        return taken


def both(largest: int = 16, parts: int = 1) -> tuple[BatchBuckets, BatchBuckets]:
    coarse, fine = (BatchBuckets(1, largest, exact=True, divisible=True, parts=parts) for _ in range(2))
    return coarse, fine


def test_each_size_is_measured_after_a_run_that_does_not_count() -> None:
    coarse, fine = both(10)
    machine = Machine(lambda people: 0.001 * people, lambda people: 0.002)
    settle(coarse, fine, machine.run, machine.clock)
    assert machine.runs == [size for size in (1, 2, 4, 8, 10) for _ in range(4)]
    assert coarse.seconds == pytest.approx({1: 0.001, 2: 0.002, 4: 0.004, 8: 0.008, 10: 0.010})
    assert fine.seconds == pytest.approx(dict.fromkeys((1, 2, 4, 8, 10), 0.002))


def test_sizes_that_fill_all_parts_are_measured() -> None:
    coarse, fine = both(16, parts=3)
    machine = Machine(lambda people: 0.001 * people, lambda people: 0.002)
    settle(coarse, fine, machine.run, machine.clock)
    assert list(coarse.seconds) == list(fine.seconds) == [1, 2, 3, 6, 12, 16]


def test_the_shortest_run_counts() -> None:
    coarse, fine = both(1)
    times = iter([0.5, 0.030, 0.020, 0.090])
    machine = Machine(lambda people: next(times), lambda people: 0.001)
    settle(coarse, fine, machine.run, machine.clock)
    assert coarse.seconds == {1: 0.020}


def test_a_slow_machine_measures_for_about_a_second() -> None:
    for each in (0.002, 0.020, 0.1, 0.3):
        coarse, fine = both(64)
        machine = Machine(lambda people: each * people, lambda people: 2 * each * people)  # noqa: B023
        settle(coarse, fine, machine.run, machine.clock)
        assert machine.now - 50 < max(1.3, 3 * 3 * each)
        assert coarse.seconds[1] == pytest.approx(each)
        assert fine.seconds[1] == pytest.approx(2 * each)


def test_a_run_that_fails_leaves_nothing_known(tmp_path: Path) -> None:
    def run(people: int) -> tuple[float, float]:
        raise EngineError("gone")

    coarse, fine = both()
    cache = BatchCache({"a": 1}, print, tmp_path)
    with pytest.raises(EngineError, match="gone"):
        settle(coarse, fine, run, lambda: 0.0, cache)
    assert coarse.seconds == {}
    assert not cache.path.exists()


@pytest.fixture(autouse=True)
def quiet_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (0.5, 0.5, 0.5))


def settled(folder: Path, said: list[str], key: dict[str, object] | None = None) -> tuple[Machine, BatchBuckets]:
    coarse, fine = both(4)
    machine = Machine(lambda people: 0.010 * people, lambda people: 0.030)
    settle(coarse, fine, machine.run, machine.clock, BatchCache(key or {"threads": 2}, said.append, folder))
    assert coarse.seconds == pytest.approx({1: 0.010, 2: 0.020, 4: 0.040})
    assert fine.seconds == pytest.approx({1: 0.030, 2: 0.030, 4: 0.030})
    return machine, fine


def test_costs_are_measured_once(tmp_path: Path) -> None:
    said: list[str] = []
    folder = tmp_path / "new" / "batches"
    assert settled(folder, said)[0].runs
    machine, fine = settled(folder, said)
    assert machine.runs == []
    assert fine.cut(4) == (4,)
    assert settled(folder, said, {"threads": 1})[0].runs  # another key
    assert said == []


def test_costs_measured_on_a_busy_machine_are_for_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (1000.0, 0.0, 0.0))
    said: list[str] = []
    assert settled(tmp_path, said)[0].runs
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0))
    assert settled(tmp_path, said)[0].runs
    assert settled(tmp_path, said)[0].runs == []
    assert said == []


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "it is empty"),
        ('{"key": {"threads": 2}, "coarse": [[1,', "not JSON"),
        ("[]", "not the key that its name stands for"),
        ('{"key": {"threads": 3}, "coarse": [[1, 0.1]], "fine": [[1, 0.1]]}', "not the key that its name stands for"),
        ('{"key": {"threads": 2}, "coarse": [[1, 0.1]]}', "fine: expected a list of [people, seconds]"),
        ('{"key": {"threads": 2}, "coarse": [[0, 0.1]]}', "coarse: expected [people, seconds], got [0, 0.1]"),
        ('{"key": {"threads": 2}, "coarse": [[1, -1.0]]}', "coarse: expected [people, seconds], got [1, -1.0]"),
        ('{"key": {"threads": 2}, "coarse": [[1, NaN]]}', "coarse: expected [people, seconds], got [1, nan]"),
        ('{"key": {"threads": 2}, "coarse": [1, 2]}', "coarse: expected [people, seconds], got 1"),
        ('{"key": {"threads": 2}, "coarse": [[1, 0.1], [64, 0.1]]}', "coarse: expected 1 to 4 people, got 64"),
        ('{"key": {"threads": 2}, "coarse": [[2, 0.1], [4, 0.1]]}', "coarse: a batch of 1 is missing"),
    ],
)
def test_a_damaged_file_is_measured_again_and_mended(tmp_path: Path, content: str, problem: str) -> None:
    path = BatchCache({"threads": 2}, print, tmp_path).path
    path.write_text(content)
    said: list[str] = []
    assert settled(tmp_path, said)[0].runs
    (line,) = said
    assert line.startswith(f"costs of batches in {path}: {problem}")
    assert line.endswith("they are measured again")
    assert settled(tmp_path, said)[0].runs == []
    assert len(said) == 1


def test_a_folder_that_can_not_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said: list[str] = []
    assert settled(tmp_path / "file" / "batches", said)[0].runs
    (line,) = said
    assert "can't be written (Not a directory)" in line
    assert line.endswith("set XDG_CACHE_HOME to a writable folder")


def test_the_file_goes_by_all_that_costs_depend_on(nano_bundle: Path) -> None:
    bundle = open_bundle(nano_bundle)

    def path(precision: str = "fp32", device: str = "cpu", engine: str = "e 1", threads: int | None = None) -> Path:
        return BatchCache.of_stages(bundle, precision, device=device, engine=engine, threads=threads, say=print).path

    paths = [path(), path("int8"), path(device="openvino"), path(engine="e 2"), path(threads=1), path(threads=2)]
    assert len(set(paths)) == len(paths)
    assert path() == paths[0]
    assert paths[0].parent.name == "batches"


def test_the_file_is_json_that_people_can_read(tmp_path: Path) -> None:
    settled(tmp_path, [])
    document = json.loads(BatchCache({"threads": 2}, print, tmp_path).path.read_text())
    assert document["key"] == {"threads": 2}
    assert dict(document["coarse"]) == pytest.approx({1: 0.010, 2: 0.020, 4: 0.040})
