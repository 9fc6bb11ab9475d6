"""One client's requests to the server of --serve: who is let in, and what each address answers."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import ipaddress
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.message import Message
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from importlib import resources
from typing import Any
from urllib.parse import parse_qs, urlsplit

from sharpose.errors import InputError
from sharpose.runtime.serve.sink import ServedStreams, ServeSink
from sharpose.runtime.statistics import AGE, RECENT, STAGES, WRITE, StreamSnapshot

__all__ = [
    "Access",
    "Connections",
    "Handler",
    "Site",
    "is_loopback",
    "split_host",
    "state_json",
    "status_of",
    "trouble",
]

_YEAR = 365 * 24 * 3600
_FRAME_WAIT = 10.0  # seconds that a browser's request for the next picture stays open
_NOTHING_ELSE = "default-src 'none'; frame-ancestors 'none'"
_TEXT = "text/plain; charset=utf-8"
_COUNTS = ("frames", "people", "refined", "wanted", "deferred", "dropped", "reconnects")


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


class Access:
    """Decides who is let in.

    A browser that came with the token once gets a cookie: a hash of the token, so that it outlives a restart.

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

    def _right_token(self, token: str | None) -> bool:
        return token is not None and hmac.compare_digest(token.encode("utf-8", "replace"), self._token)

    def may(self, headers: Message, token: str | None) -> bool:
        """Whether a request with these headers, and this token in its address, is let in."""
        if self.open or self._right_token(token):
            return True
        scheme, _, bearer = headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._right_token(bearer.strip()):
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


def _load_page() -> tuple[bytes, str]:
    """The page in UTF-8, and its `Content-Security-Policy`: its own style and script, and data from this server."""
    html = resources.files("sharpose.runtime.serve").joinpath("page.html").read_bytes()
    styles, scripts = (_hashes(html, element) for element in (b"style", b"script"))
    policy = (
        f"default-src 'none'; script-src {scripts}; style-src {styles}; img-src 'self' blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return html, policy


def _hashes(html: bytes, element: bytes) -> str:
    bodies = re.findall(b"<%s>(.*?)</%s>" % (element, element), html, re.DOTALL)
    return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(body).digest()).decode()}'" for body in bodies)


def status_of(numbers: StreamSnapshot, silent_after: float) -> str:
    """`failed`, `ended`, `reconnecting`, `waiting` (for the first frame), `silent` (and live) or `running`."""
    if numbers.ended:
        return "failed" if numbers.failed else "ended"
    if not numbers.connected:
        return "reconnecting"
    if numbers.live and numbers.silence > silent_after:
        return "silent"
    return "running" if numbers.frames else "waiting"


def trouble(streams: Mapping[str, StreamSnapshot], silent_after: float) -> str | None:
    """Why a run isn't well: a live stream is silent for over `silent_after` seconds, or all have failed; else None."""
    if streams and all(numbers.failed for numbers in streams.values()):
        return "every stream has failed" if len(streams) > 1 else f"{next(iter(streams))}: the stream has failed"
    silent = [
        f"{name}: no frame for {numbers.silence:.0f} s"
        for name, numbers in streams.items()
        if numbers.live and not numbers.ended and numbers.silence > silent_after
    ]
    return "; ".join(silent) or None


def state_json(streams: Mapping[str, StreamSnapshot], silent_after: float) -> bytes:
    """`{"streams": [{"name", "status", "frames", …}], "trouble"}`; times in milliseconds, ASCII only."""
    state = {
        "streams": [_stream_json(name, numbers, silent_after) for name, numbers in streams.items()],
        "trouble": trouble(streams, silent_after),
    }
    return json.dumps(state, allow_nan=False).encode("ascii")


def _stream_json(name: str, numbers: StreamSnapshot, silent_after: float) -> dict[str, object]:
    times = {
        stage: [round(value, 3) for value in durations.percentiles(50, 95, newest=RECENT)]
        for stage, durations in numbers.durations.items()
        if len(durations)
    }
    return {
        "name": name,
        "status": status_of(numbers, silent_after),
        "live": numbers.live,
        "connected": numbers.connected,
        "width": numbers.size[0] if numbers.size else None,
        "height": numbers.size[1] if numbers.size else None,
        "frame_rate": round(numbers.recent_frame_rate, 2),
        "refine_rate": round(numbers.recent_refine_rate, 4),
        "silence_s": round(numbers.silence, 2),
        "now": {"people": numbers.people_now, "refined": numbers.refined_now, "deferred": numbers.deferred_now},
        **{name: getattr(numbers, name) for name in _COUNTS},
        "age_ms": times.get(AGE),
        "stages": [
            {"name": stage, "p50_ms": times[stage][0], "p95_ms": times[stage][1]}
            for stage in STAGES
            if stage in times and stage != WRITE
        ],
    }


