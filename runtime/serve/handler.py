"""One client's requests to the server of --serve, and what each address answers."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import selectors
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from importlib import resources
from typing import Any
from urllib.parse import parse_qs, urlsplit

from sharpose.runtime.serve.access import Access, Connections
from sharpose.runtime.serve.sink import ServedStreams, ServeSink
from sharpose.runtime.statistics import AGE, RECENT, STAGES, WRITE, StreamSnapshot

_LOOK_EVERY = 1.0  # seconds between looks at whether a client that waits for a picture is still there
_BOUNDARY = "sharpose-frame"
_FRAME_WAIT = 10.0  # seconds that a browser's request for the next picture stays open
_NOTHING_ELSE = "default-src 'none'; frame-ancestors 'none'"
_TEXT = "text/plain; charset=utf-8"
_GONE = "this stream has ended, and its last picture is no longer kept"
_PIECE = 1 << 16  # bytes of an answer that a client must take in `Connections.seconds`
_COUNTS = ("frames", "people", "refined", "wanted", "deferred", "dropped", "reconnects")


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


def trouble(streams: Mapping[str, StreamSnapshot], silent_after: float, expected: int = 1) -> str | None:
    """Why a run isn't well: a live stream is silent for over `silent_after` seconds, or all that are `expected`, those
    of a folder that are opened one after another included, have failed; else None.
    """
    if len(streams) >= max(expected, 1) and all(numbers.failed for numbers in streams.values()):
        return "every stream has failed" if len(streams) > 1 else f"{next(iter(streams))}: the stream has failed"
    silent = [
        f"{name}: no frame for {numbers.silence:.0f} s"
        for name, numbers in streams.items()
        if numbers.live and not numbers.ended and numbers.silence > silent_after
    ]
    return "; ".join(silent) or None


def state_json(streams: Mapping[str, StreamSnapshot], silent_after: float, expected: int = 1) -> bytes:
    """`{"streams": [{"name", "status", "frames", …}], "trouble"}`; times in milliseconds, ASCII only."""
    state = {
        "streams": [_stream_json(name, numbers, silent_after) for name, numbers in streams.items()],
        "trouble": trouble(streams, silent_after, expected),
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


@dataclass
class Site:
    """What a server answers from.

    Attributes:
        access: Decides who is let in.
        streams: What is shown.
        metrics: Makes the text of `/metrics` and its content type, in the format that an `Accept` header asks for.
        connections: Open now.
        silent_after: A live stream without a frame for so many seconds isn't well.
        warn: Called with a line on a defect.
        expected: How many streams there will be.
        page: The page's HTML and its content security policy.
    """

    access: Access
    streams: ServedStreams
    metrics: Callable[[str], tuple[bytes, str]]
    connections: Connections
    silent_after: float
    warn: Callable[[str], None]
    expected: int = 1
    page: tuple[bytes, str] = field(default_factory=_load_page)
    _reported: set[type[BaseException]] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def report(self, error: BaseException) -> None:
        """Say what went wrong; once for each type of error, since browsers ask again and again."""
        with self._lock:
            first = type(error) not in self._reported
            self._reported.add(type(error))
        if first:
            self.warn(f"--serve: unexpected {type(error).__name__}: {error} (said once)")


class _RefusedError(Exception):
    """The request can't be answered: the status, and one line why."""

    def __init__(self, status: HTTPStatus, why: str, **headers: str) -> None:
        super().__init__(why)
        self.status, self.why = status, why
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class Handler(BaseHTTPRequestHandler):
    """GET and HEAD of a handful of paths; nothing that a client sends comes back in an answer or a log."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(self, site: Site, *connection: Any) -> None:  # noqa: ANN401 (the base class's)
        self._site = site
        super().__init__(*connection)  # answers all requests

    def setup(self) -> None:
        """Let a client be silent for as long as it has for a request."""
        super().setup()
        self.connection.settimeout(self._site.connections.seconds)

    def do_GET(self) -> None:
        """Answer."""
        site = self._site
        site.connections.extend(self.connection, Connections.making_seconds)
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
        site.connections.extend(self.connection)

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
            "/stream.mjpg": self._mjpeg,
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
        if parts.path != "/healthz" and not self._site.connections.may_ask_for_all(self.connection):
            self.close_connection = True
            raise _RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, "too many clients", Retry_After="5")
        let_in = self._site.access.may(self.headers, query.get("token"), str(self.client_address[0]))
        if let_in is None:
            raise _RefusedError(
                HTTPStatus.TOO_MANY_REQUESTS, "too many wrong tokens came from your address: wait", Retry_After="10"
            )
        if not let_in:
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
        picture = self._stream(query).picture
        until = time.monotonic() + _FRAME_WAIT
        while (jpeg := picture.get(other_than=int(after), wait=_LOOK_EVERY)) is None:
            if self._has_gone():
                self.close_connection = True
                return
            if picture.closed or time.monotonic() >= until:
                break
        if jpeg is None and picture.gone:
            raise _RefusedError(HTTPStatus.GONE, _GONE)
        if jpeg is None:
            self._answer(HTTPStatus.NO_CONTENT, b"", _TEXT)
        else:
            self._answer(HTTPStatus.OK, jpeg.data, "image/jpeg", X_Frame=str(jpeg.number))

    def _snapshot(self, query: dict[str, str]) -> None:
        picture = self._stream(query).picture
        jpeg = picture.get()
        if jpeg is None and picture.gone:
            raise _RefusedError(HTTPStatus.GONE, _GONE)
        if jpeg is None:
            raise _RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, "no frame yet", Retry_After="1")
        self._answer(HTTPStatus.OK, jpeg.data, "image/jpeg", X_Frame=str(jpeg.number))

    def _mjpeg(self, query: dict[str, str]) -> None:
        """Every picture that the client can take, until the stream ends or the client goes."""
        picture = self._stream(query).picture
        self.close_connection = True
        self._head(HTTPStatus.OK, {"Content-Type": f"multipart/x-mixed-replace; boundary={_BOUNDARY}"})
        shown = None
        while self.command != "HEAD" and not self._has_gone():
            self._site.connections.extend(self.connection, Connections.making_seconds)
            try:
                jpeg = picture.get(other_than=shown, wait=_LOOK_EVERY)
            except Exception as error:  # too late for another answer
                self._site.report(error)
                return
            if jpeg is not None:
                shown = jpeg.number
                head = f"--{_BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg.data)}\r\n\r\n"
                self._send(head.encode() + jpeg.data + b"\r\n")
            elif picture.closed:
                self._send(f"--{_BOUNDARY}--\r\n".encode())
                return

    def _has_gone(self) -> bool:
        """Whether the client has hung up, which sending would tell as well, but no sooner than the next picture."""
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self.connection, selectors.EVENT_READ)
                return selector.select(0) != [] and not self.connection.recv(1, socket.MSG_PEEK)
        except OSError:
            return True

    def _state(self, query: dict[str, str]) -> None:
        state = state_json(self._site.streams.snapshots(), self._site.silent_after, self._site.expected)
        self._answer(HTTPStatus.OK, state, "application/json")

    def _metrics(self, query: dict[str, str]) -> None:
        self._answer(HTTPStatus.OK, *self._site.metrics(self.headers.get("Accept", "")))

    def _health(self, query: dict[str, str]) -> None:
        why = trouble(self._site.streams.snapshots(), self._site.silent_after, self._site.expected)
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
        common = {"Content-Type": content_type, "Content-Length": str(len(body))}
        common = {} if status is HTTPStatus.NO_CONTENT else common
        self._head(status, common | {name.replace("_", "-"): value for name, value in headers.items()})
        self._send(body if self.command != "HEAD" else b"")

    def _head(self, status: HTTPStatus, headers: dict[str, str]) -> None:
        """Send the status and the headers, with those that all answers have."""
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
        if self.close_connection:
            common["Connection"] = "close"
        for name, value in (common | headers).items():
            self.send_header(name, value)
        self.end_headers()

    def _send(self, body: bytes) -> None:
        """Send it in pieces, each of which the client must take in time."""
        for begin in range(0, len(body), _PIECE):
            self._site.connections.extend(self.connection)
            self.wfile.write(body[begin : begin + _PIECE])

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
