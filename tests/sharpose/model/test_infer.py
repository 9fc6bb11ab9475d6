import pytest
import torch

from sharpose.config import list_configs, load_config
from sharpose.errors import CheckpointError
from sharpose.model import SHaRPose
from sharpose.model.checkpoint import infer_config


def shapes(config):
    """A state dict of the model without its numbers."""
    with torch.device("meta"):
        return SHaRPose(config).state_dict()


@pytest.mark.parametrize("name", list_configs())
def test_all_configurations_are_read_off_their_files(name):
    config = load_config(name)
    found, (note,) = infer_config(shapes(config), "some.pth", {})
    shown = (
        "crop_size",
        "width",
        "depth",
        "skeleton",
        "head",
        "mlp_hidden",
        "head_hidden",
        "num_regions",
        "heatmap_size",
    )
    assert {key: getattr(found, key) for key in shown} == {key: getattr(config, key) for key in shown}
    assert (found.alpha, found.heads, found.quality_threshold) == (0.5, 12, 0.99)
    height, width = config.crop_size
    assert note == (
        f"no --config: sharpose_c{config.width}_d{config.depth}_{height}x{width} was read off the checkpoint; "
        "assumed alpha 0.5, heads 12, quality_threshold 0.99, which the file can't say".replace(
            "_threshold", " threshold"
        )
    )


def test_an_unusual_head_and_mlp_are_read_off_too(nano_config):
    config = nano_config.replace({"head": "mlp", "head_hidden": 30, "mlp_ratio": 2.0})
    found, _ = infer_config(shapes(config), "some.pth", {})
    assert (found.head, found.head_hidden, found.mlp_hidden) == ("mlp", 30, 48)


def test_what_it_reads_loads(nano_config):
    config = nano_config.replace({"head": "mlp", "head_hidden": 30})
    state = SHaRPose(config).state_dict()
    SHaRPose(infer_config(state, "some.pth", {})[0]).load_state_dict(state, strict=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"crop_size": (256, 128)}, "32 regions is neither a 4:3 nor a square crop"),
        ({"width": 20, "heads": 4}, "width must be a multiple of heads, got 20 and 12"),
    ],
)
def test_what_the_shapes_leave_open_is_refused(nano_config, change, words):
    with pytest.raises(CheckpointError, match=words) as refused:
        infer_config(shapes(nano_config.replace(change)), "some.pth", {})
    assert "give --config" in str(refused.value)


def test_given_heads_fit_another_width(nano_config):
    state = shapes(nano_config.replace({"width": 20, "heads": 4}))
    assert infer_config(state, "some.pth", {"heads": 4})[0].heads == 4


def test_an_unknown_number_of_keypoints_is_refused(nano_config):
    state = shapes(nano_config)
    state["backbone.keypoint_tokens"] = torch.empty(1, 21, 24, device="meta")
    with pytest.raises(CheckpointError, match="21 keypoints"):
        infer_config(state, "some.pth", {})
