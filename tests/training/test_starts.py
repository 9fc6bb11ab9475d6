import torch

from sharpose.config import ModelConfig
from sharpose.model import SHaRPose
from sharpose.training.init import dct_filters, scale_heatmaps, sine_positions, start_with_dct, start_with_sines
from sharpose.training.objectives.pose import heatmap_cross_entropy


def test_a_fine_position_lies_among_those_of_its_region_and_neighbours() -> None:
    coarse = sine_positions((4, 3), 1, 64)[0]
    fine = sine_positions((4, 3), 2, 64)[0].reshape(8, 6, 64)
    # region (1, 2) covers fine rows 2, 3 and columns 4, 5; each of the four is nearest to it
    for row in (2, 3):
        for column in (4, 5):
            assert int((coarse - fine[row, column]).norm(dim=1).argmin()) == 1 * 3 + 2


def test_positions_by_hand() -> None:
    positions = sine_positions((2, 1), 1, 8)[0]  # two frequencies: 1 and 1/100
    y = torch.tensor([1.5, 0.015])
    x = torch.tensor([0.5, 0.005])
    expected = torch.cat([y.sin(), y.cos(), x.sin(), x.cos()])
    torch.testing.assert_close(positions[1], expected)


def test_the_filters_are_orthogonal_and_the_first_is_brightness() -> None:
    filters = dct_filters(192).flatten(1)
    products = filters @ filters.T
    assert (products - torch.diag(products.diagonal())).abs().max() < 1e-5
    assert products.diagonal().min() > 0
    assert filters[0].std() < 1e-6
    assert filters[0].mean() > 0


def test_both_starts_set_the_model(nano_config: ModelConfig) -> None:
    model = SHaRPose(nano_config)
    start_with_sines(model)
    start_with_dct(model)
    assert torch.equal(model.backbone.pos_embed_list[0].data, sine_positions((4, 3), 1, 24))
    assert torch.equal(model.backbone.pos_embed_list[1].data, sine_positions((4, 3), 2, 24))
    assert torch.equal(model.backbone.patch_embed.proj.weight.data, dct_filters(24))


def test_logits_become_heatmaps_that_the_cross_entropy_finds_as_right(nano_config: ModelConfig) -> None:
    for head in ("linear", "mlp"):
        model = SHaRPose(nano_config.replace({"head": head})).eval()
        last = model.keypoint_head.heatmap_mlp[-1]
        assert isinstance(last, torch.nn.Linear)
        torch.nn.init.normal_(last.bias)
        image = torch.randn(2, 3, *nano_config.crop_size, generator=torch.Generator().manual_seed(0))
        targets, weights = torch.rand(2, 17, *nano_config.heatmap_size), torch.ones(2, 17)
        with torch.no_grad():
            logits = model(image, quality_threshold=float("-inf")).heatmaps
            scale_heatmaps(model, 0.1)
            heatmaps = model(image, quality_threshold=float("-inf")).heatmaps
        torch.testing.assert_close(10 * heatmaps, logits, atol=1e-5, rtol=1e-4)
        found = heatmap_cross_entropy(heatmaps, targets, weights, 10.0)
        expected = heatmap_cross_entropy(logits, 10.0 * targets, weights, 1.0)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
