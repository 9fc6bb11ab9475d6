"""`LiveSource` around inner sources that do as they are told; the clock, waits and jitter are the test's."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from live_stand_ins import Clock, Factory, Inner, fail, frame, some, then

from sharpose.cli import FOREVER
from sharpose.errors import InputError, SourceError
from sharpose.runtime.frames import Frame, SourceHealth
from sharpose.runtime.options import SourceOptions
from sharpose.runtime.sources import live
from sharpose.runtime.sources.live import Backoff, LiveSource
from sharpose.runtime.statistics import StreamStatistics


@pytest.fixture
def made() -> Iterator[Callable[..., LiveSource]]:
    """Makes sources without waits between attempts, and closes them at the end."""
    sources: list[LiveSource] = []

    def make(factory: Callable[[], Inner], options: SourceOptions | None = None, **more: object) -> LiveSource:
        given: dict[str, object] = {"backoff": Backoff(uniform=lambda: 0.0), "sleep": lambda seconds: None}
        sources.append(LiveSource("cam", factory, options, **(given | more)))  # type: ignore[arg-type]
        return sources[-1]

    yield make
    for source in sources:
        source.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The source waits for threads that hang, and for FFmpeg to notice silence, for a moment only."""
    monkeypatch.setattr(live, "_GRACE_SECONDS", 0.1)
    monkeypatch.setattr(live, "_CLOSE_SECONDS", 0.1)


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
        "cam: lost (the stream ended); reconnecting",
        "cam: reconnected after 3.0 s, now 10x8 instead of 6x4",
    ]


def test_what_every_connection_lost_is_told(made):
    def losing(what: str) -> Inner:
        def script() -> Iterator[Frame]:
            yield frame(0)
            inner.info.warnings.append(f"cam: {what}")
            inner.info.failures.append(f"cam: {what}, badly")

        inner = Inner(script)
        return inner

    inners = [losing("7 pieces"), losing("7 pieces"), losing("1 piece")]
    source = made(Factory(*inners, InputError("the end")), SourceOptions(buffer="all", reconnect=FOREVER))
    with pytest.raises(InputError, match="the end"):
        list(source)
    assert source.info.warnings == ["cam: 7 pieces", "cam: 7 pieces", "cam: 1 piece"]
    assert source.info.failures == [f"{line}, badly" for line in source.info.warnings]

    inners = [losing(f"{index} pieces") for index in range(25)]
    source = made(Factory(*inners, InputError("the end")), SourceOptions(buffer="all", reconnect=FOREVER))
    with pytest.raises(InputError, match="the end"):
        list(source)
    assert source.info.warnings == [*(f"cam: {index} pieces" for index in range(20)), "cam: 5 lines more like these"]
    assert source.info.failures[20:] == ["cam: 5 lines more like these"]


def test_waits_grow_while_it_is_away_and_attempts_are_counted(made):
    waits: list[float] = []
    factory = Factory(Inner(then(1, fail)), SourceError("cam: no route to rtsp"))
    source = made(factory, SourceOptions(buffer="all", reconnect=4), sleep=waits.append)
    with pytest.raises(SourceError, match=r"cam: lost \(no route to rtsp\), and not back after 4 attempts"):
        list(source)
    assert waits == [0.5, 1.0, 2.0, 4.0]
    assert factory.calls == 5


def test_it_retries_without_limit_by_default(made):
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


def test_a_flapping_stream_keeps_its_count_of_attempts(made):
    clock, waits = Clock(), []

    def short() -> Iterator[Frame]:
        yield frame(0)
        clock.now += 1.0
        yield frame(1)

    source = made(Factory(Inner(short)), SourceOptions(reconnect=3), clock=clock, sleep=waits.append)
    with pytest.raises(SourceError, match=r"lost .* not back after 3 attempts"):
        list(source)
    assert waits == [0.5, 1.0, 2.0]


def test_a_healthy_stream_resets_the_waits(made):
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
    assert said[0] == "cam: not there yet (refused); retrying"
    assert said[1].startswith("cam: connected after ")
    assert source.info.health.reconnects <= 1


def test_a_users_mistake_is_not_retried(made):
    factory = Factory(InputError("no such option"))
    source = made(factory, SourceOptions(reconnect=FOREVER))
    with pytest.raises(InputError, match="no such option"):
        list(source)
    assert factory.calls == 1


def test_duration_ends_a_live_stream(made):
    inner, said = Inner(some(100)), []
    factory = Factory(inner)
    source = made(factory, SourceOptions(buffer="all", duration=0.95), say=said.append)
    assert [found.index for found in source] == list(range(10))
    assert inner.closed.wait(10)
    source.close()
    assert (said, factory.calls) == ([], 1)  # nothing was lost


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


def test_the_source_counts_frames_that_are_dropped_after_the_last_one(made):
    source = made(Factory(Inner(some(3))), SourceOptions(buffer="latest", reconnect=0))
    while not source.queue.finished:
        time.sleep(0.01)
    assert source.queue.poll() is not None
    source.queue.count_dropped()  # by a server, and no frame comes after it
    assert StreamStatistics(source.info).snapshot().dropped == source.queue.dropped == 3


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


def test_waits_double_up_to_the_cap():
    backoff = Backoff(0.5, 30.0, uniform=lambda: 0.0)
    assert [backoff.next_wait() for _ in range(9)] == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert backoff.attempts == 9


