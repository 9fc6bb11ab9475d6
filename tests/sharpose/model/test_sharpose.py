"""The whole model gives what the released one gave for the same weights and crops."""

import gc

import numpy as np
import pytest
import torch
from reference_model import reference_crops, reference_state

from sharpose.config import load_config
from sharpose.model import PoseOutput, SHaRPose, random_model
from sharpose.model.decode import HeatmapDecoder
from sharpose.model.graphs import Normalise

RELEASED = [
    "sharpose_small_coco_256x192",
    pytest.param("sharpose_base_coco_256x192", marks=pytest.mark.slow),
    pytest.param("sharpose_base_coco_384x288", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module", params=RELEASED)
def run(request, recorded):
    """Recorded outputs and ours, by mode; one model in memory at a time."""
    config = load_config(request.param)
    expected = recorded(config.name)
    with torch.device("meta"):
        model = SHaRPose(config).eval()
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    state = {key: torch.from_numpy(value) for key, value in reference_state(shapes).items()}
    model.load_state_dict(state, strict=True, assign=True)
    model.backbone.fine_index = SHaRPose(config.replace({"width": 12, "depth": 1})).backbone.fine_index
    del state
    crops = torch.from_numpy(reference_crops(8, config.crop_size))
    with torch.inference_mode():
        image = Normalise(config)(crops).permute(0, 3, 1, 2)
        always = model(image, float("inf"))
        mixed = model(image, float(expected["threshold"]))
        never = model(image[:2], float("-inf"))
        assert not never.refined.any()
        assert torch.equal(never.heatmaps, never.coarse.heatmaps)
        torch.testing.assert_close(never.heatmaps, always.coarse.heatmaps[:2], atol=1e-4, rtol=0)
        never = PoseOutput(always.coarse.heatmaps, torch.zeros(8, dtype=torch.bool), always.coarse)  # spares a run
        decode = HeatmapDecoder(config.heatmap_size, config.crop_size)
        keypoints = {
            mode: decode(output.heatmaps).numpy()
            for mode, output in (("coarse", never), ("always", always), ("mixed", mixed))
        }
    outputs = {"always": always, "mixed": mixed, "coarse": never}
    yield config, expected, outputs, keypoints
    del model, outputs, always, mixed, never
    gc.collect()


@pytest.mark.parametrize("mode", ["coarse", "always", "mixed"])
def test_heatmaps_are_the_released_ones(run, mode):
    _, expected, outputs, _ = run
    recorded = expected[f"heatmaps_{mode}"]
    assert recorded.max() - recorded.min() > 3
    assert np.abs(outputs[mode].heatmaps[:, :, ::16, ::6].numpy() - recorded).max() < 1e-4


@pytest.mark.parametrize("mode", ["coarse", "always", "mixed"])
def test_keypoints_are_the_released_ones(run, mode):
    _, expected, _, keypoints = run
    recorded = expected[f"keypoints_{mode}"]
    distance = np.linalg.norm(keypoints[mode][..., :2] - recorded[..., :2], axis=-1)
    assert np.median(distance) < 0.01
    assert np.percentile(distance, 99) < 0.1
    np.testing.assert_allclose(keypoints[mode][..., 2], recorded[..., 2], atol=1e-4)


def test_quality_and_the_gate_are_the_released_ones(run):
    _, expected, outputs, _ = run
    np.testing.assert_allclose(outputs["mixed"].coarse.quality, expected["quality"], atol=1e-5)
    assert outputs["mixed"].refined.tolist() == expected["refined"].tolist()
    assert 0 < expected["refined"].sum() < 8
    assert outputs["always"].refined.all()


def test_selected_regions_are_the_released_ones(run):
    config, expected, outputs, _ = run
    order = outputs["always"].coarse.region_order.numpy()
    selected = config.num_selected
    assert expected["selected"].shape == (8, selected)
    assert np.sort(order[:, :selected]).tolist() == np.sort(expected["selected"]).tolist()
    ranked = np.take_along_axis(expected["relevance"], order, axis=1)
    assert np.diff(ranked, axis=1).max() < 1e-6


def test_a_mixed_batch_is_made_of_both(run):
    _, _, outputs, _ = run
    mixed = outputs["mixed"]
    torch.testing.assert_close(
        mixed.heatmaps[mixed.refined], outputs["always"].heatmaps[mixed.refined], atol=1e-4, rtol=0
    )
    assert torch.equal(mixed.heatmaps[~mixed.refined], mixed.coarse.heatmaps[~mixed.refined])


def test_the_gate_is_strict_and_its_default_is_the_configurations(nano_config, image):
    model = random_model(nano_config, seed=3).model
    with torch.no_grad():
        quality = model(image).coarse.quality
        assert (quality < nano_config.quality_threshold).all()
        assert model(image).refined.all()
        at = float(quality.sort().values[1])
        assert model(image, at).refined.tolist() == [value < at for value in quality.tolist()]
        assert model(image, at).refined.sum() == 1
        never = random_model(nano_config.replace({"quality_threshold": -5.0}), seed=3).model
        assert not never(image).refined.any()


def test_crops_do_not_see_each_other(nano, image):
    with torch.no_grad():
        together = nano(image, float("inf")).heatmaps
        for index in range(len(image)):
            alone = nano(image[index : index + 1], float("inf")).heatmaps
            torch.testing.assert_close(alone[0], together[index], atol=1e-4, rtol=1e-4)
