"""The loop behind `sharpose-run`: what becomes of sources, sinks and counts when it ends, however it ends."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from cli_files import frames_of, lines_of
from rich.console import Console
from run_stand_ins import FRAMES, StubSink, StubSource, go, names, real_sinks

from sharpose.errors import BoxesError
from sharpose.runtime.boxes import BoxesFile, FileBoxes
from sharpose.runtime.frames import Frame
from sharpose.runtime.messages import StopRequest, run_progress
from sharpose.runtime.run import RunFailedError


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


def test_boxes_of_another_source_are_no_error_where_the_user_stopped(tmp_path: Path) -> None:
    stop = StopRequest()

    def ask(frame: Frame) -> None:
        stop.signal = 2

    boxes = boxes_file(tmp_path / "boxes.json", 4)
    assert go(StubSource(), [], boxes=boxes, stop=stop, on_frame=ask).frames == 1


def test_an_empty_boxes_file_says_that_nobody_is_there(tmp_path: Path) -> None:
    assert go(StubSource(), [], boxes=boxes_file(tmp_path / "boxes.json")).people == 0


@pytest.mark.parametrize(("terminal", "shown"), [(True, True), (False, False)])
def test_the_progress_bar_is_for_terminals(terminal: bool, shown: bool) -> None:
    source, text = StubSource(), io.StringIO()
    source.info.name = "take[bold]1.mp4"
    console = Console(file=text, force_terminal=terminal, width=100)
    with run_progress([source], console) as on_frame:
        for frame in source:
            on_frame(0, frame)
    assert ("take[bold]1.mp4" in text.getvalue()) == shown
    assert ("5/5" in text.getvalue()) == shown
