"""Frames through the queue: in order, with the reader's errors after them, and without holding anybody up."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from sharpose.errors import SourceError
from sharpose.runtime.frames import Frame, SourceInfo
from sharpose.runtime.sources.queue import FrameQueue


def frame(index: int) -> Frame:
    return Frame(np.zeros((2, 2, 3), np.uint8), index, index / 10, index)


def taken(queue: FrameQueue) -> list[int]:
    found = []
    while (polled := queue.poll()) is not None:
        found.append(polled.index)
    return found


def test_latest_keeps_only_the_newest():
    queue = FrameQueue("latest", 64)
    assert all(queue.put(frame(index)) for index in range(5))
    assert taken(queue) == [4]
    assert queue.dropped == 4
    assert taken(queue) == []
    queue.put(frame(5))
    assert taken(queue) == [5]
    assert queue.dropped == 4


def test_all_queues_up_to_its_size_and_then_drops_the_oldest():
    queue = FrameQueue("all", 3)
    for index in range(5):
        queue.put(frame(index))
    assert taken(queue) == [2, 3, 4]
    assert queue.dropped == 2


def test_wait_makes_the_reader_wait_and_loses_nothing():
    queue = FrameQueue("wait", 2)
    reader = threading.Thread(
        target=lambda: (*(queue.put(frame(index)) for index in range(20)), queue.finish()), daemon=True
    )
    reader.start()
    time.sleep(0.05)
    assert reader.is_alive()
    assert [found.index for found in queue] == list(range(20))
    reader.join(10)
    assert (queue.dropped, queue.ended) == (0, True)


def test_what_was_put_comes_before_the_error_and_that_once():
    queue = FrameQueue("all", 8)
    queue.put(frame(0))
    queue.finish(SourceError("gone"))
    assert not queue.ended
    assert taken_one(queue) == 0
    with pytest.raises(SourceError, match="gone"):
        queue.poll()
    assert queue.ended
    assert queue.poll() is None
    assert list(queue) == []
    assert not queue.put(frame(1))


def taken_one(queue: FrameQueue) -> int | None:
    polled = queue.poll()
    return None if polled is None else polled.index


def test_closing_ends_a_waiting_reader_and_a_waiting_loop():
    queue = FrameQueue("wait", 1)
    queue.put(frame(0))
    answers: list[bool] = []
    reader = threading.Thread(target=lambda: answers.append(queue.put(frame(1))), daemon=True)
    reader.start()
    time.sleep(0.05)
    queue.close()
    reader.join(10)
    assert answers == [False]
    assert list(queue) == []

    waiting = FrameQueue("latest", 1)
    loop = threading.Thread(target=lambda: list(waiting), daemon=True)
    loop.start()
    waiting.close()
    loop.join(10)
    assert not loop.is_alive()


def test_one_event_serves_many():
    event = threading.Event()
    queues = [FrameQueue("latest", 1) for _ in range(3)]
    for queue in queues:
        queue.notify = event.set
    assert not event.is_set()
    queues[1].put(frame(7))
    assert event.is_set()
    event.clear()
    assert [taken_one(queue) for queue in queues] == [None, 7, None]
    queues[2].finish()
    assert event.is_set()


class Numbers:
    """So many black pictures; may fail at the end, or wait for `gate` before each."""

    def __init__(self, count: int, *, error: Exception | None = None, gate: threading.Event | None = None) -> None:
        self.info = SourceInfo("numbers", count)
        self.made = 0
        self.closed_by: list[str] = []
        self._error, self._gate = error, gate

    def __iter__(self) -> Iterator[Frame]:
        for index in range(self.info.frame_count or 0):
            if self._gate is not None:
                self._gate.wait()
            self.made += 1
            yield Frame(np.zeros((2, 2, 3), np.uint8), index, float(index), index)
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        self.closed_by.append(threading.current_thread().name)


def drain(queue: FrameQueue, news: threading.Event, seen: list[int] | None = None) -> list[int]:
    seen = [] if seen is None else seen
    while not queue.ended:
        frame = queue.poll()
        if frame is None:
            assert news.wait(10)
            news.clear()
        else:
            seen.append(frame.index)
    return seen


def test_all_frames_in_order_and_then_the_end() -> None:
    news, source = threading.Event(), Numbers(50)
    queue = FrameQueue.reading(source, news.set)
    assert drain(queue, news) == list(range(50))
    assert queue.poll() is None
    queue.close()
    assert source.closed_by == ["read numbers"]


def test_no_more_than_so_many_are_read_ahead() -> None:
    news, source = threading.Event(), Numbers(50)
    queue = FrameQueue.reading(source, news.set, ahead=3)
    deadline = time.monotonic() + 10
    while source.made < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert source.made == 4  # three that wait, and one that waits to be let in
    queue.close()
    assert source.closed_by == ["read numbers"]


def test_frames_before_an_error_come_first() -> None:
    news = threading.Event()
    queue = FrameQueue.reading(Numbers(3, error=SourceError("broken")), news.set, ahead=10)
    seen: list[int] = []
    with pytest.raises(SourceError, match="broken"):
        drain(queue, news, seen)
    assert seen == [0, 1, 2]
    assert queue.ended
    assert queue.poll() is None


def test_nothing_there_is_no_end() -> None:
    gate, news = threading.Event(), threading.Event()
    queue = FrameQueue.reading(Numbers(1, gate=gate), news.set)
    assert queue.poll() is None
    assert not queue.ended
    gate.set()
    assert drain(queue, news) == [0]


def test_a_source_that_hangs_does_not_hang_the_program() -> None:
    gate = threading.Event()
    source = Numbers(1, gate=gate)
    queue = FrameQueue.reading(source, lambda: None)
    began = time.monotonic()
    queue.close()
    assert time.monotonic() - began < 10
    assert source.closed_by == []  # its thread is still in it
    gate.set()


def test_how_long_reading_took_goes_with_the_frame() -> None:
    gate, news = threading.Event(), threading.Event()
    queue = FrameQueue.reading(Numbers(1, gate=gate), news.set)
    time.sleep(0.05)
    gate.set()
    assert drain(queue, news) == [0]
    assert queue.read_seconds is not None
    assert queue.read_seconds >= 0.04
