"""The loop behind `sharpose-run`: what becomes of sources, sinks and counts when it ends, however it ends."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import cast

import av
import numpy as np
import pytest
from rich.console import Console

from sharpose.command import Terminated
from sharpose.errors import BoxesError, EngineError, InputError, SharposeError, SinkError, SourceError
from sharpose.runtime.box_sources import BoxSource, FileBoxes, SourceBoxes
from sharpose.runtime.boxes import BoxesFile
from sharpose.runtime.frames import Frame, FrameRecord, Sink, SourceHealth
from sharpose.runtime.pipeline import Picture, PoseEstimator
from sharpose.runtime.progress import run_progress
from sharpose.runtime.result import Boxes, PoseResult, StageTimings
from sharpose.runtime.run import Run, RunFailedError, run
from sharpose.runtime.sinks import CocoSink, JsonLinesSink, VideoSink
from sharpose.runtime.statistics import RunStatistics
from sharpose.runtime.stopping import StopRequest
from sharpose.runtime.stream import Stream

FRAMES = 5


class StubSource:
    """Five black pictures with two people each; may fail before one of them."""

    def __init__(self, fail_at: int | None = None, error: BaseException | None = None) -> None:
        self.name = "stub"
        self.frame_count: int | None = FRAMES
        self.frame_rate: float | None = 25.0
        self.image_ids: frozenset[int] | None = None
        self.warnings: list[str] = []
        self.live = False
        self.health = SourceHealth()
        self.closed = 0
        self._fail_at = fail_at
        self._error = error or SourceError("stub: broken")

    def __iter__(self) -> Iterator[Frame]:
        for index in range(FRAMES):
            if index == self._fail_at:
                raise self._error
            boxes = Boxes.from_xyxy([[0, 0, 20, 30], [10, 5, 60, 45]], [0.5, 0.75])
            yield Frame(np.zeros((48, 64, 3), np.uint8), index, index / 25, index, boxes)

    def close(self) -> None:
        self.closed += 1


class StubEstimator:
    """Everybody's keypoints are at (index of the call, place in the list); may fail at one of the calls."""

    def __init__(self, fail_at: int | None = None, error: BaseException | None = None) -> None:
        self.calls = 0
        self._fail_at = fail_at
        self._error = error or EngineError("the engine failed")

    def estimate(self, pictures: Sequence[Picture]) -> list[PoseResult]:
        return [self._poses(picture.boxes) for picture in pictures]

    def _poses(self, boxes: Boxes) -> PoseResult:
        if self.calls == self._fail_at:
            raise self._error
        keypoints = np.zeros((len(boxes), 17, 3), np.float32)
        keypoints[:, :, 0], keypoints[:, :, 1] = self.calls, np.arange(len(boxes))[:, None]
        keypoints[:, :, 2] = 0.5
        self.calls += 1
        refined = np.arange(len(boxes)) == 0
        timings = StageTimings(coarse=0.002 * self.calls)
        return PoseResult(boxes, keypoints, np.full(len(boxes), 0.25, np.float32), refined, timings)


class StubSink:
    """Keeps records; may fail at one of them, when it is closed or when it is abandoned."""

    def __init__(
        self, fail_at: int | None = None, fail_to: Sequence[str] = (), error: BaseException | None = None
    ) -> None:
        self.name = "stub.out"
        self.records: list[FrameRecord] = []
        self.calls: list[str] = []
        self._fail_at = fail_at
        self._fail_to = fail_to
        self._error = error or SinkError("stub.out: the disk is full")

    def write(self, record: FrameRecord) -> None:
        if len(self.records) == self._fail_at:
            raise self._error
        self.records.append(record)

    def close(self) -> None:
        self.calls.append("close")
        if "close" in self._fail_to:
            raise SinkError("stub.out: can't be closed")

    def abandon(self) -> Path | None:
        self.calls.append("abandon")
        if "abandon" in self._fail_to:
            raise SinkError("stub.out: can't be renamed")
        return Path("stub.partial.out") if self.records else None


def go(
    source: StubSource,
    sinks: Sequence[Sink],
    *,
    estimator: StubEstimator | None = None,
    boxes: BoxSource | None = None,
    statistics: RunStatistics | None = None,
    stop: StopRequest | None = None,
    max_people: int | None = None,
    on_frame: Callable[[Frame], None] = lambda frame: None,
    said: list[str] | None = None,
) -> RunStatistics:
    statistics = RunStatistics() if statistics is None else statistics
    stream = Stream(source, SourceBoxes() if boxes is None else boxes, sinks, (), max_people, statistics)
    job = Run(
        [stream],
        cast(PoseEstimator, StubEstimator() if estimator is None else estimator),
        lambda image, poses: image + np.uint8(len(poses)),
        say=(lambda line: pytest.fail(line)) if said is None else said.append,
    )
    outcome = run(job, stop=StopRequest() if stop is None else stop, on_frame=lambda _, frame: on_frame(frame))
    assert bool(outcome.failures) == bool(said)
    assert outcome.complete == [sink.name for sink in sinks][: len(sinks) - len(outcome.failures)]
    return statistics


def real_sinks(folder: Path) -> list[Sink]:
    return [
        VideoSink(folder / "out.mp4", frame_rate=25.0),
        JsonLinesSink(folder / "out.jsonl"),
        CocoSink(folder / "out.json"),
    ]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def lines_of(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def frames_of(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


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
    assert statistics.percentiles("coarse")[0] == pytest.approx(6.0)
    assert statistics.percentiles("read")[0] > 0
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
    statistics = RunStatistics()
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
    assert statistics.frames == 3
    assert statistics.seconds > 0


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


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Terminated()])
def test_a_second_signal_leaves_readable_files(tmp_path: Path, error: BaseException) -> None:
    broken, last = StubSink(fail_to=["close"]), StubSink()
    with pytest.raises(type(error)):
        go(StubSource(), [broken, *real_sinks(tmp_path), last], estimator=StubEstimator(fail_at=2, error=error))
    assert last.calls == ["close"]
    assert frames_of(tmp_path / "out.mp4") == len(lines_of(tmp_path / "out.jsonl")) == 2
    assert len(json.loads((tmp_path / "out.json").read_text())) == 4


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
    source.name = "take[bold]1.mp4"
    console = Console(file=text, force_terminal=terminal, width=100)
    with run_progress([source], console) as on_frame:
        for frame in source:
            on_frame(0, frame)
    assert ("take[bold]1.mp4" in text.getvalue()) == shown
    assert ("5/5" in text.getvalue()) == shown
