"""Workers that are processes of this machine."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING

from sharpose.archive.claims import identity
from sharpose.archive.plan import Video
from sharpose.archive.schedule import Died, Event, Progressed, Ready, Refused, Said, WorkerId
from sharpose.archive.worker import VideoWorker
from sharpose.runtime.options import RunOptions

if TYPE_CHECKING:
    if sys.platform == "win32":
        from multiprocessing.connection import PipeConnection as Connection
    else:
        from multiprocessing.connection import Connection

_SPAWN = multiprocessing.get_context("spawn")
_PROGRESS_EVERY = 0.2  # seconds
_PATIENCE = 5.0  # seconds for a process to end


class LocalWorkers:
    """Processes that were spawned, each with an estimator that it keeps. They end with the process that started them.

    Args:
        options: Of the archive.
    """

    def __init__(self, options: RunOptions) -> None:
        self._options = options
        self._started: dict[WorkerId, tuple[BaseProcess, Connection]] = {}
        self._next = 0

    def start(self) -> WorkerId:
        """See `Workers`."""
        ours, theirs = _SPAWN.Pipe()
        worker, self._next = self._next, self._next + 1
        process = _SPAWN.Process(target=_work, args=(theirs, self._options), name=f"worker {worker}", daemon=True)
        _start(process)
        theirs.close()
        self._started[worker] = process, ours
        return worker

    def give(self, worker: WorkerId, video: Video) -> None:
        """See `Workers`."""
        with contextlib.suppress(OSError):  # it has died, as `wait` will say
            self._started[worker][1].send(video)

    def wait(self, seconds: float) -> Iterator[tuple[WorkerId, Event]]:
        """See `Workers`."""
        ready = wait([connection for _, connection in self._started.values()], seconds)
        for worker, (process, connection) in list(self._started.items()):
            if connection not in ready:
                continue
            try:
                event: Event = connection.recv()
            except (EOFError, OSError):
                process.join(_PATIENCE)
                event = Died(_how(process.exitcode))
                self.end(worker)
            yield worker, event

    def end(self, worker: WorkerId) -> None:
        """See `Workers`."""
        process, connection = self._started.pop(worker)
        connection.close()
        process.kill()  # it has written nothing that counts
        process.join()

    def close(self) -> None:
        """See `Workers`."""
        for process, _ in self._started.values():
            process.kill()
        for worker in list(self._started):
            self.end(worker)


def _start(process: BaseProcess) -> None:
    """Start it without signals of the terminal, which sends Ctrl-C to all its processes: the first one decides."""
    if sys.platform == "win32":  # what `_work` ignores comes through while it is being imported; nothing is lost then
        process.start()
    else:
        from multiprocessing import resource_tracker

        resource_tracker.ensure_running()  # as it starts, it unblocks signals
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGHUP))  # which is inherited
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _how(code: int | None) -> str:
    if code is None or code >= 0:
        return f"its process ended with code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    lack = ", as for lack of memory: give fewer --workers" if name == "SIGKILL" else ""
    return f"its process was ended by {name}{lack}"


def _work(connection: Connection, options: RunOptions) -> None:
    """A worker's process."""
    if sys.platform == "win32":
        for number in (signal.SIGINT, signal.SIGBREAK):
            signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    one_by_one = threading.Lock()

    def send(event: Event) -> None:
        with one_by_one:  # requests to a server have threads of their own, which say how it is
            connection.send(event)

    try:
        worker = VideoWorker(options, say=lambda line: send(Said(line)))
    except Exception as error:
        if options.debug:
            traceback.print_exc()
        send(Refused.by(error))
        return
    send(Ready(identity()))
    while True:
        try:
            video: Video = connection.recv()
        except EOFError:
            return
        last = time.monotonic()

        def progress(frames: int, total: int | None) -> None:
            nonlocal last
            if time.monotonic() - last >= _PROGRESS_EVERY:
                last = time.monotonic()
                send(Progressed(frames, total))

        send(worker.run(video, progress))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)
