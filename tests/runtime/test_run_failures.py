"""The loop behind `sharpose-run` where a source, an engine or a sink fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_files import frames_of, lines_of
from run_stand_ins import FRAMES, StubEstimator, StubSink, StubSource, go, names, real_sinks

from sharpose.cli import Terminated
from sharpose.errors import EngineError, InputError, SharposeError, SourceError
from sharpose.runtime.run import RunFailedError
from sharpose.runtime.statistics import StreamStatistics


def test_a_source_that_fails_at_once_leaves_nothing(tmp_path: Path) -> None:
    source = StubSource(fail_at=0)
    with pytest.raises(SourceError) as caught:
        go(source, real_sinks(tmp_path))
    assert (str(caught.value), caught.value.exit_code) == ("stub: broken", 2)
    assert names(tmp_path) == set()
    assert source.closed == 1


def test_an_engine_that_fails_at_once_is_the_users_to_mend(tmp_path: Path) -> None:
    with pytest.raises(EngineError) as caught:
        go(StubSource(), real_sinks(tmp_path), estimator=StubEstimator(fail_at=0))
    assert caught.value.exit_code == 2
    assert names(tmp_path) == set()


@pytest.mark.parametrize(
    ("source", "estimator", "words", "code"),
    [
        (StubSource(fail_at=3), StubEstimator(), "stub: broken", 2),
        (StubSource(), StubEstimator(fail_at=3), "the engine failed", 3),
        (StubSource(), StubEstimator(fail_at=3, error=InputError("a bad picture")), "a bad picture", 2),
        (StubSource(), StubEstimator(fail_at=3, error=ValueError("a defect")), "unexpected ValueError: a defect", 3),
        (StubSource(fail_at=3, error=MemoryError("full")), StubEstimator(), "unexpected MemoryError: full", 3),
    ],
    ids=["source", "engine", "input", "defect", "memory"],
)
def test_a_failure_on_the_way_keeps_partial_files(
    tmp_path: Path, source: StubSource, estimator: StubEstimator, words: str, code: int
) -> None:
    statistics = StreamStatistics(source.info)
    (tmp_path / "out.partial.jsonl").write_text("from before")
    with pytest.raises(RunFailedError) as caught:
        go(source, real_sinks(tmp_path), estimator=estimator, statistics=statistics)
    message = str(caught.value)
    assert caught.value.exit_code == code
    assert message.startswith(f"{words}; the 3 frames before it are kept in ")
    assert "\n" not in message
    partial = {"out.partial.mp4", "out.partial.jsonl", "out.partial.json"}
    assert names(tmp_path) == partial
    assert all(str(tmp_path / name) in message for name in partial)
    assert [line["frame"] for line in lines_of(tmp_path / "out.partial.jsonl")] == [0, 1, 2]
    assert frames_of(tmp_path / "out.partial.mp4") == 3
    assert len(json.loads((tmp_path / "out.partial.json").read_text())) == 6
    numbers = statistics.snapshot()
    assert numbers.frames == 3
    assert numbers.seconds > 0
    assert numbers.failed


def test_a_sink_that_fails_on_the_way_goes_alone(tmp_path: Path) -> None:
    source, sink, said = StubSource(), StubSink(fail_at=2), list[str]()
    statistics = go(source, [*real_sinks(tmp_path), sink], said=said)
    assert said == ["stub.out: the disk is full; what it had is kept in stub.partial.out; the other outputs go on"]
    assert names(tmp_path) == {"out.mp4", "out.jsonl", "out.json"}
    assert frames_of(tmp_path / "out.mp4") == statistics.frames == FRAMES
    assert sink.calls == ["abandon"]
    assert source.closed == 1


def test_the_only_sink_that_fails_ends_the_run() -> None:
    source, sink = StubSource(), StubSink(fail_at=2)
    with pytest.raises(RunFailedError) as caught:
        go(source, [sink])
    assert caught.value.exit_code == 3
    assert str(caught.value) == "stub.out: the disk is full; the 2 frames before it are kept in stub.partial.out"
    assert source.closed == 1


def test_a_sink_that_can_write_nothing_is_the_users_mistake() -> None:
    with pytest.raises(SharposeError, match="disk is full") as caught:
        go(StubSource(), [StubSink(fail_at=0)])
    assert caught.value.exit_code == 2


def test_a_sink_that_cannot_be_closed() -> None:
    with pytest.raises(RunFailedError, match=r"can't be closed; the 5 frames before it are kept in") as caught:
        go(StubSource(), [StubSink(fail_to=["close"])])
    assert caught.value.exit_code == 3


def test_a_sink_that_cannot_be_renamed_keeps_none_from_it(tmp_path: Path) -> None:
    stubborn, last = StubSink(fail_to=["abandon"]), StubSink()
    with pytest.raises(RunFailedError) as caught:
        go(StubSource(fail_at=2), [stubborn, last])
    assert str(caught.value) == (
        "stub: broken; the 2 frames before it are kept in stub.partial.out; stub.out: can't be renamed"
    )
    assert last.calls == ["abandon"]
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Terminated()])
def test_a_second_signal_leaves_readable_files(tmp_path: Path, error: BaseException) -> None:
    broken, last = StubSink(fail_to=["close"]), StubSink()
    with pytest.raises(type(error)):
        go(StubSource(), [broken, *real_sinks(tmp_path), last], estimator=StubEstimator(fail_at=2, error=error))
    assert last.calls == ["close"]
    assert frames_of(tmp_path / "out.mp4") == len(lines_of(tmp_path / "out.jsonl")) == 2
    assert len(json.loads((tmp_path / "out.json").read_text())) == 4
