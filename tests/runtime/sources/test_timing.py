"""Times of frames, and holes in them."""

from __future__ import annotations

from fractions import Fraction

import pytest

from sharpose.runtime.sources.timing import FrameClock, GapWatch


def times(stamps: list[tuple[int | None, int | None]], *, trust_pts: bool = True, ahead: bool = False) -> list[float]:
    clock = FrameClock(Fraction(1, 100), 0.04, trust_pts=trust_pts)
    following = [*stamps[1:], None] if ahead else [None] * len(stamps)
    return [clock.seconds(*stamp, after) for stamp, after in zip(stamps, following, strict=True)]


def test_time_counts_from_the_first_frame():
    assert times([(500, 500), (510, 510), (540, 540)]) == pytest.approx([0.0, 0.1, 0.4])


def test_missing_stamps_go_on_at_the_last_step():
    assert times([(0, 0), (10, 10), (None, None), (None, None), (40, 40)]) == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


def test_no_stamps_at_all_use_the_nominal_step():
    assert times([(None, None)] * 4) == pytest.approx([0, 0.04, 0.08, 0.12])


def test_stamps_that_begin_late_join_the_count():
    assert times([(None, None), (700, 700), (710, 710)]) == pytest.approx([0, 0.04, 0.14])


@pytest.mark.parametrize("ahead", [False, True])
def test_a_small_step_back_stands_still(ahead):
    assert times([(0, None), (10, None), (8, None), (20, None)], ahead=ahead) == pytest.approx([0, 0.1, 0.1, 0.2])


GLUED = [(0, 0), (4, 4), (8, 8), (0, 0), (4, 4), (8, 8), (0, 0), (4, 4)]


def test_a_step_back_that_lasts_is_a_new_start_however_short():
    assert times(GLUED, ahead=True) == pytest.approx([0.04 * index for index in range(8)])
    two_frames_each = [(0, 0), (4, 4)] * 3
    assert times(two_frames_each, ahead=True) == pytest.approx([0.04 * index for index in range(6)])


def test_time_stands_still_for_one_frame_where_the_next_is_not_known():
    assert times(GLUED) == pytest.approx([0, 0.04, 0.08, 0.08, 0.12, 0.16, 0.16, 0.2])


def test_stamps_that_restart_go_on():
    assert times([(1000, 1000), (1010, 1010), (0, 0), (10, 10), (20, 20)]) == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


def seconds_of(starts: list[float]) -> list[float]:
    """Times of two frames each from these starts on, in seconds, as FFmpeg corrects the stamps of MPEG-TS."""
    stamps = [round(90_000 * start) + tick for start in starts for tick in (0, 3600)]
    clock = FrameClock(Fraction(1, 90_000), 0.04, wrap=1 << 33)
    return [clock.seconds(stamp, stamp) for stamp in stamps]


WRAP = (1 << 33) / 90_000


def test_a_step_back_that_was_taken_for_a_wrap_goes_on_without_a_gap():
    assert seconds_of([100, WRAP + 2, 200]) == pytest.approx([0.04 * index for index in range(6)])


def test_stamps_that_wrap_are_a_leap_of_time_like_any_other():
    assert seconds_of([WRAP - 1, WRAP + 2]) == pytest.approx([0, 0.04, 3, 3.04])
    assert seconds_of([-1, 2]) == pytest.approx([0, 0.04, 3, 3.04])
    assert seconds_of([100, 7300]) == pytest.approx([0, 0.04, 7200, 7200.04])


def test_pts_in_decoding_order_give_way_to_dts():
    pts_as_avi_guesses_them = [(2, 2), (6, 4), (8, 6), (4, 8), (12, 10), (14, None)]
    assert times(pts_as_avi_guesses_them, trust_pts=False) == pytest.approx([0, 0.02, 0.04, 0.06, 0.08, 0.1])


def test_pts_are_distrusted_once_they_run_backwards_and_dts_do_not():
    found = times([(0, 0), (30, 10), (20, 20), (60, 30), (50, 40), (80, 50)])
    assert found == sorted(found)
    assert found[-1] == pytest.approx(0.5)


def gaps(steps: list[float]) -> GapWatch:
    watch, time = GapWatch(), 0.0
    watch.see(time)
    for step in steps:
        time += step
        watch.see(time)
    return watch


def test_a_hole_in_regular_times_is_found():
    found = gaps([0.04] * 20 + [0.52] + [0.04] * 5)
    assert found.first == pytest.approx((0.8, 1.32))
    assert (found.count, found.missing) == (1, 12)


def test_every_hole_is_counted():
    found = gaps([0.04] * 20 + [0.52] + [0.04] * 5 + [0.4, 0.04, 2.04])
    assert found.first == pytest.approx((0.8, 1.32))
    assert (found.count, found.missing) == (3, 12 + 9 + 50)
    assert found.seconds == pytest.approx(71 * 0.04)


@pytest.mark.parametrize(
    "steps",
    [[0.04] * 30, [0.04, 0.1, 0.2] * 10, [0.5, 1.0, 3.0], [0.04] * 20 + [0.12] * 9, [1.0] + [0.04] * 20 + [3.0]],
)
def test_irregular_times_are_no_hole(steps):
    assert gaps(steps).count == 0
