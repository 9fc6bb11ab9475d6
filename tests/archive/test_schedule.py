"""The loop with workers that do as they are told: retries, replaced workers, videos that another run has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sharpose.archive import schedule as scheduling
from sharpose.archive.plan import Video
from sharpose.archive.schedule import Died, Event, Progressed, Ready, Refused, Said, Schedule, WorkersError
from sharpose.archive.worker import Result
from sharpose.errors import EngineError
from sharpose.runtime.sinks.outputs import Output

VIDEOS = [Video(f"{name}.mp4", name, (Output("--json", f"out/{name}.jsonl"),)) for name in "abcd"]


class Told:
    """Workers that answer as `answer` says, and how the schedule used them."""

    def __init__(self, answer: Callable[[int, Video], Event], ready: Callable[[int], Event] | None = None) -> None:
        self.answer, self.ready = answer, ready or (lambda worker: Ready(f"here {worker}"))
        self.waiting: list[tuple[int, Event]] = []
        self.alive: set[int] = set()
        self.most = self.started = 0
        self.given: list[tuple[int, str]] = []

    def start(self) -> int:
        self.started += 1
        self.alive.add(self.started)
        self.most = max(self.most, len(self.alive))
        self.waiting.append((self.started, self.ready(self.started)))
        return self.started

    def give(self, worker: int, video: Video) -> None:
        assert worker in self.alive
        self.given.append((worker, video.name))
        self.waiting.append((worker, self.answer(worker, video)))

    def wait(self, seconds: float) -> Iterator[tuple[int, Event]]:
        waiting, self.waiting = self.waiting, []
        for worker, event in waiting:
            if isinstance(event, Died):
                self.alive.discard(worker)
            yield worker, event

    def end(self, worker: int) -> None:
        self.alive.discard(worker)

    def close(self) -> None:
        self.alive.clear()


class Notes:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.results: dict[str, tuple[str, int]] = {}
        self.reasons: dict[str, str] = {}
        self.shares: list[float] = []

    def progress(self, video: Video, share: float) -> None:
        self.shares.append(share)

    def finished(self, result: Result, tries: int) -> None:
        assert result.video.name not in self.results
        self.results[result.video.name] = result.state, tries
        self.reasons[result.video.name] = result.reason

    def note(self, line: str) -> None:
        self.lines.append(line)

    def warn(self, line: str) -> None:
        self.lines.append(f"warning: {line}")


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Notes:
    monkeypatch.chdir(tmp_path)
    return Notes()


def run(
    workers: Told, notes: Notes, count: int = 2, retries: int = 2, stop: Callable[[], bool] = lambda: False
) -> None:
    Schedule(workers, count=count, retries=retries, watcher=notes, stop=stop).run(VIDEOS)
    assert not workers.alive


def done(worker: int, video: Video) -> Event:
    return Result(video, "done")


def test_the_first_worker_is_ready_before_others_start(notes: Notes) -> None:
    workers = Told(done)
    run(workers, notes)
    assert notes.results == dict.fromkeys("abcd", ("done", 1))
    assert workers.given[0] == (1, "a")
    assert (workers.started, workers.most) == (2, 2)
    run(workers := Told(done), Notes(), count=9)
    assert workers.started <= len(VIDEOS)


def test_a_video_that_kills_its_workers_costs_its_own_tries(notes: Notes) -> None:
    workers = Told(lambda worker, video: Died("killed") if video.name == "b" else Result(video, "done"))
    run(workers, notes, count=1)
    assert notes.results == {"a": ("done", 1), "c": ("done", 1), "d": ("done", 1), "b": ("failed", 3)}
    assert notes.reasons["b"] == "killed"
    assert notes.lines == ["warning: b.mp4: killed; 2 tries left", "warning: b.mp4: killed; 1 try left"]
    assert [name for _, name in workers.given] == ["a", "b", "c", "d", "b", "b"]
    assert workers.started == 3  # each death is followed by a new one, as long as there is work


def test_a_broken_engine_is_replaced_and_a_bad_video_is_not_tried_again(notes: Notes) -> None:
    def answer(worker: int, video: Video) -> Event:
        if worker == 1 and video.name == "a":
            return Result(video, "failed", "the GPU is gone", retry=True)
        return Result(video, "failed", "empty") if video.name == "c" else Result(video, "done")

    workers = Told(answer)
    run(workers, notes, count=1)
    assert notes.results == {"a": ("done", 2), "b": ("done", 1), "c": ("failed", 1), "d": ("done", 1)}
    assert workers.given[0] == (1, "a")
    assert {worker for worker, _ in workers.given[1:]} == {2}


def test_a_server_that_was_gone_costs_a_try_and_no_worker(notes: Notes) -> None:
    gone = ["a", "b", "a"]

    def answer(worker: int, video: Video) -> Event:
        if video.name not in gone:
            return Result(video, "done")
        gone.remove(video.name)
        return Result(video, "failed", "no connection", retry=True, server="gone")

    workers = Told(answer)
    run(workers, notes, count=1)
    assert notes.results == {"a": ("done", 3), "b": ("done", 2), "c": ("done", 1), "d": ("done", 1)}
    assert [name for _, name in workers.given] == ["a", "b", "c", "d", "a", "b", "a"]
    assert workers.started == 1


def test_a_server_that_refuses_ends_the_run(notes: Notes) -> None:
    workers = Told(lambda worker, video: Result(video, "failed", "it serves another bundle", server="refuses"))
    with pytest.raises(WorkersError, match=r"^a\.mp4: it serves another bundle$") as raised:
        run(workers, notes)
    assert raised.value.exit_code == 2
    assert notes.results == {"a": ("failed", 1)}


def test_what_is_said_of_a_server_is_passed_on(notes: Notes) -> None:
    workers = Told(lambda worker, video: Said(f"{video.name}: busy for 10 s; waiting"))
    stops = iter([False, False, False, True])
    run(workers, notes, count=1, stop=lambda: next(stops))
    assert notes.lines == ["warning: a: busy for 10 s; waiting"]


def test_without_retries_the_first_death_counts(notes: Notes) -> None:
    run(Told(lambda worker, video: Died("killed")), notes, retries=0)
    assert notes.results == dict.fromkeys("abcd", ("failed", 1))
    assert notes.lines == []


def test_what_another_run_is_writing_is_looked_at_again(notes: Notes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduling, "_LOOK_AGAIN", 0.0)
    left = {"a": 3}

    def answer(worker: int, video: Video) -> Event:
        left[video.name] = left.get(video.name, 0) - 1
        return Result(video, "taken", f"{video.name} is taken") if left[video.name] >= 0 else Result(video, "skipped")

    run(Told(answer), notes, retries=0)
    assert notes.results == dict.fromkeys("abcd", ("skipped", 1))
    assert notes.lines == ["a is taken; this run waits for it at its end"]


def test_bad_options_end_the_run_before_any_work(notes: Notes) -> None:
    workers = Told(done, lambda worker: Refused.by(EngineError("no such device")))
    with pytest.raises(WorkersError, match=r"^no such device$") as raised:
        run(workers, notes)
    assert raised.value.exit_code == 2
    assert (workers.started, workers.given, workers.alive) == (1, [], set())


def test_workers_that_die_while_they_load_end_the_run(notes: Notes) -> None:
    workers = Told(done, lambda worker: Died("out of memory"))
    with pytest.raises(WorkersError, match=r"^3 workers in a row died as they started: out of memory$") as raised:
        run(workers, notes)
    assert raised.value.exit_code == 3
    assert workers.started == 3


def test_progress_is_a_share(notes: Notes) -> None:
    workers = Told(lambda worker, video: Progressed(3, 4))
    stops = iter([False, False, False, True])
    run(workers, notes, count=1, stop=lambda: next(stops))
    assert notes.shares == [0.75]
    assert notes.results == {}
