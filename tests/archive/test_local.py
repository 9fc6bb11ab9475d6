"""What a worker's process sends, in a thread instead."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing import Pipe
from threading import Thread

import pytest

from sharpose.archive import local
from sharpose.archive.plan import Video
from sharpose.archive.schedule import Progressed, Ready, Said
from sharpose.archive.worker import Result
from sharpose.runtime.options import RunOptions


class Worker:
    """Says something of its server as it starts, and in each video."""

    def __init__(self, options: RunOptions, say: Callable[[str], None]) -> None:
        self._say = say
        say("gone")

    def run(self, video: Video, progress: Callable[[int, int | None], None]) -> Result:
        progress(1, 2)
        self._say("busy")
        return Result(video, "done")


def test_what_a_worker_says_comes_before_its_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "VideoWorker", Worker)
    monkeypatch.setattr(local, "_end_with_parent", lambda: None)
    monkeypatch.setattr(local, "_PROGRESS_EVERY", 0.0)
    monkeypatch.setattr(local, "identity", lambda: "here")
    ours, theirs = Pipe()
    thread = Thread(target=local._work, args=(theirs, RunOptions(("v",))))
    thread.start()
    video = Video("a.mp4", "a", ())
    ours.send(video)
    assert [ours.recv() for _ in range(5)] == [
        Said("gone"),
        Ready("here"),
        Progressed(1, 2),
        Said("busy"),
        Result(video, "done"),
    ]
    ours.close()
    thread.join(30)
    assert not thread.is_alive()
