"""Refinement within deadlines, on a clock that tests control."""

from __future__ import annotations

import gc
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from stand_in_stages import PICTURE, Ticks, TimedStages, some_boxes

from sharpose.bundle import Bundle, open_bundle
from sharpose.errors import InputError
from sharpose.runtime import Boxes, Picture, PoseEstimator, PoseResult
from sharpose.runtime.refinement import DeadlineScheduler
from sharpose.runtime.refinement.history import StreamHistory


@pytest.fixture(scope="module")
def bundle(nano_bundle: Path) -> Bundle:
    return open_bundle(nano_bundle)


class Setting:
    """A warmed-up estimator whose coarse stage takes 1 ms a person and whose fine stage takes 10 ms."""

    def __init__(self, bundle: Bundle, *, carry: bool = True, warm: bool = True, **stages: float) -> None:
        self.clock = Ticks()
        self.stages = TimedStages(bundle, self.clock, **stages)
        self.scheduler = DeadlineScheduler(clock=self.clock, carry=carry)
        self.estimator = PoseEstimator.from_stages(bundle, self.stages, scheduler=self.scheduler)
        if warm:
            self.estimator.warm_up()
        self.stages.fine_rows.clear()
        self.stages.coarse_batches.clear()

    def picture(
        self, boxes: npt.NDArray[np.float32], milliseconds: float | None, *, stream: int = 0, time: float = 0.0
    ) -> Picture:
        deadline = None if milliseconds is None else self.clock.now + milliseconds / 1000
        return Picture(PICTURE, Boxes.from_xyxy(boxes), stream, time, deadline)

    def run(
        self,
        qualities: Sequence[float],
        milliseconds: float | None,
        boxes: npt.NDArray[np.float32] | None = None,
        time: float = 0.0,
    ) -> PoseResult:
        """One frame of stream 0 whose people have these qualities; they stand where they stood, apart."""
        self.stages.qualities = list(qualities)
        where = apart(len(qualities)) if boxes is None else boxes
        (result,) = self.estimator.estimate([self.picture(where, milliseconds, time=time)])
        return result


def apart(people: int) -> npt.NDArray[np.float32]:
    """Boxes of one size that don't overlap; a crop pixel is a picture pixel."""
    left = np.arange(people, dtype=np.float32) * 200
    return np.stack([left, np.zeros_like(left), left + 154, np.full_like(left, 205)], axis=1)


def who(mask: npt.NDArray[np.bool_] | None) -> list[int]:
    assert mask is not None
    return np.flatnonzero(mask).tolist()


def test_with_ample_time_it_is_the_gate(bundle: Bundle) -> None:
    qualities = [0.98, 1.0, 0.2, math.nan, 0.5, 0.99]
    setting = Setting(bundle)
    found = setting.run(qualities, 10_000)
    stages = TimedStages(bundle, Ticks())
    stages.qualities = list(qualities)
    expected = PoseEstimator.from_stages(bundle, stages)(PICTURE, apart(6))
    assert setting.stages.fine_rows == stages.fine_rows == [[0, 2, 4]]
    assert setting.stages.coarse_batches == stages.coarse_batches
    np.testing.assert_array_equal(found.keypoints, expected.keypoints)
    np.testing.assert_array_equal(found.refined, expected.refined)
    assert (who(found.wanted), who(found.carried), who(found.deferred)) == ([0, 2, 4], [], [])
    assert expected.wanted is None
    assert expected.carried is None


def test_a_picture_without_a_deadline_has_time(bundle: Bundle) -> None:
    setting = Setting(bundle)
    for _ in range(3):  # nothing is carried over where there is time
        result = setting.run([0.1] * 12, None)
        assert who(result.refined) == list(range(12))
        assert who(result.carried) == []
    assert setting.stages.fine_rows == [list(range(12))] * 3


@pytest.mark.parametrize("milliseconds", [-1000, 0, 1, 6, 7])
def test_without_time_there_is_the_coarse_stage_only(bundle: Bundle, milliseconds: float) -> None:
    setting = Setting(bundle)
    result = setting.run([0.1] * 6, milliseconds)
    assert setting.stages.coarse_batches == [6]
    assert setting.stages.fine_rows == []
    assert (who(result.wanted), who(result.refined), who(result.deferred)) == ([*range(6)], [], [*range(6)])
    assert np.isfinite(result.keypoints).all()


