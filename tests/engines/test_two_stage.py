"""The pair of engines: what goes from one to the other, and the buffers around them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pytest

from sharpose.engines.base import TensorSpec, Value
from sharpose.engines.two_stage import HostTwoStage
from sharpose.errors import EngineError

MAX_BATCH = 4
CARRIED = {"region_features", "region_embeddings"}


class Kept:
    """An output that stayed on its device."""

    def __init__(self, name: str, run: int) -> None:
        self.name, self.run = name, run

    def shape(self) -> Sequence[int]:
        return (1,)


class StubEngine:
    """Records its calls; its outputs say which run they are from."""

    def __init__(self, **inputs: tuple[int | str, ...]) -> None:
        self.device = "stub:0"
        self.inputs: Mapping[str, TensorSpec] = {
            name: TensorSpec(name, np.dtype(np.uint8), shape) for name, shape in inputs.items()
        }
        self.outputs: Mapping[str, TensorSpec] = {}
        self.max_batch = MAX_BATCH
        self.calls: list[tuple[Mapping[str, Value], Sequence[str]]] = []
        self.closed = 0

    def run(
        self, inputs: Mapping[str, Value], outputs: Sequence[str], *, keep_on_device: Collection[str] = ()
    ) -> dict[str, Value]:
        self.calls.append((inputs, tuple(outputs)))
        number = len(self.calls)
        return {name: Kept(name, number) if name in keep_on_device else np.full(1, number) for name in outputs}

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def engines() -> tuple[StubEngine, StubEngine]:
    return StubEngine(image=("N", 8, 6, 3)), StubEngine(rows=("M",), patches=("M", 5, 12))


def test_buffers_fit_the_graphs(engines: tuple[StubEngine, StubEngine]) -> None:
    stages = HostTwoStage(*engines)
    assert (stages.device, stages.max_batch) == ("stub:0", MAX_BATCH)
    for buffer, shape in ((stages.crops, (MAX_BATCH, 8, 6, 3)), (stages.patches, (MAX_BATCH, 5, 12))):
        assert buffer.shape == shape
        assert buffer.dtype == np.uint8
        assert buffer.flags.c_contiguous


def test_the_coarse_stage_gets_the_first_crops_and_keeps_its_features(engines: tuple[StubEngine, StubEngine]) -> None:
    stages = HostTwoStage(*engines)
    host = stages.run_coarse(3)
    ((inputs, outputs),) = engines[0].calls
    assert list(inputs) == ["image"]
    image = np.asarray(inputs["image"])
    assert image.shape == (3, 8, 6, 3)
    assert np.shares_memory(image, stages.crops)
    assert set(outputs) == {"keypoints", "quality", "region_order"} | CARRIED  # no heatmaps
    assert host.keypoints[0] == host.quality[0] == host.region_order[0] == 1
    assert not engines[1].calls


def test_the_fine_stage_gets_the_last_coarse_run(engines: tuple[StubEngine, StubEngine]) -> None:
    stages = HostTwoStage(*engines)
    stages.run_coarse(3)
    stages.run_coarse(2)
    rows = np.array([0, 1], np.int32)
    np.testing.assert_array_equal(stages.run_fine(rows), [1])
    ((inputs, outputs),) = engines[1].calls
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


def test_the_fine_stage_needs_a_coarse_run(engines: tuple[StubEngine, StubEngine]) -> None:
    stages = HostTwoStage(*engines)
    with pytest.raises(EngineError, match="expected a coarse batch before it"):
        stages.run_fine(np.zeros(1, np.int32))
    stages.run_coarse(1)
    stages.close()
    with pytest.raises(EngineError, match="expected a coarse batch before it"):
        stages.run_fine(np.zeros(1, np.int32))
    assert not engines[1].calls


def test_closing_frees_both(engines: tuple[StubEngine, StubEngine]) -> None:
    stages = HostTwoStage(*engines)
    stages.close()
    stages.close()
    assert [engine.closed for engine in engines] == [2, 2]
