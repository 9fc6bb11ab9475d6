"""The loop behind `sharpose-run`: what becomes of sources, sinks and counts however it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_files import frames_of, lines_of
from run_stand_ins import FRAMES, StubEstimator, StubSink, StubSource, go, names, real_sinks

from sharpose.cli import Terminated
from sharpose.errors import (
    BoxesError,
    EngineError,
    InputError,
    OutputRemovedError,
    SharposeError,
    SourceError,
)
from sharpose.runtime.boxes.file import BoxesFile
from sharpose.runtime.boxes.sources import FileBoxes
from sharpose.runtime.frames import Frame
from sharpose.runtime.messages import StopRequest
from sharpose.runtime.sinks.group import RunFailedError
from sharpose.runtime.sinks.tables import JsonLinesSink
from sharpose.runtime.statistics import StreamStatistics


def test_a_whole_run(tmp_path: Path) -> None:
    source, seen = StubSource(), []
    statistics = go(source, real_sinks(tmp_path), on_frame=lambda frame: seen.append(frame.index))
    assert names(tmp_path) == {"out.mp4", "out.jsonl", "out.json"}
    assert seen == [0, 1, 2, 3, 4]
    lines = lines_of(tmp_path / "out.jsonl")
    assert [line["frame"] for line in lines] == seen
    people = lines[3]["people"]
    assert isinstance(people, list)
    assert [person["keypoints"][5] for person in people] == [[3.0, 0.0, 0.5], [3.0, 1.0, 0.5]]
    assert [person["score"] for person in people] == [0.25, 0.375]
    assert [person["refined"] for person in people] == [True, False]
    assert people[1]["bbox"] == [10.0, 5.0, 50.0, 40.0]
    assert frames_of(tmp_path / "out.mp4") == FRAMES
    assert len(json.loads((tmp_path / "out.json").read_text())) == 2 * FRAMES
    assert source.closed == 1
    assert (statistics.frames, statistics.people, statistics.refined) == (5, 10, 5)
    assert statistics.durations["coarse"].percentiles(50) == pytest.approx([6.0])
    assert statistics.durations["read"].sum > 0
    assert statistics.seconds > 0


def test_sinks_are_closed_and_see_the_drawn_picture() -> None:
    sink = StubSink()
    go(StubSource(), [sink])
    assert sink.calls == ["close"]
    assert [record.frame.index for record in sink.records] == [0, 1, 2, 3, 4]
    assert (sink.records[0].picture == 2).all()
    assert (sink.records[0].frame.image == 0).all()


def test_no_sinks_is_a_run_too() -> None:
    assert go(StubSource(), []).frames == FRAMES


def test_only_so_many_people_the_best_first() -> None:
    sink = StubSink()
    statistics = go(StubSource(), [sink], max_people=1)
    assert statistics.people == FRAMES
    assert all(record.poses.boxes.scores.tolist() == [0.75] for record in sink.records)


def test_a_request_to_stop_ends_after_the_frame_at_hand(tmp_path: Path) -> None:
    stop, source = StopRequest(), StubSource()

    def ask(frame: Frame) -> None:
        if frame.index == 1:
            stop.signal = 2

    statistics = go(source, real_sinks(tmp_path), stop=stop, on_frame=ask)
    assert statistics.frames == 2
    assert names(tmp_path) == {"out.mp4", "out.jsonl", "out.json"}
    assert [line["frame"] for line in lines_of(tmp_path / "out.jsonl")] == [0, 1]
    assert frames_of(tmp_path / "out.mp4") == 2
    assert source.closed == 1


def test_a_request_to_stop_before_the_first_frame() -> None:
    stop, sink = StopRequest(), StubSink()
    stop.signal = 15
    assert go(StubSource(), [sink], stop=stop).frames == 0
    assert sink.calls == ["close"]


def boxes_file(path: Path, *image_ids: int) -> FileBoxes:
    entries = [{"image_id": i, "category_id": 1, "bbox": [1, 2, 30, 40], "score": 0.9} for i in image_ids]
    path.write_text(json.dumps(entries))
    return FileBoxes(BoxesFile.load(path))


def test_boxes_of_a_file_meet_their_frames(tmp_path: Path) -> None:
    sink = StubSink()
    statistics = go(StubSource(), [sink], boxes=boxes_file(tmp_path / "boxes.json", 1, 3, 3, 700))
    assert [len(record.poses) for record in sink.records] == [0, 1, 0, 2, 0]
    assert statistics.people == 3


def test_boxes_of_another_source_are_refused_in_the_end(tmp_path: Path) -> None:
    """A video says only at its end which frames it has."""
    boxes = boxes_file(tmp_path / "boxes.json", 1000, 1007)
    output = tmp_path / "out"
    output.mkdir()
    with pytest.raises(RunFailedError) as caught:
        go(StubSource(), real_sinks(output), boxes=boxes)
    assert caught.value.exit_code == 2
    assert "none of its image ids occurs in the source: the file has 2 ids from 1000 to 1007" in str(caught.value)
    assert "the source 5 ids from 0 to 4" in str(caught.value)
    assert isinstance(caught.value.__cause__, BoxesError)
    assert all(".partial." in name for name in names(output))


def test_a_part_of_a_source_may_have_none_of_its_boxes(tmp_path: Path) -> None:
    source = StubSource()
    source.info.image_ids = range(2000)  # as a source says of which only a part is read
    sink = StubSink()
    assert go(source, [sink], boxes=boxes_file(tmp_path / "boxes.json", 1000, 1007)).people == 0
    assert len(sink.records) == 5


def test_boxes_of_another_source_are_no_error_where_the_user_stopped(tmp_path: Path) -> None:
    stop = StopRequest()

    def ask(frame: Frame) -> None:
        stop.signal = 2

    boxes = boxes_file(tmp_path / "boxes.json", 4)
    assert go(StubSource(), [], boxes=boxes, stop=stop, on_frame=ask).frames == 1


def test_an_empty_boxes_file_says_that_nobody_is_there(tmp_path: Path) -> None:
    assert go(StubSource(), [], boxes=boxes_file(tmp_path / "boxes.json")).people == 0


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
        (StubSource(fail_at=3), StubEstimator(), "stub: broken", 3),
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
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Terminated()])
def test_a_second_signal_leaves_readable_files(tmp_path: Path, error: BaseException) -> None:
    broken, last = StubSink(fail_to=["close"]), StubSink()
    with pytest.raises(type(error)):
        go(StubSource(), [broken, *real_sinks(tmp_path), last], estimator=StubEstimator(fail_at=2, error=error))
    assert last.calls == ["close"]
    assert frames_of(tmp_path / "out.mp4") == len(lines_of(tmp_path / "out.jsonl")) == 2
    assert len(json.loads((tmp_path / "out.json").read_text())) == 4


def test_a_sole_output_that_is_removed_is_no_mistake_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sharpose.files._LOOK_EVERY", 0.0)
    path = tmp_path / "o.jsonl"
    with pytest.raises(OutputRemovedError, match="was removed while it was being written") as caught:
        go(StubSource(), [JsonLinesSink(path)], on_frame=lambda frame: path.unlink(missing_ok=True))
    assert caught.value.exit_code == 3
