"""Both stages of two runners: what goes from one to the other, the buffers around them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pytest

from sharpose.engines.base import Runner, TensorSpec, Value
from sharpose.engines.two_stage import HostTwoStage
from sharpose.errors import EngineError, InputError

MAX_BATCH = 4
CARRIED = {"region_features", "region_embeddings"}


class Kept:
    """An output that stayed on its device."""

    def __init__(self, name: str, run: int) -> None:
        self.name, self.run = name, run

    def shape(self) -> Sequence[int]:
        return (1,)


class StubRunner(Runner):
    """Records its calls, unchecked; its outputs say which run they are from."""

    def __init__(self, **inputs: tuple[int | str, ...]) -> None:
        specs = {name: TensorSpec(name, np.dtype(np.uint8), shape) for name, shape in inputs.items()}
        super().__init__("stub:0", specs, {}, MAX_BATCH)
        self.calls: list[tuple[Mapping[str, Value], Sequence[str]]] = []
        self.freed = 0

    def run(
        self, inputs: Mapping[str, Value], outputs: Sequence[str], *, keep_on_device: Collection[str] = ()
    ) -> dict[str, Value]:
        return self._run(inputs, {}, outputs, keep_on_device)

    def _run(
        self, inputs: Mapping[str, Value], sizes: Mapping[str, int], outputs: Sequence[str], kept: Collection[str]
    ) -> dict[str, Value]:
        self.calls.append((inputs, tuple(outputs)))
        number = len(self.calls)
        return {name: Kept(name, number) if name in kept else np.full(1, number) for name in outputs}

    def _free(self) -> None:
        self.freed += 1


@pytest.fixture
def runners() -> tuple[StubRunner, StubRunner]:
    return StubRunner(image=("N", 8, 6, 3)), StubRunner(rows=("M",), patches=("M", 5, 12))


def test_buffers_fit_the_graphs(runners: tuple[StubRunner, StubRunner]) -> None:
    stages = HostTwoStage(*runners, "fp32")
    assert (stages.device, stages.max_batch) == ("stub:0", MAX_BATCH)
    for buffer, shape in ((stages.crops, (MAX_BATCH, 8, 6, 3)), (stages.patches, (MAX_BATCH, 5, 12))):
        assert buffer.shape == shape
        assert buffer.dtype == np.uint8
        assert buffer.flags.c_contiguous


def test_the_coarse_stage_gets_the_first_crops_and_keeps_its_features(runners: tuple[StubRunner, StubRunner]) -> None:
    stages = HostTwoStage(*runners, "fp32")
    host = stages.run_coarse(3)
    ((inputs, outputs),) = runners[0].calls
    assert list(inputs) == ["image"]
    image = np.asarray(inputs["image"])
    assert image.shape == (3, 8, 6, 3)
    assert np.shares_memory(image, stages.crops)
    assert set(outputs) == {"keypoints", "quality", "region_order"} | CARRIED  # no heatmaps
    assert host.keypoints[0] == host.quality[0] == host.region_order[0] == 1
    assert not runners[1].calls


def test_the_fine_stage_gets_the_last_coarse_run(runners: tuple[StubRunner, StubRunner]) -> None:
    stages = HostTwoStage(*runners, "fp32")
    stages.run_coarse(3)
    stages.run_coarse(2)
    rows = np.array([0, 1], np.int32)
    np.testing.assert_array_equal(stages.run_fine(rows), [1])
    ((inputs, outputs),) = runners[1].calls
    assert outputs == ("keypoints",)
    assert set(inputs) == {"rows", "patches", "region_order"} | CARRIED
    np.testing.assert_array_equal(np.asarray(inputs["rows"]), rows)
    assert np.asarray(inputs["patches"]).shape == (2, 5, 12)
    assert np.shares_memory(np.asarray(inputs["patches"]), stages.patches)
    np.testing.assert_array_equal(np.asarray(inputs["region_order"]), [2])
    for name in CARRIED:
        kept = inputs[name]
        assert isinstance(kept, Kept)
        assert (kept.name, kept.run) == (name, 2)


class CountingRunner(StubRunner):
    """Its outputs say the batch and the row that they are of."""

    def _run(
        self, inputs: Mapping[str, Value], sizes: Mapping[str, int], outputs: Sequence[str], kept: Collection[str]
    ) -> dict[str, Value]:
        assert not kept  # what is cut goes through the host
        self.calls.append((dict(inputs), tuple(outputs)))
        people = len(np.asarray(inputs.get("image", inputs.get("rows"))))
        rows = 10 * len(self.calls) + np.arange(people)
        return {name: np.stack([rows, rows + 100], axis=1).astype(np.float32) for name in outputs}


def test_runs_are_cut_into_the_cheapest_batches() -> None:
    coarse, fine = CountingRunner(image=("N", 8, 6, 3)), CountingRunner(rows=("M",), patches=("M", 5, 12))
    stages = HostTwoStage(coarse, fine, "fp32", divisible=True)
    stages.coarse_buckets.learn({1: 0.010, 2: 0.015, 4: 0.090})
    stages.fine_buckets.learn({1: 0.010, 2: 0.030, 4: 0.090})
    stages.crops[:, 0, 0, 0] = range(4)
    stages.patches[:, 0, 0] = range(4)
    host = stages.run_coarse(3)
    assert [np.asarray(inputs["image"])[:, 0, 0, 0].tolist() for inputs, _ in coarse.calls] == [[0, 1], [2]]
    np.testing.assert_array_equal(host.keypoints, [[10, 110], [11, 111], [20, 120]])
    np.testing.assert_array_equal(host.region_order, host.keypoints)
    rows = np.array([2, 0, 1], np.int32)
    np.testing.assert_array_equal(stages.run_fine(rows), [[10, 110], [20, 120], [30, 130]])
    for place, (inputs, _) in enumerate(fine.calls):
        assert np.asarray(inputs["rows"]).tolist() == [rows[place]]
        assert np.asarray(inputs["patches"])[:, 0, 0].tolist() == [place]
        for name in CARRIED:  # of all people, whose rows are asked for
            np.testing.assert_array_equal(np.asarray(inputs[name]), host.keypoints)


def test_a_cut_run_that_fails_leaves_no_people(monkeypatch: pytest.MonkeyPatch) -> None:
    coarse, fine = CountingRunner(image=("N", 8, 6, 3)), CountingRunner(rows=("M",), patches=("M", 5, 12))
    stages = HostTwoStage(coarse, fine, "fp32", divisible=True)
    stages.coarse_buckets.learn({1: 0.010})
    stages.run_coarse(2)

    def fail(*arguments: object, **more: object) -> dict[str, Value]:
        raise EngineError("gone")

    monkeypatch.setattr(coarse, "run", fail)
    with pytest.raises(EngineError, match="gone"):
        stages.run_coarse(2)
    with pytest.raises(EngineError, match="expected a coarse batch before it"):
        stages.run_fine(np.zeros(1, np.int32))


def test_the_fine_stage_needs_a_coarse_run(runners: tuple[StubRunner, StubRunner]) -> None:
    stages = HostTwoStage(*runners, "fp32")
    with pytest.raises(EngineError, match="expected a coarse batch before it"):
        stages.run_fine(np.zeros(1, np.int32))
    stages.run_coarse(1)
    stages.close()
    with pytest.raises(EngineError, match="expected a coarse batch before it"):
        stages.run_fine(np.zeros(1, np.int32))
    assert not runners[1].calls


def test_closing_frees_both(runners: tuple[StubRunner, StubRunner]) -> None:
    stages = HostTwoStage(*runners, "fp32")
    stages.close()
    stages.close()
    assert [runner.freed for runner in runners] == [1, 1]


def test_rows_of_nobody_are_refused(runners: tuple[StubRunner, StubRunner]) -> None:
    stages = HostTwoStage(*runners, "fp32")
    stages.run_coarse(2)
    for rows in ([0, 2], [-1]):
        with pytest.raises(InputError, match=r"expected rows in \[0, 2\), got "):
            stages.run_fine(np.array(rows, np.int32))
    stages.run_fine(np.array([1], np.int32))
