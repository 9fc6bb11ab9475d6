"""`--serve`: one HTTP server a process: where it listens, who may ask, and its connections."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import ipaddress
import re
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from http.server import ThreadingHTTPServer
from typing import TypeAlias

from sharpose.errors import InputError
from sharpose.runtime.frames import SourceHealth
from sharpose.runtime.serve.handler import Handler, load_page
from sharpose.runtime.serve.numbers import StreamNumbers
from sharpose.runtime.serve.sink import ServeSink

__all__ = [
    "LOOPBACK",
    "Access",
    "Address",
    "Listener",
    "ServeServer",
    "Streams",
    "is_loopback",
    "parse_address",
    "split_host",
]

LOOPBACK = "127.0.0.1"

_HOST_AND_PORT = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]*)):([0-9]{1,5})")


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
    return Address(match.group(1) or match.group(2) or LOOPBACK, port)


def split_host(host_header: str) -> str:
    """The host of a `Host` header, in lower case, without port and brackets."""
    host = re.sub(r":[0-9]*$", "", host_header.strip().lower())
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host.rstrip(".")


def is_loopback(host: str) -> bool:
    """Whether `host` can only mean this machine: an address of it, `localhost`, or a name below `.localhost`."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


_YEAR = 365 * 24 * 3600


class Access:
    """Decides on requests.

    A browser that came with the token once gets a cookie. It holds no token, only what can be made of it, so that it
    outlives a restart with the same token.

    Args:
        token: What a client must know; None lets everybody in.
        host: Where the server listens.
        port: Its port; cookies don't keep ports apart, so their names must.

    Raises:
        InputError: the token is empty or holds what can't be sent in a header.
    """

    def __init__(self, token: str | None, *, host: str, port: int) -> None:
        if token is not None and not (token and all("!" <= character <= "~" for character in token)):
            raise InputError(
                "--serve-token: expected printable ASCII characters without spaces, got "
                + ("others" if token else "an empty token")
            )
        self.open = token is None
        self._host = host.lower()
        self._only_loopback = is_loopback(self._host)
        self._token = (token or "").encode()
        self._cookie_name = f"sharpose_{port}"
        self._cookie = hmac.new(self._token, b"sharpose --serve", hashlib.sha256).hexdigest()

    def right_host(self, host_header: str | None) -> bool:
        """Whether the `Host` header can come from somebody who meant this server.

        A web page elsewhere can let its own name point to 127.0.0.1 (DNS rebinding); the name gives it away.
        """
        if not host_header:
            return False
        host = split_host(host_header)
        return not self._only_loopback or is_loopback(host) or host == self._host

    def right_token(self, token: str | None) -> bool:
        """Whether a token that was given in the address is right."""
        return token is not None and hmac.compare_digest(token.encode("utf-8", "replace"), self._token)

    def may(self, headers: Message, token: str | None) -> bool:
        """Whether a request with these headers, and this token in its address, is let in."""
        if self.open or self.right_token(token):
            return True
        scheme, _, bearer = headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self.right_token(bearer.strip()):
            return True
        # By hand: http.cookies gives up at the first cookie it doesn't like, and other programs on this host set some.
        pairs = (pair.strip().partition("=") for pair in headers.get("Cookie", "").split(";"))
        return any(
            name == self._cookie_name and hmac.compare_digest(value.encode("utf-8", "replace"), self._cookie.encode())
            for name, _, value in pairs
        )

    def set_cookie(self) -> str:
        """The `Set-Cookie` header that lets a browser in from now on.

        Lax, since a strict one would not be sent after a click on a link in a chat; nothing here changes anything.
        """
        return f"{self._cookie_name}={self._cookie}; Path=/; Max-Age={_YEAR}; HttpOnly; SameSite=Lax"


