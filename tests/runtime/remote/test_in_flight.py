"""Streams whose poses a server is asked for: each has one request under way; live ones drop frames."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import cast

import numpy as np
import pytest
from run_stand_ins import StubSink, StubSource
from v2_server import V2Server, simple_poses, v2_server

from sharpose.errors import ServerGoneError
from sharpose.runtime.boxes.sources import SourceBoxes
from sharpose.runtime.frames import Frame, FrameRecord, Sink
from sharpose.runtime.messages import StopRequest
from sharpose.runtime.remote.estimator import RemotePoseEstimator
from sharpose.runtime.remote.in_flight import InFlight
from sharpose.runtime.result import Boxes, Picture
from sharpose.runtime.run import Outcome, Run, Stream, run
from sharpose.runtime.sinks.group import RunFailedError
from sharpose.runtime.sources import SourceOptions
from sharpose.runtime.sources.queue import FrameQueue
from sharpose.runtime.statistics import StreamStatistics
from sharpose.serving.client import client


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_GONE_WAITS", (0.001, 0.002))
    monkeypatch.setattr(client, "_BUSY_WAITS", (0.001, 0.002))


@pytest.fixture
def server() -> Iterator[V2Server]:
    with v2_server() as running:
        yield running


@pytest.fixture
def estimator(server: V2Server) -> Iterator[RemotePoseEstimator]:
    with RemotePoseEstimator(server.url, tries=2) as remote:
        yield remote


def live_source() -> StubSource:
    source = StubSource()
    source.info.live = True
    return source


def go(
    estimator: RemotePoseEstimator,
    streams: Sequence[tuple[StubSource, StubSink]],
    *,
    reconnect: int | None = None,
    stop: StopRequest | None = None,
    said: list[str] | None = None,
) -> Outcome:
    made = [
        Stream(source, SourceBoxes(), [cast("Sink", sink)], StreamStatistics(source.info)) for source, sink in streams
    ]
    lines: list[str] = [] if said is None else said
    job = Run(made, estimator, lambda image, poses: image, reconnect=reconnect, say=lines.append)
    return run(job, stop=StopRequest() if stop is None else stop)


def frames_of(sink: StubSink) -> list[int]:
    return [record.frame.index for record in sink.records]


@pytest.mark.parametrize("act", [503, 500, "nothing"])
def test_a_live_stream_drops_what_the_server_has_no_time_for(
    server: V2Server, estimator: RemotePoseEstimator, act: int | str
) -> None:
    estimator(np.zeros((48, 64, 3), np.uint8), [[0, 0, 9, 9]])
    server.acts = ["poses", act, act, "poses"] if act != "nothing" else ["poses", act, act, act, "poses"]
    sink = StubSink()
    source = live_source()
    go(estimator, [(source, sink)])
    numbers = estimator.statistics.snapshot()
    assert frames_of(sink) == [0, 3, 4]
    assert source.info.health.dropped == 2
    assert (numbers.dropped, numbers.requests) == (2, 4)
    assert set(sink.records[0].stages) == {"read", "boxes", "crop", "server", "map_back", "track"}


def test_frames_that_a_wait_costs_are_counted(
    server: V2Server, estimator: RemotePoseEstimator, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, frames = FrameQueue("latest", 1), list(StubSource())
    monkeypatch.setattr(estimator, "wait", lambda seconds: [queue.put(frame) for frame in frames])
    server.acts = [500]
    in_flight = InFlight[str](estimator, reconnect=None, stop=lambda: False, landed=lambda: None)
    picture = Picture(frames[0].image, Boxes.from_xyxy([[0, 0, 20, 30]]))
    in_flight.ask("first", picture, live=True, queue=queue)
    landed = in_flight.take(all_of_them=True)
    in_flight.close()
    assert landed == [("first", None)]
    assert queue.dropped == estimator.statistics.snapshot().dropped == 5  # the first, and four that newer ones replaced


def test_a_file_waits_beside_a_live_stream_that_drops(server: V2Server, estimator: RemotePoseEstimator) -> None:
    file, live = StubSink(), StubSink()
    server.acts = [503] * 6
    go(estimator, [(StubSource(), file), (live_source(), live)])
    dropped = estimator.statistics.snapshot().dropped
    assert frames_of(file) == [0, 1, 2, 3, 4]
    assert frames_of(live) == list(range(dropped, 5))
    assert estimator.statistics.snapshot().failed == 6


def test_a_live_stream_ends_after_so_many_attempts(server: V2Server, estimator: RemotePoseEstimator) -> None:
    sink = StubSink()
    server.acts = ["poses", 500, 500, 500]
    with pytest.raises(
        RunFailedError, match=r"told to say 500, and not back after 2 attempts; the frame before"
    ) as failure:
        go(estimator, [(live_source(), sink)], reconnect=2)
    assert failure.value.exit_code == 3
    assert isinstance(failure.value.__cause__, ServerGoneError)
    assert frames_of(sink) == [0]


def test_a_server_that_is_busy_in_between_is_not_gone(server: V2Server, estimator: RemotePoseEstimator) -> None:
    sink = StubSink()
    server.acts = [500, 503, 500, 503]
    go(estimator, [(live_source(), sink)], reconnect=1)
    assert frames_of(sink) == [4]


def test_a_live_stream_in_python_ends_after_so_many_attempts(
    server: V2Server, estimator: RemotePoseEstimator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sharpose.runtime.assemble.open_source", lambda *_, **__: live_source())
    server.acts = ["poses", 500, 500, 500]
    frames = estimator.stream("camera.mjpeg", full_frame=True, reading=SourceOptions(reconnect=2))
    next(frames)
    with pytest.raises(ServerGoneError, match="told to say 500, and not back after 2 attempts"):
        next(frames)


def test_one_stream_may_be_slow(server: V2Server, estimator: RemotePoseEstimator) -> None:
    """Another stream's frames all come while the first request is under way."""
    others_done = threading.Event()
    slow: list[int] = []

    def poses(crops: np.ndarray, thresholds: np.ndarray) -> dict[str, np.ndarray]:
        if len(server.requests) == 1:
            slow.append(len(crops))
            assert others_done.wait(10)
        return simple_poses(crops, thresholds)

    server.poses = poses

    class Counting(StubSink):
        def write(self, record: object) -> None:
            super().write(record)  # type: ignore[arg-type]
            if len(self.records) == 5:
                others_done.set()

    first, second = Counting(), Counting()
    go(estimator, [(StubSource(), first), (StubSource(), second)])
    assert slow == [2]
    assert frames_of(first) == frames_of(second) == [0, 1, 2, 3, 4]


