import torch

from sharpose.config import ModelConfig
from sharpose.model import SHaRPose
from sharpose.training.starts import dct_filters, sine_positions, start_with_dct, start_with_sines


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
