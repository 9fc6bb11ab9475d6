"""A server on a free port of this machine, a clock that the test turns, and records with made-up poses."""

from __future__ import annotations

import http.client
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from sharpose.runtime.frames import Frame, FrameRecord, SourceHealth, SourceInfo
from sharpose.runtime.result import Boxes, PoseResult
from sharpose.runtime.statistics import StreamStatistics

if TYPE_CHECKING:
    from sharpose.runtime.serve import ServeServer, ServeSink


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Drawing:
    """Stands in for drawing: counts, and marks the picture's middle."""

    calls: int = 0

    def __call__(self, image: np.ndarray, poses: PoseResult) -> np.ndarray:
        self.calls += 1
        picture = image.copy()
        cv2.circle(picture, (picture.shape[1] // 2, picture.shape[0] // 2), 8, (0, 0, 255), cv2.FILLED)
        return picture


@dataclass
class Answer:
    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return self.body.decode()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def drawing() -> Drawing:
    return Drawing()


@pytest.fixture
def make_record(drawing: Drawing) -> Callable[..., FrameRecord]:
    def make(
        index: int = 0,
        *,
        people: int = 3,
        refined: int = 1,
        wanted: int | None = None,
        age: float | None = None,
        stages: dict[str, float] | None = None,
        image: np.ndarray | None = None,
    ) -> FrameRecord:
        poses = PoseResult(
            Boxes.from_xyxy(np.tile([4, 4, 40, 40], (people, 1))),
            np.full((people, 17, 3), 0.5, np.float32),
            np.full(people, 0.5, np.float32),
            np.arange(people) < refined,
            wanted=None if wanted is None else np.arange(people) < wanted,
        )
        picture = np.full((48, 64, 3), index * 20 % 256, np.uint8) if image is None else image
        frame = Frame(picture, index, index / 25, index)
        return FrameRecord(frame, poses, drawing, stages or {}, age)

    return make


@pytest.fixture
def lines() -> list[str]:
    """What the server said to the user."""
    return []


@dataclass
class Counted:
    """A stream's sink, and its numbers, counted as the run does."""

    sink: ServeSink
    statistics: StreamStatistics

    def write(self, record: FrameRecord) -> None:
        self.sink.write(record)
        self.statistics.add(record, write_seconds=0.001)

    def close(self) -> None:
        self.sink.close()
        self.statistics.end(failed=False)

    def abandon(self) -> None:
        assert self.sink.abandon() is None
        self.statistics.end(failed=True)


@pytest.fixture
def serve(clock: Clock, lines: list[str]) -> Iterator[Callable[..., ServeServer]]:
    """Starts servers, and closes them after the test."""
    pytest.importorskip("prometheus_client")
    from sharpose.runtime.serve import ServeServer

    started: list[ServeServer] = []

    def warn(line: str) -> None:
        lines.append(f"warning: {line}")

    def start(address: str = "127.0.0.1:0", token: str | None = None, **options: Any) -> ServeServer:
        started.append(ServeServer(address, token, say=lines.append, warn=warn, **options))
        return started[-1]

    yield start
    for server in started:
        server.close()


@pytest.fixture
def show(clock: Clock) -> Callable[..., Counted]:
    """Makes a server show a stream."""

    def make(
        server: ServeServer,
        stream: str = "a",
        *,
        live: bool = False,
        health: SourceHealth | None = None,
        clock: Callable[[], float] = clock,
    ) -> Counted:
        info = SourceInfo(stream, live=live, health=health or SourceHealth())
        statistics = StreamStatistics(info, clock=clock)
        return Counted(server.sink(stream, statistics), statistics)

    return make


@pytest.fixture
def ask() -> Callable[..., Answer]:
    """Asks a server for a path, on a connection of its own."""

    def request(server: ServeServer, path: str, method: str = "GET", **headers: str) -> Answer:
        connection = http.client.HTTPConnection(server.address.host, server.address.port, timeout=30)
        try:
            connection.request(method, path, headers={name.replace("_", "-"): text for name, text in headers.items()})
            answer = connection.getresponse()
            return Answer(answer.status, answer.read(), dict(answer.getheaders()))
        finally:
            connection.close()

    return request
