"""The sinks of a stream as one: whichever fails, the others go on, and what was written is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sharpose.errors import SinkError
from sharpose.runtime.frames import Frame, FrameRecord
from sharpose.runtime.result import Boxes, PoseResult
from sharpose.runtime.sinks.group import SinkGroup


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


def record(index: int) -> FrameRecord:
    poses = PoseResult(Boxes.empty(), np.zeros((0, 17, 3), np.float32), np.zeros(0, np.float32), np.zeros(0, np.bool_))
    return FrameRecord(Frame(np.zeros((2, 2, 3), np.uint8), index, 0.0, index), poses, lambda image, _: image)


def write(group: SinkGroup, count: int) -> None:
    for index in range(count):
        group.write(record(index))


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
    write(group, 2)
    with pytest.raises(SinkError, match="b: the disk is full"):
        group.write(record(2))
    assert len(said) == 1
    assert group.kept == [Path("a.partial"), Path("b.partial")]


def test_one_that_can_write_nothing_is_a_mistake_said_at_once() -> None:
    good = Sink("good")
    group = SinkGroup([Sink("typo", fail_at=0), good], lambda line: pytest.fail(line))
    with pytest.raises(SinkError, match="typo: the disk is full"):
        group.write(record(0))
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
