"""Plots of an evaluation, as PNG. matplotlib is imported only here, and only when one is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sharpose.errors import InputError, SinkError
from sharpose.training.evaluation.calibration import Calibration
from sharpose.training.evaluation.curve import GatePoint

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["check_matplotlib", "plot_curve", "plot_quality"]

_SIZE = (6.4, 4.4)  # inches


def check_matplotlib() -> None:
    """Raise `InputError` where matplotlib is missing: before the work, not after it."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise InputError('plots need matplotlib: pip install "sharpose[train]", or give --no-plots') from None


def plot_curve(points: Sequence[GatePoint], gate: GatePoint | None, path: Path) -> None:
    """AP against refine rate, with the gate's place on it; raises `SinkError` where the file can't be written."""
    figure, axes = _figure()
    axes.plot([point.refine_rate for point in points], [100 * point.ap for point in points], marker=".")
    if gate is not None:
        axes.plot(
            [gate.refine_rate], [100 * gate.ap], marker="o", linestyle="", label=f"threshold {gate.threshold:.4g}"
        )
        axes.legend()
    axes.set_xlabel("share of people refined")
    axes.set_ylabel("AP (OKS 0.50 to 0.95)")
    axes.set_xlim(-0.02, 1.02)
    axes.grid(alpha=0.3)
    _save(figure, path)


def plot_quality(
    quality: npt.NDArray[np.float32],
    oks: npt.NDArray[np.float64],
    calibration: Calibration,
    threshold: float | None,
    path: Path,
) -> None:
    """Predicted quality against true OKS: every person, the bins' means, the diagonal and the gate's threshold.

    Raises:
        SinkError: the file can't be written.
    """
    figure, axes = _figure()
    axes.scatter(quality, oks, s=6, alpha=0.35, linewidths=0, label="a person")
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1)
    axes.plot(
        [item.predicted for item in calibration.bins],
        [item.true for item in calibration.bins],
        color="black",
        marker="o",
        markersize=4,
        label="mean of a bin",
    )
    if threshold is not None:
        axes.axvline(threshold, linestyle="--", linewidth=1, label=f"threshold {threshold:.4g}")
    axes.set_xlabel("predicted quality")
    axes.set_ylabel("true OKS of the coarse pose")
    axes.set_ylim(-0.02, 1.02)
    axes.grid(alpha=0.3)
    axes.legend()
    _save(figure, path)


def _figure() -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    figure = Figure(figsize=_SIZE, layout="constrained")
    return figure, figure.add_subplot()


def _save(figure: Figure, path: Path) -> None:
    try:
        figure.savefig(path, dpi=120, format="png")
    except OSError as error:
        raise SinkError(f"{path}: can't be written ({error.strerror})") from error
