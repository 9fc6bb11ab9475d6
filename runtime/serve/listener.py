"""The listening socket and its connections: how many, for how long, and how they end."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from typing import TypeAlias

from sharpose.errors import InputError
from sharpose.runtime.serve.access import Access
from sharpose.runtime.serve.address import Address
from sharpose.runtime.serve.handler import Handler
from sharpose.runtime.serve.metrics import Metrics
from sharpose.runtime.serve.page import load_page
from sharpose.runtime.serve.streams import Streams

__all__ = ["Listener"]

_Request: TypeAlias = socket.socket | tuple[bytes, socket.socket]  # the latter for datagrams, which never come here

_REQUEST_SECONDS = 30.0  # for the next request to come in whole, however its bytes trickle
_ANSWER_SECONDS = 60.0  # for its answer to be made and taken
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nContent-Length: 17\r\nRetry-After: 5\r\n"
    b"Cache-Control: no-store\r\nConnection: close\r\n\r\ntoo many clients\n"
)


class Listener(ThreadingHTTPServer):
    """Listens from the moment it is made.

    Args:
        address: Where.
        token: What clients must know, if anything.
        streams: What is shown.
        silent_after: A live stream without a frame for so many seconds isn't well.
        max_clients: Connections at a time; more are told to come back.
        say: Told of a defect, in a line.

    Raises:
        InputError: nobody can listen there, or the token can't be one.
    """

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True  # else a restart would have to wait for old connections to be forgotten
    allow_reuse_port = False  # else two runs could share a port and take each other's clients
    request_queue_size = 64

    def __init__(
        self,
        address: Address,
        *,
        token: str | None,
        streams: Streams,
        silent_after: float,
        max_clients: int,
        say: Callable[[str], None],
    ) -> None:
        self.streams, self.silent_after = streams, silent_after
        self.page = load_page()
        self.metrics = Metrics(streams.read)
        self._max_clients, self._say = max_clients, say
        self._deadlines: dict[socket.socket, float] = {}
        self._lock = threading.Lock()
        self._reported = False
        try:
            found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            self.address_family, where = found[0][0], found[0][4]
            super().__init__((str(where[0]), int(where[1])), Handler)
        except OSError as error:
            raise InputError(
                f"--serve {address}: can't listen there: {error.strerror}; give another HOST:PORT (port 0 takes a "
                "free one)"
            ) from None
        bound, port = self.socket.getsockname()[:2]
        self.bound = Address(bound, port)
        try:
            self.access = Access(token, host=bound, port=port)
        except InputError:
            self.server_close()
            raise

    def server_bind(self) -> None:
        """Bind, and look up no names: http.server would ask a name server for the machine's own."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: _Request, client_address: object) -> None:
        """Start a thread for a new connection, or turn it away."""
        assert isinstance(request, socket.socket)
        with self._lock:
            full = len(self._deadlines) >= self._max_clients
            if not full:
                self._deadlines[request] = time.monotonic() + _REQUEST_SECONDS
        if full:
            with contextlib.suppress(OSError):
                request.setblocking(False)
                request.send(_FULL)
            self.shutdown_request(request)
        else:
            super().process_request(request, client_address)

    def shutdown_request(self, request: _Request) -> None:
        """Forget a connection that ends."""
        assert isinstance(request, socket.socket)
        with self._lock:
            self._deadlines.pop(request, None)
        super().shutdown_request(request)

    def begin_answer(self, request: socket.socket) -> None:
        """A request came in whole; its answer has time of its own."""
        self._give_time(request, _ANSWER_SECONDS)

    def end_answer(self, request: socket.socket) -> None:
        """An answer was taken; the next request may come."""
        self._give_time(request, _REQUEST_SECONDS)

    def _give_time(self, request: socket.socket, seconds: float) -> None:
        with self._lock:
            if request in self._deadlines:
                self._deadlines[request] = time.monotonic() + seconds

    def service_actions(self) -> None:
        """Cut the connections that took too long; called now and then while listening."""
        now = time.monotonic()
        with self._lock:
            late = [request for request, deadline in self._deadlines.items() if deadline < now]
        for request in late:
            _cut(request)

    def handle_error(self, request: _Request, client_address: object) -> None:
        """A client that went away is nobody's mistake; all else is said in a line."""
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, OSError):
            self.report(error)

    def report(self, error: BaseException) -> None:
        """Say what went wrong; once, since browsers ask again and again."""
        with self._lock:
            first, self._reported = not self._reported, True
        if first:
            self._say(f"warning: --serve: unexpected {type(error).__name__}: {error} (said once)")

    def close(self) -> None:
        """Stop listening and cut all connections. To be called while `serve_forever` runs in another thread."""
        self.shutdown()
        self.server_close()
        with self._lock:
            connections = list(self._deadlines)
        for request in connections:
            _cut(request)


def _cut(request: socket.socket) -> None:
    """End a connection under the feet of the thread that serves it."""
    with contextlib.suppress(OSError):
        request.shutdown(socket.SHUT_RDWR)
