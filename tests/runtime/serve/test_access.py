"""Who is let in: the token, the host name, and what odd requests are answered."""

from __future__ import annotations

import re
import socket

import pytest

from sharpose.errors import InputError

pytest.importorskip("prometheus_client")

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