class Connections:
    """The open connections of a server, `most` at a time, and until when each has time. Thread-safe.

    Attributes:
        request_seconds: For the next request to come in whole, however its bytes trickle.
        answer_seconds: For its answer to be made and taken.
    """

    request_seconds = 30.0
    answer_seconds = 60.0

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._deadlines: dict[socket.socket, float] = {}

    def __len__(self) -> int:
        return len(self._deadlines)

    def add(self, connection: socket.socket) -> bool:
        """Take a new connection in; False where there are too many."""
        with self._lock:
            if len(self._deadlines) >= self._most:
                return False
            self._deadlines[connection] = time.monotonic() + self.request_seconds
        return True

    def remove(self, connection: socket.socket) -> None:
        """Forget a connection that ends."""
        with self._lock:
            self._deadlines.pop(connection, None)

    def extend(self, connection: socket.socket, seconds: float) -> None:
        """Give a connection so many seconds from now on."""
        with self._lock:
            if connection in self._deadlines:
                self._deadlines[connection] = time.monotonic() + seconds

    def cut(self, *, all_of_them: bool = False) -> None:
        """End those whose time is over, or all, under the feet of the threads that serve them."""
        now = time.monotonic()
        with self._lock:
            over = [one for one, deadline in self._deadlines.items() if all_of_them or deadline < now]
        for connection in over:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


@dataclass
class Site:
    """What a server answers from.

    Attributes:
        access: Decides who is let in.
        streams: What is shown.
        metrics: Makes the text of `/metrics` and its content type, in the format that an `Accept` header asks for.
        connections: Open now.
        silent_after: A live stream without a frame for so many seconds isn't well.
        say: Called with a line on a defect.
        page: The page's HTML and its content security policy.
    """

    access: Access
    streams: ServedStreams
    metrics: Callable[[str], tuple[bytes, str]]
    connections: Connections
    silent_after: float
    say: Callable[[str], None]
    page: tuple[bytes, str] = field(default_factory=_load_page)
    _reported: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def report(self, error: BaseException) -> None:
        """Say what went wrong; once, since browsers ask again and again."""
        with self._lock:
            first, self._reported = not self._reported, True
        if first:
            self.say(f"warning: --serve: unexpected {type(error).__name__}: {error} (said once)")


