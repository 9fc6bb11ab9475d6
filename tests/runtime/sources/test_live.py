"""`LiveSource` around inner sources that do as they are told; the clock, waits and jitter are the test's."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from live_stand_ins import Clock, Factory, Inner, fail, frame, some, then

from sharpose.errors import InputError, SourceError
from sharpose.runtime.frames import Frame, SourceHealth
from sharpose.runtime.options import FOREVER, SourceOptions
from sharpose.runtime.sources.live import LiveSource


def test_without_reconnecting_an_end_is_an_end(made):
    inner = Inner(some(3))
    source = made(Factory(inner), SourceOptions(buffer="all", reconnect=0))
    assert [found.index for found in source] == [0, 1, 2]
    assert inner.closed.wait(10)
    assert source.queue.ended
    assert (source.info.live, source.info.frame_rate, source.info.frame_count) == (True, 25.0, None)
    assert source.info.health == SourceHealth(connected=False, dropped=0, reconnects=0)


def test_without_reconnecting_a_failure_is_raised_after_the_frames(made):
    source = made(Factory(Inner(then(2, fail))), SourceOptions(buffer="all", reconnect=0))
    frames = []
    with pytest.raises(SourceError, match="cam: pulled out"):
        frames.extend(source)
    assert len(frames) == 2


def test_time_index_and_size_go_on_over_a_reconnect(made):
    clock, said, gap = Clock(), [], 3.0

    def stamped(start: float, size: tuple[int, int]) -> Callable[[], Iterator[Frame]]:
        def script() -> Iterator[Frame]:
            for index in range(3):
                clock.now = start + index / 10
                yield frame(index, size=size)

        return script

    def pass_time(seconds: float) -> None:
        clock.now += 1.0

    second = Inner(stamped(1000.2 + gap, (8, 10)))
    factory = Factory(Inner(stamped(1000.0, (4, 6))), SourceError("cam: refused"), second)
    source = made(factory, SourceOptions(buffer="all", reconnect=3), clock=clock, sleep=pass_time, say=said.append)
    frames = iter(source)
    found = [next(frames) for _ in range(6)]
    assert [entry.index for entry in found] == [entry.image_id for entry in found] == list(range(6))
    assert [entry.time for entry in found] == pytest.approx([0.0, 0.1, 0.2, 3.2, 3.3, 3.4])
    assert [entry.arrived for entry in found] == pytest.approx([1000, 1000.1, 1000.2, 1003.2, 1003.3, 1003.4])
    assert [entry.image.shape[:2] for entry in found] == [(4, 6)] * 3 + [(8, 10)] * 3
    assert source.info.health.reconnects >= 1
    assert said[:2] == [
        "cam: lost (the stream ended); trying again",
        "cam: back after 3.0 s, now 10x8 instead of 6x4",
    ]


def test_waits_grow_while_it_is_away_and_attempts_are_counted(made):
    waits: list[float] = []
    factory = Factory(Inner(then(1, fail)), SourceError("cam: no route to rtsp"))
    source = made(factory, SourceOptions(buffer="all", reconnect=4), sleep=waits.append)
    with pytest.raises(SourceError, match=r"cam: lost \(no route to rtsp\), and not back after 4 attempts"):
        list(source)
    assert waits == [0.5, 1.0, 2.0, 4.0]
    assert factory.calls == 5


def test_it_tries_without_end_unless_told_otherwise(made):
    enough = threading.Event()
    waits: list[float] = []

    def count(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 50:
            enough.set()
            time.sleep(0.01)

    source = made(Factory(Inner(some(1)), SourceError("cam: refused")), sleep=count)
    assert enough.wait(30)
    assert not source.queue.ended
    assert max(waits) == 30.0


def test_a_flapping_stream_does_not_begin_anew_each_time(made):
    clock, waits = Clock(), []

    def short() -> Iterator[Frame]:
        yield frame(0)
        clock.now += 1.0
        yield frame(1)

    source = made(Factory(Inner(short)), SourceOptions(reconnect=3), clock=clock, sleep=waits.append)
    with pytest.raises(SourceError, match=r"lost .* not back after 3 attempts"):
        list(source)
    assert waits == [0.5, 1.0, 2.0]


def test_a_healthy_stream_begins_anew(made):
    clock, waits = Clock(), []

    def long() -> Iterator[Frame]:
        yield frame(0)
        clock.now += 6.0
        yield frame(1)

    enough = threading.Event()

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 6:
            enough.set()

    made(Factory(Inner(long)), SourceOptions(reconnect=2), clock=clock, sleep=wait)
    assert enough.wait(30)
    assert waits[:6] == [0.5] * 6


def test_what_is_not_there_at_the_start_is_an_error(made):
    with pytest.raises(SourceError, match="cam: connection refused"):
        made(Factory(SourceError("cam: connection refused")))


@pytest.mark.parametrize("reconnect", [5, FOREVER])
def test_unless_reconnecting_was_asked_for(made, reconnect):
    said: list[str] = []
    factory = Factory(SourceError("cam: refused"), SourceError("cam: refused"), Inner(some(2)))
    source = made(factory, SourceOptions(buffer="all", reconnect=reconnect), say=said.append)
    assert next(iter(source)).index == 0
    assert said[0] == "cam: not there yet (refused); trying again"
    assert said[1].startswith("cam: there after ")
    assert source.info.health.reconnects <= 1


def test_a_users_mistake_is_not_tried_again(made):
    factory = Factory(InputError("no such option"))
    source = made(factory, SourceOptions(reconnect=FOREVER))
    with pytest.raises(InputError, match="no such option"):
        list(source)
    assert factory.calls == 1


def test_duration_ends_a_live_stream(made):
    inner = Inner(some(100))
    source = made(Factory(inner), SourceOptions(buffer="all", duration=0.95))
    assert [found.index for found in source] == list(range(10))
    assert inner.closed.wait(10)


def test_duration_ends_a_stream_that_is_lost(made):
    clock = Clock()

    def wait(seconds: float) -> None:
        clock.now += seconds

    source = made(
        Factory(Inner(some(3)), SourceError("cam: refused")),
        SourceOptions(buffer="all", duration=60.0),
        clock=clock,
        sleep=wait,
    )
    assert len(list(source)) == 3
    assert 1060 <= clock.now < 1063


def test_what_is_not_live_is_read_ahead_a_little_and_nothing_is_lost(made):
    read = 0

    def script() -> Iterator[Frame]:
        nonlocal read
        for index in range(50):
            read += 1
            yield frame(index)

    inner = Inner(script, live=False)
    source = made(Factory(inner), SourceOptions())
    time.sleep(0.2)
    assert read <= 6
    assert (source.info.live, source.info.frame_count) == (False, 7)
    found = list(source)
    assert [entry.index for entry in found] == list(range(50))
    assert found[0].arrived is None
    assert source.info.health.dropped == 0


def test_one_loop_serves_many_sources(made: Callable[..., LiveSource]) -> None:
    event = threading.Event()
    options = SourceOptions(buffer="all", reconnect=0)
    sources = [made(Factory(Inner(some(count))), options) for count in (3, 0, 5)]
    for source in sources:
        source.queue.notify = event.set
    counts = [0, 0, 0]
    while not all(source.queue.ended for source in sources):
        event.clear()
        polled = [source.queue.poll() for source in sources]
        for index, found in enumerate(polled):
            counts[index] += found is not None
        if not any(polled):
            assert event.wait(10) or all(source.queue.ended for source in sources)
    assert counts == [3, 0, 5]


def test_a_defect_inside_ends_the_source_and_hides_secrets(made):
    def burst() -> None:
        raise KeyError("rtsp://me:hunter2@cam/live")

    source = made(Factory(Inner(then(1, burst))), SourceOptions(buffer="all", reconnect=0))
    with pytest.raises(SourceError, match="cam: unexpected KeyError") as caught:
        list(source)
    assert "hunter2" not in str(caught.value)
