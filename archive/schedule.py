"""The loop of an archive: hands videos to workers, tries again what failed for no fault of the video's."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

import click

from sharpose.archive.claims import hidden_folder, sweep
from sharpose.archive.plan import Video
from sharpose.archive.worker import Result
from sharpose.cli import EXIT_FAILED
from sharpose.errors import ServerRefusedError, SharposeError, counted

WorkerId: TypeAlias = int
_POLL = 0.2  # seconds
_PATIENCE = 5.0  # seconds
_LOOK_AGAIN = 2.0  # seconds, at what another run is writing
_START_TRIES = 3  # of workers in a row that die before they are ready


@dataclass(frozen=True)
class Ready:
    """A worker has loaded its estimator; `identity` is what it writes into its claims."""

    identity: str


@dataclass(frozen=True)
class Refused:
    """A worker can't load its estimator; `message` is one line."""

    message: str
    exit_code: int

    @classmethod
    def by(cls, error: Exception) -> Refused:
        """From what was raised."""
        if isinstance(error, click.ClickException):
            return cls(error.format_message(), error.exit_code)
        if isinstance(error, SharposeError):
            return cls(str(error), error.exit_code)
        return cls(f"a worker can't start: unexpected {type(error).__name__}: {error}", EXIT_FAILED)


@dataclass(frozen=True)
class Progressed:
    """Frames of a worker's video that are done, and how many it has, if that is known."""

    frames: int
    total: int | None


@dataclass(frozen=True)
class Said:
    """A worker's server is gone, busy for long, or back, as `line` says."""

    line: str


@dataclass(frozen=True)
class Died:
    """A worker is gone; `reason` says how."""

    reason: str


Event: TypeAlias = Ready | Refused | Progressed | Said | Died | Result


class Workers(Protocol):
    """Where workers run."""

    def start(self) -> WorkerId:
        """Start one; `wait` says when it is ready."""
        ...

    def give(self, worker: WorkerId, video: Video) -> None:
        """Hand a video to a worker that is ready and has none."""
        ...

    def wait(self, seconds: float) -> Iterable[tuple[WorkerId, Event]]:
        """What has happened, if anything does within so many seconds."""
        ...

    def end(self, worker: WorkerId) -> None:
        """End one at once, whatever it does."""
        ...

    def close(self) -> None:
        """End all at once."""
        ...


