"""Initial weights: those of other people's transformers, in files made here, and starts better than noise."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch

from sharpose.config import ModelConfig
from sharpose.errors import CheckpointError
from sharpose.model import SHaRPose, random_model, save_checkpoint
from sharpose.skeleton import COCO17, HALPE26, Skeleton
from sharpose.training.init import (
    dct_filters,
    init_from_file,
    init_from_state,
    scale_heatmaps,
    sine_positions,
    start_with_dct,
    start_with_sines,
)
from sharpose.training.objectives.pose import heatmap_cross_entropy


def vit_state(config: ModelConfig, positions: int, prefix: str = "", norm: str = "norm") -> dict[str, torch.Tensor]:
    """A plain ViT's encoder, as MAE and ViTPose name it."""
    generator = torch.Generator().manual_seed(0)

    def tensor(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    width, hidden = config.width, config.mlp_hidden
    state = {"patch_embed.proj.weight": tensor(width, 3, 16, 16), "patch_embed.proj.bias": tensor(width)}
    for index in range(config.depth):
        for name, shape in {
            "norm1.weight": (width,),
            "norm1.bias": (width,),
            "attn.qkv.weight": (3 * width, width),
            "attn.qkv.bias": (3 * width,),
            "attn.proj.weight": (width, width),
            "attn.proj.bias": (width,),
            "norm2.weight": (width,),
            "norm2.bias": (width,),
            "mlp.fc1.weight": (hidden, width),
            "mlp.fc1.bias": (hidden,),
            "mlp.fc2.weight": (width, hidden),
            "mlp.fc2.bias": (width,),
        }.items():
            state[f"blocks.{index}.{name}"] = tensor(*shape)
    state |= {f"{norm}.weight": tensor(width), f"{norm}.bias": tensor(width)}
    state["pos_embed"] = tensor(1, positions, width)
    return {prefix + key: value for key, value in state.items()}


def ramp(rows: int, columns: int, width: int) -> torch.Tensor:
    """Positions [1, rows * columns, width] that are a plane: x + 10 y, measured so that a region is a unit."""
    y, x = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(columns) + 0.5, indexing="ij")
    return (x / columns + 10 * y / rows).reshape(1, -1, 1).expand(1, -1, width).clone()


def test_mae(nano_config: ModelConfig, tmp_path: Path) -> None:
    state = vit_state(nano_config, 1 + 14 * 14)
    state["pos_embed"][:, 0] = 1e6  # the class token's, which must not be used
    state["pos_embed"][:, 1:] = ramp(14, 14, nano_config.width)
    state["cls_token"] = torch.zeros(1, 1, nano_config.width)
    state["mask_token"] = torch.zeros(1, 1, 16)
    state["decoder_blocks.0.attn.qkv.weight"] = torch.zeros(48, 16)
    torch.save({"model": state, "args": argparse.Namespace(lr=1e-3), "epoch": 799}, tmp_path / "mae.pth")
    model = SHaRPose(nano_config)
    before = model.backbone.keypoint_tokens.detach().clone()
    report = init_from_file(model, tmp_path / "mae.pth")

    assert report.kind == "ViT"
    own = model.state_dict()
    for key in state:
        if key.startswith(("patch_embed", "blocks", "norm")):
            assert torch.equal(own[f"backbone.{key}"], state[key])
    # a plane stays a plane; away from the borders, where bicubic interpolation bends it
    for stage, (rows, columns) in enumerate(((4, 3), (8, 6))):
        found = own[f"backbone.pos_embed_list.{stage}"].reshape(rows, columns, -1)
        expected = ramp(rows, columns, nano_config.width).reshape(rows, columns, -1)
        torch.testing.assert_close(found[1:-1, 1:-1], expected[1:-1, 1:-1], atol=0.05, rtol=0)
    assert torch.equal(own["backbone.keypoint_tokens"], before)
    assert "backbone.keypoint_tokens" in report.left
    assert "keypoint_head.heatmap_mlp.1.weight" in report.left
    assert set(report.unused) == {"cls_token", "mask_token", "decoder_blocks.0.attn.qkv.weight"}
    lines = report.lines()
    assert lines[0].startswith("ViT weights: set 30 tensors, left ")
    assert "positions resampled from 14x14 to 4x3 (coarse) and 8x6 (fine)" in lines
    assert set(report.loaded) | set(report.left) == set(own)


