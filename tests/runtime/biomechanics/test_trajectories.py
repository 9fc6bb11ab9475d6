"""Keypoints over time: whose they are, where there are none, and the scale that a person's height gives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sharpose.errors import InputError, SinkError
from sharpose.runtime.biomechanics.trajectories import Trajectories, metres_per_pixel
from sharpose.skeleton import COCO17, MPII16


def collected(records, *, threshold=0.3, tracked=True, skeleton=COCO17):
    people = Trajectories("it.trc", skeleton, threshold, tracked=tracked)
    for record in records:
        people.add(record)
    return people.all()


def test_each_track_from_its_first_frame_to_its_last(record, body):
    frames = [{}, {0: body(1), 7: body(2)}, {7: body(3), 2: body(4)}, {2: body(5)}, {2: body(6), 7: body(7)}, {}]
    two, seven = collected([record(10 + index, people) for index, people in enumerate(frames)])
    assert (two.id, two.first, two.frames.tolist(), two.people.tolist()) == (2, 2, [12, 13, 14], [1, 0, 0])
    assert (seven.id, seven.first, seven.people.tolist(), seven.seen) == (7, 1, [1, 0, -1, 1], 3)
    np.testing.assert_allclose(seven.times, np.array([11, 12, 13, 14]) / 25)
    np.testing.assert_allclose(seven.places[:, 5, 0], [2, 3, np.nan, 7])
    np.testing.assert_allclose(two.places[:, 15, 1], [489.5] * 3)
    assert two.heights.tolist() == [480] * 3


def test_unsure_keypoints_are_not_known_and_pixels_are_made_square(record, body):
    person = body(100)
    person[3:6, 2] = [0.29, 0.3, np.nan]
    (found,) = collected([record(0, {1: person}, aspect=2)])
    assert np.isnan(found.places[0]).all(axis=1).nonzero()[0].tolist() == [3, 5]
    np.testing.assert_allclose(found.places[0, 6], [200, 100])


def test_without_ids_there_is_one_person(record, body):
    (found,) = collected([record(0, {0: body(1)}, tracked=False), record(1, {}, tracked=False)], tracked=False)
    assert (found.id, len(found)) == (0, 1)
    with pytest.raises(SinkError, match=r"frame 3: expected one person a frame, .* found 2; give --track and a folder"):
        collected([record(3, {0: body(1), 1: body(2)}, tracked=False)], tracked=False)


def test_what_can_not_be_kept(record, body):
    with pytest.raises(SinkError, match="expected frames of a video, found pictures"):
        collected([record(0, {}, timed=False)])
    with pytest.raises(SinkError, match="expected the 16 keypoints of mpii16, got 17"):
        collected([record(0, {1: body(1)})], skeleton=MPII16)
    assert collected([record(0, {})]) == []


def test_the_height_of_the_person_who_is_seen_most_gives_the_scale(record, body):
    hurt = body(300, size=0.5)
    hurt[[13, 15], 2] = 0  # the left shank and thigh aren't known
    frames = [{3: body(9, size=1)}, {3: body(9, size=1), 1: hurt}, {1: hurt}, {1: body(300, size=0.5)}]
    everybody = collected([record(index, people) for index, people in enumerate(frames)])
    scale, measured = metres_per_pixel(everybody, COCO17, 2.0)
    assert measured.id == 1
    assert scale == pytest.approx(2.0 / 250, rel=1e-3)


def test_nobody_tells_the_scale(record, body):
    legless = body(1)
    legless[15:17, 2] = 0
    everybody = collected([record(0, {1: legless})])
    with pytest.raises(InputError, match=r"height-m: expected ankles, .* never seen; give --metres-per-pixel"):
        metres_per_pixel(everybody, COCO17, 1.8)
    names = tuple(name if name != "left_knee" else "tail" for name in COCO17.keypoints)
    with pytest.raises(InputError, match=r"height-m: .* odd lacks left_knee; give --metres-per-pixel"):
        metres_per_pixel(everybody, replace(COCO17, name="odd", keypoints=names), 1.8)
