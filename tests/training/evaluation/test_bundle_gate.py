"""Writing a threshold: only the gate changes, whole or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sharpose.bundle import GainCurve, open_bundle
from sharpose.errors import BundleError
from sharpose.training.evaluation.gate import write_gate


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, folder)
    return folder


def test_only_the_gate_changes(bundle: Path) -> None:
    before = json.loads((bundle / "bundle.json").read_text())
    files = {path.name: path.read_bytes() for path in bundle.iterdir() if path.name != "bundle.json"}
    gain = GainCurve(quality=(0.25, 0.5), gain=(0.125, -0.5), measured_on="people")
    write_gate(bundle, 0.8125, "a test", gain)
    after = json.loads((bundle / "bundle.json").read_text())
    written = {"quality": [0.25, 0.5], "gain": [0.125, -0.5], "measured_on": "people"}
    assert after.pop("gate") == {"quality_threshold": 0.8125, "chosen_by": "a test", "gain": written}
    before.pop("gate")
    assert after == before
    assert {path.name: path.read_bytes() for path in bundle.iterdir() if path.name != "bundle.json"} == files
    gate = open_bundle(bundle).manifest.gate
    assert (gate.quality_threshold, gate.gain) == (0.8125, gain)


def test_a_bundle_without_a_gain_is_read(bundle: Path) -> None:
    path = bundle / "bundle.json"
    text = json.loads(path.read_text())
    text["gate"].pop("gain", None)
    path.write_text(json.dumps(text))
    assert open_bundle(bundle).manifest.gate.gain is None


@pytest.mark.parametrize(
    ("quality", "gain", "says"),
    [
        ((0.5, 0.25), (0.0, 0.0), "ascending"),
        ((0.25, 0.5), (0.0,), "as many gains as qualities"),
        ((0.25,), (float("nan"),), "finite"),
    ],
)
def test_a_gain_that_is_no_line_is_refused(quality: tuple[float, ...], gain: tuple[float, ...], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        GainCurve(quality=quality, gain=gain, measured_on="")


def test_a_failed_write_leaves_the_old_one(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (bundle / "bundle.json").read_bytes()

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(BundleError, match="No space left"):
        write_gate(bundle, 0.5, "a test")
    assert (bundle / "bundle.json").read_bytes() == before
    assert not [path for path in bundle.iterdir() if path.name.startswith(".")]


def test_a_damaged_bundle_is_refused(bundle: Path) -> None:
    (bundle / "weights.bin").write_bytes(b"")
    with pytest.raises(BundleError, match="damaged"):
        write_gate(bundle, 0.5, "a test")