@pytest.mark.parametrize("prefix", ["backbone.", "module.backbone."])
def test_vitpose(nano_config: ModelConfig, tmp_path: Path, prefix: str) -> None:
    state = vit_state(nano_config, 1 + 16 * 12, prefix, norm="last_norm")
    positions = state[f"{prefix}pos_embed"]
    state["keypoint_head.final_layer.weight"] = torch.zeros(17, 8, 1, 1)
    torch.save({"state_dict": state, "meta": {}}, tmp_path / "vitpose.pth")
    model = SHaRPose(nano_config.replace({"crop_size": (256, 192)}))
    report = init_from_file(model, tmp_path / "vitpose.pth")
    assert report.kind == "ViTPose"
    assert torch.equal(model.backbone.norm.weight, state[f"{prefix}last_norm.weight"])
    # the fine grid is ViTPose's own: nothing is interpolated; its class position is added, as ViTPose does
    torch.testing.assert_close(model.backbone.pos_embed_list[1].data, positions[:, 1:] + positions[:, :1])
    assert report.unused == ("keypoint_head.final_layer.weight",)


def test_a_checkpoint_of_ours_at_another_size(nano_config: ModelConfig, tmp_path: Path) -> None:
    source = random_model(nano_config, seed=5).model
    save_checkpoint(tmp_path / "ours.pth", source)
    model = SHaRPose(nano_config.replace({"crop_size": (256, 192)}))
    report = init_from_file(model, tmp_path / "ours.pth")
    assert report.kind == "SHaRPose"
    assert report.left == ("keypoint_head.heatmap_mlp.1.bias", "keypoint_head.heatmap_mlp.1.weight")
    assert torch.equal(model.backbone.keypoint_tokens, source.backbone.keypoint_tokens)
    same = SHaRPose(nano_config)
    assert init_from_file(same, tmp_path / "ours.pth").left == ()


def planes(model: SHaRPose, stage: int) -> torch.Tensor:
    """[rows, columns, 2]: the first two channels of a stage's positions."""
    rows, columns = (count * (stage + 1) for count in model.config.region_grid)
    return model.backbone.pos_embed_list[stage].detach()[0, :, :2].reshape(rows, columns, 2)


def test_positions_keep_their_place_in_crops_of_any_aspect(nano_config: ModelConfig, tmp_path: Path) -> None:
    """Also where the number of positions is the same, or that of an upright crop."""
    head = ("keypoint_head.heatmap_mlp.1.bias", "keypoint_head.heatmap_mlp.1.weight")
    wide = random_model(nano_config.replace({"crop_size": (192, 256)}), seed=5).model  # 6 x 8 regions
    with torch.no_grad():
        for stage, positions in enumerate(wide.backbone.pos_embed_list):
            y, x = torch.meshgrid(*(torch.arange(count * (stage + 1)) / (stage + 1) for count in (6, 8)), indexing="ij")
            positions[0, :, :2] = torch.stack([y, x], dim=-1).flatten(0, 1)  # in regions, from the top left
    save_checkpoint(tmp_path / "wide.pth", wide)
    for size, (rows, columns) in (((288, 384), (9, 12)), ((256, 192), (8, 6))):
        model = SHaRPose(nano_config.replace({"crop_size": size}))
        report = init_from_file(model, tmp_path / "wide.pth")
        assert report.left == head
        assert report.notes == (
            f"positions of the coarse stage resampled from 6x8 to {rows}x{columns}",
            f"positions of the fine stage resampled from 12x16 to {2 * rows}x{2 * columns}",
        )
        for stage in range(2):
            found = planes(model, stage)
            assert found[..., 0].std(dim=1).max() < 1e-5  # a row is at one height,
            assert found[..., 1].std(dim=0).max() < 1e-5  # a column at one place across,
            steps = found[:, 0, 0].diff().mean().item(), found[0, :, 1].diff().mean().item()
            assert steps == pytest.approx((6 / rows / (stage + 1), 8 / columns / (stage + 1)), rel=0.1)
    same = SHaRPose(wide.config.replace({"heads": 2, "pixel_mean": (0.5, 0.5, 0.5)}))
    report = init_from_file(same, tmp_path / "wide.pth")
    assert report.left == ()
    assert report.notes == (
        f"heads: {wide.config.heads} in the file's model, 2 in this one",
        "pixel_mean: (0.485, 0.456, 0.406) in the file's model, (0.5, 0.5, 0.5) in this one",
    )
    with pytest.raises(
        CheckpointError, match=r"expected 4x3 positions of the coarse stage, .* crops of 128x96 .* got 48"
    ):
        init_from_state(SHaRPose(nano_config.replace({"crop_size": (256, 192)})), wide.state_dict(), "x", nano_config)


def test_keypoints_of_another_skeleton_are_taken_by_name(nano_config: ModelConfig, tmp_path: Path) -> None:
    source = random_model(nano_config, seed=5).model
    save_checkpoint(tmp_path / "coco.pth", source)
    halpe = nano_config.replace({"skeleton": HALPE26})
    model, untouched = random_model(halpe, seed=1).model, random_model(halpe, seed=1).model
    report = init_from_file(model, tmp_path / "coco.pth")
    assert report.left == report.unused == ()
    (note,) = report.notes
    assert note == (
        "keypoint tokens: 17 of 26 by name from coco17; started anew: head, neck, hip, left_big_toe, right_big_toe, "
        "left_small_toe, right_small_toe, left_heel, right_heel"
    )
    tokens = model.backbone.keypoint_tokens
    assert torch.equal(tokens[:, :17], source.backbone.keypoint_tokens)
    assert torch.equal(tokens[:, 17:], untouched.backbone.keypoint_tokens[:, 17:])
    save_checkpoint(tmp_path / "halpe.pth", model)
    back = SHaRPose(nano_config)
    assert init_from_file(back, tmp_path / "halpe.pth").notes == ("keypoint tokens: 17 of 17 by name from halpe26",)
    assert torch.equal(back.backbone.keypoint_tokens, source.backbone.keypoint_tokens)


