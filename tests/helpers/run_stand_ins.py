"""A source, an estimator and a sink that do as they are told, for tests of the run's loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from sharpose.errors import EngineError, SinkError, SourceError
from sharpose.runtime.boxes.sources import BoxSource, SourceBoxes
from sharpose.runtime.frames import Frame, FrameRecord, Sink, SourceInfo
from sharpose.runtime.inference import Inference, Item, SharedBatches
from sharpose.runtime.messages import StopRequest
from sharpose.runtime.pipeline import PoseEstimator
from sharpose.runtime.result import Boxes, Picture, PoseResult, StageTimings
from sharpose.runtime.run import Run, Stream, run
from sharpose.runtime.sinks.coco import CocoSink
from sharpose.runtime.sinks.tables import JsonLinesSink
from sharpose.runtime.sinks.video import VideoSink
from sharpose.runtime.statistics import StreamSnapshot, StreamStatistics

FRAMES = 5


class StubSource:
    """Five black pictures with two people each; may fail before one of them."""

    def __init__(self, fail_at: int | None = None, error: BaseException | None = None) -> None:
        self.info = SourceInfo("stub", FRAMES, 25.0)
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

    def estimate(self, pictures: Sequence[Picture], *, stop: Callable[[], bool]) -> list[PoseResult]:
        return [self._poses(picture.boxes) for picture in pictures]

    def inference(self, stop: StopRequest, **_: object) -> Inference[Item]:
        return SharedBatches(lambda pictures: self.estimate(pictures, stop=lambda: stop.is_overdue))

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
    statistics: StreamStatistics | None = None,
    stop: StopRequest | None = None,
    max_people: int | None = None,
    on_frame: Callable[[Frame], None] = lambda frame: None,
    said: list[str] | None = None,
) -> StreamSnapshot:
    statistics = statistics or StreamStatistics(source.info)
    stream = Stream(source, SourceBoxes() if boxes is None else boxes, sinks, statistics, (), max_people)
    job = Run(
        [stream],
        cast(PoseEstimator, StubEstimator() if estimator is None else estimator),
        lambda image, poses: image + np.uint8(len(poses)),
        say=(lambda line: pytest.fail(line)) if said is None else said.append,
    )
    outcome = run(job, stop=StopRequest() if stop is None else stop, on_frame=lambda _, frame: on_frame(frame))
    assert bool(outcome.failures) == bool(said)
    assert not (outcome.cut if stop is None else outcome.complete)
    assert outcome.complete + outcome.cut == [sink.name for sink in sinks][: len(sinks) - len(outcome.failures)]
    return statistics.snapshot()


def real_sinks(folder: Path) -> list[Sink]:
    return [
        VideoSink(folder / "out.mp4", frame_rate=25.0),
        JsonLinesSink(folder / "out.jsonl"),
        CocoSink(folder / "out.json"),
    ]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}
