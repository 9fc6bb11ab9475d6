"""A model used at another crop size: positions and heatmaps keep their relative places."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from sharpose.config import load_config
from sharpose.errors import CheckpointError, ConfigError
from sharpose.heatmap import decode_heatmaps
from sharpose.model import load_model, random_model
from sharpose.model.checkpoint import resize_state_dict

SMALL, LARGE = (256, 192), (384, 288)


@pytest.fixture(scope="module", params=["linear", "mlp"])
def pair(request, nano_config):
    """State dict and configurations: at 256x192 and resampled to 384x288."""
    old = nano_config.replace({"crop_size": SMALL, "head": request.param})
    hidden = old.head_hidden_width if request.param == "mlp" else None
    new = old.replace({"crop_size": LARGE, "head_hidden": hidden})
    return random_model(old, seed=0).model.state_dict(), old, new


def test_shapes_fit_the_new_model_and_the_rest_is_untouched(pair):
    state, old, new = pair
    resized = resize_state_dict(state, old, new)
    model = random_model(new).model
    model.load_state_dict(resized, strict=True)
    last = "keypoint_head.heatmap_mlp." + ("1" if old.head == "linear" else "4")
    changed = {key for key in state if resized[key].shape != state[key].shape}
    assert changed == {"backbone.pos_embed_list.0", "backbone.pos_embed_list.1", f"{last}.weight", f"{last}.bias"}
    assert all(torch.equal(resized[key], state[key]) for key in set(state) - changed)
    assert resized["backbone.pos_embed_list.0"].shape == (1, 108, 24)
    assert resized["backbone.pos_embed_list.1"].shape == (1, 432, 24)


def test_the_same_size_changes_nothing(pair):
    state, old, _ = pair
    resized = resize_state_dict(state, old, old)
    for key, value in state.items():
        torch.testing.assert_close(resized[key], value, atol=1e-6, rtol=0)


def test_heatmaps_are_the_old_ones_resized(pair):
    state, old, new = pair
    before, after = random_model(old).model, random_model(new).model
    before.load_state_dict(state)
    after.load_state_dict(resize_state_dict(state, old, new))
    tokens = torch.randn(2, 17, 24, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = functional.interpolate(
            before.keypoint_head(tokens), size=(96, 72), mode="bicubic", align_corners=True
        )
        torch.testing.assert_close(after.keypoint_head(tokens), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("place", [(0.3, 0.4), (0.5, 0.5), (0.71, 0.22), (0.15, 0.87)])
def test_a_decoded_keypoint_keeps_its_relative_place(pair, place):
    state, old, new = pair
    last = "keypoint_head.heatmap_mlp." + ("1" if old.head == "linear" else "4")
    ys, xs = np.mgrid[:64, :48]
    gaussian = np.exp(-((xs - place[0] * 47) ** 2 + (ys - place[1] * 63) ** 2) / 8).astype(np.float32)
    state = state | {
        f"{last}.weight": torch.zeros_like(state[f"{last}.weight"]),
        f"{last}.bias": torch.from_numpy(gaussian).flatten(),
    }
    found = {}
    for config, tensors in ((old, state), (new, resize_state_dict(state, old, new))):
        model = random_model(config).model
        model.load_state_dict(tensors)
        with torch.no_grad():
            heatmaps = model.keypoint_head(torch.randn(1, 17, 24)).numpy()
        height, width = config.crop_size
        found[config.crop_size] = decode_heatmaps(heatmaps, config.crop_size)[0, 0, :2] / [width - 1, height - 1]
    assert np.abs((found[LARGE] - found[SMALL]) * [287, 383]).max() < 0.1  # crop pixels
    assert np.abs((found[LARGE] - place) * [287, 383]).max() < 0.1


def test_position_embeddings_keep_their_direction(pair):
    state, old, new = pair
    for stage, (rows, columns, grown) in enumerate(((8, 6, (12, 9)), (16, 12, (24, 18)))):
        key = f"backbone.pos_embed_list.{stage}"
        down = torch.linspace(-1, 1, rows)[:, None].expand(rows, columns)
        across = torch.linspace(0, 3, columns)[None].expand(rows, columns)
        ramps = torch.zeros(1, rows * columns, 24)
        ramps[0, :, 0], ramps[0, :, 1], ramps[0, :, 2] = down.flatten(), across.flatten(), 0.7
        resized = resize_state_dict(state | {key: ramps}, old, new)[key][0].reshape(*grown, 24)
        inner = slice(2, -2)
        assert (resized[1:, :, 0] > resized[:-1, :, 0])[inner].all()
        assert resized[:, :, 0].std(dim=1).max() < 1e-5
        assert (resized[:, 1:, 1] > resized[:, :-1, 1])[:, inner].all()
        assert resized[:, :, 1].std(dim=0).max() < 1e-5
        torch.testing.assert_close(resized[:, :, 2], torch.full(grown, 0.7))
        # centres of cells: a position at 3/4 of the old grid is one at 3/4 of the new
        old_grid, new_grid = torch.arange(rows) + 0.5, torch.arange(grown[0]) + 0.5
        expected = np.interp(new_grid / grown[0], old_grid / rows, down[:, 0])
        np.testing.assert_allclose(resized[inner, 0, 0], expected[inner], atol=0.02)


def test_models_that_differ_in_more_are_refused(pair):
    state, old, new = pair
    with pytest.raises(ConfigError, match="differ in more than the crop size"):
        resize_state_dict(state, old, new.replace({"depth": 3}))


@pytest.fixture(scope="module")
def file(tmp_path_factory, nano_config):
    path = tmp_path_factory.mktemp("resize") / "nano.pth"
    torch.save({"state_dict": random_model(nano_config).model.state_dict(), "meta": {}}, path)
    return path


def test_load_model_at_another_size(file, nano_config):
    loaded = load_model(file, size=(192, 192))
    assert loaded.config.crop_size == (192, 192)
    assert "resampled from 128x96 to 192x192" in loaded.notes[-1]
    with torch.no_grad():
        out = loaded.model(torch.randn(2, 3, 192, 192))
    assert out.heatmaps.shape == (2, 17, 48, 48)
    assert out.coarse.region_order.shape == (2, 36)
    assert torch.isfinite(out.heatmaps).all()


def test_an_mlp_head_keeps_its_hidden_width(tmp_path, nano_config):
    config = nano_config.replace({"head": "mlp"})
    torch.save({"state_dict": random_model(config).model.state_dict(), "meta": {}}, tmp_path / "mlp.pth")
    loaded = load_model(tmp_path / "mlp.pth", size=(256, 192))
    assert loaded.config.head_hidden_width == config.head_hidden_width == 384
    assert loaded.config.replace({}).head_hidden_width == 384


def test_the_size_it_has_is_no_resampling(file, nano_config):
    assert "resampled" not in "".join(load_model(file, size=(128, 96)).notes)
    assert load_model(file, nano_config, size=(128, 96)).config == nano_config


def test_sizes_that_no_model_can_have(file):
    for size in ((100, 100), (0, 96), (-128, -96)):
        with pytest.raises(ConfigError, match="multiples of 32"):
            load_model(file, size=size)


def test_a_shipped_configuration_at_its_sisters_size():
    config = load_config("sharpose_base_coco_256x192")
    assert config.replace({"crop_size": LARGE}).num_selected == 44  # ceil(0.4 * 108)


def test_a_configuration_of_another_size_is_refused_not_resampled(file, nano_config):
    with pytest.raises(CheckpointError, match="--size for another crop"):
        load_model(file, nano_config.replace({"crop_size": SMALL}), size=LARGE)
