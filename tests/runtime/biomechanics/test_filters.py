"""Filling gaps, and the filter: what it lets through, what it delays, and what it does at gaps and on uneven beats."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from sharpose.errors import InputError, SinkError
from sharpose.runtime.biomechanics.filters import butterworth, check_cutoff, fill_gaps, frame_rate_of
from sharpose.runtime.biomechanics.options import BiomechanicsOptions
from sharpose.runtime.biomechanics.sinks import MotionSettings, TrcSink
from sharpose.runtime.biomechanics.trajectories import Trajectories
from sharpose.skeleton import COCO17

TIMES = np.arange(500) / 100
NAN = np.nan


def series(*values: float) -> np.ndarray:
    """[F, 1, 2]: a point whose y is ten times its x."""
    x = np.array(values, np.float64)
    return np.stack([x, 10 * x], axis=1)[:, None]


@pytest.mark.parametrize(
    ("longest", "expected"),
    [
        (0.0, [NAN, 1, NAN, 3, NAN, NAN, 9, NAN]),
        (0.07, [NAN, 1, NAN, 3, NAN, NAN, 9, NAN]),
        (0.08, [NAN, 1, 2, 3, NAN, NAN, 9, NAN]),  # from the frame before to the one after
        (0.12, [NAN, 1, 2, 3, 5, 7, 9, NAN]),
        (9.0, [NAN, 1, 2, 3, 5, 7, 9, NAN]),  # beginning and end are no gaps
    ],
)
def test_gaps_up_to_a_length_are_filled(longest: float, expected: list[float]) -> None:
    given = series(NAN, 1, NAN, 3, NAN, NAN, 9, NAN)
    kept = given.copy()
    found = fill_gaps(given, np.arange(8) / 25, longest)
    np.testing.assert_allclose(found, series(*expected), atol=1e-12)
    np.testing.assert_array_equal(given, kept)


def test_gaps_are_filled_by_time_and_each_point_for_itself() -> None:
    times = np.array([0, 0.1, 0.4, 0.4])
    both = np.concatenate([series(0, NAN, 8, 8), series(1, 2, NAN, NAN)], axis=1)
    found = fill_gaps(both, times, 1.0)
    np.testing.assert_allclose(found[:, 0, 0], [0, 2, 8, 8])
    np.testing.assert_array_equal(found[:, 1], both[:, 1])
    np.testing.assert_allclose(fill_gaps(series(0, NAN, 2), np.zeros(3), 1.0)[1, 0], [1, 10])  # no time between


@pytest.mark.parametrize(("frequency", "gain"), [(1.0, 1.0), (6.0, 0.5), (30.0, 0.0)])
def test_slow_movements_pass_fast_ones_do_not_and_none_is_late(frequency: float, gain: float) -> None:
    wave = series(*np.sin(2 * np.pi * frequency * TIMES))
    found = butterworth(wave, TIMES, 6.0)
    middle = slice(150, 350)
    np.testing.assert_allclose(found[middle], gain * wave[middle], atol=0.02 * 10)
    np.testing.assert_allclose(found[middle, 0, 0], gain * wave[middle, 0, 0], atol=0.02)


def test_a_higher_order_is_steeper() -> None:
    wave = series(*np.sin(2 * np.pi * 9 * TIMES))
    gentle, steep = (np.abs(butterworth(wave, TIMES, 6.0, order)[150:350]).max() for order in (2, 8))
    assert gentle > 3 * steep


def test_gaps_part_the_filter_and_stay() -> None:
    values = series(*np.sin(2 * np.pi * TIMES))
    values[200:210] = NAN
    values[300] = values[302] = NAN  # a single frame between two gaps
    found = butterworth(values, TIMES, 6.0)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(values))
    np.testing.assert_array_equal(found[:200], butterworth(values[:200], TIMES[:200], 6.0))
    np.testing.assert_array_equal(found[301], values[301])
    assert np.nanmax(np.abs(found - values)) < 0.05 * 10


@pytest.mark.parametrize("frames", [2, 3, 9, 10])
def test_short_stretches_keep_a_constant(frames: int) -> None:
    found = butterworth(series(*[7.0] * frames), TIMES[:frames], 6.0)
    np.testing.assert_allclose(found, series(*[7.0] * frames), atol=1e-9)


def test_uneven_frames_are_filtered_by_their_times() -> None:
    times = np.cumsum(np.random.default_rng(0).choice([0.008, 0.01, 0.014], 500))
    slow, fast = np.sin(2 * np.pi * times), 0.3 * np.sin(2 * np.pi * 25 * times)
    found = butterworth(series(*(slow + fast)), times, 6.0)
    assert np.abs(found[50:450, 0, 0] - slow[50:450]).max() < 0.03
    assert np.abs(fast).mean() > 0.15


def test_uneven_stretches_are_right_to_their_last_frame() -> None:
    for seed in range(20):
        times = np.cumsum(1 / 30 * (1 + 0.45 * np.random.default_rng(seed).uniform(-1, 1, 61)))
        line = series(*(1000 * times))
        np.testing.assert_allclose(butterworth(line, times, 6.0), line, atol=0.1 * 10)
    times = np.concatenate([np.arange(31), [30.3], 60 + np.arange(30)]) / 30
    values = series(*[NAN] * 30, 10, 20, NAN, *[5] * 29)  # the two that are known are a third of a beat apart
    first, last = butterworth(values, times, 6.0)[30:32, 0, 0]
    assert 10 < first < 15 < last < 20
    at_once = np.concatenate([times[:31], times[30:31], times[32:]])
    assert np.isfinite(butterworth(values, at_once, 6.0)[30:32]).all()


def test_frame_rates() -> None:
    assert frame_rate_of(TIMES) == pytest.approx(100)
    assert frame_rate_of(np.round(np.arange(100) / 30, 3)) == pytest.approx(
        30, abs=0.01
    )  # milliseconds, as in Matroska
    gap = np.concatenate([np.arange(50), np.arange(80, 130)]) / 25
    assert frame_rate_of(gap) == pytest.approx(25)
    assert frame_rate_of(TIMES[:1]) is None
    assert frame_rate_of(np.zeros(3)) is None


def test_a_cut_off_above_half_the_frame_rate() -> None:
    check_cutoff(12.4, 25)
    with pytest.raises(
        InputError, match=r"expected a cut-off below 12\.5 Hz, half of the 25 frames per second, got 12\.5"
    ):
        check_cutoff(12.5, 25)
    with pytest.raises(InputError, match="below 50 Hz"):
        butterworth(series(*TIMES), TIMES, 60.0)
    one = series(3.0)
    assert butterworth(one, TIMES[:1], 60.0) is one  # a single frame has no rate


def test_without_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.signal", None)
    with pytest.raises(
        InputError, match=r"^--butterworth needs scipy: (in a checkout.*|pip install .*)\[biomechanics\]"
    ):
        butterworth(series(*TIMES), TIMES, 6.0)


def test_gaps_are_filled_before_the_filter_runs(record, body):
    people = Trajectories("it.trc", COCO17, 0.3, tracked=True)
    for index in range(40):
        people.add(record(index, {1: body(10 * index)} if index != 20 else {}))
    (found,) = people.all()
    assert found.processed(BiomechanicsOptions()).places is found.places
    done = found.processed(BiomechanicsOptions(fill_gaps=0.08, butterworth=5.0))
    assert np.isfinite(done.places).all()
    expected = np.stack([body(10 * index)[:, :2] for index in range(40)])
    np.testing.assert_allclose(done.places[5:35], expected[5:35], atol=0.5)


def test_a_cut_off_that_does_not_fit_is_found_before_the_run_or_at_its_end(record, body, tmp_path):
    options = BiomechanicsOptions(butterworth=13.0)
    with pytest.raises(InputError, match="expected a cut-off below"):
        TrcSink(tmp_path / "a.trc", MotionSettings(COCO17, options, frame_rate=25.0))
    sink = TrcSink(tmp_path / "a.trc", MotionSettings(COCO17, options))
    for index in range(3):
        sink.write(record(index, {0: body(1)}, tracked=False))
    with pytest.raises(SinkError, match=r"a\.trc: butterworth: expected a cut-off below 12\.5 Hz"):
        sink.close()
    kept = sink.abandon()
    assert kept == tmp_path / "a.partial.trc"
    assert len(kept.read_text().splitlines()) == 9  # unfiltered