class WorkersError(SharposeError):
    """Workers can't be started, or their server refuses what they ask; nothing is left half done."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Watcher(Protocol):
    """Who is told how it goes."""

    def progress(self, video: Video, share: float) -> None:
        """So much of a video is done, 0 to 1."""
        ...

    def finished(self, result: Result, tries: int) -> None:
        """A video is done or has failed, after so many tries."""
        ...

    def note(self, line: str) -> None:
        """Something worth knowing."""
        ...

    def warn(self, line: str) -> None:
        """Something went wrong, and is tried again; or is well again."""
        ...


@dataclass
class _Worker:
    """What the loop knows of a worker; `video`: what it has now; `identity`: once it is ready."""

    identity: str | None = None
    video: Video | None = None


class Schedule:
    """Hands videos to workers until each is done or has failed.

    Args:
        workers: Where workers run.
        count: How many at most.
        retries: How often a video is tried again whose worker died, whose engine failed or whose server was gone.
        watcher: Is told how it goes.
        stop: Asked all the time whether to end at once.
    """

    def __init__(
        self, workers: Workers, *, count: int, retries: int, watcher: Watcher, stop: Callable[[], bool]
    ) -> None:
        self._workers, self._count, self._retries = workers, count, retries
        self._watcher, self._stop = watcher, stop
        self._known: dict[WorkerId, _Worker] = {}
        self._queue: deque[Video] = deque()
        self._taken: dict[str, Video] = {}  # by others, by path
        self._look_at = 0.0  # when to look at those again
        self._tries: dict[str, int] = {}
        self._dead: set[str] = set()
        self._start_deaths = 0
        self._once_ready = False

    def run(self, videos: Sequence[Video]) -> None:
        """Go through the videos.

        Raises:
            WorkersError: the first worker can't load the estimator, or workers die while they do; or the server refuses
                what they ask, as where it serves another bundle by now.
        """
        self._queue.extend(videos)
        try:
            while not self._stop() and (self._queue or self._taken or any(one.video for one in self._known.values())):
                self._look_at_taken()
                self._start_and_give()
                for worker, event in self._workers.wait(_POLL):
                    self._handle(worker, event)
        finally:
            self._workers.close()
            for one in self._known.values():
                if one.identity is not None:
                    self._dead.add(one.identity)
            self._sweep([one.video for one in self._known.values() if one.video is not None])

    def _sweep(self, videos: Sequence[Video]) -> None:
        """Remove what workers left that have just been ended; those on other machines may take a moment to end."""
        until = time.monotonic() + _PATIENCE
        outputs = [output for video in videos for output in video.outputs]
        sweep(outputs, self._dead)
        while any(hidden_folder(output).is_dir() for output in outputs) and time.monotonic() < until:
            time.sleep(_POLL)
            sweep(outputs, self._dead)

    def _look_at_taken(self) -> None:
        if self._taken and time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + _LOOK_AGAIN
            self._queue.extend(self._taken.values())
            self._taken.clear()

    def _start_and_give(self) -> None:
        for worker, one in self._known.items():
            if self._queue and one.identity is not None and one.video is None:
                one.video = self._queue.popleft()
                self._workers.give(worker, one.video)
        # The first one alone finds out what can't work, and measures batches and builds engines for all.
        wanted = self._count if self._once_ready else 1
        busy = sum(one.video is not None for one in self._known.values())
        while len(self._known) < min(wanted, busy + len(self._queue)):
            self._known[self._workers.start()] = _Worker()

    def _handle(self, worker: WorkerId, event: Event) -> None:
        one = self._known[worker]
        if isinstance(event, Ready):
            one.identity, self._once_ready, self._start_deaths = event.identity, True, 0
        elif isinstance(event, Progressed):
            if one.video is not None and event.total:
                self._watcher.progress(one.video, min(1.0, event.frames / event.total))
        elif isinstance(event, Said):
            self._watcher.warn(event.line)
        elif isinstance(event, Result):
            one.video = None
            if event.server == "refuses":
                self._finish(event)
                raise WorkersError(f"{event.video.path}: {event.reason}", ServerRefusedError.exit_code)
            if event.state == "failed" and event.retry:
                if event.server != "gone":  # its engine may be broken for good
                    self._workers.end(worker)
                    self._forget(worker)
                self._try_again(event)
            elif event.state == "taken":
                self._note_taken(event)
            else:
                self._finish(event)
        elif isinstance(event, Died):
            video = one.video
            if one.identity is None:
                self._start_deaths += 1
            self._forget(worker)
            if video is not None:
                self._sweep([video])
            if self._stop():  # what ends this run may have been sent to the workers as well
                return
            if video is not None:
                self._try_again(Result(video, "failed", event.reason, retry=True))
            if self._start_deaths == _START_TRIES:
                raise WorkersError(f"{_START_TRIES} workers in a row died as they started: {event.reason}", EXIT_FAILED)
        else:
            self._workers.end(worker)
            self._forget(worker)
            if not self._once_ready:
                raise WorkersError(event.message, event.exit_code)
            self._start_deaths += 1
            if self._start_deaths == _START_TRIES:
                raise WorkersError(event.message, EXIT_FAILED)

    def _forget(self, worker: WorkerId) -> None:
        one = self._known.pop(worker)
        if one.identity is not None:
            self._dead.add(one.identity)

    def _try_again(self, result: Result) -> None:
        path = result.video.path
        self._tries[path] = self._tries.get(path, 0) + 1
        if self._tries[path] > self._retries:
            self._finish(result)
        else:
            left = counted(self._retries + 1 - self._tries[path], "try")
            self._watcher.progress(result.video, 0.0)
            self._watcher.warn(f"{path}: {result.reason}; {left} left")
            self._queue.append(result.video)

    def _note_taken(self, result: Result) -> None:
        video = result.video
        if video.path not in self._tries:
            self._tries[video.path] = 0
            self._watcher.note(f"{result.reason or video.path}; this run waits for it at its end")
        if not self._taken:
            self._look_at = time.monotonic() + _LOOK_AGAIN
        self._taken[video.path] = video

    def _finish(self, result: Result) -> None:
        tries = self._tries.get(result.video.path, 0)
        again = result.state == "failed" and result.retry
        self._watcher.finished(replace(result, retry=False), tries if again else tries + 1)
