"""The bundle that comes with the package."""

from __future__ import annotations

from pathlib import Path

import pytest

from sharpose import bundle as shipped
from sharpose.bundle import open_bundle, shipped_bundle
from sharpose.config import load_config
from sharpose.errors import BundleError

LIMIT_MB = 25


def test_it_opens_and_is_what_it_says() -> None:
    bundle = open_bundle(shipped_bundle())
    config = load_config(shipped.SHIPPED_BUNDLE)
    assert bundle.model.replace({"quality_threshold": config.quality_threshold}) == config
    assert bundle.manifest.parity["fp32"].failures == ()
    assert "random" not in bundle.manifest.source


def test_it_is_small_and_has_a_model_card() -> None:
    files = {path.name: path.stat().st_size for path in shipped_bundle().iterdir() if path.is_file()}
    assert set(files) == {"bundle.json", "coarse.onnx", "fine.onnx", "weights.bin", "MODEL_CARD.md"}
    assert sum(files.values()) < LIMIT_MB * 1e6


def test_a_package_without_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shipped, "SHIPPED_BUNDLE", "not_there")
    with pytest.raises(BundleError, match=r"not_there, found no bundle.json there; install the package again"):
        shipped_bundle()
