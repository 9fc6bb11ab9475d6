"""People are cut into the cheapest batches, or into batches of a given size, and their poses stay the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from stand_in_stages import PICTURE, StubStages, Ticks, TimedStages, some_boxes

from sharpose.bundle import Bundle, open_bundle
from sharpose.engines.load import load_two_stage
from sharpose.engines.two_stage import HostTwoStage
from sharpose.errors import InputError
from sharpose.runtime import PoseEstimator
from sharpose.runtime.refinement import DeadlineScheduler


@pytest.fixture(autouse=True)
def quiet_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (0.5, 0.5, 0.5))


@pytest.fixture(scope="module")
def bundle(nano_bundle: Path) -> Bundle:
    return open_bundle(nano_bundle)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """An empty cache folder; says which files of costs are in it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return lambda: sorted(path.name for path in (tmp_path / "sharpose" / "batches").glob("*.json"))


def real_stages(bundle: Bundle) -> HostTwoStage:
    stages = load_two_stage(bundle, threads=1)
    assert isinstance(stages, HostTwoStage)
    return stages


def test_poses_are_the_same_in_whatever_batches(bundle: Bundle) -> None:
    results = []
    for coarse, fine in (({}, {}), ({1: 0.1}, {1: 0.1}), ({2: 0.1, 4: 0.9}, {1: 0.1, 3: 0.2}), ({4: 0.1}, {4: 0.1})):
        stages = real_stages(bundle)
        with PoseEstimator.from_stages(bundle, stages, refine="always", batch=16, keep_regions=True) as estimator:
            stages.coarse_buckets.learn(coarse)
            stages.fine_buckets.learn(fine)
            results.append(estimator(PICTURE, some_boxes(7)))
    for result in results[1:]:
        np.testing.assert_allclose(result.keypoints, results[0].keypoints, atol=1e-3)
        np.testing.assert_allclose(result.quality, results[0].quality, atol=1e-5)
        np.testing.assert_array_equal(result.regions_xyxy, results[0].regions_xyxy)


def test_some_of_several_batches_are_refined(bundle: Bundle) -> None:
    """The fine stage gets the rows of people whose coarse stage ran in another batch."""
    stages = real_stages(bundle)
    with PoseEstimator.from_stages(bundle, stages, batch=16) as estimator:
        whole = estimator(PICTURE, some_boxes(5), rows=[1, 2, 4])
        stages.coarse_buckets.learn({2: 0.1})
        cut = estimator(PICTURE, some_boxes(5), rows=[1, 2, 4])
        coarse = estimator(PICTURE, some_boxes(5), rows=[])
    np.testing.assert_allclose(cut.keypoints, whole.keypoints, atol=1e-3)
    assert cut.refined.tolist() == [False, True, True, False, True]
    assert np.abs(coarse.keypoints - cut.keypoints).max(axis=(1, 2))[[1, 2, 4]].min() > 0.01


def test_warming_up_measures_once_on_a_machine(bundle: Bundle, cache: Callable[[], list[str]]) -> None:
    first, second = real_stages(bundle), real_stages(bundle)
    assert cache() == []
    with PoseEstimator.from_stages(bundle, first) as estimator:
        estimator.warm_up()
        measured = first.coarse_buckets.seconds
        assert {1, 2} <= measured.keys() <= {1, 2, 4, 8, 16}
        assert len(cache()) == 1
        estimator.warm_up()
        assert first.coarse_buckets.seconds == measured
    with PoseEstimator.from_stages(bundle, second) as estimator:
        estimator.warm_up()
    assert second.coarse_buckets.seconds == measured
    assert second.fine_buckets.seconds == first.fine_buckets.seconds


def test_the_first_call_with_several_people_measures(bundle: Bundle, cache: Callable[[], list[str]]) -> None:
    stages = real_stages(bundle)
    with PoseEstimator.from_stages(bundle, stages) as estimator:
        estimator(PICTURE, some_boxes(1))
        assert cache() == []
        estimator(PICTURE, some_boxes(2))
        assert len(cache()) == 1
        assert stages.fine_buckets.seconds


def test_a_given_batch_measures_nothing_and_repeats_to_the_last_bit(
    bundle: Bundle, cache: Callable[[], list[str]]
) -> None:
    results = []
    for _ in range(2):
        with PoseEstimator.from_bundle(bundle.path, threads=1, batch=2, refine="always") as estimator:
            estimator.warm_up()
            results.append(estimator(PICTURE, some_boxes(5)))
    np.testing.assert_array_equal(results[0].keypoints, results[1].keypoints)
    assert cache() == []


def test_a_given_batch_is_the_most_people_of_either_stage(bundle: Bundle) -> None:
    stages = StubStages(bundle, max_batch=4)
    with PoseEstimator.from_stages(bundle, stages, refine="always", batch=2) as estimator:
        estimator(PICTURE, some_boxes(5))
    assert stages.coarse_batches == [2, 2, 1]
    assert stages.fine_rows == [[0, 1], [0, 1], [0]]


@pytest.mark.parametrize("batch", [0, -1, 17, 2.5, True, "2"])
def test_a_batch_that_is_none(bundle: Bundle, batch: int) -> None:
    with pytest.raises(InputError, match="batch: expected 1 to 16, the bundle's max batch, got"):
        PoseEstimator.from_stages(bundle, StubStages(bundle, max_batch=16), batch=batch)


def test_deadlines_go_by_costs_measured_for_this_run(bundle: Bundle, cache: Callable[[], list[str]]) -> None:
    clock = Ticks()
    scheduler = DeadlineScheduler(clock=clock)
    stages = TimedStages(bundle, clock, coarse_seconds=0.002, fine_seconds=0.005)
    with PoseEstimator.from_stages(bundle, stages, scheduler=scheduler) as estimator:
        estimator.warm_up()
    assert stages.coarse_buckets.seconds == pytest.approx({size: 0.002 * size for size in (1, 2, 4, 8, 16)})
    assert [scheduler.costs.coarse.typical(count) for count in (1, 3, 16)] == pytest.approx([0.002, 0.006, 0.032])
    assert [scheduler.costs.fine.typical(count) for count in (1, 3, 16)] == pytest.approx([0.005, 0.015, 0.080])
    assert cache() == []


def test_deadlines_know_what_cut_runs_cost(bundle: Bundle) -> None:
    stages = real_stages(bundle)
    scheduler = DeadlineScheduler()
    with PoseEstimator.from_stages(bundle, stages, scheduler=scheduler) as estimator:
        stages.fine_buckets.learn({1: 0.010, 2: 0.030})
        scheduler.costs.start_from_measured()
        assert [scheduler.costs.fine.typical(count) for count in (1, 5)] == pytest.approx([0.010, 0.050])
        assert estimator.device == "cpu"
