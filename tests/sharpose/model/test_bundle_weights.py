"""The weights that a bundle was exported from, read back from its graphs."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from reference_model import reference_crops

from sharpose.bundle import open_bundle, shipped_bundle
from sharpose.config import load_config
from sharpose.errors import BundleError, CheckpointError
from sharpose.export.bundle import ExportOptions, export_bundle
from sharpose.export.pictures import ParityPictures
from sharpose.model import LoadedModel, SHaRPose, load_model, random_model
from sharpose.model.bundle_weights import read_bundle_weights


@pytest.fixture(scope="module")
def model() -> SHaRPose:
    """Two blocks and a head of two layers; no two tensors are equal."""
    changes = {"width": 48, "depth": 2, "heads": 3, "head": "mlp", "head_hidden": 64}
    model = random_model(load_config("sharpose_tiny_coco_256x192").replace(changes), seed=3).model
    generator = torch.Generator().manual_seed(4)
    for parameter in model.parameters():
        parameter.data.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture(scope="module")
def bundle(model: SHaRPose, made_once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    """Of that model, in fp32 and fp16; copy it before changing it."""

    def make(folder: Path) -> None:
        pictures = ParityPictures(reference_crops(2, model.config.crop_size), "blocks of colour")
        options = ExportOptions(precisions=("fp32", "fp16"), max_batch=2)
        export_bundle(LoadedModel(model, model.config, "a test", ()), folder, pictures, options)

    return made_once("bundle_weights", make)


def with_graphs_of(bundle: Path, folder: Path, precision: str, name: str) -> Path:
    """A copy that has one precision alone, under a name."""
    shutil.copytree(bundle, folder)
    manifest = json.loads((folder / "bundle.json").read_text())
    for key in ("graphs", "parity"):
        manifest[key] = {name: manifest[key][precision]}
    kept = {manifest["weights"], *(entry["file"] for entry in manifest["graphs"][name].values())}
    manifest["files"] = {file: digest for file, digest in manifest["files"].items() if file in kept}
    (folder / "bundle.json").write_text(json.dumps(manifest))
    return folder


def test_every_weight_comes_back_to_the_bit(model: SHaRPose, bundle: Path) -> None:
    loaded = load_model(bundle)
    wanted, found = model.state_dict(), loaded.model.state_dict()
    assert set(found) == set(wanted)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert (loaded.config, loaded.notes) == (open_bundle(bundle).model, ())


def test_half_graphs_give_halves(model: SHaRPose, bundle: Path, tmp_path: Path) -> None:
    found, _ = read_bundle_weights(with_graphs_of(bundle, tmp_path / "b", "fp16", "fp16"), "--init")
    wanted = model.state_dict()
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        is_exact = "quality_predictor" in name  # float32 in half graphs
        assert found[name].dtype == torch.float32
        assert torch.equal(found[name], value if is_exact else value.half().float()), name


def test_the_bundle_in_the_package_holds_halves_alone() -> None:
    found, config = read_bundle_weights(shipped_bundle(), "--init")
    assert all(torch.equal(value, value.half().float()) for value in found.values())
    shapes = {name: value.shape for name, value in SHaRPose(config).state_dict().items()}
    assert {name: value.shape for name, value in found.items()} == shapes


def test_what_gives_no_weights(
    bundle: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = shutil.copytree(bundle, tmp_path / "damaged")
    content = bytearray((damaged / "weights.bin").read_bytes())
    content[100] ^= 1
    (damaged / "weights.bin").write_bytes(content)
    with pytest.raises(BundleError, match=r"weights\.bin is damaged"):
        load_model(damaged)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"a \.pth or \.safetensors file or a bundle, found a folder without bun"):
        load_model(tmp_path / "empty")
    with pytest.raises(CheckpointError, match="expected a bundle with fp32 or fp16 graphs, it has int8 alone"):
        load_model(with_graphs_of(bundle, tmp_path / "int8", "fp32", "int8"))
    with pytest.raises(CheckpointError, match="can't be told from others that equal them, as in an untrained model"):
        load_model(tiny_bundle)  # its biases are all zeros
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(CheckpointError, match=r'reading a bundle needs onnx: pip install ".*\[export\]"'):
        load_model(bundle)
