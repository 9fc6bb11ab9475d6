"""Answers one browser's or monitor's requests: the page, the numbers as JSON, the picture."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from importlib import resources
from typing import TYPE_CHECKING, cast
from urllib.parse import parse_qs, urlsplit

from sharpose.runtime.serve.numbers import StreamNumbers

if TYPE_CHECKING:
    from sharpose.runtime.serve.server import Listener
    from sharpose.runtime.serve.sink import ServeSink

__all__ = ["Handler", "Page", "load_page", "state_json", "status_of", "trouble"]


@dataclass(frozen=True)
class Page:
    """The page as it is sent.

    Attributes:
        html: UTF-8.
        policy: Its `Content-Security-Policy`: only its own style and script, pictures and numbers from this server.
    """

    html: bytes
    policy: str


def load_page() -> Page:
    """Read the page from the package."""
    html = resources.files("sharpose.runtime.serve").joinpath("page.html").read_bytes()
    styles, scripts = (_hashes(html, element) for element in (b"style", b"script"))
    policy = (
        f"default-src 'none'; script-src {scripts}; style-src {styles}; img-src 'self' blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return Page(html, policy)


def _hashes(html: bytes, element: bytes) -> str:
    bodies = re.findall(b"<%s>(.*?)</%s>" % (element, element), html, re.DOTALL)
    return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(body).digest()).decode()}'" for body in bodies)


def status_of(numbers: StreamNumbers, silent_after: float) -> str:
    """`failed`, `ended`, `reconnecting`, `waiting` (for the first frame), `silent` (and live) or `running`."""
    if numbers.ended:
        return "failed" if numbers.failed else "ended"
    if not numbers.connected:
        return "reconnecting"
    if numbers.live and numbers.silence > silent_after:
        return "silent"
    return "running" if numbers.frames else "waiting"


def trouble(streams: Sequence[StreamNumbers], silent_after: float) -> str | None:
    """Why a run isn't well, or None where it is.

    It isn't where a live stream that hasn't ended was silent for more than `silent_after` seconds, or where all streams
    ended badly.
    """
    if streams and all(stream.failed for stream in streams):
        return "every stream has failed" if len(streams) > 1 else f"{streams[0].name}: the stream has failed"
    silent = [stream for stream in streams if stream.live and not stream.ended and stream.silence > silent_after]
    return "; ".join(f"{stream.name}: no frame for {stream.silence:.0f} s" for stream in silent) or None


def state_json(streams: Sequence[StreamNumbers], silent_after: float) -> bytes:
    """`{"streams": [{"name", "status", "frames", …}], "trouble"}`; times in milliseconds, ASCII only."""
    state = {
        "streams": [_stream(stream, silent_after) for stream in streams],
        "trouble": trouble(streams, silent_after),
    }
    return json.dumps(state, allow_nan=False).encode("ascii")


def _stream(numbers: StreamNumbers, silent_after: float) -> dict[str, object]:
    return {
        "name": numbers.name,
        "status": status_of(numbers, silent_after),
        "live": numbers.live,
        "connected": numbers.connected,
        "width": numbers.size[0] if numbers.size else None,
        "height": numbers.size[1] if numbers.size else None,
        "frame_rate": round(numbers.frame_rate, 2),
        "refine_rate": round(numbers.refine_rate, 4),
        "silence_s": round(numbers.silence, 2),
        "now": {
            "people": numbers.people_now,
            "refined": numbers.refined_now,
            "deferred": numbers.deferred_now,
        },
        "frames": numbers.frames,
        "people": numbers.people,
        "refined": numbers.refined,
        "wanted": numbers.wanted,
        "deferred": numbers.deferred,
        "dropped": numbers.dropped,
        "reconnects": numbers.reconnects,
        "age_ms": None if numbers.age is None else [_ms(numbers.age.p50), _ms(numbers.age.p95)],
        "stages": [
            {"name": name, "p50_ms": _ms(times.p50), "p95_ms": _ms(times.p95)} for name, times in numbers.stages.items()
        ],
    }


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


_FRAME_WAIT = 10.0  # seconds that a browser's question for the next picture stays open
_NOTHING_ELSE = "default-src 'none'; frame-ancestors 'none'"
_TEXT = "text/plain; charset=utf-8"


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

    def do_GET(self) -> None:
        """Answer."""
        listener = cast("Listener", self.server)
        listener.begin_answer(self.connection)
        if self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers:
            self.close_connection = True  # a body nobody asked for must not be read as the next request
        try:
            query = self._check(listener)
            self._routes()[urlsplit(self.path).path](listener, query)
        except _RefusedError as refused:
            self._answer(refused.status, f"{refused.why}\n".encode(), _TEXT, **refused.headers)
        except OSError:  # the client went away
            raise
        except Exception as error:  # answers are sent last, so nothing was sent yet
            listener.report(error)
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, b"this answer could not be made\n", _TEXT)
        listener.end_answer(self.connection)

    do_HEAD = do_GET  # noqa: N815  (`_answer` leaves the body out)

    def _refuse_method(self) -> None:
        self.close_connection = True
        self._answer(HTTPStatus.METHOD_NOT_ALLOWED, b"only GET and HEAD are answered\n", _TEXT, Allow="GET, HEAD")

    do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_TRACE = do_CONNECT = _refuse_method  # noqa: N815

    def _routes(self) -> dict[str, Callable[[Listener, dict[str, str]], None]]:
        return {
            "/": self._page,
            "/frame.jpg": self._next_frame,
            "/snapshot.jpg": self._snapshot,
            "/state.json": self._state,
            "/metrics": self._metrics,
            "/healthz": self._health,
        }

    def _check(self, listener: Listener) -> dict[str, str]:
        """The query of a request that may be answered. Raises `_RefusedError` for one that may not."""
        try:
            parts = urlsplit(self.path)
            query = {name: values[-1] for name, values in parse_qs(parts.query, max_num_fields=8).items()}
        except ValueError:
            raise _RefusedError(HTTPStatus.BAD_REQUEST, "this address can't be understood") from None
        if not listener.access.right_host(self.headers.get("Host")):
            raise _RefusedError(
                HTTPStatus.FORBIDDEN,
                "this server listens on this machine only: open it as localhost, or start it with --serve HOST:PORT",
            )
        if not listener.access.may(self.headers, query.get("token")):
            raise _RefusedError(
                HTTPStatus.UNAUTHORIZED,
                "this server wants its token: add ?token=… to the address, or send Authorization: Bearer …",
                WWW_Authenticate="Bearer",
            )
        if parts.path not in self._routes():
            raise _RefusedError(HTTPStatus.NOT_FOUND, "there is no such page")
        return query

    def _page(self, listener: Listener, query: dict[str, str]) -> None:
        if not listener.access.open and "token" in query:
            # The cookie takes the token's place, which would otherwise stay in the address bar and the history.
            self._answer(HTTPStatus.SEE_OTHER, b"", _TEXT, Location="./", Set_Cookie=listener.access.set_cookie())
            return
        page = listener.page
        self._answer(HTTPStatus.OK, page.html, "text/html; charset=utf-8", Content_Security_Policy=page.policy)

    def _next_frame(self, listener: Listener, query: dict[str, str]) -> None:
        """The newest picture once it is another than `after`; 204 where none comes for a while."""
        after = query.get("after", "0")
        if not (after.isascii() and after.isdecimal() and len(after) < 20):
            raise _RefusedError(HTTPStatus.BAD_REQUEST, "after: expected the number of a frame")
        jpeg = self._stream(listener, query).picture.get(other_than=int(after), wait=_FRAME_WAIT)
        if jpeg is None:
            self._answer(HTTPStatus.NO_CONTENT, b"", _TEXT)
        else:
            self._answer(HTTPStatus.OK, jpeg.data, "image/jpeg", X_Frame=str(jpeg.number))

    def _snapshot(self, listener: Listener, query: dict[str, str]) -> None:
        jpeg = self._stream(listener, query).picture.get()
        if jpeg is None:
            raise _RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, "no frame yet", Retry_After="1")
        self._answer(HTTPStatus.OK, jpeg.data, "image/jpeg", X_Frame=str(jpeg.number))

    def _state(self, listener: Listener, query: dict[str, str]) -> None:
        self._answer(HTTPStatus.OK, state_json(listener.streams.read(), listener.silent_after), "application/json")

    def _metrics(self, listener: Listener, query: dict[str, str]) -> None:
        self._answer(HTTPStatus.OK, *listener.metrics.text(self.headers.get("Accept", "")))

    def _health(self, listener: Listener, query: dict[str, str]) -> None:
        why = trouble(listener.streams.read(), listener.silent_after)
        if why is not None:
            raise _RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, why)
        self._answer(HTTPStatus.OK, b"ok\n", _TEXT)

    def _stream(self, listener: Listener, query: dict[str, str]) -> ServeSink:
        """The stream that is asked for; the first one where none is named."""
        sink = listener.streams.get(query.get("stream"))
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
