"""The sinks of a stream as one: whichever fails, the others go on, and what was written is kept."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from sharpose.errors import SinkError
from sharpose.runtime.frames import Frame, FrameRecord
from sharpose.runtime.result import Boxes, PoseResult
from sharpose.runtime.sinks.group import SinkGroup, failure_of


class Sink:
    """Keeps frame numbers; fails at one of them, or to close."""

    def __init__(
        self, name: str, *, fail_at: int = -1, error: Exception | None = None, close_fails: bool = False
    ) -> None:
        self.name = name
        self.frames: list[int] = []
        self.calls: list[str] = []
        self._fail_at, self._error, self._close_fails = fail_at, error, close_fails

    def write(self, record: FrameRecord) -> None:
        if record.frame.index == self._fail_at:
            raise self._error or SinkError(f"{self.name}: the disk is full")
        self.frames.append(record.frame.index)

    def close(self) -> None:
        self.calls.append("close")
        if self._close_fails:
            raise SinkError(f"{self.name}: can't be closed")

    def abandon(self) -> Path | None:
        self.calls.append("abandon")
        return Path(f"{self.name}.partial") if self.frames else None


class Page(Sink):
    keeps_nothing = True


class Slow(Sink):
    """Waits, in each `write`, to be let go; knows its thread."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.go = threading.Semaphore(0)
        self.threads: set[str] = set()

    def write(self, record: FrameRecord) -> None:
        assert self.go.acquire(timeout=30)
        self.threads.add(threading.current_thread().name)
        super().write(record)


class Window(Sink):
    main_thread_only = True

    def write(self, record: FrameRecord) -> None:
        assert threading.current_thread() is threading.main_thread()
        super().write(record)


def record(index: int) -> FrameRecord:
    poses = PoseResult(Boxes.empty(), np.zeros((0, 17, 3), np.float32), np.zeros(0, np.float32), np.zeros(0, np.bool_))
    return FrameRecord(Frame(np.zeros((2, 2, 3), np.uint8), index, 0.0, index), poses, lambda image, _: image)


def write(group: SinkGroup, count: int) -> None:
    for index in range(count):
        group.write(record(index))
    group.flush()


def test_what_keeps_nothing_is_not_named() -> None:
    page, file = Page("page"), Sink("file")
    group = SinkGroup([page, file], pytest.fail)
    write(group, 2)
    group.close()
    assert page.calls == ["close"]
    assert group.complete == ["file"]


def test_one_that_fails_goes_alone_and_is_kept() -> None:
    said: list[str] = []
    bad, good = Sink("bad", fail_at=2), Sink("good")
    group = SinkGroup([bad, good], said.append)
    write(group, 5)
    group.close()
    assert (bad.frames, good.frames) == ([0, 1], [0, 1, 2, 3, 4])
    assert (bad.calls, good.calls) == (["abandon"], ["close"])
    assert said == ["bad: the disk is full; what it had is kept in bad.partial; the other outputs go on"]
    assert group.failures == ["bad: the disk is full; what it had is kept in bad.partial"]
    assert group.kept == [Path("bad.partial")]


def test_a_defect_in_one_does_not_reach_the_others() -> None:
    said: list[str] = []
    good = Sink("good")
    group = SinkGroup([Sink("bad", fail_at=1, error=ZeroDivisionError("by zero")), good], said.append)
    write(group, 3)
    assert good.frames == [0, 1, 2]
    assert said[0].startswith("bad: ZeroDivisionError: by zero; what it had")


def test_the_last_one_to_fail_ends_the_stream() -> None:
    said: list[str] = []
    group = SinkGroup([Sink("a", fail_at=1), Sink("b", fail_at=2)], said.append)
    with pytest.raises(SinkError, match="b: the disk is full"):
        write(group, 3)
    assert len(said) == 1
    assert group.kept == [Path("a.partial"), Path("b.partial")]


def test_one_that_can_write_nothing_is_a_mistake_said_at_once() -> None:
    good = Sink("good")
    group = SinkGroup([Sink("typo", fail_at=0), good], lambda line: pytest.fail(line))
    with pytest.raises(SinkError, match="typo: the disk is full"):
        write(group, 1)
    assert good.frames == []


@pytest.mark.parametrize("bad_first", [True, False])
def test_one_that_cannot_be_closed_leaves_the_others_whole(bad_first: bool) -> None:
    said: list[str] = []
    bad, good = Sink("bad", close_fails=True), Sink("good")
    group = SinkGroup([bad, good] if bad_first else [good, bad], said.append)
    write(group, 2)
    group.close()
    assert good.calls == ["close"]
    assert bad.calls == ["close", "abandon"]
    assert group.failures == ["bad: can't be closed; what it had is kept in bad.partial"]


