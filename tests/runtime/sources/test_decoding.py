"""Times of frames, holes in them, and the hardware that decodes."""

from __future__ import annotations

from fractions import Fraction

import pytest

from sharpose.errors import InputError
from sharpose.runtime.sources import SourceOptions, decoding, open_source
from sharpose.runtime.sources.decoding import FrameClock, GapWatch, Hardware


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


def test_pts_in_decoding_order_give_way_to_dts():
    pts_as_avi_guesses_them = [(2, 2), (6, 4), (8, 6), (4, 8), (12, 10), (14, None)]
    assert times(pts_as_avi_guesses_them, trust_pts=False) == pytest.approx([0, 0.02, 0.04, 0.06, 0.08, 0.1])


def test_pts_are_distrusted_once_they_run_backwards_and_dts_do_not():
    found = times([(0, 0), (30, 10), (20, 20), (60, 30), (50, 40), (80, 50)])
    assert found == sorted(found)
    assert found[-1] == pytest.approx(0.5)


def first_gap(steps: list[float]) -> tuple[float, float] | None:
    watch, time = GapWatch(), 0.0
    watch.see(time)
    for step in steps:
        time += step
        watch.see(time)
    return watch.gap


def test_a_hole_in_regular_times_is_found():
    assert first_gap([0.04] * 20 + [0.5] + [0.04] * 5) == pytest.approx((0.8, 1.3))


@pytest.mark.parametrize(
    "steps",
    [[0.04] * 30, [0.04, 0.1, 0.2] * 10, [0.5, 1.0, 3.0], [0.04] * 20 + [0.12] * 9, [1.0] + [0.04] * 20 + [3.0]],
)
def test_irregular_times_are_no_hole(steps):
    assert first_gap(steps) is None


def test_none_says_nothing():
    for choice in (None, "none"):
        chosen = Hardware(choice, "a.mp4", pytest.fail)
        assert chosen.device is None
        assert chosen.accelerator() is None


def test_a_device_that_this_ffmpeg_does_not_have_lists_those_it_has(monkeypatch):
    monkeypatch.setattr(decoding, "hwdevices_available", lambda: ["cuda", "vaapi"])
    with pytest.raises(
        InputError, match="--hwaccel metal: expected one of those that this FFmpeg has: none, auto, cuda, vaapi, jetson"
    ):
        Hardware("metal", "a.mp4", pytest.fail)


def test_a_device_that_this_machine_does_not_have():
    from av.codec.hwaccel import hwdevices_available

    if "cuda" not in hwdevices_available():
        pytest.skip("this FFmpeg has no cuda")
    if decoding._why_unusable("cuda") is None:
        pytest.skip("this machine can decode with cuda")
    with pytest.raises(InputError, match=r"--hwaccel cuda: this FFmpeg has it, but it can't be used here \(.+\); is"):
        Hardware("cuda", "a.mp4", pytest.fail)


def test_auto_says_what_it_took(tmp_path, make_video, shown, monkeypatch):
    monkeypatch.setattr(decoding, "_why_unusable", lambda device: "not here")
    said: list[str] = []
    path = str(make_video(tmp_path / "a.mp4", frames=10))
    assert shown(list(open_source(path, SourceOptions(hwaccel="auto"), say=said.append))) == list(range(10))
    (line,) = said
    assert line.startswith(f"{path}: decoding on the CPU: no hardware decoder can be used here (tried ")


def test_auto_takes_the_first_that_works(monkeypatch):
    monkeypatch.setattr(decoding, "hwdevices_available", lambda: ["qsv", "cuda", "vaapi"])
    monkeypatch.setattr(decoding, "_why_unusable", lambda device: "not here" if device == "qsv" else None)
    assert Hardware("auto", "a.mp4", print).device == "cuda"


@pytest.mark.gpu
def test_a_gpu_decodes_the_same_pictures(tmp_path, make_video, shown):
    if decoding._why_unusable("cuda") is not None:
        pytest.skip("no GPU that FFmpeg can use")
    path = str(make_video(tmp_path / "a.mp4", frames=40, size=(256, 256)))
    assert shown(list(open_source(path, SourceOptions(hwaccel="cuda")))) == list(range(40))
