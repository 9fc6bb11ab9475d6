"""Several streams in one loop: each gets its turn, keeps its order, and ends alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from sharpose.errors import DetectorError, EngineError, SharposeError, SinkError, SourceError
from sharpose.runtime.boxes.sources import SourceBoxes
from sharpose.runtime.frames import Frame, FrameRecord, Sink, Source, SourceInfo
from sharpose.runtime.inference import Inference, Item, SharedBatches
from sharpose.runtime.messages import StopRequest
from sharpose.runtime.pipeline import PoseEstimator
from sharpose.runtime.result import Boxes, Picture, PoseResult
from sharpose.runtime.run import Outcome, Playlist, PoseStep, Run, Stream, run
from sharpose.runtime.sinks.group import RunFailedError
from sharpose.runtime.sources.live import LiveSource
from sharpose.runtime.statistics import STAGES, StreamStatistics


class Numbered:
    """So many pictures whose pixels are `value`; may fail before one of them, or wait for `gate` before each."""

    def __init__(
        self, value: int, count: int, *, fail_at: int | None = None, gate: threading.Event | None = None
    ) -> None:
        self.info = SourceInfo(f"source {value}", count, 10.0)
        self.closed = 0
        self._value, self._fail_at, self._gate = value, fail_at, gate

    def __iter__(self) -> Iterator[Frame]:
        for index in range(self.info.frame_count or 0):
            if index == self._fail_at:
                raise SourceError(f"{self.info.name}: broken")
            if self._gate is not None:
                self._gate.wait()
            boxes = Boxes.from_xyxy([[0, 0, 8, 8]] * (self._value % 10))
            yield Frame(np.full((8, 8, 3), self._value, np.uint8), index, index / 10, index, boxes)

    def close(self) -> None:
        self.closed += 1


class Estimator:
    """Everybody's keypoints are the picture's value; notes whose pictures came in each batch."""

    def __init__(self, *, refuse: int | None = None) -> None:
        self.batches: list[list[int]] = []
        self.pictures: list[Picture] = []
        self._refuse = refuse

    def inference(self, stop: StopRequest, **_: object) -> Inference[Item]:
        return SharedBatches(lambda pictures: self.estimate(pictures, stop=lambda: stop.is_overdue))

    def estimate(self, pictures: Sequence[Picture], *, stop: Callable[[], bool]) -> list[PoseResult]:
        values = [int(picture.image[0, 0, 0]) for picture in pictures]
        self.batches.append(values)
        if self._refuse in values:
            raise EngineError(f"no picture of {self._refuse} please")
        self.pictures += pictures
        return [
            PoseResult(
                picture.boxes,
                np.full((len(picture.boxes), 17, 3), value, np.float32),
                np.zeros(len(picture.boxes), np.float32),
                np.zeros(len(picture.boxes), np.bool_),
            )
            for picture, value in zip(pictures, values, strict=True)
        ]


class Notes:
    """Keeps records; may fail at one of them."""

    def __init__(self, *, fail_at: int | None = None) -> None:
        self.name = "notes"
        self.records: list[FrameRecord] = []
        self.calls: list[str] = []
        self._fail_at = fail_at

    def write(self, record: FrameRecord) -> None:
        if len(self.records) == self._fail_at:
            raise SinkError("notes: full")
        self.records.append(record)

    def close(self) -> None:
        self.calls.append("close")

    def abandon(self) -> Path | None:
        self.calls.append("abandon")
        return Path("notes.partial") if self.records else None

    @property
    def seen(self) -> list[int]:
        return [record.frame.index for record in self.records]


def go(
    sources: Sequence[Source],
    sinks: Sequence[Notes],
    estimator: Estimator | None = None,
    *,
    steps: Sequence[Sequence[PoseStep]] = (),
    stop: StopRequest | None = None,
    deadline: float | None = None,
    said: list[str] | None = None,
) -> tuple[list[str], list[Stream]]:
    streams = [
        Stream(source, SourceBoxes(), [cast(Sink, sink)], StreamStatistics(source.info), steps[i] if steps else ())
        for i, (source, sink) in enumerate(zip(sources, sinks, strict=True))
    ]
    job = Run(
        streams,
        cast(PoseEstimator, estimator or Estimator()),
        lambda image, poses: image,
        deadline=deadline,
        say=(said if said is not None else []).append,
    )
    return run(job, stop=StopRequest() if stop is None else stop).failures, streams


def test_each_stream_keeps_its_order_and_its_poses() -> None:
    sources = [Numbered(1, 5), Numbered(2, 9), Numbered(3, 2)]
    sinks = [Notes(), Notes(), Notes()]
    failures, streams = go(sources, sinks)
    assert failures == []
    assert [sink.seen for sink in sinks] == [list(range(5)), list(range(9)), [0, 1]]
    for value, sink in enumerate(sinks, start=1):
        assert {float(record.poses.keypoints[0, 0, 0]) for record in sink.records} == {float(value)}
        assert {len(record.poses) for record in sink.records} == {value}
        assert sink.calls == ["close"]
    assert [stream.statistics.frames for stream in streams] == [5, 9, 2]
    assert [stream.statistics.snapshot().people for stream in streams] == [5, 18, 6]
    assert [source.closed for source in sources] == [1, 1, 1]


def test_a_round_takes_one_frame_of_each_and_shares_the_batch() -> None:
    estimator = Estimator()
    go([Numbered(1, 50), Numbered(2, 50), Numbered(3, 50)], [Notes(), Notes(), Notes()], estimator)
    assert all(len(set(batch)) == len(batch) for batch in estimator.batches)
    assert [1, 2, 3] in estimator.batches
    assert {picture.stream for picture in estimator.pictures} == {0, 1, 2}


def test_a_stream_without_frames_holds_nobody_up() -> None:
    gate, quick = threading.Event(), Notes()
    sources = [Numbered(1, 1, gate=gate), Numbered(2, 20)]

    class Opening(Notes):
        def write(self, record: FrameRecord) -> None:
            super().write(record)
            if record.frame.index == 19:
                gate.set()  # only now may the first stream have its frame

    slow, quick = Notes(), Opening()
    go(sources, [slow, quick])
    assert (slow.seen, quick.seen) == ([0], list(range(20)))


def test_one_that_breaks_ends_alone() -> None:
    said: list[str] = []
    sinks = [Notes(), Notes()]
    failures, streams = go([Numbered(1, 9, fail_at=3), Numbered(2, 9)], sinks, said=said)
    assert failures == ["source 1: broken; the 3 frames before it are kept in notes.partial"]
    assert said == ["source 1: broken; the 3 frames before it are kept in notes.partial; the other streams go on"]
    assert (sinks[0].seen, sinks[1].seen) == ([0, 1, 2], list(range(9)))
    assert (sinks[0].calls, sinks[1].calls) == (["abandon"], ["close"])
    numbers = [stream.statistics.snapshot() for stream in streams]
    assert [(one.ended, one.failed) for one in numbers] == [(True, True), (True, False)]
    assert all(one.seconds > 0 for one in numbers)


def test_a_sink_that_fails_ends_its_stream_alone() -> None:
    sinks = [Notes(fail_at=2), Notes()]
    failures, _ = go([Numbered(1, 9), Numbered(2, 9)], sinks, said=[])
    assert failures == ["notes: full; the 2 frames before it are kept in notes.partial"]
    assert sinks[1].seen == list(range(9))


def test_a_picture_that_the_engine_refuses_is_its_own_streams_end() -> None:
    sinks = [Notes(), Notes(), Notes()]
    failures, _ = go([Numbered(1, 4), Numbered(2, 4), Numbered(3, 4)], sinks, Estimator(refuse=2), said=[])
    assert failures == ["no picture of 2 please"]
    assert [sink.seen for sink in sinks] == [[0, 1, 2, 3], [], [0, 1, 2, 3]]


def test_when_all_break_the_last_one_is_the_error() -> None:
    said: list[str] = []
    with pytest.raises(SharposeError) as caught:
        go([Numbered(1, 9, fail_at=2), Numbered(2, 9, fail_at=8)], [Notes(), Notes()], said=said)
    assert isinstance(caught.value, RunFailedError)
    assert str(caught.value).startswith("source 2: broken; the 8 frames")
    assert len(said) == 1


def test_a_request_to_stop_closes_every_stream() -> None:
    stop = StopRequest()

    class Stopping(Notes):
        def write(self, record: FrameRecord) -> None:
            super().write(record)
            if record.frame.index == 3:
                stop.signal = 2

    sinks = [Notes(), Stopping()]
    sources = [Numbered(1, 1000), Numbered(2, 1000)]
    failures, _ = go(sources, sinks, stop=stop)
    assert failures == []
    assert sinks[1].seen in ([0, 1, 2, 3], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5])  # with the frames at hand
    assert 1 <= len(sinks[0].records) < 1000
    assert [sink.calls for sink in sinks] == [["close"], ["close"]]
    assert [source.closed for source in sources] == [1, 1]


class Count:
    """A step that remembers how many frames it saw, in the track ids."""

    def __init__(self) -> None:
        self.seen = 0

    def update(self, poses: PoseResult, time: float, frame_size: tuple[int, int] | None = None) -> PoseResult:
        self.seen += 1
        assert frame_size == (8, 8)
        assert time == pytest.approx((self.seen - 1) / 10)
        ids = np.full(len(poses), self.seen, np.int64)
        return PoseResult(poses.boxes, poses.keypoints, poses.quality, poses.refined, track_ids=ids)


def test_steps_see_every_frame_of_their_own_stream() -> None:
    steps, sinks = [Count(), Count()], [Notes(), Notes()]
    go([Numbered(1, 4), Numbered(2, 6)], sinks, steps=[[steps[0]], [steps[1]]])
    assert [step.seen for step in steps] == [4, 6]
    ids = [record.poses.track_ids for record in sinks[1].records]
    assert [i.tolist() for i in ids if i is not None] == [[n, n] for n in range(1, 7)]


def test_a_deadline_counts_from_when_the_frame_is_taken_up() -> None:
    estimator = Estimator()
    _, (stream,) = go([Numbered(1, 3)], [Notes()], estimator, deadline=0.5)
    deadlines = [picture.deadline for picture in estimator.pictures]
    assert all(deadline is not None for deadline in deadlines)
    assert deadlines == sorted(deadlines)  # type: ignore[type-var]
    assert stream.statistics.snapshot().late == 0
    _, (stream,) = go([Numbered(1, 3)], [Notes()], deadline=0.0)
    assert stream.statistics.snapshot().late == 3


def test_records_say_how_long_stages_took() -> None:
    source, sink = Numbered(1, 2), Notes()
    source.info.health.dropped = 4
    _, (stream,) = go([source], [sink])
    assert set(sink.records[0].stages) == set(STAGES) - {"server", "write"}
    assert sink.records[0].age is None
    numbers = stream.statistics.snapshot()
    assert [len(numbers.durations[stage]) for stage in STAGES] == [0 if stage == "server" else 2 for stage in STAGES]
    assert numbers.dropped == 4


def test_what_another_thread_reads_has_no_time_of_reading() -> None:
    sink = Notes()
    _, (stream,) = go([LiveSource("a pipe", lambda: Numbered(1, 2))], [sink])
    assert set(sink.records[0].stages) == set(STAGES) - {"read", "server", "write"}
    durations = stream.statistics.snapshot().durations
    assert (len(durations["read"]), len(durations["track"])) == (0, 2)


def opener(opened: list[int], source: Numbered | SharposeError, sink: Notes) -> Callable[[], Stream]:
    def open_it() -> Stream:
        if isinstance(source, SharposeError):
            raise source
        opened.append(int(source.info.name.split()[1]))
        return Stream(source, SourceBoxes(), [cast(Sink, sink)], StreamStatistics(source.info))

    return open_it


def play(
    playlist: Sequence[Numbered | SharposeError],
    beside: Sequence[Stream] = (),
    stop: StopRequest | None = None,
    at_once: int = 1,
) -> tuple[Outcome, list[Notes], list[str], list[int], list[tuple[int, int]]]:
    """How it went, the sinks of the playlist, what was said, what was opened, and every frame with its stream."""
    sinks, said, opened, seen = [Notes() for _ in playlist], list[str](), list[int](), list[tuple[int, int]]()
    waiting = [opener(opened, source, sink) for source, sink in zip(playlist, sinks, strict=True)]
    job = Run(
        beside,
        cast(PoseEstimator, Estimator()),
        lambda image, _: image,
        say=said.append,
        playlists=[Playlist(waiting, at_once)],
    )

    def on_frame(index: int, frame: Frame) -> None:
        seen.append((index, frame.index))
        if stop is not None and len(seen) == 3:
            stop.closed = True

    outcome = run(job, stop=StopRequest() if stop is None else stop, on_frame=on_frame)
    return outcome, sinks, said, opened, seen


def test_a_playlist_runs_one_after_another() -> None:
    outcome, sinks, said, opened, seen = play([Numbered(1, 3), Numbered(2, 1), Numbered(3, 2)])
    assert (outcome.failures, outcome.unopened, said) == ([], 0, [])
    assert opened == [1, 2, 3]
    assert seen == [(0, 0), (0, 1), (0, 2), (1, 0), (2, 0), (2, 1)]
    assert [sink.seen for sink in sinks] == [[0, 1, 2], [0], [0, 1]]
    assert [sink.calls for sink in sinks] == [["close"]] * 3


def test_so_many_of_a_playlist_run_at_once() -> None:
    gate = threading.Event()

    class Last(Numbered):
        def __iter__(self) -> Iterator[Frame]:
            yield from super().__iter__()
            gate.set()  # only now may the first stream have its frame

    rest: list[Numbered | SharposeError] = [Numbered(2, 2), SourceError("c: no video"), Numbered(4, 2), Last(5, 1)]
    outcome, sinks, said, opened, seen = play([Numbered(1, 1, gate=gate), *rest], at_once=2)
    assert [sink.seen for sink in sinks] == [[0], [0, 1], [], [0, 1], [0]]
    assert (opened, outcome.unopened) == ([1, 2, 4, 5], 0)
    one_after_another = [(stream, index) for stream, index in seen if stream != 0]
    assert one_after_another == [(1, 0), (1, 1), (2, 0), (2, 1), (3, 0)]
    assert seen.index((0, 0)) >= 4
    assert said == ["c: no video; the other streams go on"]


def test_a_playlist_runs_beside_other_streams() -> None:
    other, sink = Numbered(9, 7), Notes()
    stream = Stream(other, SourceBoxes(), [cast(Sink, sink)], StreamStatistics(other.info))
    outcome, sinks, _, opened, seen = play([Numbered(1, 2), Numbered(2, 2)], [stream])
    assert outcome.failures == []
    assert (sink.seen, [one.seen for one in sinks], opened) == (list(range(7)), [[0, 1], [0, 1]], [1, 2])
    assert {index for index, _ in seen} == {0, 1, 2}


def test_a_file_of_a_playlist_that_is_none_is_passed_over() -> None:
    outcome, sinks, said, _, _ = play([SourceError("a: no video"), Numbered(1, 2, fail_at=1), Numbered(2, 2)])
    assert [sink.seen for sink in sinks] == [[], [0], [0, 1]]
    assert said[0] == "a: no video; the other streams go on"
    assert said[1].startswith("source 1: broken; the frame before it is kept in notes.partial; the other streams")
    assert [line.split(";")[0] for line in outcome.failures] == ["a: no video", "source 1: broken"]


def test_a_playlist_without_a_good_file_ends_on_the_last_error() -> None:
    with pytest.raises(SourceError, match="b: no video"):
        play([SourceError("a: no video"), SourceError("b: no video")])
    with pytest.raises(DetectorError, match="no network"):  # no file's fault: the others would fail as well
        play([DetectorError("no network"), Numbered(2, 2)])


def test_a_request_to_stop_leaves_the_rest_of_a_playlist_unopened() -> None:
    stop = StopRequest()
    outcome, sinks, _, opened, _ = play([Numbered(1, 9), Numbered(2, 9), Numbered(3, 9)], stop=stop)
    assert (outcome.unopened, opened, outcome.cut) == (2, [1], ["notes"])
    assert sinks[0].seen == [0, 1, 2]


def test_where_a_stream_cannot_be_begun_those_before_it_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "read source 2":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    sources = [Numbered(1, 50), Numbered(2, 50)]
    streams = [Stream(source, SourceBoxes(), [], StreamStatistics(source.info)) for source in sources]
    with pytest.raises(RuntimeError, match="can't start new thread"):
        run(Run(streams, cast(PoseEstimator, Estimator()), lambda image, poses: image), stop=StopRequest())
    assert [source.closed for source in sources] == [1, 0]
    assert [stream.begun for stream in streams] == [True, False]  # who opened it closes it
    assert not [thread for thread in threading.enumerate() if thread.name == "read source 1"]
