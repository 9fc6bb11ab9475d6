"""What is done to values over time: gaps are filled, and a low-pass filter without delay takes out jitter."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from sharpose.errors import InputError, require_packages

Floats = npt.NDArray[np.float64]

_UNEVEN = 0.25  # of a frame's duration: farther from an even beat, frames count as unevenly spaced
_EXTRA = "biomechanics"


def require_filter() -> None:
    """Raise `InputError` where SciPy, which the Butterworth filter is from, isn't installed."""
    require_packages("--butterworth", ["scipy.signal"], _EXTRA, InputError)


def fill_gaps(values: Floats, times: Floats, longest: float) -> Floats:
    """Values with short gaps filled by straight lines; beginnings and ends are no gaps.

    Args:
        values: float64 [F, n, k], n points of k numbers; NaN where a point isn't known.
        times: float64 [F], seconds, never decreasing.
        longest: Seconds from the frame before a gap to the one after it, up to which it is filled; 0 for none.

    Returns:
        float64 [F, n, k]; the same array where nothing is filled.
    """
    if longest <= 0:
        return values
    filled: Floats = values.copy()
    for point in range(values.shape[1]):
        known = np.flatnonzero(np.isfinite(values[:, point]).all(axis=1))
        for before, after in pairwise(known):
            # Times are rounded: a gap of exactly the limit is filled.
            if after - before > 1 and times[after] - times[before] <= longest + 1e-6:
                gap = slice(before + 1, after)
                span = times[after] - times[before]
                share = (times[gap] - times[before]) / span if span > 0 else np.full(after - before - 1, 0.5)
                step = values[after, point] - values[before, point]
                filled[gap, point] = values[before, point] + share[:, None] * step
    return filled


def frame_rate_of(times: Floats) -> float | None:
    """Frames per second: those of an even beat, else of the median step; None for fewer than two moments."""
    if len(times) < 2 or not times[-1] > times[0]:
        return None
    return (len(times) - 1) / float(times[-1] - times[0]) if _is_even(times) else 1 / _median_step(times)


def check_cutoff(cutoff: float, frame_rate: float) -> None:
    """Raise `InputError` for a cut-off, in Hz, that isn't below half the frame rate."""
    if not cutoff < frame_rate / 2:
        raise InputError(
            f"butterworth: expected a cut-off below {frame_rate / 2:g} Hz, half of the {frame_rate:g} frames per "
            f"second, got {cutoff:g}"
        )


def butterworth(values: Floats, times: Floats, cutoff: float, order: int = 4) -> Floats:
    """A low-pass filter that runs forwards and backwards, so that nothing comes late.

    Each stretch without a gap is filtered for itself. As in Sports2D, each pass has half of the order and the whole
    cut-off, at which the amplitude is halved by both together. Where frames are unevenly spaced, values are
    interpolated to an even beat and back: that of the median step, fitted to begin and end with the stretch.

    Args:
        values: float64 [F, n, k], n points of k numbers; NaN where a point isn't known.
        times: float64 [F], seconds, never decreasing.
        cutoff: Hz, below half the frame rate.
        order: Even, of both passes together.

    Returns:
        float64 [F, n, k]. A single frame between gaps is left as it is.

    Raises:
        InputError: the cut-off isn't below half the frame rate, or SciPy is missing.
    """
    require_filter()
    from scipy import signal

    rate = frame_rate_of(times)
    if rate is None:
        return values
    check_cutoff(cutoff, rate)
    sections = signal.butter(order // 2, cutoff, fs=rate, output="sos")
    even = _is_even(times)
    filtered: Floats = values.copy()
    for point in range(values.shape[1]):
        for stretch in _stretches(np.isfinite(values[:, point].sum(axis=1))):
            if stretch.stop - stretch.start < 2:
                continue
            piece, moments = values[stretch, point], times[stretch]
            if even:
                filtered[stretch, point] = _both_ways(sections, piece)
                continue
            steps = max(round(float(moments[-1] - moments[0]) * rate), 1)
            beat = np.linspace(moments[0], moments[-1], steps + 1)  # np.interp holds the last value beyond its end
            for axis in range(piece.shape[1]):
                smooth = _both_ways(sections, np.interp(beat, moments, piece[:, axis])[:, None])[:, 0]
                filtered[stretch, point, axis] = np.interp(moments, beat, smooth)
    return filtered


def _both_ways(sections: Floats, values: Floats) -> Floats:
    """[m, k] filtered along the first axis; ends are padded with their mirror image as far as a short one reaches."""
    from scipy import signal

    usual = 3 * (2 * len(sections) + 1)
    result: Floats = signal.sosfiltfilt(sections, values, axis=0, padlen=min(usual, len(values) - 1))
    return result


def _stretches(known: npt.NDArray[np.bool_]) -> Iterator[slice]:
    """Where it is true without a break."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], known, [False]]).astype(np.int8)))
    for start, stop in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        yield slice(start, stop)


def _median_step(times: Floats) -> float:
    steps = np.diff(times)
    return float(np.median(steps[steps > 0]))


def _is_even(times: Floats) -> bool:
    """Whether moments are those of an even beat, but for the rounding of time stamps."""
    step = (times[-1] - times[0]) / (len(times) - 1)
    return bool(np.abs(times - times[0] - step * np.arange(len(times))).max() <= _UNEVEN * step)
