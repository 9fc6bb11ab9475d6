"""Pre-training on masked patches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import yaml
from click.testing import CliRunner
from torch.nn import functional

from sharpose.config import ModelConfig
from sharpose.model import SHaRPose, random_model
from sharpose.training.objectives.mae import MaeRecipe, MaskedAutoencoder, mask_patches, patch_pixels
from sharpose.training.train_cli import command


def test_patches_are_shown_or_hidden_each_once() -> None:
    torch.manual_seed(0)
    shown, hidden = mask_patches(3, 12, 0.75, torch.device("cpu"))
    assert shown.shape == (3, 3)
    both = torch.cat([shown, hidden], dim=1).sort(dim=1).values
    assert torch.equal(both, torch.arange(12).expand(3, -1))
    assert not torch.equal(shown[0], shown[1])
    assert mask_patches(1, 4, 0.99, torch.device("cpu"))[0].shape == (1, 1)
    assert mask_patches(1, 4, 0.01, torch.device("cpu"))[1].shape == (1, 1)


def test_pixels_lie_as_the_patch_embedding_sees_them(nano_config: ModelConfig) -> None:
    embed = SHaRPose(nano_config).backbone.patch_embed
    pixels = torch.randn(2, 3, 128, 96, generator=torch.Generator().manual_seed(0))
    by_hand = functional.linear(patch_pixels(pixels), embed.proj.weight.flatten(1), embed.proj.bias)
    torch.testing.assert_close(by_hand, embed(pixels), atol=1e-5, rtol=1e-4)


def test_only_hidden_patches_count(nano_config: ModelConfig, monkeypatch: Any) -> None:
    """A decoder that paints nothing has an error of 1 (normalised pixels) on each view; shown patches don't matter."""
    network = MaskedAutoencoder(random_model(nano_config, 1).model, MaeRecipe(decoder_width=32, decoder_depth=1))
    torch.nn.init.zeros_(network.paint.weight)
    torch.nn.init.zeros_(network.paint.bias)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 128, 96, 3), dtype=torch.uint8, generator=generator)
    output = network(images)
    # of 768 pixels, the variance is taken with one degree of freedom less
    for error in output:
        torch.testing.assert_close(error, torch.tensor(767 / 768), atol=1e-4, rtol=0)


def test_what_it_learns_starts_a_training(nano_values: dict[str, Any], people_folder: Path, tmp_path: Path) -> None:
    nano_values |= {"pretrain": {"decoder_width": 64}, "drop_path": 0.1}
    nano_values["schedule"] = {"epochs": 16, "policy": "constant", "warmup_steps": 3}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(nano_values))
    common = ["--data", str(people_folder), "--device", "cpu"]
    work = tmp_path / "pretrained"
    result = CliRunner().invoke(command, [str(tmp_path / "recipe.yaml"), "--work-dir", str(work), *common])
    assert result.exit_code == 0, result.output
    records = [json.loads(line) for line in (work / "train.jsonl").read_text().splitlines()]
    assert {record["kind"] for record in records} == {"train"}
    assert records[-1]["fine_painting"] < 0.9 * records[0]["fine_painting"]
    assert records[-1]["coarse_painting"] < 0.95 * records[0]["coarse_painting"]
    assert not (work / "best.pth").exists()

    arguments = [str(tmp_path / "recipe.yaml"), "--set", "pretrain=null", "--set", "schedule.epochs=1"]
    arguments += ["--work-dir", str(tmp_path / "trained"), "--init", str(work / "last.pth"), *common]
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    assert "SHaRPose weights: set 50 tensors" in result.output
