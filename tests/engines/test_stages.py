"""Both stages of a bundle as arrays: what goes in, what comes out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from reference_model import reference_crops

from sharpose.bundle import open_bundle
from sharpose.engines.stages import fine_inputs, open_stages
from sharpose.engines.two_stage import CARRIED
from sharpose.errors import BundleError, EngineError


def test_inputs_and_outputs_have_the_names_of_the_graphs(nano_bundle: Path) -> None:
    bundle = open_bundle(nano_bundle)
    stages, config = open_stages(bundle, threads=1), bundle.model
    assert (stages.config, stages.precision, stages.max_batch) == (config, "fp32", bundle.manifest.max_batch)
    crops = reference_crops(3, config.crop_size)
    coarse = stages.coarse(crops)
    inputs = fine_inputs(crops, coarse, config)
    assert set(coarse) == {item.name for item in bundle.graph("coarse")[1].outputs}
    assert set(inputs) == {"rows", "patches", *CARRIED}
    assert inputs["rows"].tolist() == [0, 1, 2]
    fine = stages.fine({**inputs, "region_features": inputs["region_features"].astype(np.float64)})  # is converted
    assert set(fine) == {"keypoints", "heatmaps"}
    stages.terminate()
    with pytest.raises(EngineError, match="terminate"):
        stages.coarse(crops)
    stages.close()
    with pytest.raises(EngineError, match="closed"):
        stages.coarse(crops)


def test_what_is_not_there_is_refused(nano_bundle: Path) -> None:
    bundle = open_bundle(nano_bundle)
    with pytest.raises(BundleError, match="holds fp32 graphs, not fp16"):
        open_stages(bundle, "cpu", "fp16")
    with pytest.raises(EngineError, match="device: expected cpu"):
        open_stages(bundle, "gpu")