def test_the_worst_go_first(bundle: Bundle) -> None:
    setting = Setting(bundle)
    started = setting.clock.now
    result = setting.run([0.9, 0.3, 0.995, 0.1, 0.6], 30)
    assert who(result.refined) == [1, 3]
    assert setting.stages.fine_rows == [[3], [1]]
    assert who(result.wanted) == [0, 1, 3, 4]
    assert who(result.deferred) == [0, 4]
    assert setting.clock.now - started <= 0.030


def test_the_large_go_before_the_small(bundle: Bundle) -> None:
    setting = Setting(bundle)
    boxes = apart(3)
    boxes[:2, 2:] = boxes[:2, :2] + (boxes[:2, 2:] - boxes[:2, :2]) * 0.4  # the coarse stage has seen all there is
    result = setting.run([0.5, 0.4, 0.6], 20, boxes)
    assert who(result.refined) == [2]


def test_nobody_and_one(bundle: Bundle) -> None:
    setting = Setting(bundle)
    assert len(setting.run([], 10)) == 0
    assert setting.estimator.estimate([]) == []
    assert who(setting.run([0.2], 100).refined) == [0]
    assert who(setting.run([1.0], 100).wanted) == []
    assert who(setting.run([], 0).wanted) == []


def test_who_stands_still_keeps_what_was_found(bundle: Bundle) -> None:
    setting = Setting(bundle)
    truth = setting.run([0.5, 0.6, 0.7], None).keypoints
    setting = Setting(bundle)
    done = [setting.run([0.5, 0.6, 0.7], 18) for _ in range(3)]
    assert [who(result.refined) for result in done] == [[0], [1], [2]]
    assert [who(result.carried) for result in done] == [[], [0], [0, 1]]
    assert [who(result.deferred) for result in done] == [[1, 2], [2], []]
    np.testing.assert_allclose(done[2].keypoints, truth, atol=1e-3)
    assert np.abs(done[0].keypoints[1:] - truth[1:]).max() > 20  # what they would have without


def test_who_moves_keeps_nothing(bundle: Bundle) -> None:
    setting = Setting(bundle)
    setting.run([0.5, 0.5], 18)
    boxes = apart(2)
    boxes[0] += 15
    moved = setting.run([0.5, 0.5], 2, boxes)
    assert who(moved.carried) == []
    coarse = Setting(bundle).run([0.5, 0.5], 0, boxes)
    np.testing.assert_array_equal(moved.keypoints, coarse.keypoints)
    back = setting.run([0.5, 0.5], 2)  # where they were at first: what was found then is not taken up again
    assert who(back.carried) == []


def test_whose_pose_changes_keeps_nothing(bundle: Bundle) -> None:
    setting = Setting(bundle)
    setting.run([0.5], 100)
    assert who(setting.run([0.5], 2).carried) == [0]
    assert who(setting.run([0.3], 2).carried) == []  # 20 pixels away, in the same box


def test_a_slow_drift_is_a_move(bundle: Bundle) -> None:
    setting = Setting(bundle)
    setting.run([0.5], 100)
    boxes, carried = apart(1), 0
    for _ in range(60):
        boxes = boxes + np.float32(0.5)
        if who(setting.run([0.5], 2, boxes).carried) == []:
            break
        carried += 1
    assert 1 <= carried <= 40  # 20 pixels of a body 205 pixels high at most


def test_carrying_can_be_turned_off(bundle: Bundle) -> None:
    setting = Setting(bundle, carry=False)
    setting.run([0.5], 100)
    assert who(setting.run([0.5], 2).carried) == []


@pytest.mark.parametrize("carry", [True, False])
def test_nobody_starves(bundle: Bundle, carry: bool) -> None:
    setting = Setting(bundle, carry=carry)
    qualities = np.linspace(0.05, 0.98, 12).tolist()  # the best would gain hardly anything
    last, longest = np.zeros(12, int), np.zeros(12, int)
    for frame in range(1, 260):
        result = setting.run(qualities, 26)  # coarse 12 ms: one refinement a frame
        assert len(who(result.refined)) == 1
        last[result.refined] = frame
        longest = np.maximum(longest, frame - last)
        if carry and frame >= 12:
            assert not result.deferred.any()
    assert longest.max() < 200