class _RefusedError(Exception):
    """The request can't be answered: the status, and one line why."""

    def __init__(self, status: HTTPStatus, why: str, **headers: str) -> None:
        super().__init__(why)
        self.status, self.why = status, why
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class Handler(BaseHTTPRequestHandler):
    """GET and HEAD of a handful of paths; nothing that a client sends comes back in an answer or a log."""

    protocol_version = "HTTP/1.1"
    timeout = 30  # seconds without a byte
    disable_nagle_algorithm = True

    def __init__(self, site: Site, *connection: Any) -> None:  # noqa: ANN401 (the base class's)
        self._site = site
        super().__init__(*connection)  # answers all requests

    def do_GET(self) -> None:
        """Answer."""
        site = self._site
        site.connections.extend(self.connection, Connections.answer_seconds)
        if self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers:
            self.close_connection = True  # a body nobody asked for must not be read as the next request
        try:
            query = self._check()
            self._routes()[urlsplit(self.path).path](query)
        except _RefusedError as refused:
            self._answer(refused.status, f"{refused.why}\n".encode(), _TEXT, **refused.headers)
        except OSError:  # the client went away
            raise
        except Exception as error:  # answers are sent last, so nothing was sent yet
            site.report(error)
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, b"this answer could not be made\n", _TEXT)
        site.connections.extend(self.connection, Connections.request_seconds)

    do_HEAD = do_GET  # noqa: N815  (`_answer` leaves the body out)

    def _refuse_method(self) -> None:
        self.close_connection = True
        self._answer(HTTPStatus.METHOD_NOT_ALLOWED, b"only GET and HEAD are answered\n", _TEXT, Allow="GET, HEAD")

    do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_TRACE = do_CONNECT = _refuse_method  # noqa: N815

    def _routes(self) -> dict[str, Callable[[dict[str, str]], None]]:
        return {
            "/": self._page,
            "/frame.jpg": self._next_frame,
            "/snapshot.jpg": self._snapshot,
            "/state.json": self._state,
            "/metrics": self._metrics,
            "/healthz": self._health,
        }

    def _check(self) -> dict[str, str]:
        """The query of a request that may be answered. Raises `_RefusedError` for one that may not."""
        try:
            parts = urlsplit(self.path)
            query = {name: values[-1] for name, values in parse_qs(parts.query, max_num_fields=8).items()}
        except ValueError:
            raise _RefusedError(HTTPStatus.BAD_REQUEST, "this address can't be understood") from None
        if not self._site.access.right_host(self.headers.get("Host")):
            raise _RefusedError(
                HTTPStatus.FORBIDDEN,
                "this server listens on this machine only: open it as localhost, or start it with --serve HOST:PORT",
            )
        if not self._site.access.may(self.headers, query.get("token")):
            raise _RefusedError(
                HTTPStatus.UNAUTHORIZED,
                "this server needs its token: add ?token=TOKEN to the address, or send Authorization: Bearer TOKEN",
                WWW_Authenticate="Bearer",
            )
        if parts.path not in self._routes():
            raise _RefusedError(HTTPStatus.NOT_FOUND, "there is no such page")
        return query

    def _page(self, query: dict[str, str]) -> None:
        if not self._site.access.open and "token" in query:
            # The cookie takes the token's place, which would otherwise stay in the address bar and the history.
            self._answer(HTTPStatus.SEE_OTHER, b"", _TEXT, Location="./", Set_Cookie=self._site.access.set_cookie())
            return
        html, policy = self._site.page
        self._answer(HTTPStatus.OK, html, "text/html; charset=utf-8", Content_Security_Policy=policy)

    def _next_frame(self, query: dict[str, str]) -> None:
        """The newest picture once it is another than `after`; 204 where none comes for a while."""
        after = query.get("after", "0")
        if not (after.isascii() and after.isdecimal() and len(after) < 20):
            raise _RefusedError(HTTPStatus.BAD_REQUEST, "after: expected the number of a frame")
        jpeg = self._stream(query).picture.get(other_than=int(after), wait=_FRAME_WAIT)
        if jpeg is None:
            self._answer(HTTPStatus.NO_CONTENT, b"", _TEXT)
        else:
            self._answer(HTTPStatus.OK, jpeg.data, "image/jpeg", X_Frame=str(jpeg.number))

    def _snapshot(self, query: dict[str, str]) -> None:
        jpeg = self._stream(query).picture.get()
        if jpeg is None:
            raise _RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, "no frame yet", Retry_After="1")
        self._answer(HTTPStatus.OK, jpeg.data, "image/jpeg", X_Frame=str(jpeg.number))

    def _state(self, query: dict[str, str]) -> None:
        state = state_json(self._site.streams.snapshots(), self._site.silent_after)
        self._answer(HTTPStatus.OK, state, "application/json")

    def _metrics(self, query: dict[str, str]) -> None:
        self._answer(HTTPStatus.OK, *self._site.metrics(self.headers.get("Accept", "")))

    def _health(self, query: dict[str, str]) -> None:
        why = trouble(self._site.streams.snapshots(), self._site.silent_after)
        if why is not None:
            raise _RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, why)
        self._answer(HTTPStatus.OK, b"ok\n", _TEXT)

    def _stream(self, query: dict[str, str]) -> ServeSink:
        """The stream that is asked for; the first one where none is named."""
        sink = self._site.streams.get(query.get("stream"))
        if sink is None and "stream" in query:
            raise _RefusedError(HTTPStatus.NOT_FOUND, "there is no such stream")
        if sink is None:
            raise _RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, "no stream yet", Retry_After="1")
        return sink

    def _answer(self, status: HTTPStatus, body: bytes, content_type: str, **headers: str) -> None:
        self.send_response(status)
        common = {
            "Cache-Control": "no-store",
            "Content-Security-Policy": _NOTHING_ELSE,
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
        }
        if status is not HTTPStatus.NO_CONTENT:
            common |= {"Content-Type": content_type, "Content-Length": str(len(body))}
        if self.close_connection:
            common["Connection"] = "close"
        for name, value in (common | {name.replace("_", "-"): value for name, value in headers.items()}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What http.server answers to a request that is no HTTP, without repeating the request."""
        self.close_connection = True
        status = HTTPStatus(code)
        self.command = getattr(self, "command", None) or "GET"
        self.request_version = self.protocol_version  # http.server leaves the head out where it couldn't read one
        self._answer(status, f"{status.phrase}\n".encode(), _TEXT)

    def version_string(self) -> str:
        """The `Server` header: no versions."""
        return "sharpose"

    def log_message(self, format: str, *args: object) -> None:
        """Logs nothing: addresses may hold the token."""
