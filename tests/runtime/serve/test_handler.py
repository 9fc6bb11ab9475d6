"""Who is let in, what odd requests are answered, and what is said of a stream's state."""

from __future__ import annotations

import json
import re
import socket

import pytest

from sharpose.errors import InputError
from sharpose.runtime.frames import SourceHealth, SourceInfo
from sharpose.runtime.serve.handler import is_loopback, split_host, state_json, status_of, trouble
from sharpose.runtime.statistics import StreamSnapshot, StreamStatistics

PATHS = ("/", "/frame.jpg", "/snapshot.jpg", "/state.json", "/metrics", "/healthz", "/nothing")


def raw(server, request: bytes) -> bytes:
    """What the server answers until it closes the connection."""
    with socket.create_connection((server.address.host, server.address.port), timeout=30) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while data := connection.recv(65536):
            answer += data
    return answer


def test_token_is_wanted_everywhere(serve, ask, show, make_record) -> None:
    server = serve(token="sesame")
    show(server, "a").write(make_record(0))
    for path in PATHS:
        for wrong in ("", "?token=", "?token=sesam", "?token=sesame1", "?token=%FF"):
            answer = ask(server, path + wrong)
            assert answer.status == 401
            assert "sesam" not in answer.text
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    for authorization in ("Bearer x", "sesame", "Basic sesame", "Bearer"):
        assert ask(server, "/healthz", Authorization=authorization).status == 401
    assert ask(server, "/healthz", Cookie=f"sharpose_{server.address.port}=sesame").status == 401
    assert ask(server, "/healthz?token=sesame").status == 200
    assert ask(server, "/snapshot.jpg?token=sesame").status == 200
    assert ask(server, "/healthz", Authorization="bearer  sesame").status == 200
    assert ask(server, "/nothing?token=sesame").status == 404


def test_the_page_turns_the_token_into_a_cookie(serve, ask) -> None:
    server = serve(token="se$ame+1")
    answer = ask(server, "/?token=se%24ame%2B1")
    assert answer.status == 303
    assert answer.headers["Location"] == "./"  # without the token
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite" in cookie
    assert "se$ame" not in cookie
    pair = cookie.split(";")[0]
    assert ask(server, "/", Cookie=f'other={{"a": [1]}}; {pair}; more=1').status == 200  # others may be odd
    assert ask(server, "/", Cookie=pair[:-1]).status == 401
    server.close()
    again = serve(str(server.address), token="se$ame+1")
    assert ask(again, "/state.json", Cookie=pair).status == 200  # outlives a restart
    again.close()
    assert ask(serve(str(server.address), token="another"), "/", Cookie=pair).status == 401


def test_the_token_is_never_said(serve, ask, lines, capfd) -> None:
    server = serve(token="sesame")
    for path in ("/?token=sesame", "/healthz?token=sesame", "/nothing?token=sesame", "/%?token=sesame"):
        ask(server, path)
    raw(server, b"GET /?token=sesame HTTP/9.9\r\n\r\n")
    assert lines == [f"serving {server.url}?token=…"]
    assert "sesame" not in "".join(capfd.readouterr())
    assert "sesame" not in server.url


@pytest.mark.parametrize("token", ["", "two words", "tür", "new\nline"])
def test_tokens_that_can_not_be_sent(serve, token) -> None:
    with pytest.raises(InputError, match="--serve-token: expected printable ASCII") as caught:
        serve(token=token)
    assert not token or token not in str(caught.value)


def test_only_this_machines_names_where_only_it_listens(serve, ask) -> None:
    server = serve()
    port = server.address.port
    for host in ("localhost", f"LOCALHOST:{port}", f"127.0.0.1:{port}", "127.0.0.1:9000", "[::1]:80", "pc.localhost"):
        assert ask(server, "/healthz", Host=host).status == 200
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "192.168.0.5", "localhost@evil", ""):
        answer = ask(server, "/healthz", Host=host)
        assert answer.status == 403
        assert "evil" not in answer.text
    assert raw(server, b"GET /healthz HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 403")


def test_open_to_all_without_a_token_is_warned_of(serve, ask, lines) -> None:
    server = serve("0.0.0.0:0")
    assert len(lines) == 2
    assert lines[0] == f"serving http://{socket.gethostname()}:{server.address.port}/"
    assert lines[1].startswith("warning: --serve 0.0.0.0:")
    assert "--serve-token" in lines[1]
    assert ask(server, "/healthz", Host="camera.example:8080").status == 200  # any name may be ours
    lines.clear()
    serve("0.0.0.0:0", token="sesame")
    assert len(lines) == 1


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
    answer = raw(server, request_line + b"\r\nHost: localhost\r\n\r\n")
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
        assert raw(server, head + inner).count(b"HTTP/1.1 ") == 1


def test_two_requests_on_one_connection(serve) -> None:
    server = serve()
    request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    assert raw(server, request * 2).count(b"HTTP/1.1 200") == 2


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.9.10", "::1", "a.localhost"])
def test_what_means_this_machine(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "localhost.evil.example", "127.0.0.1.nip.io", ""])
def test_what_does_not(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("header", "host"),
    [("LocalHost:80", "localhost"), ("[::1]:8080", "::1"), ("[::1]", "::1"), ("localhost.", "localhost"), ("a", "a")],
)
def test_host_of_a_header(header: str, host: str) -> None:
    assert split_host(header) == host


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


def test_a_live_stream_that_never_began(counted, clock) -> None:
    one = counted()
    assert trouble(snapshots(a=one), 10) is None
    clock.now += 11
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
