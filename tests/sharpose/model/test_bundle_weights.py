"""The weights that a bundle was exported from, read back from its graphs."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from sharpose.bundle import Bundle, open_bundle, shipped_bundle
from sharpose.errors import BundleError, CheckpointError
from sharpose.model import SHaRPose, load_model
from sharpose.model.bundle_weights import read_bundle_weights


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


def test_every_weight_comes_back_to_the_bit(little_model: SHaRPose, two_precisions: Bundle) -> None:
    loaded = load_model(two_precisions.path)
    wanted, found = little_model.state_dict(), loaded.model.state_dict()
    assert set(found) == set(wanted)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert (loaded.config, loaded.notes) == (two_precisions.model, ())


def test_half_graphs_give_halves(little_model: SHaRPose, two_precisions: Bundle, tmp_path: Path) -> None:
    """But for the parts that stay in float32 there: norms, and the quality head."""
    found, _ = read_bundle_weights(with_graphs_of(two_precisions.path, tmp_path / "b", "fp16", "fp16"), "--init")
    wanted = little_model.state_dict()
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        half = value.half().float()
        assert found[name].dtype == torch.float32
        assert torch.equal(found[name], half) or torch.equal(found[name], value), name
        if "blocks" in name and "norm" not in name:
            assert torch.equal(found[name], half), name
            assert not torch.equal(half, value), name


def test_the_bundle_in_the_package_holds_halves_alone() -> None:
    found, manifest = read_bundle_weights(shipped_bundle(), "--init")
    assert all(torch.equal(value, value.half().float()) for value in found.values())
    assert manifest == open_bundle(shipped_bundle()).manifest
    shapes = {name: value.shape for name, value in SHaRPose(manifest.model).state_dict().items()}
    assert {name: value.shape for name, value in found.items()} == shapes


def test_a_bundles_gate_and_score_tables_come_along_where_nothing_else_is_computed() -> None:
    manifest = open_bundle(shipped_bundle()).manifest
    gate = manifest.gate
    assert gate.gain is not None
    loaded = load_model(shipped_bundle())
    assert (loaded.gate, loaded.scores, loaded.notes, loaded.warnings) == (gate, manifest.scores, (), ())
    assert loaded.config == manifest.model.replace({"quality_threshold": gate.quality_threshold})
    assert loaded.config.quality_threshold != manifest.model.quality_threshold
    assert load_model(shipped_bundle(), changes={"quality_threshold": 0.5}).gate == gate
    other = load_model(shipped_bundle(), changes={"alpha": 0.25})
    assert other.gate is not None
    assert other.gate.gain is None
    assert other.gate.quality_threshold == gate.quality_threshold
    assert other.gate.chosen_by == f"{gate.chosen_by}, with another configuration"
    assert [note.partition(" left out")[0] for note in other.notes] == [
        "its score tables are",
        "its gain of refining is",
    ]


def test_what_gives_no_weights(
    two_precisions: Bundle, nano_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = two_precisions.path
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
        load_model(nano_bundle)  # its biases are all zeros
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(CheckpointError, match=r'reading a bundle needs onnx: pip install ".*\[export\]"'):
        load_model(bundle)