class Streams:
    """Streams in the order in which they were added; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sinks: dict[str, ServeSink] = {}

    def free_name(self, name: str) -> str:
        """`name` as text that can be sent, with a number behind it where another stream has it."""
        name = name.encode("utf-8", "backslashreplace").decode() or "stream"  # a file's name may hold any bytes
        with self._lock:
            count, free = 1, name
            while free in self._sinks:
                count += 1
                free = f"{name} ({count})"
            return free

    def add(self, sink: ServeSink) -> None:
        """Add a stream under its name."""
        with self._lock:
            self._sinks[sink.stream] = sink

    def get(self, name: str | None) -> ServeSink | None:
        """The stream called `name`, or the first one; None where there is none."""
        with self._lock:
            return next(iter(self._sinks.values()), None) if name is None else self._sinks.get(name)

    def all(self) -> list[ServeSink]:
        """All of them."""
        with self._lock:
            return list(self._sinks.values())

    def read(self) -> list[StreamNumbers]:
        """The numbers of all of them."""
        return [sink.counter.read() for sink in self.all()]


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
        from sharpose.runtime.serve.metrics import Metrics

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


_POLL = 0.1  # seconds until it is noticed that the server should end


class ServeServer:
    """Serves the page and its pictures and numbers until it is closed.

    `/` is the page; `/snapshot.jpg[?stream=NAME]` the newest annotated picture; `/state.json` the page's numbers;
    `/metrics` the same for Prometheus; `/healthz` is 200 while all is well and 503, with the reason, where a live
    stream is silent or all streams have failed. Clients cost the run nothing but what their pictures cost to draw and
    encode, once each, in the clients' own threads.

    Args:
        address: `HOST:PORT`, `:PORT` or `PORT`; without a host 127.0.0.1. Port 0 takes one that is free.
        token: What clients must know; None lets everybody in who can reach the address.
        say: Told, in a line each, where the page is, and of dangers.
        silent_after: A live stream without a frame for so many seconds isn't well.
        max_clients: Connections at a time; a browser that looks needs two.
        clock: Seconds that never go back.

    Attributes:
        address: Where it listens.
        url: Of the page, without the token.

    Raises:
        InputError: the address can't be understood or listened on, the token is empty or not printable ASCII, or
            prometheus-client is not installed.
    """

    def __init__(
        self,
        address: str | Address,
        token: str | None = None,
        *,
        say: Callable[[str], None],
        silent_after: float = 10.0,
        max_clients: int = 32,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        try:
            import prometheus_client  # noqa: F401 (the extra `serve`)
        except ModuleNotFoundError as error:
            if error.name != "prometheus_client":
                raise
            raise InputError(
                "--serve: expected prometheus-client to be installed, found none: pip install 'sharpose[serve]'"
            ) from None
        self._clock = clock
        self._streams = Streams()
        self._listener = Listener(
            parse_address(address) if isinstance(address, str) else address,
            token=token,
            streams=self._streams,
            silent_after=silent_after,
            max_clients=max_clients,
            say=say,
        )
        self.address = self._listener.bound
        self.url = f"http://{_reachable(self.address)}/"
        self._closed = False
        self._thread = threading.Thread(
            target=self._listener.serve_forever, kwargs={"poll_interval": _POLL}, name="serve", daemon=True
        )
        self._thread.start()
        say(f"serving {self.url}" + ("" if token is None else "?token=…"))
        if token is None and not is_loopback(self.address.host):
            say(
                f"warning: --serve {self.address}: everybody who can reach this address can watch; "
                "give --serve-token, or bind 127.0.0.1"
            )

    def sink(self, stream: str, *, live: bool = False, health: SourceHealth | None = None) -> ServeSink:
        """A sink that shows one stream.

        Args:
            stream: What the page calls it, without a password; a number is added where another stream has the name.
            live: `Source.live`: silence, from now on, means trouble.
            health: `Source.health`, read until the first record brings its own.
        """
        name = self._streams.free_name(stream)
        health = SourceHealth() if health is None else health
        sink = ServeSink(name, self.url, live=live, health=health, clock=self._clock)
        self._streams.add(sink)
        return sink

    def close(self) -> None:
        """Stop at once, whoever is connected. May be called twice."""
        if self._closed:
            return
        self._closed = True
        for sink in self._streams.all():
            sink.picture.close()
        self._listener.close()
        self._thread.join()


def _reachable(address: Address) -> Address:
    """The address as a browser elsewhere may write it."""
    anywhere = address.host in {"0.0.0.0", "::"}
    return Address(socket.gethostname(), address.port) if anywhere else address
