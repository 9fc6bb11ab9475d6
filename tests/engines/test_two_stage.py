"""Both stages of two runners: what goes from one to the other, the buffers around them, and the sizes of batches."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pytest

from sharpose.engines.base import Runner, TensorSpec, Value
from sharpose.engines.two_stage import BatchBuckets, HostTwoStage
from sharpose.errors import EngineError

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
    assert inputs["rows"] is rows
    assert np.asarray(inputs["patches"]).shape == (2, 5, 12)
    assert np.shares_memory(np.asarray(inputs["patches"]), stages.patches)
    np.testing.assert_array_equal(np.asarray(inputs["region_order"]), [2])
    for name in CARRIED:
        kept = inputs[name]
        assert isinstance(kept, Kept)
        assert (kept.name, kept.run) == (name, 2)


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
