"""Inner sources that do as they are told, for tests of `LiveSource`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import numpy as np

from sharpose.errors import SourceError
from sharpose.runtime.frames import Frame, SourceInfo


class Inner:
    """An inner source; `script` yields its frames, and may raise or hang."""

    def __init__(self, script: Callable[[], Iterator[Frame]], *, live: bool = True) -> None:
        self.info = SourceInfo("cam", None if live else 7, 25.0, live=live)
        self.closed = threading.Event()
        self._script = script

    def __iter__(self) -> Iterator[Frame]:
        return self._script()

    def close(self) -> None:
        self.closed.set()


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def frame(index: int, *, size: tuple[int, int] = (4, 6), arrived: float | None = None) -> Frame:
    return Frame(np.full((*size, 3), index, np.uint8), index, index / 10, index, arrived=arrived)


def some(count: int, *, size: tuple[int, int] = (4, 6)) -> Callable[[], Iterator[Frame]]:
    def script() -> Iterator[Frame]:
        yield from (frame(index, size=size) for index in range(count))

    return script


def then(count: int, what: Callable[[], None]) -> Callable[[], Iterator[Frame]]:
    def script() -> Iterator[Frame]:
        yield from some(count)()
        what()

    return script


def fail() -> None:
    raise SourceError("cam: pulled out")


class Factory:
    """Opens the given inner sources in turn; an exception among them is raised. The last one is opened again."""

    def __init__(self, *inners: Inner | Exception) -> None:
        self.inners = list(inners)
        self.calls = 0

    def __call__(self) -> Inner:
        inner = self.inners[min(self.calls, len(self.inners) - 1)]
        self.calls += 1
        if isinstance(inner, Exception):
            raise inner
        return inner
