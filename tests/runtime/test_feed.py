"""Frames read ahead: all of them, in order, with the source's own errors, and without holding anybody up."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from sharpose.errors import SourceError
from sharpose.runtime.feed import ReadAhead
from sharpose.runtime.frames import Frame, SourceHealth


class Numbers:
    """So many black pictures; may fail at the end, or wait for `gate` before each."""

    def __init__(self, count: int, *, error: Exception | None = None, gate: threading.Event | None = None) -> None:
        self.name = "numbers"
        self.frame_count: int | None = count
        self.frame_rate: float | None = None
        self.image_ids: frozenset[int] | None = None
        self.warnings: list[str] = []
        self.live = False
        self.health = SourceHealth()
        self.made = 0
        self.closed_by: list[str] = []
        self._error, self._gate = error, gate

    def __iter__(self) -> Iterator[Frame]:
        for index in range(self.frame_count or 0):
            if self._gate is not None:
                self._gate.wait()
            self.made += 1
            yield Frame(np.zeros((2, 2, 3), np.uint8), index, float(index), index)
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        self.closed_by.append(threading.current_thread().name)


def drain(feed: ReadAhead, news: threading.Event, seen: list[int] | None = None) -> list[int]:
    seen = [] if seen is None else seen
    while not feed.ended:
        frame = feed.poll()
        if frame is None:
            assert news.wait(10)
            news.clear()
        else:
            seen.append(frame.index)
    return seen


def test_all_frames_in_order_and_then_the_end() -> None:
    news, source = threading.Event(), Numbers(50)
    feed = ReadAhead(source, news.set)
    assert drain(feed, news) == list(range(50))
    assert feed.poll() is None
    feed.close()
    assert source.closed_by == ["read numbers"]


def test_no_more_than_so_many_are_read_ahead() -> None:
    news, source = threading.Event(), Numbers(50)
    feed = ReadAhead(source, news.set, ahead=3)
    deadline = time.monotonic() + 10
    while source.made < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert source.made == 4  # three that wait, and one that waits to be let in
    feed.close()
    assert source.closed_by == ["read numbers"]


def test_frames_before_an_error_come_first() -> None:
    news = threading.Event()
    feed = ReadAhead(Numbers(3, error=SourceError("broken")), news.set, ahead=10)
    seen: list[int] = []
    with pytest.raises(SourceError, match="broken"):
        drain(feed, news, seen)
    assert seen == [0, 1, 2]
    assert feed.ended
    assert feed.poll() is None


def test_nothing_there_is_no_end() -> None:
    gate, news = threading.Event(), threading.Event()
    feed = ReadAhead(Numbers(1, gate=gate), news.set)
    assert feed.poll() is None
    assert not feed.ended
    gate.set()
    assert drain(feed, news) == [0]


def test_a_source_that_hangs_does_not_hang_the_program() -> None:
    gate = threading.Event()
    source = Numbers(1, gate=gate)
    feed = ReadAhead(source, lambda: None)
    began = time.monotonic()
    feed.close()
    assert time.monotonic() - began < 10
    assert source.closed_by == []  # its thread is still in it
    gate.set()


def test_how_long_reading_took_goes_with_the_frame() -> None:
    gate, news = threading.Event(), threading.Event()
    feed = ReadAhead(Numbers(1, gate=gate), news.set)
    time.sleep(0.05)
    gate.set()
    assert drain(feed, news) == [0]
    assert feed.read_seconds >= 0.04
