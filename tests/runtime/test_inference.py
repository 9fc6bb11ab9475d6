"""Poses of this process's engines: frames that were asked for share batches, and only the one at fault fails."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from sharpose.errors import EngineError
from sharpose.runtime.crowd import EstimateStopped
from sharpose.runtime.inference import SharedBatches
from sharpose.runtime.result import Boxes, Picture, PoseResult
from sharpose.runtime.sources.queue import FrameQueue


class Batches:
    """Poses whose quality is the picture's value; raises what it is told to where a picture has the value 9."""

    def __init__(self, error: Exception | None = None) -> None:
        self.seen: list[list[int]] = []
        self._error = error

    def __call__(self, pictures: Sequence[Picture]) -> list[PoseResult]:
        values = [int(picture.image[0, 0, 0]) for picture in pictures]
        self.seen.append(values)
        if 9 in values and self._error is not None:
            raise self._error
        return [
            PoseResult(
                Boxes.from_xyxy([[0, 0, 4, 4]]),
                np.zeros((1, 17, 3), np.float32),
                np.full(1, value, np.float32),
                np.zeros(1, np.bool_),
            )
            for value in values
        ]


def ask(inference: SharedBatches[str], *values: int) -> None:
    for value in values:
        picture = Picture(np.full((8, 8, 3), value, np.uint8), Boxes.from_xyxy([[0, 0, 4, 4]]))
        inference.ask(f"frame {value}", picture, live=False, queue=FrameQueue("all", 1))


def taken(inference: SharedBatches[str]) -> list[tuple[str, object]]:
    return [(item, found.quality[0] if isinstance(found, PoseResult) else found) for item, found in inference.take()]


def test_what_was_asked_for_is_one_call_and_comes_in_order() -> None:
    batches = Batches()
    inference = SharedBatches[str](batches)
    assert inference.take() == []
    ask(inference, 3, 1, 2)
    assert taken(inference) == [("frame 3", 3), ("frame 1", 1), ("frame 2", 2)]
    assert inference.take(all_of_them=True) == []
    ask(inference, 4)
    assert taken(inference) == [("frame 4", 4)]
    assert batches.seen == [[3, 1, 2], [4]]
    assert "server" not in inference.stages
    assert {"crop", "coarse", "fine", "map_back"} <= set(inference.stages)


def test_the_frame_at_fault_is_found_by_running_each_alone() -> None:
    error = EngineError("no 9")
    batches = Batches(error)
    inference = SharedBatches[str](batches)
    ask(inference, 1, 9, 2)
    assert taken(inference) == [("frame 1", 1), ("frame 9", error), ("frame 2", 2)]
    assert batches.seen == [[1, 9, 2], [1], [9], [2]]


def test_a_user_who_waits_no_longer_gets_none() -> None:
    inference = SharedBatches[str](Batches(EstimateStopped()))
    ask(inference, 1, 9)
    assert taken(inference) == [("frame 1", None), ("frame 9", None)]


def test_an_interruption_is_no_answer() -> None:
    class Interrupted(Batches):
        def __call__(self, pictures: Sequence[Picture]) -> list[PoseResult]:
            raise KeyboardInterrupt

    inference = SharedBatches[str](Interrupted())
    ask(inference, 1)
    with pytest.raises(KeyboardInterrupt):
        inference.take()
