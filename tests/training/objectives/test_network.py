""""""

import pytest
import torch

from sharpose.config import ModelConfig
from sharpose.model import SHaRPose, random_model
from sharpose.training.data.augment import PixelChange
from sharpose.training.objectives.network import DenseHead, PoseNetwork, recompute_blocks, set_drop_path


@pytest.fixture
def images(nano_config: ModelConfig) -> torch.Tensor:
    shape = (2, *nano_config.crop_size, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def normalised(images: torch.Tensor, config: ModelConfig) -> torch.Tensor:
    mean, std = torch.tensor(config.pixel_mean), torch.tensor(config.pixel_std)
    return ((images / 255.0 - mean) / std).permute(0, 3, 1, 2)


def test_colours_cut_out_and_normalisation_in_one(nano_config: ModelConfig, images: torch.Tensor) -> None:
    network = PoseNetwork(random_model(nano_config, seed=1).model)
    torch.testing.assert_close(network.normalised(images), normalised(images, nano_config), atol=1e-5, rtol=1e-5)
    gain, offset = torch.tensor([0.5, 1.25]), torch.tensor([[10.0, -20.0, 0.0], [0.0, 5.0, 100.0]])
    hole, fill = torch.tensor([[0, 0, 0, 0], [3, 10, 7, 128]]), torch.tensor([[9.0, 9.0, 9.0], [-1.0, 0.5, 2.0]])
    found = network.normalised(images, PixelChange(gain, offset, hole, fill))
    changed = images * gain[:, None, None, None] + offset[:, None, None]
    expected = normalised(changed, nano_config)
    expected[1, :, 10:128, 3:7] = fill[1][:, None, None]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_every_crop_goes_through_both_stages(nano_config: ModelConfig, images: torch.Tensor) -> None:
    model = random_model(nano_config, seed=1).model
    network = PoseNetwork(model)
    with torch.no_grad():
        found = network(images)
        expected = model(normalised(images, nano_config), quality_threshold=float("inf"))
    torch.testing.assert_close(found.coarse, expected.coarse.heatmaps, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.fine, expected.heatmaps, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.quality, expected.coarse.quality, atol=1e-5, rtol=1e-4)
    assert found.dense is None


def test_every_parameter_gets_a_gradient(nano_config: ModelConfig, images: torch.Tensor) -> None:
    network = PoseNetwork(SHaRPose(nano_config), dense=True).train()
    output = network(images)
    (output.coarse.sum() + output.fine.sum() + output.quality.sum() + output.dense.sum()).backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []
    names = {name for name, _ in network.trained_parameters()}
    assert set(SHaRPose(nano_config).state_dict()) | {"dense.proj.weight", "dense.proj.bias"} <= names
    assert len(names) == len(list(network.parameters()))


def test_drop_path_rises_to_its_rate(nano_config: ModelConfig) -> None:
    model = SHaRPose(nano_config.replace({"depth": 5}))
    set_drop_path(model, 0.1)
    rates = [block.drop_path for block in model.backbone.blocks]
    assert rates == pytest.approx([0.0, 0.025, 0.05, 0.075, 0.1])


def test_recomputing_blocks_changes_no_gradient(nano_config: ModelConfig, images: torch.Tensor) -> None:
    gradients = []
    for recompute in (False, True):
        model = random_model(nano_config, seed=1).model
        set_drop_path(model, 0.5)
        if recompute:
            recompute_blocks(model)
        network = PoseNetwork(model).train()
        torch.manual_seed(3)  # drop path must be the same when a block is computed again
        output = network(images)
        (output.coarse.square().sum() + output.fine.square().sum()).backward()
        gradients.append([parameter.grad for parameter in network.parameters() if parameter.grad is not None])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_a_region_predicts_its_own_piece(nano_config: ModelConfig) -> None:
    head = DenseHead(nano_config)
    rows, columns = nano_config.region_grid
    features = torch.zeros(1, nano_config.num_regions, nano_config.width)
    with torch.no_grad():
        empty = head(features)
        features[0, 1 * columns + 2] = torch.linspace(-1, 1, nano_config.width)  # row 1, column 2
        changed = (head(features) != empty).any(dim=1)[0]
        weight = head.proj.weight.clone()
        head.proj.weight.zero_()
        head.proj.bias.zero_()
        head.proj.bias[5 * 64 + 3 * 8 + 1] = 1.0  # joint 5, row 3, column 1 of every piece
        single = head(features)
    assert empty.shape == (1, 17, *nano_config.heatmap_size)
    assert changed[8:16, 16:24].all()
    assert int(changed.sum()) == 64
    assert weight.abs().sum() > 0
    places = single[0].nonzero().tolist()
    assert places == [[5, 8 * row + 3, 8 * column + 1] for row in range(rows) for column in range(columns)]


def test_the_fine_stage_waits_for_its_epoch(nano_config: ModelConfig, images: torch.Tensor) -> None:
    network = PoseNetwork(random_model(nano_config, seed=1).model, fine_from_epoch=2).train()
    network.begin_step(1)
    output = network(images)
    assert output.fine is None
    (output.coarse.sum() + output.quality.sum()).backward()
    # all have gradients, as processes that train together need, and what only the fine stage uses has zeros
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None] == []
    still = {name for name, gradient in gradients.items() if gradient is not None and not gradient.any()}
    waiting = {name for name in gradients if "reuse_block" in name or name.endswith("pos_embed_list.1")}
    assert waiting <= still
    assert not any("blocks.0" in name and "weight" in name for name in still - waiting)

    network.eval()  # evaluation always looks at both
    with torch.no_grad():
        assert network(images).fine is not None
    network.train().begin_step(2)
    with_fine = network(images)
    assert with_fine.fine is not None
    torch.testing.assert_close(with_fine.coarse, output.coarse)


def test_a_share_of_the_batch_goes_through_the_fine_stage(nano_config: ModelConfig, images: torch.Tensor) -> None:
    model = random_model(nano_config, seed=1).model
    network, whole = PoseNetwork(model, fine_share=0.5).train(), PoseNetwork(model)
    with torch.no_grad():
        part, every = network(images), whole(images)
        assert part.coarse.shape[0] == 2
        assert part.fine.shape[0] == 1
        torch.testing.assert_close(part.fine, every.fine[:1], atol=1e-5, rtol=1e-4)
        assert network.eval()(images).fine.shape[0] == 2  # evaluation takes all
    one = PoseNetwork(model, fine_share=0.01).train()
    assert one(images).fine.shape[0] == 1
