"""Bundles whose heatmaps are shifted are the same but for that."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gpu_steps.shifted_bundle import shift_heatmaps
from reference_model import reference_crops

from sharpose.bundle import open_bundle, shipped_bundle
from sharpose.engines.stages import fine_inputs, open_stages


@pytest.mark.parametrize("kind", ["weights in half", "random"])
def test_heatmaps_are_rolled_in_both_graphs(kind: str, nano_bundle: Path, tmp_path: Path) -> None:
    bundle = open_bundle(nano_bundle if kind == "random" else shipped_bundle())
    shifted = shift_heatmaps(bundle, tmp_path / "shifted", 5)
    crops = reference_crops(2, bundle.model.crop_size)
    outputs = []
    for item in (bundle, shifted):
        stages = open_stages(item, "cpu", threads=1)
        coarse = stages.coarse(crops)
        outputs.append((coarse, stages.fine(fine_inputs(crops, coarse, item.model))))
        stages.close()
    for before, after in zip(*outputs, strict=True):
        np.testing.assert_allclose(after["heatmaps"], np.roll(before["heatmaps"], -5, axis=-1), atol=1e-5)
        assert np.abs(after["keypoints"] - before["keypoints"]).max() > 1
    for name in ("quality", "region_order", "region_features"):
        assert (outputs[0][0][name] == outputs[1][0][name]).all()
    assert open_bundle(bundle.path).manifest == bundle.manifest  # itself it stays as it was
