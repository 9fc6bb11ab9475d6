"""The exported graphs in ONNX Runtime give what the released model gave for the same weights and crops."""

from pathlib import Path

import numpy as np
import pytest
import torch
from reference_model import reference_crops, reference_state

from sharpose.config import load_config
from sharpose.engines.onnxrt import OnnxRuntimeRunner
from sharpose.export.onnx import COARSE_OUTPUTS, FINE_INPUTS, FINE_OUTPUTS, describe_graph, export_graphs, save_graphs
from sharpose.model import random_model
from sharpose.runtime.gate import gate, gather_patches

pytestmark = pytest.mark.slow

NAME = "sharpose_small_coco_256x192"
DATA = Path(__file__).parent.parent / "data"


@pytest.fixture(scope="module")
def engines(tmp_path_factory):
    """Coarse and fine engine of the small model with the reference weights."""
    folder = tmp_path_factory.mktemp("small")
    model = random_model(load_config(NAME)).model
    state = reference_state({key: tuple(value.shape) for key, value in model.state_dict().items()})
    model.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()}, strict=True)
    graphs = dict(zip(("coarse.onnx", "fine.onnx"), export_graphs(model, max_batch=8, opset=20), strict=True))
    entries = {file: describe_graph(graph, file) for file, graph in graphs.items()}
    save_graphs(graphs, folder, "weights.bin")
    return [OnnxRuntimeRunner(folder / file, entry, 8) for file, entry in entries.items()]


@pytest.fixture(scope="module")
def recorded():
    with np.load(DATA / "released_small_coco_256x192.npz") as file:
        return dict(file)


@pytest.fixture(scope="module", params=[1, 3, 8])
def runs(request, engines, recorded):
    """Outputs by mode, over all eight crops, run in batches of one, three or eight."""
    coarse_engine, fine_engine = engines
    crops = reference_crops(8, (256, 192))
    parts = {"coarse": [], "always": [], "mixed": []}
    for start in range(0, 8, request.param):
        batch = crops[start : start + request.param]
        coarse = coarse_engine.run({"image": batch}, COARSE_OUTPUTS)
        for mode, refine in (("coarse", "never"), ("always", "always"), ("mixed", "auto")):
            rows = gate(coarse["quality"], float(recorded["threshold"]), refine)
            found = {name: coarse[name].copy() for name in (*FINE_OUTPUTS, "quality", "region_order")}
            if len(rows):
                patches = gather_patches(batch, rows, coarse["region_order"], 24)
                inputs = {"rows": rows, "patches": patches, **{name: coarse[name] for name in FINE_INPUTS[2:]}}
                for name, value in fine_engine.run(inputs, FINE_OUTPUTS).items():
                    found[name][rows] = value
            found["refined"] = np.isin(np.arange(len(batch)), rows)
            parts[mode].append(found)
    return {
        mode: {name: np.concatenate([part[name] for part in found]) for name in found[0]}
        for mode, found in parts.items()
    }


@pytest.mark.parametrize("mode", ["coarse", "always", "mixed"])
def test_heatmaps_and_keypoints_are_the_released_ones(runs, recorded, mode):
    found = runs[mode]
    assert np.abs(found["heatmaps"][:, :, ::16, ::6] - recorded[f"heatmaps_{mode}"]).max() < 1e-4
    distance = np.linalg.norm(found["keypoints"][..., :2] - recorded[f"keypoints_{mode}"][..., :2], axis=-1)
    assert np.median(distance) < 0.01
    assert np.percentile(distance, 99) < 0.1
    np.testing.assert_allclose(found["keypoints"][..., 2], recorded[f"keypoints_{mode}"][..., 2], atol=1e-4)


def test_quality_gate_and_regions_are_the_released_ones(runs, recorded):
    np.testing.assert_allclose(runs["mixed"]["quality"], recorded["quality"], atol=1e-5)
    assert runs["mixed"]["refined"].tolist() == recorded["refined"].tolist()
    selected = np.sort(runs["mixed"]["region_order"][:, :24])
    assert selected.tolist() == np.sort(recorded["selected"]).tolist()
