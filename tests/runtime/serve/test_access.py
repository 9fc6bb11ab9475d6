"""Who is let in: tokens, host names, and what guessing at a token costs."""

from __future__ import annotations

import ipaddress
import itertools
import socket
import threading
import time

import pytest
from page_sockets import raw

from sharpose.errors import InputError
from sharpose.runtime.serve.access import Guesses, is_loopback, split_host

PATHS = ("/", "/frame.jpg", "/snapshot.jpg", "/state.json", "/metrics", "/healthz", "/nothing")


def test_token_is_wanted_everywhere(serve, ask, show, make_record, monkeypatch) -> None:
    monkeypatch.setattr(Guesses, "_FREE", 1000)
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
    raw(server.address, b"GET /?token=sesame HTTP/9.9\r\n\r\n")
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
    assert raw(server.address, b"GET /healthz HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 403")


def test_open_to_all_without_a_token_is_warned_of(serve, ask, lines) -> None:
    server = serve("0.0.0.0:0")
    assert len(lines) == 2
    assert lines[0] == f"serving http://{socket.gethostname()}:{server.address.port}/"
    assert lines[1].startswith("warning: --serve 0.0.0.0:")
    assert "--serve-token" in lines[1]
    assert ask(server, "/healthz", Host="camera.example:8080").status == 200  # any name may be ours
    lines.clear()
    serve("0.0.0.0:0", token="sesame-open-thou!")
    assert len(lines) == 1


@pytest.mark.parametrize("token", ["secret", "x" * 15])
def test_short_tokens_are_refused_where_others_can_reach_the_page(serve, token) -> None:
    with pytest.raises(InputError, match="--serve-token: expected 16 characters or more") as caught:
        serve("0.0.0.0:0", token=token)
    assert token not in str(caught.value)
    assert "\n" not in str(caught.value)
    serve("127.0.0.1:0", token=token)
    serve("0.0.0.0:0", token=token.ljust(16, "y"))


def guess(guesses: Guesses, address: str, *, right: bool = False, sent: str | None = None) -> bool | None:
    """A guess with a token that was in none before, unless it is given."""
    return guesses.check(address, str(next(TOKENS)) if sent is None else sent, lambda: right)


TOKENS = itertools.count()