def test_jitter_shortens_a_wait_by_up_to_half():
    draws = iter([0.0, 0.5, 0.999999])
    backoff = Backoff(8.0, 8.0, uniform=lambda: next(draws))
    assert [backoff.next_wait() for _ in range(3)] == pytest.approx([8.0, 6.0, 4.0], abs=1e-4)


def test_only_a_healthy_connection_resets_the_waits():
    backoff = Backoff(1.0, 30.0, healthy_after=5.0, uniform=lambda: 0.0)
    backoff.next_wait()
    backoff.next_wait()
    backoff.delivered(4.9)
    assert backoff.next_wait() == 4.0
    backoff.delivered(5.0)
    assert backoff.next_wait() == 1.0


def test_years_of_trying_do_not_overflow():
    backoff = Backoff(uniform=lambda: 0.0)
    assert {backoff.next_wait() for _ in range(5000)} >= {0.5, 30.0}
    assert backoff.next_wait() == 30.0


def test_silence_is_a_loss_even_where_the_library_does_not_notice(made, impatient):
    release, said = threading.Event(), []
    hanging = Inner(then(2, lambda: release.wait(60)))
    source = made(
        Factory(hanging, Inner(some(2))), SourceOptions(buffer="all", timeout=0.2, reconnect=FOREVER), say=said.append
    )
    frames = iter(source)
    assert [next(frames).index for _ in range(4)] == [0, 1, 2, 3]
    assert said[0] == "cam: lost (no frame for 0.2 s); reconnecting"
    assert not hanging.closed.is_set()  # its own thread has it
    release.set()
    assert hanging.closed.wait(10)


def test_silence_without_reconnecting_is_an_error(made, impatient):
    release = threading.Event()
    source = made(
        Factory(Inner(then(1, lambda: release.wait(60)))), SourceOptions(buffer="all", timeout=0.2, reconnect=0)
    )
    with pytest.raises(SourceError, match=r"cam: no frame for 0\.2 s; is it still there"):
        list(source)
    release.set()


def test_skipped_frames_are_no_silence(made, monkeypatch):
    monkeypatch.setattr(live, "_GRACE_SECONDS", 0.3)
    inner = Inner(lambda: decode())

    def decode() -> Iterator[Frame]:
        for _ in range(25):
            time.sleep(0.05)
            inner.info.progress += 1
        yield frame(40)

    source = made(Factory(inner), SourceOptions(buffer="all", timeout=0.2, reconnect=0))
    assert [found.index for found in source] == [40]


def test_a_late_answer_of_an_abandoned_attempt_is_dropped(made, impatient):
    release, late = threading.Event(), Inner(some(3))
    calls = 0

    def factory() -> Inner:
        nonlocal calls
        calls += 1
        if calls == 1:
            release.wait(60)
            return late
        return Inner(some(1))

    source = made(factory, SourceOptions(buffer="all", timeout=0.2, reconnect=FOREVER))
    assert next(iter(source)).index == 0
    release.set()
    assert late.closed.wait(10)


def test_hanging_attempts_do_not_pile_up(made, impatient):
    release, calls = threading.Event(), []

    def factory() -> Inner:
        calls.append(1)
        release.wait(60)
        raise SourceError("cam: too late")

    source = made(factory, SourceOptions(timeout=0.01, reconnect=FOREVER))
    time.sleep(1.5)  # ten times what an attempt takes
    assert len(calls) <= 4
    release.set()
    source.close()


@pytest.mark.parametrize("where", ["connecting", "reading"])
def test_closing_does_not_wait_for_what_hangs(made, impatient, where):
    release = threading.Event()

    def factory() -> Inner:
        if where == "connecting":
            release.wait(60)
        return Inner(then(1, lambda: release.wait(60)))

    source = made(factory, SourceOptions(buffer="all", reconnect=FOREVER))
    if where == "reading":
        assert next(iter(source)).index == 0
    began = time.monotonic()
    source.close()
    source.close()
    assert time.monotonic() - began < 10
    assert list(source) == []
    assert source.queue.ended
    release.set()


def test_closing_while_the_supervisor_gives_an_attempt_up(impatient):
    release = threading.Event()

    class GivenUp(LiveSource):
        """Its attempt is given up once closing has looked at it."""

        _held: live._Connection | None = None

        @property
        def _connection(self) -> live._Connection | None:  # type: ignore[override]
            found = self._held
            if self._closing.is_set():
                self._held = None
            return found

        @_connection.setter
        def _connection(self, connection: live._Connection | None) -> None:
            self._held = connection

    def factory() -> Inner:
        release.wait(60)
        raise SourceError("cam: too late")

    source = GivenUp("cam", factory, SourceOptions(reconnect=FOREVER))
    while source._held is None:
        time.sleep(0.01)
    source.close()
    assert source.queue.ended
    release.set()


def test_closing_ends_a_wait_for_the_next_attempt(made):
    source = made(
        Factory(Inner(some(1)), SourceError("cam: refused")),
        sleep=None,
        backoff=Backoff(600.0, 600.0, uniform=lambda: 0.0),
    )
    time.sleep(0.1)
    source.close()
    assert source.queue.ended
    assert not any("supervisor of cam" in thread.name and thread.is_alive() for thread in threading.enumerate())
