"""Fitting predicted quality to true OKS."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sharpose.config import load_config
from sharpose.errors import InputError, SinkError
from sharpose.model.checkpoint import load_model, random_model
from sharpose.training.evaluation.quality import fit_quality, save_fitted
from tests.training.evaluation.conftest import make_data

TINY = load_config("sharpose_tiny_coco_256x192")


@pytest.mark.parametrize("activation", ["gelu", "sigmoid"])
def test_the_fit_finds_what_was_done_to_the_last_layer(activation: str) -> None:
    """Qualities of z = 2 y + 0.7, where those of y would be right."""
    model = random_model(TINY.replace({"quality_activation": activation})).model
    last = model.backbone.quality_predictor.mlp[-1]
    right = torch.linspace(0.1, 1.5, 200, dtype=torch.float64)[torch.randperm(200)]
    oks, quality = last(right).numpy(), last(2 * right + 0.7).numpy().astype(np.float32)
    oks[7] = np.nan  # unlabelled
    fit = fit_quality(model, make_data(200), quality, oks)
    assert fit.scale == pytest.approx(0.5, abs=0.01)
    assert fit.shift == pytest.approx(-0.35, abs=0.01)
    assert fit.people in ((99, 100), (100, 99))
    assert fit.bias[0] > 0.1
    assert abs(fit.bias[1]) < 1e-3
    assert fit.error[1] < 1e-3
    assert fit.better


def test_noise_is_no_gain_on_other_pictures() -> None:
    model = random_model(TINY).model
    rng = np.random.default_rng(5)
    oks = rng.uniform(0.4, 0.9, 60)
    fit = fit_quality(model, make_data(60), np.full(60, oks.mean(), np.float32), oks)
    assert fit.error[1] == pytest.approx(fit.error[0], abs=0.02)
    assert fit.better == (fit.error[1] < fit.error[0])


def test_few_people_are_refused() -> None:
    with pytest.raises(
        InputError, match=r"at least 20 labelled people in each half of the pictures, got 15 and 15; give more"
    ):
        fit_quality(random_model(TINY).model, make_data(30), np.ones(30, np.float32), np.ones(30))


def test_a_saved_fit_changes_quality_alone(tmp_path: Path) -> None:
    path = tmp_path / "fitted.pth"
    model = random_model(TINY).model
    token = torch.randn(5, TINY.width)
    predictor = model.backbone.quality_predictor
    before = predictor.mlp[:-1](predictor.norm(token)).detach()
    fit = fit_quality(model, make_data(50), np.linspace(0.2, 0.9, 50, dtype=np.float32), np.linspace(0.1, 0.6, 50))
    save_fitted(path, model, fit)
    loaded = load_model(path).model
    again = loaded.backbone.quality_predictor
    after = again.mlp[:-1](again.norm(token)).detach()
    assert torch.allclose(after, fit.scale * before + fit.shift, atol=1e-5)
    with pytest.raises(SinkError, match=r"--calibrate-quality .*nowhere/x\.pth: can't be written"):
        save_fitted(path.parent / "nowhere" / "x.pth", model, fit)
