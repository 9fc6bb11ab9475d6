"""Poses of crops from a server: one pinned model, connections that are kept, and what is tried again."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from sharpose.errors import (
    InputError,
    ServerBusyError,
    ServerError,
    ServerGoneError,
    ServerRefusedError,
    counted,
    how_to_install,
    one_line,
)
from sharpose.serving.client import DEFAULT_TIMEOUT, DEFAULT_TRIES
from sharpose.serving.client.address import Credentials, ServerAddress
from sharpose.serving.client.connection import (
    Connection,
    ConnectionClosedError,
    CropPoses,
    WrongServerError,
    outputs_wanted,
    read_poses,
)
from sharpose.serving.client.over_http import HttpConnection
from sharpose.serving.contract import ServedModel

_GONE_WAITS = (0.25, 5.0)  # seconds before the second try, and at most, before jitter
_BUSY_WAITS = (0.02, 1.0)
_BUSY_SAID_AFTER = 10.0  # seconds

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Patience:
    """What a request waits for.

    Attributes:
        tries: Tries that a server which is gone or fails gets; None for no limit. While it is busy there is no limit.
        drop: Whether there is one try only, as for a live frame: `ServerBusyError` or `ServerGoneError` are raised at
            once, and the next frame is the next try.
    """

    tries: int | None = DEFAULT_TRIES
    drop: bool = False


@dataclass(frozen=True)
class Exchange:
    """One try of a request for poses that was answered, or one that failed, as early as at the connection.

    Attributes:
        seconds: From its first byte to the answer's last; of one that failed, from connecting on.
        error: What it failed with; None for poses.
    """

    seconds: float
    error: ServerError | None


class _OtherModelError(ServerRefusedError):
    """Poses came from another model than the one that the server had when the connection was made."""


class RequestStoppedError(Exception):
    """A request was given up, as its caller wanted."""


class PoseClient:
    """Poses of crops from a server. Threads may share one: each request under way has a connection of its own.

    The server's model is pinned at first contact: whenever a connection is made, the server must still have it, and
    each answer names its version.

    Args:
        url: `http://HOST:8000/sharpose`, or https, grpc, grpcs; see `ServerAddress.parse`.
        credentials: Token and certificates.
        timeout: Seconds for a request: connecting, sending, waiting and reading.
        expected: The sha256 of the bundle that the server must have; whatever it has if None.
        say: Called with a line when the server is lost, is busy for long, or is back.
        note: Called after each answer with poses and each try that failed, contact included; from several threads.

    Raises:
        InputError: the address or a certificate can't be used, or gRPC is asked for and its extra not installed.
    """

    def __init__(
        self,
        url: str,
        credentials: Credentials | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        expected: str | None = None,
        say: Callable[[str], None] = lambda line: None,
        note: Callable[[Exchange], None] = lambda exchange: None,
    ) -> None:
        self.address = ServerAddress.parse(url)
        self._connect = _connector(self.address, credentials or Credentials())
        self._timeout, self._expected, self._note = timeout, expected, note
        self._outage = _Outage(self.address, say)
        self._lock = threading.Lock()
        self._model: ServedModel | None = None
        self._idle: list[Connection] = []
        self._under_way: set[Connection] = set()
        self._over = threading.Event()

    def contact(self, patience: Patience | None = None, *, stop: Callable[[], bool] = lambda: False) -> ServedModel:
        """The model that the server has; asked for at the first call.

        Raises:
            ServerError: the server can't be reached, or has another model than what was expected.
            RequestStoppedError: `stop` said so, or `terminate` was called.
        """
        if self._model is None:
            self._persist(lambda connection: None, patience or Patience(), stop)
        assert self._model is not None
        return self._model

    def infer(
        self,
        crops: npt.NDArray[np.uint8],
        thresholds: npt.NDArray[np.float32],
        *,
        regions: bool = False,
        patience: Patience | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> CropPoses:
        """Poses of some crops, in one request.

        Args:
            crops: uint8 [N, H, W, 3], RGB; at most the model's max batch.
            thresholds: float32 [N, 1]: below which predicted quality each is refined; -inf for never, inf for always.
            regions: Whether the order of their regions is wanted.
            patience: What to wait for.
            stop: Asked between tries whether to give up.

        Raises:
            ServerRefusedError: the server won't take it, or has another model than before.
            ServerBusyError: the server has no room, and `patience` doesn't wait for that.
            ServerError: it is gone, fails or is late, after all tries; or what it answers can't be poses.
            RequestStoppedError: `stop` said so, or `terminate` was called.
        """
        wanted = outputs_wanted(regions=regions)

        def ask(connection: Connection) -> CropPoses:
            model, began = self._model, time.perf_counter()
            assert model is not None
            answer = connection.infer(crops, thresholds, wanted, self._timeout)
            if answer.version != str(model.version):
                raise _OtherModelError(
                    f"expected poses of the model's version {model.version}, as its bundle's sha256 says, got "
                    f"{answer.version[:20]}",
                    "write the repository again with sharpose-export --triton",
                )
            found = read_poses(answer.outputs, model, len(crops), wanted)
            self._note(Exchange(time.perf_counter() - began, None))
            return found

        return self._persist(ask, patience or Patience(), stop)

    def answered(self, timeout: float) -> int | None:
        """Requests of all clients that the server's model has answered with poses so far.

        Args:
            timeout: Seconds for that question.

        Returns:
            None where the server doesn't say, as a gateway that passes no such question.
        """
        with contextlib.closing(self._connect()) as connection:
            try:
                return connection.answered(timeout)
            except ServerError:
                return None

    def wait(self, seconds: float) -> None:
        """Wait, but not beyond `terminate`."""
        self._over.wait(seconds)

    def terminate(self) -> None:
        """End all requests under way, from another thread; they and later ones raise `RequestStoppedError`."""
        self._over.set()
        with self._lock:
            for connection in self._under_way:
                connection.interrupt()

    def close(self) -> None:
        """Close the connections. May be called twice."""
        self.terminate()
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _persist(self, ask: Callable[[Connection], _Result], patience: Patience, stop: Callable[[], bool]) -> _Result:
        """Ask until there is an answer, or no point in asking on."""
        failed = waits = 0
        while True:
            try:
                result = self._ask(ask)
            except ServerBusyError as error:
                self._give_up_if(stop)
                self._outage.busy(error)
                if patience.drop:
                    raise self._named(error) from None
                waits += 1
                self.wait(busy_wait(waits))
            except ServerGoneError as error:
                self._give_up_if(stop)
                failed += 1
                if patience.tries is not None and failed >= patience.tries and not patience.drop:
                    tries = f" ({counted(failed, 'try')})" if failed > 1 else ""
                    raise self._named(error, tries) from None
                self._outage.gone(error)
                if patience.drop:
                    raise self._named(error) from None
                self.wait(gone_wait(failed))
            except ServerError as error:
                raise self._named(error) from None
            else:
                self._outage.over()
                return result
            self._give_up_if(stop)

    def _ask(self, ask: Callable[[Connection], _Result]) -> _Result:
        """Ask once; again at once where a kept connection turns out to be closed, or to have got another server at its
        other end. All failures are noted.
        """
        while True:
            began, kept = time.perf_counter(), False
            try:
                with self._borrowed() as connection:
                    kept = connection.used
                    if not kept:
                        self._pin(connection)
                    return ask(connection)
            except ServerError as error:
                self._note(Exchange(time.perf_counter() - began, error))
                again = isinstance(error, ConnectionClosedError | _OtherModelError)
                if not again or not kept or self._over.is_set():
                    raise

    @contextlib.contextmanager
    def _borrowed(self) -> Iterator[Connection]:
        """A connection for one request; it is kept if that succeeds."""
        with self._lock:
            connection = self._idle.pop() if self._idle else self._connect()
            self._under_way.add(connection)
        good = False
        try:
            self._give_up_if(lambda: False)
            yield connection
            good = True
        finally:
            with self._lock:
                self._under_way.discard(connection)
                keep = good and not self._over.is_set()
                if keep:
                    self._idle.append(connection)
            if not keep:
                connection.close()

    def _pin(self, connection: Connection) -> None:
        """Check what the server has, over a new connection."""
        try:
            found = ServedModel.from_config(connection.config(self._timeout))
        except ServerError as error:
            if self._model is None and (isinstance(error, WrongServerError) or type(error) is ServerError):
                raise ServerRefusedError(error.found, error.remedy) from None
            raise
        with self._lock:
            first = self._model is None
            if self._expected is not None and found.bundle_sha256 != self._expected:
                what = "yours" if first else "as before"
                raise ServerRefusedError(
                    f"expected it to serve the bundle {self._expected[:12]}, {what}, got {found.bundle_sha256[:12]}",
                    "serve the same bundle, or start anew without --bundle",
                )
            if self._model is not None and found.skeleton != self._model.skeleton:
                raise ServerRefusedError(
                    f"expected the skeleton {self._model.skeleton.name} as before, got {found.skeleton.name}"
                )
            self._model, self._expected = found, found.bundle_sha256

    def _named(self, error: ServerError, after: str = "") -> ServerError:
        """The error with the server's name before what it says."""
        return type(error)(f"{self.address}: {error.found}{after}", error.remedy)

    def _give_up_if(self, stop: Callable[[], bool]) -> None:
        if self._over.is_set() or stop():
            raise RequestStoppedError


