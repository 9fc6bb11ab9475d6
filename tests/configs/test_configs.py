"""The configurations that come with the package have the published numbers."""

import pytest

from sharpose.config import list_configs, load_config

# name: width, depth, heads, alpha, threshold, crop, keypoints, head, R, K
PUBLISHED = {
    "sharpose_tiny_coco_256x192": (192, 8, 6, 0.5, 0.99, (256, 192), 17, "linear", 48, 24),
    "sharpose_small_coco_256x192": (384, 12, 12, 0.5, 0.99, (256, 192), 17, "mlp", 48, 24),
    "sharpose_base_coco_256x192": (768, 12, 12, 0.4, 0.99, (256, 192), 17, "linear", 48, 20),
    "sharpose_base_coco_384x288": (768, 12, 12, 0.3, 1.2, (384, 288), 17, "mlp", 108, 33),
    "sharpose_small_mpii_256x256": (384, 12, 12, 0.5, 0.99, (256, 256), 16, "mlp", 64, 32),
    "sharpose_base_mpii_256x256": (768, 12, 12, 0.5, 0.99, (256, 256), 16, "mlp", 64, 32),
}


def test_all_six_are_listed():
    assert list_configs() == sorted(PUBLISHED)


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_numbers(name):
    config = load_config(name)
    assert (
        config.width,
        config.depth,
        config.heads,
        config.alpha,
        config.quality_threshold,
        config.crop_size,
        config.num_keypoints,
        config.head,
        config.num_regions,
        config.num_selected,
    ) == PUBLISHED[name]
    assert config.name == name
    assert config.mlp_hidden == 4 * config.width
    assert config.quality_activation == "gelu"
    assert config.pixel_mean == (0.485, 0.456, 0.406)
    assert config.pixel_std == (0.229, 0.224, 0.225)


@pytest.mark.parametrize("name", [name for name in sorted(PUBLISHED) if "tiny" not in name])
def test_an_mlp_head_where_the_width_is_below_a_quarter_of_the_heatmap(name):
    config = load_config(name)
    rows, columns = config.heatmap_size
    assert config.head == ("mlp" if config.width < rows * columns // 4 else "linear")
    if config.head == "mlp":
        assert config.head_hidden_width == rows * columns // 2
