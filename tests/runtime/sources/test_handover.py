from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from sharpose.errors import SourceError
from sharpose.runtime.frames import Frame
from sharpose.runtime.sources.queue import Handover


def frame(index: int) -> Frame:
    return Frame(np.zeros((2, 2, 3), np.uint8), index, index / 10, index)


def taken(handover: Handover) -> list[int]:
    found = []
    while (polled := handover.poll()) is not None:
        found.append(polled.index)
    return found


def test_latest_keeps_only_the_newest():
    handover = Handover("latest", 64)
    assert all(handover.put(frame(index)) for index in range(5))
    assert taken(handover) == [4]
    assert handover.dropped == 4
    assert taken(handover) == []
    handover.put(frame(5))
    assert taken(handover) == [5]
    assert handover.dropped == 4


def test_all_queues_up_to_its_size_and_then_drops_the_oldest():
    handover = Handover("all", 3)
    for index in range(5):
        handover.put(frame(index))
    assert taken(handover) == [2, 3, 4]
    assert handover.dropped == 2


def test_wait_makes_the_reader_wait_and_loses_nothing():
    handover = Handover("wait", 2)
    reader = threading.Thread(
        target=lambda: (*(handover.put(frame(index)) for index in range(20)), handover.finish()), daemon=True
    )
    reader.start()
    time.sleep(0.05)
    assert reader.is_alive()
    assert [found.index for found in handover] == list(range(20))
    reader.join(10)
    assert (handover.dropped, handover.ended) == (0, True)


def test_what_was_put_comes_before_the_error_and_that_once():
    handover = Handover("all", 8)
    handover.put(frame(0))
    handover.finish(SourceError("gone"))
    assert not handover.ended
    assert taken_one(handover) == 0
    with pytest.raises(SourceError, match="gone"):
        handover.poll()
    assert handover.ended
    assert handover.poll() is None
    assert list(handover) == []
    assert not handover.put(frame(1))


def taken_one(handover: Handover) -> int | None:
    polled = handover.poll()
    return None if polled is None else polled.index


def test_discarding_ends_a_waiting_reader_and_a_waiting_loop():
    handover = Handover("wait", 1)
    handover.put(frame(0))
    answers: list[bool] = []
    reader = threading.Thread(target=lambda: answers.append(handover.put(frame(1))), daemon=True)
    reader.start()
    time.sleep(0.05)
    handover.discard()
    reader.join(10)
    assert answers == [False]
    assert list(handover) == []

    waiting = Handover("latest", 1)
    loop = threading.Thread(target=lambda: list(waiting), daemon=True)
    loop.start()
    waiting.discard()
    loop.join(10)
    assert not loop.is_alive()


def test_one_event_serves_many():
    event = threading.Event()
    handovers = [Handover("latest", 1) for _ in range(3)]
    for handover in handovers:
        handover.notify = event.set
    assert not event.is_set()
    handovers[1].put(frame(7))
    assert event.is_set()
    event.clear()
    assert [taken_one(handover) for handover in handovers] == [None, 7, None]
    handovers[2].finish()
    assert event.is_set()
