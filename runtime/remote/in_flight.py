"""Frames whose poses a server is asked for: one a stream, so that no stream waits for another."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Generic

from sharpose.cli import FOREVER
from sharpose.errors import ServerBusyError, ServerGoneError, counted
from sharpose.runtime.crowd import EstimateStopped
from sharpose.runtime.inference import Answer, Item
from sharpose.runtime.remote.estimator import RemotePoseEstimator
from sharpose.runtime.result import Picture, PoseResult
from sharpose.runtime.sources.queue import FrameQueue
from sharpose.serving.client.client import busy_wait, gone_wait

_MOST_THREADS = 1024  # one for each stream, made as they are needed


class InFlight(Generic[Item]):
    """Asks a server for the poses of many streams' frames, each in a thread of its own: an `Inference`.

    A file waits for the server. A live stream drops the frame, and goes on with a newer one after a wait.

    Args:
        estimator: Asks the server.
        reconnect: How often in a row a live stream may find the server gone; no limit if None or `FOREVER`.
        stop: Whether to give up.
        landed: Called, in such a thread, when there is something to take.
    """

    stages: tuple[str, ...] = ("crop", "server", "map_back")

    def __init__(
        self,
        estimator: RemotePoseEstimator,
        *,
        reconnect: int | None,
        stop: Callable[[], bool],
        landed: Callable[[], None],
    ) -> None:
        self._estimator, self._landed = estimator, landed
        self._closed = threading.Event()
        self._stop = lambda: self._closed.is_set() or stop()
        self._limit = None if reconnect == FOREVER else reconnect
        self._threads = ThreadPoolExecutor(_MOST_THREADS, thread_name_prefix="request")
        self._flights: list[tuple[Item, Future[PoseResult | None]]] = []
        self._busy: dict[int, int] = {}  # by stream: frames in a row that found the server busy
        self._gone: dict[int, int] = {}

    def ask(self, item: Item, picture: Picture, *, live: bool, queue: FrameQueue) -> None:
        """See `Inference`."""
        if live:
            flight = self._threads.submit(self._poses_or_drop, picture, queue)
        else:
            flight = self._threads.submit(lambda: self._estimator.estimate([picture], stop=self._stop)[0])
        self._flights.append((item, flight))
        flight.add_done_callback(lambda _: self._landed())

    def take(self, *, all_of_them: bool = False) -> list[tuple[Item, Answer]]:
        """See `Inference`."""
        if all_of_them:
            wait([flight for _, flight in self._flights])
        done = [flight.done() for _, flight in self._flights]
        landed = [
            (item, _answer(flight)) for (item, flight), is_done in zip(self._flights, done, strict=True) if is_done
        ]
        self._flights = [pair for pair, is_done in zip(self._flights, done, strict=True) if not is_done]
        return landed

    def close(self) -> None:
        """See `Inference`; requests under way are not tried again, or a busy server's would keep the process alive."""
        self._closed.set()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _poses_or_drop(self, picture: Picture, queue: FrameQueue) -> PoseResult | None:
        """Poses of a live frame; None where it is dropped, after a wait."""
        stream, dropped_before = picture.stream, queue.dropped
        try:
            result = self._estimator.estimate_once(picture, stop=self._stop)
        except ServerBusyError:
            self._gone.pop(stream, None)  # it has answered
            busy = self._busy[stream] = self._busy.get(stream, 0) + 1
            seconds = busy_wait(busy)
        except ServerGoneError as error:
            self._busy.pop(stream, None)
            gone = self._gone[stream] = self._gone.get(stream, 0) + 1
            if self._limit is not None and gone > self._limit:
                back = f", and not back after {counted(self._limit, 'attempt')}" if self._limit else ""
                raise ServerGoneError(f"{error.found}{back}", error.remedy) from None
            seconds = gone_wait(gone)
        else:
            self._busy.pop(stream, None)
            self._gone.pop(stream, None)
            return result
        queue.count_dropped()
        self._estimator.wait(seconds)
        self._estimator.statistics.drop(queue.dropped - dropped_before)  # with those that newer ones replaced meanwhile
        return None


def _answer(flight: Future[PoseResult | None]) -> Answer:
    try:
        return flight.result()
    except EstimateStopped:
        return None
    except Exception as error:
        return error
