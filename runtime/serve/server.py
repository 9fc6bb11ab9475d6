"""`--serve`: one HTTP server per process: where it listens, its threads, and the streams that it shows."""

from __future__ import annotations

import re
import socket
import socketserver
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from http.server import ThreadingHTTPServer
from typing import TypeAlias

from sharpose.errors import InputError, how_to_install
from sharpose.runtime.serve.access import Access, Connections, is_loopback
from sharpose.runtime.serve.handler import Handler, Site
from sharpose.runtime.serve.sink import ServedStreams, ServeSink
from sharpose.runtime.statistics import ServerStatistics, StreamStatistics

_LOOPBACK = "127.0.0.1"
_HOST_AND_PORT = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]*)):([0-9]{1,5})")
_POLL = 0.1  # seconds until it is noticed that the server should end
_LAST_PICTURE = 10.0  # seconds at most that `close` waits for pictures that are being drawn and encoded


@dataclass(frozen=True)
class Address:
    """Where to listen.

    Attributes:
        host: A name or an address; IPv6 without brackets.
        port: 0 takes one that is free.
    """

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_address(text: str) -> Address:
    """The address that `HOST:PORT`, `[IPv6]:PORT`, `:PORT` or `PORT` means; without a host, 127.0.0.1.

    Raises:
        InputError: `text` is none of these.
    """
    match = _HOST_AND_PORT.fullmatch(f":{text}" if text.isdecimal() else text)
    port = int(match.group(3)) if match else -1
    if match is None or not 0 <= port <= 65535:
        raise InputError(
            f"--serve {text!r}: expected HOST:PORT or PORT with a port from 0 to 65535, such as 8080 (this machine "
            "only) or 0.0.0.0:8080 (everybody who can reach it)"
        )
    return Address(match.group(1) or match.group(2) or _LOOPBACK, port)


_Request: TypeAlias = socket.socket | tuple[bytes, socket.socket]  # the latter for datagrams, which never come here


class _Listener(ThreadingHTTPServer):
    """Listens from the moment it is made; `site` has to be set before it serves.

    Raises:
        InputError: nobody can listen there.
    """

    site: Site
    daemon_threads = True
    block_on_close = False
    # Else a restart would have to wait for old connections to be forgotten; on Windows two runs could share a port.
    allow_reuse_address = sys.platform != "win32"
    allow_reuse_port = False  # else two runs could share a port and take each other's clients
    request_queue_size = 64

    def __init__(self, address: Address) -> None:
        try:
            found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            self.address_family, where = found[0][0], found[0][4]
            super().__init__((str(where[0]), int(where[1])), lambda *request: Handler(self.site, *request))
        except (OSError, UnicodeError) as error:  # the latter for what can't be the name of a host
            reason = error.strerror if isinstance(error, OSError) else "this can't be a host's name"
            raise InputError(
                f"--serve {address}: can't listen there: {reason}; give another HOST:PORT (port 0 takes a free one)"
            ) from None

    def server_bind(self) -> None:
        """Bind, and look up no names: http.server would ask a name server for the machine's own."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: _Request, client_address: object) -> None:
        """Start a thread for a new connection."""
        assert isinstance(request, socket.socket)
        self.site.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: _Request) -> None:
        """Forget a connection that ends."""
        assert isinstance(request, socket.socket)
        self.site.connections.remove(request)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Cut the connections that took too long; called now and then while listening."""
        self.site.connections.cut()

    def handle_error(self, request: _Request, client_address: object) -> None:
        """A client that went away is nobody's mistake; all else is said in a line."""
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, OSError):
            self.site.report(error)


class ServeServer:
    """Serves the page and its pictures and numbers until it is closed.

    `/` is the page; `/stream.mjpg[?stream=NAME]` the annotated video for players; `/snapshot.jpg[?stream=NAME]` the
    newest picture of it; `/state.json` the page's numbers;
    `/metrics` the same for Prometheus; `/healthz` is 200 while all is well and 503, with the reason, where a live
    stream is silent or all streams have failed. Pictures are drawn and encoded for clients only, once each, in their
    threads.

    Args:
        address: `HOST:PORT`, `:PORT` or `PORT`; without a host 127.0.0.1. Port 0 takes one that is free.
        token: What clients must know; None lets everybody in who can reach the address.
        say: Called with a line on where the page is.
        warn: Called with a line on a danger or a defect.
        streams: How many there will be: only once all of them have failed, the run has.
        poses_by: Counts the requests to the server that runs the model; None where none does.
        silent_after: A live stream without a frame for so many seconds isn't well.
        max_clients: Connections at a time, a few for `/healthz` not counted; a browser that looks needs two.
        client_seconds: In which a client must send its request, and take each piece of the answer.

    Attributes:
        address: Where it listens.
        url: Of the page, without the token.
        connections: Open now.

    Raises:
        InputError: the address can't be understood or listened on; the token is empty, not printable ASCII, or shorter
            than 16 characters where others can reach the address; or prometheus-client is not installed.
    """

    def __init__(
        self,
        address: str,
        token: str | None = None,
        *,
        say: Callable[[str], None],
        warn: Callable[[str], None],
        streams: int = 1,
        poses_by: ServerStatistics | None = None,
        silent_after: float = 10.0,
        max_clients: int = 32,
        client_seconds: float = 5.0,
    ) -> None:
        try:
            from sharpose.runtime.serve.metrics import Metrics
        except ModuleNotFoundError as error:
            if error.name != "prometheus_client":
                raise
            raise InputError(
                f"--serve: expected prometheus-client to be installed, found none: {how_to_install('serve')}"
            ) from None
        self._listener = _Listener(parse_address(address))
        self.address = Address(*self._listener.socket.getsockname()[:2])
        try:
            access = Access(token, host=self.address.host, port=self.address.port)
        except InputError:
            self._listener.server_close()
            raise
        self._streams, self._guesses = ServedStreams(), access.guesses
        self.connections = Connections(max_clients, client_seconds)
        metrics = Metrics(self._streams.snapshots, poses_by)
        self._listener.site = Site(access, self._streams, metrics.text, self.connections, silent_after, warn, streams)
        # A browser elsewhere can't go to 0.0.0.0.
        anywhere = self.address.host in {"0.0.0.0", "::"}
        self.url = f"http://{Address(socket.gethostname(), self.address.port) if anywhere else self.address}/"
        self._thread = threading.Thread(
            target=partial(self._listener.serve_forever, poll_interval=_POLL), name="serve", daemon=True
        )
        self._thread.start()
        say(f"serving {self.url}" + ("" if token is None else "?token=…"))
        if token is None and not is_loopback(self.address.host):
            warn(
                f"--serve {self.address}: everybody who can reach this address can watch; "
                "give --serve-token, or bind 127.0.0.1"
            )

    def sink(self, stream: str, statistics: StreamStatistics) -> ServeSink:
        """A sink that shows one stream.

        Args:
            stream: What the page calls it, without a password; a number is added where another stream has the name.
            statistics: Its numbers, counted by the run.
        """
        return self._streams.add(stream, self.url, statistics)

    def close(self) -> None:
        """Stop and cut all connections, but let pictures be finished that are being drawn. May be called twice."""
        if self._thread.is_alive():
            self._streams.close()
            self._guesses.close()
            self._listener.shutdown()
            self._listener.server_close()
            self.connections.cut(all_of_them=True)
            self._thread.join()
            # Python ends daemon threads where they ask for its lock; inside OpenCV that ends the process by SIGABRT.
            self.connections.wait(_LAST_PICTURE)