def busy_wait(attempt: int) -> float:
    """Seconds to wait after so many tries in a row, from 1, that found the server busy."""
    return _wait(attempt, *_BUSY_WAITS)


def gone_wait(attempt: int) -> float:
    """Seconds to wait after so many tries in a row, from 1, that found the server gone."""
    return _wait(attempt, *_GONE_WAITS)


def _wait(attempt: int, first: float, most: float) -> float:
    """Doubled each time, less up to half of it, so that clients spread."""
    return min(most, first * 2.0 ** min(attempt - 1, 30)) * (1.0 - 0.5 * random.random())


class _Outage:
    """Says, once for all requests under way, that the server is gone or busy, and that it is back."""

    def __init__(self, address: ServerAddress, say: Callable[[str], None]) -> None:
        self._address, self._say = address, say
        self._lock = threading.Lock()
        self._began: float | None = None
        self._said = False

    def gone(self, error: ServerError) -> None:
        with self._lock:
            self._begin()
            say, self._said = not self._said, True
        if say:
            self._say(f"{self._address}: {error.found}; trying again")

    def busy(self, error: ServerError) -> None:
        with self._lock:
            since = self._begin()
            say = not self._said and time.monotonic() - since >= _BUSY_SAID_AFTER
            self._said = self._said or say
        if say:
            self._say(f"{self._address}: busy for {_BUSY_SAID_AFTER:g} s ({error.found}); waiting")

    def over(self) -> None:
        with self._lock:
            began, said = self._began, self._said
            self._began, self._said = None, False
        if said and began is not None:
            self._say(f"{self._address}: answers again, after {time.monotonic() - began:.1f} s")

    def _begin(self) -> float:
        if self._began is None:
            self._began = time.monotonic()
        return self._began


def _connector(address: ServerAddress, credentials: Credentials) -> Callable[[], Connection]:
    """What makes a connection to a server."""
    credentials.check(address)
    if address.scheme in ("grpc", "grpcs"):
        try:
            from sharpose.serving.client.over_grpc import GrpcConnection
        except ImportError as error:
            raise InputError(
                f"{address}: gRPC needs tritonclient ({one_line(error)}): {how_to_install('triton-grpc')} "
                "-c constraints-grpc.txt, in an environment without the extra export; or use http://"
            ) from None
        return lambda: GrpcConnection(address, credentials)
    tls = credentials.tls_context() if address.secure else None
    return lambda: HttpConnection(address, credentials, tls)
