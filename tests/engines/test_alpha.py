"""Graphs that take any number of regions: every alpha is the model's, and the bundle's own to the last bit."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from reference_model import reference_crops

from sharpose.bundle import PATCHES_AXIS, Bundle, open_bundle
from sharpose.config import ModelConfig
from sharpose.engines.batches import BatchCache
from sharpose.engines.load import load_two_stage
from sharpose.engines.stages import Stages, fine_inputs, open_stages
from sharpose.errors import BundleError, InputError
from sharpose.files import file_sha256
from sharpose.model import random_model
from sharpose.model.graphs import TorchStages

Floats = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def bundle(nano_bundle: Path) -> Bundle:
    return open_bundle(nano_bundle)


@pytest.fixture(scope="module")
def fixed_bundle(nano_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The nano bundle as earlier versions exported it: its fine graph takes the patches of 6 regions alone."""
    folder = tmp_path_factory.mktemp("fixed") / "bundle"
    shutil.copytree(nano_bundle, folder)
    graph = onnx.load(str(folder / "fine.onnx"), load_external_data=False)
    (patches,) = [item for item in graph.graph.input if item.name == "patches"]
    patches.type.tensor_type.shape.dim[1].dim_value = 24
    (folder / "fine.onnx").write_bytes(graph.SerializeToString())
    values = json.loads((folder / "bundle.json").read_text())
    values["graphs"]["fp32"]["fine"]["inputs"][1]["shape"] = ["M", 24, 768]
    values["files"]["fine.onnx"] = file_sha256(folder / "fine.onnx")
    (folder / "bundle.json").write_text(json.dumps(values))
    return open_bundle(folder)


def refined(stages: Stages, crops: npt.NDArray[np.uint8]) -> tuple[Floats, Floats]:
    """Heatmaps and keypoints of the fine stage for everybody."""
    fine = stages.fine(fine_inputs(crops, stages.coarse(crops), stages.config))
    return fine["heatmaps"].astype(np.float32), fine["keypoints"].astype(np.float32)


@pytest.mark.parametrize("device", ["cpu", "openvino"])
def test_every_alpha_is_the_models(bundle: Bundle, nano_config: ModelConfig, device: str) -> None:
    if device == "openvino":
        pytest.importorskip("openvino")
    crops = reference_crops(3, bundle.model.crop_size)
    model = random_model(nano_config).model
    seen = []
    some = ((0.01, 1), (0.25, 3), (0.9, 11), (1, 12))
    for alpha, regions in some if device == "cpu" else some[::3]:  # OpenVINO compiles each for a while
        at_alpha = bundle.at_alpha(alpha)
        assert at_alpha.model.num_selected == regions
        assert at_alpha.graph("fine")[1].inputs[1].shape == ("M", 4 * regions, 768)
        stages = open_stages(at_alpha, device, threads=1)
        torch_stages = TorchStages(model)
        torch_stages.config = at_alpha.model
        found, wanted = refined(stages, crops), refined(torch_stages, crops)
        np.testing.assert_allclose(found[0], wanted[0], atol=1e-5)
        seen.append(found[0])
        with pytest.raises(InputError, match=rf"patches: expected patches uint8 \[M, {4 * regions}, 768\]"):
            stages.fine({**fine_inputs(crops, stages.coarse(crops), bundle.model)})  # those of another alpha
        stages.close()
    assert all(np.abs(one - other).max() > 1e-3 for one, other in pairwise(seen))


@pytest.mark.parametrize("device", ["cpu", "openvino"])
def test_at_the_bundles_own_alpha_nothing_changes(bundle: Bundle, fixed_bundle: Bundle, device: str) -> None:
    if device == "openvino":
        pytest.importorskip("openvino")
    crops = reference_crops(3, bundle.model.crop_size)
    assert fixed_bundle.graph("fine")[1] == bundle.graph("fine")[1]
    results = [refined(open_stages(one, device, threads=1), crops) for one in (bundle.at_alpha(0.5), fixed_bundle)]
    for first, second in zip(*results, strict=True):
        np.testing.assert_array_equal(first, second)


def test_a_bundle_of_before_has_one_number_of_regions(fixed_bundle: Bundle, bundle: Bundle) -> None:
    assert fixed_bundle.at_alpha(None) is fixed_bundle
    assert fixed_bundle.at_alpha(0.45).model.num_selected == 6  # of 12, rounded up
    with pytest.raises(BundleError) as found:
        fixed_bundle.at_alpha(0.25)
    assert str(found.value) == (
        f"bundle {fixed_bundle.path}: alpha 0.25 is 3 regions, but its fine graph takes 6 alone (alpha 0.5), as "
        "earlier versions exported it; export it again"
    )
    assert fixed_bundle.graph_sha256("fine", "fp32") == fixed_bundle.manifest.files["fine.onnx"]
    assert bundle.manifest.graphs["fp32"].fine.patches == PATCHES_AXIS


@pytest.mark.parametrize("alpha", [0, -0.1, 1.01, float("nan"), float("inf"), "0.5", True, [0.5], 10**400])
def test_what_is_no_alpha_is_refused(bundle: Bundle, alpha: object) -> None:
    with pytest.raises(InputError, match="alpha: expected a number above 0 and at most 1, got"):
        bundle.at_alpha(alpha)  # type: ignore[arg-type]


def test_what_was_measured_at_another_alpha_is_not_taken_for_this(bundle: Bundle) -> None:
    """Engines, costs of batches and results of `--verify` go by the number of regions too."""
    other, same = bundle.at_alpha(0.25), bundle.at_alpha(0.49)
    assert other.graph_sha256("coarse", "fp32") == bundle.graph_sha256("coarse", "fp32")
    assert same.graph_sha256("fine", "fp32") == bundle.graph_sha256("fine", "fp32")
    assert len({one.graph_sha256("fine", "fp32") for one in (bundle, other, bundle.at_alpha(1.0))}) == 3
    assert other.graphs_sha256("fp32") != bundle.graphs_sha256("fp32") == same.graphs_sha256("fp32")
    paths = {
        BatchCache.of_stages(one, "fp32", device="cpu", engine="e", threads=1, say=print).path
        for one in (bundle, same, other)
    }
    assert len(paths) == 2


def test_the_pipelines_buffers_are_as_long_as_the_patches(bundle: Bundle) -> None:
    stages = load_two_stage(bundle.at_alpha(0.25), "cpu", threads=1)
    assert stages.patches.shape == (16, 12, 768)
    stages.close()
