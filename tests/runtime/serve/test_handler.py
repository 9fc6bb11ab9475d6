"""What odd requests are answered, and what is said of a stream's state."""

from __future__ import annotations

import json
import re

import pytest
from page_sockets import raw

from sharpose.runtime.frames import SourceHealth, SourceInfo
from sharpose.runtime.serve.handler import state_json, status_of, trouble
from sharpose.runtime.statistics import StreamSnapshot, StreamStatistics

PATHS = ("/", "/frame.jpg", "/snapshot.jpg", "/state.json", "/metrics", "/healthz", "/nothing")


def test_headers(serve, ask) -> None:
    server = serve()
    for path in PATHS:
        headers = ask(server, path).headers
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Server"] == "sharpose"
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "Access-Control-Allow-Origin" not in headers
    policy = ask(server, "/").headers["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert len(re.findall("'sha256-", policy)) == 2


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_other_methods(serve, ask, method) -> None:
    answer = ask(serve(), "/", method)
    assert answer.status == 405
    assert answer.headers["Allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET /../../etc/passwd HTTP/1.1", 404),
        (b"GET /page.html HTTP/1.1", 404),
        (b"GET http://[ HTTP/1.1", 400),
        (b"GET /?" + b"a=1&" * 50 + b" HTTP/1.1", 400),
        (b"GET /" + b"x" * 70000 + b" HTTP/1.1", 414),
        (b"GET /<b>x HTTP/7.1", 505),
        (b"<script>alert(1)</script>", 400),
        (b"\x00\xff\xfe", 400),
        (b"BREW /<b> HTTP/1.1", 501),
    ],
)
def test_odd_requests(serve, ask, request_line, status) -> None:
    server = serve()
    answer = raw(server.address, request_line + b"\r\nHost: localhost\r\n\r\n")
    first = answer.split(b"\r\n", 1)[0]
    assert first.split(b" ")[1] == str(status).encode()
    for reflected in (b"<b>", b"<script>", b"passwd", b"xxxx"):
        assert reflected not in answer
    assert ask(server, "/healthz").status == 200


def test_a_body_is_not_the_next_request(serve) -> None:
    server = serve()
    inner = b"GET /state.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for method in (b"GET", b"POST"):
        head = method + b" /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(inner)
        assert raw(server.address, head + inner).count(b"HTTP/1.1 ") == 1


def test_two_requests_on_one_connection(serve) -> None:
    server = serve()
    request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    assert raw(server.address, request * 2).count(b"HTTP/1.1 200") == 2


@pytest.fixture
def counted(clock):
    def make(*, live: bool = True, connected: bool = True) -> StreamStatistics:
        return StreamStatistics(SourceInfo("a", live=live, health=SourceHealth(connected=connected)), clock=clock)

    return make


def test_status(counted, clock, make_record) -> None:
    one = counted()
    assert status_of(one.snapshot(), 10) == "waiting"
    one.add(make_record(0, age=0.01))
    assert status_of(one.snapshot(), 10) == "running"
    clock.now += 10.5
    assert status_of(one.snapshot(), 10) == "silent"
    one.end(failed=False)
    assert status_of(one.snapshot(), 10) == "ended"
    assert status_of(counted(connected=False).snapshot(), 10) == "reconnecting"
    bad = counted()
    bad.end(failed=True)
    assert status_of(bad.snapshot(), 10) == "failed"


def snapshots(**streams: StreamStatistics) -> dict[str, StreamSnapshot]:
    return {name: statistics.snapshot() for name, statistics in streams.items()}


def test_a_live_stream_must_not_be_silent(counted, clock, make_record) -> None:
    one, other = counted(), counted()
    for index in range(3):
        one.add(make_record(index, age=0.01))
    clock.now += 9
    other.add(make_record(0, age=0.01))
    assert trouble(snapshots(a=one, b=other), 10) is None
    clock.now += 3
    assert trouble(snapshots(a=one, b=other), 10) == "a: no frame for 12 s"
    one.end(failed=False)
    assert trouble(snapshots(a=one, b=other), 10) is None


def test_a_live_stream_is_silent_from_the_beginning_of_its_reading_on(counted, clock) -> None:
    one = counted()
    clock.now += 120  # while the engines warm up
    assert trouble(snapshots(a=one), 10) is None
    assert (status_of(one.snapshot(), 10), one.snapshot().silence) == ("waiting", 0)
    one.begin()
    clock.now += 9
    assert trouble(snapshots(a=one), 10) is None
    clock.now += 2
    assert trouble(snapshots(a=one), 10) == "a: no frame for 11 s"


def test_a_file_may_take_its_time(counted, clock, make_record) -> None:
    one = counted(live=False)
    one.add(make_record(0))
    clock.now += 1000
    assert trouble(snapshots(a=one), 10) is None


def test_failed_streams(counted) -> None:
    one, other = counted(), counted()
    one.end(failed=True)
    assert trouble(snapshots(a=one), 10) == "a: the stream has failed"
    assert trouble(snapshots(a=one), 10, expected=2) is None  # the next one of a folder is still to be opened
    assert trouble(snapshots(a=one, b=other), 10) is None  # the other goes on
    other.end(failed=True)
    assert trouble(snapshots(a=one, b=other), 10) == "every stream has failed"
    assert trouble({}, 10) is None


def test_json(counted, make_record) -> None:
    one = counted()
    one.add(make_record(0, people=4, refined=1, wanted=3, age=0.0123456, stages={"map_back": 0.002}))
    text = state_json({'tür "1" </script>': one.snapshot()}, 10)
    assert text.isascii()
    state = json.loads(text)
    assert state["trouble"] is None
    (stream,) = state["streams"]
    assert stream["name"] == 'tür "1" </script>'
    assert stream["now"] == {"people": 4, "refined": 1, "deferred": 2}
    assert (stream["wanted"], stream["deferred"], stream["live"]) == (3, 2, True)
    assert stream["age_ms"] == [12.346, 12.346]
    assert stream["stages"] == [{"name": "map_back", "p50_ms": 2.0, "p95_ms": 2.0}]
