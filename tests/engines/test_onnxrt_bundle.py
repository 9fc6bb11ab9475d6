"""Both graphs of a bundle in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from reference_model import reference_crops

from sharpose.bundle import Bundle, open_bundle
from sharpose.engines.onnxrt import OnnxRuntimeRunner
from sharpose.errors import EngineError


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return open_bundle(tiny_bundle)


@pytest.fixture(scope="module")
def stages(bundle: Bundle) -> tuple[OnnxRuntimeRunner, OnnxRuntimeRunner]:
    coarse, fine = (
        OnnxRuntimeRunner(*bundle.graph(stage), bundle.manifest.max_batch, threads=1) for stage in ("coarse", "fine")
    )
    return coarse, fine


Array = npt.NDArray[Any]


Both = tuple[dict[str, Array], dict[str, Array]]


REFINED = {1: [0], 3: [0, 2], 8: [1, 2, 4, 7]}


def run_both(
    stages: tuple[OnnxRuntimeRunner, OnnxRuntimeRunner], crops: Array, rows: Sequence[int], patches: Array
) -> Both:
    coarse, fine = stages
    carried = ("region_features", "region_embeddings")
    first = coarse.run({"image": crops}, tuple(coarse.outputs), keep_on_device=carried)
    second = fine.run(
        {
            "rows": np.array(rows, np.int32),
            "patches": patches,
            "region_order": first["region_order"],
            **{name: first[name] for name in carried},
        },
        tuple(fine.outputs),
    )
    values = {name: np.asarray(first[name]) for name in coarse.outputs if name not in carried}
    return values, {name: np.asarray(value) for name, value in second.items()}


@pytest.mark.parametrize("people", REFINED)
def test_a_batch_equals_its_rows_one_by_one(
    bundle: Bundle, stages: tuple[OnnxRuntimeRunner, OnnxRuntimeRunner], people: int
) -> None:
    crops = reference_crops(people, bundle.model.crop_size)
    rows = REFINED[people]
    shape = tuple(int(size) for size in stages[1].inputs["patches"].shape[1:])
    patches = np.random.default_rng(people).integers(0, 256, (len(rows), *shape), dtype=np.uint8)
    coarse, fine = run_both(stages, crops, rows, patches)
    assert coarse["keypoints"].shape == (people, 17, 3)
    assert fine["keypoints"].shape == (len(rows), 17, 3)
    alone = [run_both(stages, crops[row : row + 1], [0], patches[index : index + 1]) for index, row in enumerate(rows)]
    for name in ("quality", "heatmaps", "keypoints"):
        expected = np.concatenate([first[name] for first, _ in alone])
        np.testing.assert_allclose(coarse[name][rows], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(
        coarse["region_order"][rows], np.concatenate([first["region_order"] for first, _ in alone])
    )
    for name in ("heatmaps", "keypoints"):
        expected = np.concatenate([second[name] for _, second in alone])
        np.testing.assert_allclose(fine[name], expected, rtol=1e-5, atol=1e-5)
    if people > 1:  # the rows differ, so that a mix-up would show
        assert np.abs(fine["heatmaps"][0] - fine["heatmaps"][1]).max() > 1e-2


def test_a_run_that_fails_is_one_line(
    bundle: Bundle, stages: tuple[OnnxRuntimeRunner, OnnxRuntimeRunner], capfd: pytest.CaptureFixture[str]
) -> None:
    shape = tuple(int(size) for size in stages[1].inputs["patches"].shape[1:])
    crops = reference_crops(2, bundle.model.crop_size)
    with pytest.raises(EngineError, match=r"^ONNX Runtime failed on cpu: ") as caught:
        run_both(stages, crops, [7], np.zeros((1, *shape), np.uint8))  # there is no row 7
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")  # it is all in the exception