def test_more_people_than_a_batch_share_the_time(bundle: Bundle) -> None:
    setting = Setting(bundle)
    qualities = [0.9] * 16 + [0.2] * 16 + [0.9] * 3
    setting.run(qualities, None)  # who is where
    first = setting.run(qualities, 105, time=9)  # nobody is known after so long: all are as those before
    assert setting.stages.coarse_batches[-3:] == [16, 16, 3]
    assert 3 <= first.refined.sum() <= 7
    setting = Setting(bundle, carry=False)
    setting.run(qualities, 0)
    started = setting.clock.now
    second = setting.run(qualities, 105)  # they are remembered: the ones in the second chunk gain most
    assert min(who(second.refined)) >= 16
    assert max(who(second.refined)) < 32
    assert 4 <= second.refined.sum() <= 7
    assert setting.clock.now - started <= 0.105


def test_streams_are_remembered_apart(bundle: Bundle) -> None:
    setting = Setting(bundle)
    setting.run([0.5], 100)
    setting.stages.qualities = [0.5, 0.5]
    one, other = setting.estimator.estimate([setting.picture(apart(1), 2.5, stream=stream) for stream in (0, 7)])
    assert (who(one.carried), who(other.carried)) == ([0], [])


def test_streams_that_have_ended_are_forgotten(bundle: Bundle) -> None:
    setting = Setting(bundle)
    for stream in range(100):
        setting.estimator.estimate([setting.picture(apart(1), None, stream=stream)])
        setting.clock.now += 10
    histories = [one for one in gc.get_objects() if type(one) is StreamHistory and one.people]
    assert 1 < len(histories) < 20  # those of the last minute


def test_a_late_picture_holds_nobody_up(bundle: Bundle) -> None:
    setting = Setting(bundle)
    setting.stages.qualities = [0.5, 0.5]
    late, other = setting.estimator.estimate(
        [setting.picture(apart(1), -5, stream=0), setting.picture(apart(1), 30, stream=1)]
    )
    assert (who(late.refined), who(other.refined)) == ([], [0])
    setting.stages.qualities = [0.5, 0.5]
    early, other = setting.estimator.estimate(
        [setting.picture(apart(1), 8, stream=0), setting.picture(apart(1), 30, stream=1)]
    )
    assert (who(early.refined), who(other.refined)) == ([], [])  # both are handed out within 8 ms
    assert who(other.carried) == [0]


def test_two_pictures_of_a_stream_are_refused(bundle: Bundle) -> None:
    setting = Setting(bundle)
    with pytest.raises(InputError, match="one of a stream where deadlines are kept, got 2 of 3"):
        setting.estimator.estimate([setting.picture(apart(1), 9, stream=3)] * 2)


def test_a_deadline_needs_a_scheduler_of_its_own(bundle: Bundle) -> None:
    setting = Setting(bundle)
    plain = PoseEstimator.from_stages(bundle, TimedStages(bundle, Ticks()))
    with pytest.raises(InputError, match="has no scheduler"):
        plain.estimate([setting.picture(apart(1), 9)])
    with pytest.raises(InputError, match="one of its own for each estimator"):
        PoseEstimator.from_stages(bundle, setting.stages, scheduler=setting.scheduler)


def test_rows_of_ones_own_overrule_the_scheduler(bundle: Bundle) -> None:
    setting = Setting(bundle)
    result = setting.estimator(PICTURE, apart(3), rows=[0, 2])
    assert who(result.refined) == [0, 2]
    assert result.wanted is None


def test_deadlines_are_met_without_warming_up_after_a_few_frames(bundle: Bundle) -> None:
    setting = Setting(bundle, carry=False, warm=False)
    late = 0
    for frame in range(60):
        started = setting.clock.now
        result = setting.run([0.5] * 8, 45)
        late += setting.clock.now - started > 0.045
        if frame > 20:
            assert 2 <= result.refined.sum() <= 3
    assert late <= 1


def test_a_machine_that_slows_down_is_noticed(bundle: Bundle) -> None:
    setting = Setting(bundle, carry=False)
    for _ in range(30):
        setting.run([0.5] * 8, 60)
    setting.stages.coarse_seconds, setting.stages.fine_seconds = 0.002, 0.020
    late = []
    for _ in range(40):
        started = setting.clock.now
        setting.run([0.5] * 8, 60)
        late.append(setting.clock.now - started > 0.060)
    assert sum(late) <= 3
    assert not any(late[10:])


def test_overlapping_people_are_told_apart(bundle: Bundle) -> None:
    setting = Setting(bundle)
    setting.run([0.5] * 5, 200, some_boxes(5))
    assert who(setting.run([0.5] * 5, 6, some_boxes(5)).carried) == [*range(5)]
