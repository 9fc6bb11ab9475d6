"""Who is remembered from frame to frame."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sharpose.runtime.deadline.history import Remembered, StreamMemory


def boxes(*lefts: float) -> npt.NDArray[np.float32]:
    return np.array([[left, 0, left + 50, 100] for left in lefts], np.float32).reshape(-1, 4)


POSE = np.zeros((17, 3), np.float32)


def somebody(box: npt.NDArray[np.float32], time: float) -> Remembered:
    return Remembered(box, time, box, POSE)


def remembering(*lefts: float, time: float = 0.0) -> tuple[StreamMemory, list[Remembered]]:
    memory = StreamMemory()
    people = [somebody(box, time) for box in boxes(*lefts)]
    memory.keep(people)
    return memory, people


def test_people_are_met_again_in_any_order() -> None:
    memory, (left, right) = remembering(0, 200)
    found = memory.match(boxes(205, 400, 3), 0.04)
    assert found[0] is right
    assert found[1] is None
    assert found[2] is left


def test_the_nearest_box_is_theirs_and_nobody_is_two() -> None:
    memory, (person,) = remembering(0)
    found = memory.match(boxes(20, 2), 0.04)
    assert found[0] is None
    assert found[1] is person


def test_little_overlap_is_somebody_else() -> None:
    memory, _ = remembering(0)
    assert memory.match(boxes(30), 0.04) == [None]


def test_who_was_missed_is_remembered_for_ten_frames() -> None:
    memory, (person,) = remembering(0)
    for _ in range(10):
        assert memory.match(boxes(), 0.0) == []
        memory.keep([])
    assert memory.match(boxes(0), 0.0) == [person]
    memory.keep([])
    assert memory.people == []


def test_time_that_jumps_makes_strangers() -> None:
    for time in (6.1, 4.9):  # forward by more than a second, or back
        memory, _ = remembering(0, time=5.0)
        assert memory.match(boxes(0), time) == [None]
    memory, (person,) = remembering(0, time=5.0)
    assert memory.match(boxes(0), 5.9) == [person]


def test_memory_does_not_grow() -> None:
    memory = StreamMemory()
    for frame in range(500):
        found = memory.match(boxes(frame * 1000.0, 7.0), frame * 0.04)
        memory.keep([somebody(box, frame * 0.04) for box, one in zip(boxes(frame * 1000.0, 7.0), found, strict=True)])
        assert len(memory.people) <= 2 + 2 * 10