def test_a_stream_whose_sink_fails_ends_alone(server: V2Server, estimator: RemotePoseEstimator) -> None:
    said: list[str] = []
    failing, whole = StubSink(fail_at=1), StubSink()
    outcome = go(estimator, [(StubSource(), failing), (StubSource(), whole)], said=said)
    assert frames_of(whole) == [0, 1, 2, 3, 4]
    assert len(outcome.failures) == 1
    assert "the disk is full" in outcome.failures[0]


def test_asked_to_stop_the_frames_under_way_are_delivered(server: V2Server, estimator: RemotePoseEstimator) -> None:
    stop, sink = StopRequest(), StubSink()

    def poses(crops: np.ndarray, thresholds: np.ndarray) -> dict[str, np.ndarray]:
        stop.closed = len(server.requests) == 2
        return simple_poses(crops, thresholds)

    server.poses = poses
    outcome = go(estimator, [(StubSource(), sink)], stop=stop)
    assert frames_of(sink) == [0, 1]
    assert outcome.failures == []


def test_a_window_that_is_closed_ends_a_run_whose_server_is_busy(
    server: V2Server, estimator: RemotePoseEstimator
) -> None:
    stop = StopRequest()
    server.acts = ["poses", *[503] * 2000]

    class Closing(StubSink):
        def write(self, record: FrameRecord) -> None:
            super().write(record)
            stop.closed = True

    file, other = Closing(), Closing()
    go(estimator, [(StubSource(), file), (StubSource(), other)], stop=stop)
    assert len(frames_of(file)) + len(frames_of(other)) == 1
    assert server.acts != []


def test_a_busy_server_is_asked_no_more_once_the_stream_was_left(
    server: V2Server, estimator: RemotePoseEstimator
) -> None:
    """As by Ctrl-C in a loop of Python's own; a request that went on would keep the process from ending."""
    in_flight = InFlight[str](estimator, reconnect=None, stop=lambda: False, landed=lambda: None)
    server.acts = [503] * 1000
    picture = Picture(np.zeros((48, 64, 3), np.uint8), Boxes.from_xyxy([[0, 0, 20, 30]]))
    in_flight.ask("first", picture, live=False, queue=FrameQueue("all", 1))
    while len(server.requests) < 2:
        threading.Event().wait(0.001)
    in_flight.close()
    assert in_flight.take(all_of_them=True) == [("first", None)]
    assert server.acts != []


def test_a_request_that_hangs_is_not_waited_for(server: V2Server, estimator: RemotePoseEstimator) -> None:
    stop, sink = StopRequest(), StubSink()
    server.acts, server.late_seconds = ["poses", "late"], 5.0

    class Interrupting(StubSource):
        def __iter__(self) -> Iterator[Frame]:
            for frame in super().__iter__():
                yield frame
                if frame.index == 1:
                    threading.Thread(target=interrupt, daemon=True).start()

    def interrupt() -> None:
        while len(server.requests) < 2:
            threading.Event().wait(0.01)
        stop.note(2)
        over = threading.Event()
        stop.become_overdue(over)

    stop.when_overdue(estimator.terminate)
    go(estimator, [(Interrupting(), sink)], stop=stop)
    assert frames_of(sink) == [0]
