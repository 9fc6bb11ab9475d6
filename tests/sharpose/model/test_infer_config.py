"""What a checkpoint's shapes and file name tell of its configuration."""

import pytest
import torch

from sharpose.config import ModelConfig, list_configs, load_config
from sharpose.errors import CheckpointError
from sharpose.model import SHaRPose
from sharpose.model.checkpoint import RELEASED, alphas_in_name, infer_config


def shapes(config):
    """A state dict of the model without its numbers."""
    with torch.device("meta"):
        return SHaRPose(config).state_dict()


def released_shapes(width, crop_size):
    """Shapes of a released checkpoint: 12 blocks, the head with a hidden layer where the width is small."""
    heatmap = crop_size[0] * crop_size[1] // 16
    head = "mlp" if width < heatmap // 4 else "linear"
    values = {"name": "x", "skeleton": "coco17", "crop_size": crop_size, "width": width, "depth": 12, "heads": 12}
    return shapes(ModelConfig(**values, alpha=0.9, quality_threshold=0.1, head=head))


@pytest.mark.parametrize("name", list_configs())
def test_all_configurations_are_read_off_their_files(name):
    config = load_config(name)
    found = infer_config(shapes(config), "some.pth", {})
    assert found.config == config
    said = f"alpha {config.alpha:g}, heads {config.heads}, quality threshold {config.quality_threshold:g}"
    note = found.notes[0]
    assert note.startswith(f"no --config: {name} was read off the checkpoint")
    if name in RELEASED:
        assert f"{said}, as released" in note
        assert found.warnings == ()
    else:
        (warning,) = found.warnings
        assert f"doesn't say {said}, which are those of {name}" in warning


@pytest.mark.parametrize(
    ("name", "width", "crop_size", "alpha", "threshold", "selected"),
    [
        ("sharpose_small_coco_256x192_4xb128_210e.pth", 384, (256, 192), 0.5, 0.99, 24),
        ("sharpose_base_coco_256x192_4xb64_210e.pth", 768, (256, 192), 0.4, 0.99, 20),
        ("sharpose_base_coco_384x288_4xb64_210e.pth", 768, (384, 288), 0.3, 1.2, 33),
        ("sharpose_coco_384x288_b_alpha0.3.pth", 768, (384, 288), 0.3, 1.2, 33),
    ],
)
def test_released_files_are_known_by_width_crop_and_name(name, width, crop_size, alpha, threshold, selected):
    """The numbers are those of the released code's configurations, K those of the recorded outputs in tests/data."""
    found = infer_config(released_shapes(width, crop_size), name, {})
    assert found.warnings == ()
    config = found.config
    assert (config.width, config.crop_size, config.depth, config.heads) == (width, crop_size, 12, 12)
    assert (config.alpha, config.quality_threshold, config.num_selected) == (alpha, threshold, selected)
    assert ("everybody is refined" in found.notes[0]) == (threshold > 1)


def test_a_name_that_contradicts_the_shapes():
    state = released_shapes(768, (256, 192))
    with pytest.raises(CheckpointError, match=r"says alpha 0\.3, but .*base_coco_256x192, whose alpha is 0\.4"):
        infer_config(state, "sharpose_coco_256x192_b_alpha0.3.pth", {})
    given = infer_config(state, "sharpose_coco_256x192_b_alpha0.3.pth", {"alpha": 0.3})
    assert (given.config.alpha, given.warnings) == (0.3, ())
    found = infer_config(state, "sharpose_base_coco_384x288.pth", {})
    assert (found.config.crop_size, found.config.alpha) == ((256, 192), 0.4)
    assert "is for crops of 256x192, whatever its name says" in found.warnings[0]


@pytest.mark.parametrize(
    ("name", "alphas"),
    [
        ("sharpose_coco_384x288_b_alpha0.3.pth", [0.3]),
        ("a_alpha=.45_x.pth", [0.45]),
        ("alpha1.pth", [1.0]),
        ("ALPHA-1.0.safetensors", [1.0]),
        ("alpha0.3.1.pth", [0.3]),
        ("alpha.pth", []),
        ("alphabet0.3.pth", []),
        ("alpha12.pth", [12.0]),
        ("x_alpha0.5_alpha0.3_alpha0.50.pth", [0.3, 0.5]),
    ],
)
def test_alphas_in_a_name(name, alphas):
    assert alphas_in_name(name) == alphas


@pytest.mark.parametrize("said", ["7", "0.0", "0", "1.5"])
def test_an_alpha_in_a_name_that_can_not_be_is_said(nano_config, said):
    found = infer_config(shapes(nano_config), f"some_alpha{said}.pth", {})
    assert found.config.alpha == 0.5
    assert f"alpha {float(said):g} in its name isn't above 0 and at most 1; 0.5 is used" in found.warnings[0]
    assert infer_config(shapes(nano_config), f"some_alpha{said}.pth", {"alpha": 0.5}).config.alpha == 0.5


def test_two_alphas_in_a_name_need_one_that_is_given(nano_config):
    with pytest.raises(
        CheckpointError, match=r"its name says alpha 0\.3 and 0\.5; give --config, or the right --alpha"
    ):
        infer_config(shapes(nano_config), "some_alpha0.5_alpha0.3.pth", {})
    assert infer_config(shapes(nano_config), "some_alpha0.5_alpha0.3.pth", {"alpha": 0.3}).config.alpha == 0.3


def test_an_unusual_head_and_mlp_are_read_off_too(nano_config):
    config = nano_config.replace({"head": "mlp", "head_hidden": 30, "mlp_ratio": 2.0})
    found = infer_config(shapes(config), "some.pth", {}).config
    assert (found.head, found.head_hidden, found.mlp_hidden) == ("mlp", 30, 48)


def test_what_it_reads_loads(nano_config):
    config = nano_config.replace({"head": "mlp", "head_hidden": 30})
    state = SHaRPose(config).state_dict()
    SHaRPose(infer_config(state, "some.pth", {}).config).load_state_dict(state, strict=True)


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
    assert infer_config(state, "some.pth", {"heads": 4}).config.heads == 4


@pytest.mark.parametrize(("joints", "skeleton"), [(16, "mpii16"), (17, "coco17"), (26, "halpe26")])
def test_the_number_of_keypoints_gives_the_skeleton(nano_config, joints, skeleton):
    state = shapes(nano_config) | {"backbone.keypoint_tokens": torch.empty(1, joints, 24, device="meta")}
    found = infer_config(state, "some.pth", {"heads": 12})
    assert found.config.skeleton.name == skeleton
    said = ["its 17 keypoints are taken for those of coco17; for ap10k17 give --config"] if joints == 17 else []
    assert list(found.notes[1:]) == said


def test_an_unknown_number_of_keypoints_is_refused(nano_config):
    state = shapes(nano_config)
    state["backbone.keypoint_tokens"] = torch.empty(1, 21, 24, device="meta")
    with pytest.raises(CheckpointError, match="21 keypoints"):
        infer_config(state, "some.pth", {})