def test_the_only_one_that_cannot_be_closed_is_the_error() -> None:
    group = SinkGroup([Sink("bad", close_fails=True)], lambda line: pytest.fail(line))
    write(group, 1)
    with pytest.raises(SinkError, match="can't be closed"):
        group.close()


def test_abandoned_together() -> None:
    sinks = [Sink("a"), Sink("b")]
    group = SinkGroup(sinks, lambda line: pytest.fail(line))
    write(group, 1)
    group.abandon()
    group.abandon()
    assert [sink.calls for sink in sinks] == [["abandon"], ["abandon"]]
    assert group.kept == [Path("a.partial"), Path("b.partial")]


def test_records_are_written_in_a_thread_and_in_order() -> None:
    slow, fast = Slow("slow"), Sink("fast")
    seen: list[int] = []
    group = SinkGroup([slow, fast], pytest.fail, written=lambda record, seconds: seen.append(record.frame.index))
    group.write(record(0))
    group.write(record(1))
    assert (slow.frames, fast.frames, seen) == ([], [], [])
    for _ in range(5):
        slow.go.release()
    for index in range(2, 5):
        group.write(record(index))
    group.close()
    assert slow.frames == fast.frames == seen == [0, 1, 2, 3, 4]
    assert slow.threads == {"write slow"}
    assert slow.calls == ["close"]
    assert not any(thread.name == "write slow" for thread in threading.enumerate())


def test_at_most_two_records_are_held() -> None:
    slow = Slow("slow")
    group = SinkGroup([slow], pytest.fail)
    handed: list[int] = []

    def hand_over() -> None:
        for index in range(4):
            group.write(record(index))
            handed.append(index)

    handing = threading.Thread(target=hand_over)
    handing.start()
    handing.join(0.2)
    assert handed in ([0], [0, 1])  # one is being written, one waits
    for _ in range(4):
        slow.go.release()
    handing.join(30)
    group.flush()
    assert slow.frames == handed == [0, 1, 2, 3]
    group.close()


def test_a_window_is_written_to_in_the_main_thread() -> None:
    window, other = Window("window"), Sink("other")
    group = SinkGroup([window, other], pytest.fail)
    group.write(record(0))
    assert window.frames == other.frames == [0]  # without waiting
    group.close()


def test_a_failure_in_the_thread_is_told_and_raised_by_whatever_comes_next() -> None:
    told = threading.Event()
    group = SinkGroup([Sink("bad", fail_at=1)], pytest.fail, failed=told.set)
    group.check()
    group.write(record(0))
    group.write(record(1))
    assert told.wait(30)
    for call in (group.check, group.flush, group.close, lambda: group.write(record(2))):
        with pytest.raises(SinkError, match="bad: the disk is full"):
            call()
    assert group.kept == [Path("bad.partial")]


def test_what_was_handed_over_is_written_before_the_files_are_abandoned() -> None:
    slow = Slow("slow")
    group = SinkGroup([slow], pytest.fail)
    group.write(record(0))
    group.write(record(1))
    threading.Timer(0.1, slow.go.release, [2]).start()
    group.abandon()
    assert slow.frames == [0, 1]
    assert slow.calls == ["abandon"]


def test_a_user_who_will_not_wait_waits_for_no_stuck_sink(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sharpose.runtime.sinks.group._PATIENCE", 0.1)
    stuck, quick = Slow("stuck"), Sink("quick")
    group, other = SinkGroup([stuck], pytest.fail), SinkGroup([quick], pytest.fail)
    group.write(record(0))
    other.write(record(0))
    group.close_at_once()
    other.close_at_once()
    assert stuck.calls == []  # it is inside of a write
    assert (quick.frames, quick.calls) == ([0], ["close"])
    stuck.go.release()


def test_the_first_frame_that_one_output_refuses_is_kept_by_those_before_it() -> None:
    before, refusing = Sink("a.jsonl"), Sink("a.trc", fail_at=0)
    counted: list[int] = []
    group = SinkGroup([before, refusing], lambda line: None, written=lambda one, _: counted.append(one.frame.index))
    with pytest.raises(SinkError) as caught:
        write(group, 1)
    group.abandon()
    error = failure_of(caught.value, group, len(counted))
    assert before.frames == [0]
    assert str(error) == "a.trc: the disk is full; that frame is kept in a.jsonl.partial"