def test_as_many_keypoints_are_not_the_same_keypoints(nano_config: ModelConfig) -> None:
    state = random_model(nano_config, seed=5).model.state_dict()
    animal = SHaRPose(nano_config.replace({"skeleton": "ap10k17"}))
    (note,) = init_from_state(animal, state, "released.pth").notes  # a file that says no skeleton has COCO's
    assert note.startswith("keypoint tokens: 11 of 17 by name from coco17; started anew: neck, root_of_tail, left_")
    names = animal.config.skeleton.keypoints
    for name in ("nose", "right_knee"):
        wanted = state["backbone.keypoint_tokens"][0, COCO17.keypoints.index(name)]
        assert torch.equal(animal.backbone.keypoint_tokens[0, names.index(name)], wanted)
    own = Skeleton("rod", ("tip", "end"), ((0, 1),), (), (0.05, 0.05))
    rod = SHaRPose(nano_config.replace({"skeleton": own}))
    before = rod.backbone.keypoint_tokens.detach().clone()
    report = init_from_state(rod, state, "coco.pth", nano_config)
    assert report.notes == ("keypoint tokens: started anew; coco17 of the file has none of rod's keypoints",)
    assert report.left == ("backbone.keypoint_tokens",)
    assert torch.equal(rod.backbone.keypoint_tokens, before)
    (note,) = init_from_state(SHaRPose(nano_config.replace({"skeleton": own})), rod.state_dict(), "rod.pth").notes
    assert note == "keypoint tokens: taken in their order; the file doesn't say which 2 keypoints it has"
    (note,) = init_from_state(SHaRPose(nano_config), rod.state_dict(), "rod.pth").notes
    assert note == "keypoint tokens: started anew; the file doesn't say which 2 keypoints it has"


def test_a_checkpoint_of_a_coarse_stage_alone(nano_config: ModelConfig) -> None:
    state = random_model(nano_config, seed=5).model.state_dict()
    coarse = {
        key: value.half()
        for key, value in state.items()
        if not key.startswith(("backbone.reuse_block", "backbone.quality", "backbone.pos_embed_list.1"))
    }
    model = SHaRPose(nano_config)
    report = init_from_state(model, coarse, "coarse.pth")
    assert {key.split(".")[1] for key in report.left} == {"reuse_block", "quality_token", "quality_predictor"}
    assert report.notes == ("positions of the fine stage resampled from 4x3 to 8x6",)


def test_another_width_or_depth_is_refused(nano_config: ModelConfig) -> None:
    with pytest.raises(CheckpointError, match="expected 3 blocks of width 24, as nano has, got 2 of width 24"):
        init_from_state(SHaRPose(nano_config.replace({"depth": 3})), vit_state(nano_config, 197), "x.pth")
    state = vit_state(nano_config, 197)
    state["blocks.1.mlp.fc2.weight"] = state["blocks.1.mlp.fc2.weight"][:20]  # ViTPose+ splits it among experts
    with pytest.raises(CheckpointError, match=r"blocks\.1\.mlp\.fc2\.weight: expected \[24, 96\], got \[20, 96\]"):
        init_from_state(SHaRPose(nano_config), state, "x.pth")
    with pytest.raises(CheckpointError, match="191 positions are no square or 4:3 grid"):
        init_from_state(SHaRPose(nano_config), vit_state(nano_config, 191), "x.pth")


def test_files_that_are_no_weights(nano_config: ModelConfig, tmp_path: Path) -> None:
    model = SHaRPose(nano_config)
    with pytest.raises(CheckpointError, match=r"expected a \.pth or \.safetensors file or a bundle, found nothing"):
        init_from_file(model, tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(CheckpointError, match="expected a PyTorch checkpoint, got a file that begins b'hello'"):
        init_from_file(model, tmp_path / "text.pth")
    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "resnet.pth")
    with pytest.raises(CheckpointError, match=r"expected a SHaRPose, ViTPose or MAE checkpoint.*conv1\.weight"):
        init_from_file(model, tmp_path / "resnet.pth")
    torch.save({"model": Path("run-me")}, tmp_path / "code.pth")
    with pytest.raises(CheckpointError, match="refused"):
        init_from_file(model, tmp_path / "code.pth")


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