class Waits:
    """Stands in for waiting: notes how long."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


def test_guesses_wait_longer_and_longer_from_the_eleventh_on(clock) -> None:
    waits = Waits()
    guesses = Guesses(clock=clock, pause=waits)
    for _ in range(10):
        assert guess(guesses, "192.0.2.1") is False
    assert waits.seconds == []
    for _ in range(6):
        assert guess(guesses, "192.0.2.1") is False
    assert waits.seconds == [1, 2, 4, 8, 8, 8]
    assert guess(guesses, "192.0.2.2") is False  # nobody else waits
    assert len(waits.seconds) == 6
    assert guess(guesses, "192.0.2.1", right=True) is True  # also the right one
    assert waits.seconds[6:] == [8]
    assert guess(guesses, "192.0.2.1", right=True) is True  # and then no more, until the next wrong one
    assert guess(guesses, "192.0.2.1") is False
    assert len(waits.seconds) == 7
    assert guess(guesses, "192.0.2.1") is False
    assert waits.seconds[7:] == [1]
    clock.now += 601
    assert guess(guesses, "192.0.2.1") is False  # forgotten
    assert len(waits.seconds) == 8


def test_the_table_of_addresses_is_bounded_and_takes_ipv6_networks_as_one(clock) -> None:
    waits = Waits()
    guesses = Guesses(clock=clock, pause=waits)
    for number in range(3000):
        guess(guesses, str(ipaddress.IPv4Address(number)))
    assert len(guesses) == 1024
    for number in range(12):
        guess(guesses, f"2001:db8::{number:x}")
        guess(guesses, "::ffff:192.0.2.9" if number % 2 else "192.0.2.9")
    assert waits.seconds == [1, 1, 2, 2]
    assert len(guesses) == 1024


def test_one_guess_of_an_address_waits_and_the_others_are_not_looked_at(clock) -> None:
    waiting, go_on = threading.Event(), threading.Event()

    def pause(seconds: float) -> None:
        waiting.set()
        go_on.wait(30)

    guesses = Guesses(clock=clock, pause=pause)
    for _ in range(10):
        guess(guesses, "192.0.2.1")
    found = []
    first = threading.Thread(target=lambda: found.append(guess(guesses, "192.0.2.1")))
    first.start()
    assert waiting.wait(30)
    assert guesses.check("192.0.2.1", "another", lambda: pytest.fail("compared")) is None
    assert guess(guesses, "192.0.2.2", right=True) is True
    go_on.set()
    first.join(30)
    assert found == [False]


def test_what_is_repeated_is_no_other_guess(clock) -> None:
    waits = Waits()
    guesses = Guesses(clock=clock, pause=waits)
    for _ in range(50):
        assert guess(guesses, "192.0.2.1", sent="old") is False
    assert guess(guesses, "192.0.2.1", right=True) is True
    for _ in range(8):
        assert guess(guesses, "192.0.2.1") is False
    assert guess(guesses, "192.0.2.1", right=True) is True
    assert guess(guesses, "192.0.2.1") is False  # the tenth
    assert waits.seconds == []
    assert guess(guesses, "192.0.2.1") is False
    assert waits.seconds == [1]


def test_the_end_of_the_server_ends_the_waits() -> None:
    guesses = Guesses()
    for _ in range(14):
        guesses.close()
        assert guess(guesses, "192.0.2.1") is False  # without an end it would wait for 15 s


def test_guessing_at_a_real_server_is_slow_and_blocks_nobody(serve, ask) -> None:
    server = serve(token="correct-horse-battery")
    answers: list[int] = []
    end = time.monotonic() + 1.6

    def guess(thread: int) -> None:
        number = 0
        while time.monotonic() < end:
            number += 1
            answers.append(ask(server, f"/state.json?token=guess{thread}-{number}").status)

    threads = [threading.Thread(target=guess, args=[number]) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert set(answers) == {401, 429}
    # Ten at once, as many as were under way by then, and one after each wait of 1 and 2 s.
    assert 11 <= answers.count(401) <= 16
    refused = raw(server.address, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert refused.startswith(b"HTTP/1.1 401")  # without a token there is no guess, and no wait
    other = socket.create_connection((server.address.host, server.address.port), 30, ("127.0.0.2", 0))
    with other:
        began = time.monotonic()
        other.sendall(b"GET /healthz?token=correct-horse-battery HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert other.recv(65536).startswith(b"HTTP/1.1 200")
        assert time.monotonic() - began < 1


def test_a_page_with_an_old_cookie_keeps_nobody_out(serve, ask) -> None:
    server = serve(token="correct-horse-battery")
    name = f"sharpose_{server.address.port}"
    right = ask(server, "/?token=correct-horse-battery").headers["Set-Cookie"].partition(";")[0]
    answers = []
    for _ in range(15):
        answers += [ask(server, "/state.json", Cookie=f"{name}={'0' * 64}").status]
        answers += [ask(server, "/healthz", Cookie=right).status]
        answers += [ask(server, "/metrics", Authorization="Bearer of-last-year").status]
    assert answers == [401, 200, 401] * 15


def test_a_request_has_one_guess_of_each_kind(serve, ask) -> None:
    server = serve(token="sesame")
    name = f"sharpose_{server.address.port}"
    right = ask(server, "/?token=sesame").headers["Set-Cookie"].partition(";")[0]
    assert ask(server, "/", Cookie=f"{name}=wrong; {right}").status == 401
    assert ask(server, "/", Cookie=f"{right}; {name}=wrong").status == 200


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
