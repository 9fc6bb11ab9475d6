"""What is said where it isn't known which way people face."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sharpose.angles import joint_angles
from sharpose.runtime.biomechanics.facing import FeetSeen, note_of_facing
from sharpose.skeleton import COCO17, MPII16, Skeleton

FEET = ("left_heel", "right_heel", "left_big_toe", "right_big_toe")
FOOTED = replace(COCO17, keypoints=COCO17.keypoints[:13] + FEET)


def test_what_is_said_of_where_people_face():
    line = note_of_facing(COCO17, "auto")
    assert line is not None
    assert line.startswith("note: coco17 has no feet, so flexions and segments")
    assert note_of_facing(MPII16, "right") is None
    assert note_of_facing(FOOTED, "auto") is None


def test_nothing_is_said_where_no_angle_depends_on_it():
    dots = Skeleton("dots", ("p0", "p1", "nose"), (), (), (0.05,) * 3)
    assert note_of_facing(dots, "auto") is None


def test_one_foot_in_one_frame_is_enough():
    people = np.ones((2, 17, 3), np.float32)
    people[:, :, 0] = np.arange(17)
    people[:, 13:, 2] = 0
    feet = FeetSeen(FOOTED, "auto")
    assert feet.warning("a.csv") is None  # nobody was seen
    feet.add(joint_angles(people, FOOTED))
    line = feet.warning("a.csv")
    assert line is not None
    assert line.startswith("a.csv: feet were seen in no frame, so all flexions and segments are empty; --facing right")
    people[1, [14, 16], 2] = 1
    feet.add(joint_angles(people, FOOTED))
    assert feet.warning("a.csv") is None
