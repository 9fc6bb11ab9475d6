"""Predicted quality that is right on average: the last layer of the quality predictor, fitted to the true OKS."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sharpose.errors import InputError, SinkError, counted, one_line
from sharpose.files import replacing
from sharpose.scores.tables import ScoreTables
from sharpose.training.evaluation.data import EvaluationData
from sharpose.training.evaluation.metrics import Doubles, Floats, calibrate

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sharpose.model import SHaRPose

_FEWEST_PEOPLE = 20  # in either half
_MOST_STEPS = 200  # of L-BFGS, for two numbers


@dataclass(frozen=True)
class QualityFit:
    """What the last layer of the quality predictor is changed by, and what that does on held-out pictures.

    Its output before the activation, z, becomes `scale · z + shift`. Ranks stay, so the same people can be refined.
    """

    scale: float  # above 0
    shift: float
    people: tuple[int, int]  # numbers of people it was fitted to, and checked on
    bias: tuple[float, float]  # mean of predicted quality minus true OKS on the held-out people, before and after
    error: tuple[float, float]  # mean absolute difference there, before and after

    @property
    def better(self) -> bool:
        """Whether held-out people's quality is predicted with a smaller error than before."""
        return self.error[1] < self.error[0]

    def __str__(self) -> str:
        """Both errors, in a sentence."""
        fitted, checked = (counted(number, "person") for number in self.people)
        return (
            f"quality fitted to the OKS of {fitted}; on {checked} of other pictures its bias goes from "
            f"{self.bias[0]:+.3f} to {self.bias[1]:+.3f}, "
            f"its mean error from {self.error[0]:.3f} to {self.error[1]:.3f}"
        )


def fit_quality(model: SHaRPose, data: EvaluationData, quality: Floats, oks: Doubles, seed: int = 0) -> QualityFit:
    """Fit on one half of the pictures by least squares, check on the other.

    Args:
        model: The model that predicted; its activation counts.
        data: The labelled people.
        quality: float32 [n], predicted.
        oks: float64 [n], true OKS of the coarse poses; NaN leaves a person out.
        seed: Determines the halves.

    Raises:
        InputError: there are too few labelled people in a half.
    """
    import torch

    activation = model.backbone.quality_predictor.mlp[-1]
    known = np.isfinite(quality) & np.isfinite(oks)
    pictures = np.random.default_rng(seed).permutation(np.unique(data.people.image_ids[known]))
    fitted = known & np.isin(data.people.image_ids, pictures[: len(pictures) // 2])
    checked = known & ~fitted
    if min(fitted.sum(), checked.sum()) < _FEWEST_PEOPLE:
        raise InputError(
            f"--calibrate-quality: expected at least {_FEWEST_PEOPLE} labelled people in each half of the pictures, "
            f"got {fitted.sum()} and {checked.sum()}; give more pictures"
        )
    before = _before_activation(activation, torch.from_numpy(quality.astype(np.float64)))
    true = torch.from_numpy(oks)
    rows = torch.from_numpy(fitted)
    change = torch.tensor([0.0, 0.0], dtype=torch.float64, requires_grad=True)  # logarithm of the scale, shift
    optimizer = torch.optim.LBFGS([change], max_iter=_MOST_STEPS, line_search_fn="strong_wolfe")

    def squared_error() -> Tensor:
        optimizer.zero_grad()
        error: Tensor = (activation(change[0].exp() * before + change[1]) - true)[rows].square().mean()
        error.backward()
        return error

    optimizer.step(squared_error)
    scale, shift = change.detach()[0].exp().item(), change.detach()[1].item()
    new = activation(scale * before + shift).numpy().astype(np.float32)
    old, now = (calibrate(predicted[checked], oks[checked]) for predicted in (quality, new))
    people = int(fitted.sum()), int(checked.sum())
    return QualityFit(scale, shift, people, (old.bias, now.bias), (old.mean_error, now.mean_error))


def _before_activation(activation: nn.Module, quality: Tensor) -> Tensor:
    """What the activation makes these qualities of; the nearest that it can make, where it can't make them."""
    import torch

    # GELU falls below its zero and rises from -0.7518 on; there and right of it, both activations only rise.
    places = torch.linspace(-0.75, 12.0, 200_001, dtype=torch.float64)
    if isinstance(activation, torch.nn.Sigmoid):
        places = torch.linspace(-12.0, 12.0, 200_001, dtype=torch.float64)
    inverse = np.interp(quality.numpy(), activation(places).numpy(), places.numpy())
    return torch.from_numpy(inverse)


def save_fitted(path: Path, model: SHaRPose, fit: QualityFit, scores: ScoreTables | None = None) -> None:
    """Make the change to the model, and write its checkpoint, atomically; with its score tables, if it has some.

    Raises:
        SinkError: the file can't be written.
    """
    import torch

    from sharpose.model.checkpoint import save_checkpoint

    last = model.backbone.quality_predictor.mlp[-2]
    assert isinstance(last, torch.nn.Linear)
    with torch.no_grad():
        last.weight *= fit.scale
        last.bias.mul_(fit.scale).add_(fit.shift)
    try:
        with replacing(path) as temporary:
            save_checkpoint(temporary, model, scores)
    except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into a RuntimeError of many lines
        raise SinkError(f"--calibrate-quality {path}: can't be written ({one_line(error)[:160]})") from error
