"""Clients that read nothing, say nothing, or come in crowds: the run and the others go on."""

from __future__ import annotations

import contextlib
import socket
import time

import numpy as np
import pytest

pytest.importorskip("prometheus_client")

ASK = b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n"


def connect(server) -> socket.socket:
    connection = socket.create_connection((server.address.host, server.address.port), timeout=30)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    return connection


def until(holds, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_client_that_reads_nothing_costs_the_run_nothing(serve, ask, show, make_record, drawing) -> None:
    """Its answers pile up in its own connection: it keeps one picture from being freed, and no write waits."""
    server = serve()
    sink = show(server, "a")
    noise = np.random.default_rng(0).integers(0, 255, (720, 1280, 3), np.uint8)  # about a megabyte as JPEG
    sink.write(make_record(0, image=noise))
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            client = stack.enter_context(connect(server))
            client.sendall((ASK % b"/frame.jpg?after=0") * 50)
        until(lambda: drawing.calls == 1)
        records = [make_record(index, image=noise) for index in range(1, 201)]
        began = time.monotonic()
        for record in records:
            sink.write(record)
        assert time.monotonic() - began < 5  # clients that were waited for would take their time-out, 60 s
        assert ask(server, "/frame.jpg?after=1").headers["X-Frame"] == "201"  # the newest, not the next
        assert drawing.calls <= 10  # what nobody took was neither drawn nor kept


def test_close_does_not_wait_for_clients(serve, show, make_record) -> None:
    server = serve()
    sink = show(server, "a")
    sink.write(make_record(0))
    clients = [connect(server) for _ in range(3)]
    clients[0].sendall(b"GET / HT")  # half a request
    clients[1].sendall(ASK % b"/frame.jpg?after=1")  # waits for a picture
    until(lambda: len(server.connections) == 3)
    began = time.monotonic()
    server.close()
    assert time.monotonic() - began < 5  # its time-outs are 10 s and more
    for client in clients:
        client.settimeout(30)
        with contextlib.suppress(OSError):
            while client.recv(65536):
                pass
        client.close()


def test_a_crowd_is_turned_away(serve, ask) -> None:
    server = serve(max_clients=3)
    clients = [connect(server) for _ in range(3)]
    until(lambda: len(server.connections) == 3)
    answer = ask(server, "/healthz")
    assert (answer.status, answer.text) == (503, "too many clients\n")
    clients[0].close()
    until(lambda: len(server.connections) < 3)
    assert ask(server, "/healthz").status == 200
    for client in clients:
        client.close()


def test_a_request_that_trickles_in_is_cut(serve, ask, monkeypatch) -> None:
    from sharpose.runtime.serve.handler import Connections

    monkeypatch.setattr(Connections, "request_seconds", 0.5)
    server = serve()
    with connect(server) as client:
        client.sendall(b"G")
        until(lambda: len(server.connections) == 1)
        with contextlib.suppress(OSError):  # reset, or a broken pipe
            for _ in range(300):
                client.sendall(b"G")
                time.sleep(0.05)
                if not server.connections:
                    break
        assert not server.connections
    assert ask(server, "/healthz").status == 200


def test_an_answer_that_nobody_takes_is_cut(serve, show, make_record, monkeypatch) -> None:
    from sharpose.runtime.serve.handler import Connections

    monkeypatch.setattr(Connections, "answer_seconds", 0.5)
    server = serve()
    noise = np.random.default_rng(0).integers(0, 255, (720, 1280, 3), np.uint8)
    show(server, "a").write(make_record(0, image=noise))
    with connect(server) as client:
        client.sendall((ASK % b"/snapshot.jpg") * 50)
        until(lambda: len(server.connections) == 1)
        until(lambda: not server.connections)


def test_clients_that_vanish_are_no_news(serve, ask, show, make_record, lines, capfd) -> None:
    server = serve()
    show(server, "a").write(make_record(0, image=np.zeros((720, 1280, 3), np.uint8)))
    for _ in range(5):
        with connect(server) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # close by reset
            client.sendall((ASK % b"/snapshot.jpg") * 5)
    until(lambda: not server.connections)
    assert ask(server, "/healthz").status == 200
    assert len(lines) == 1
    assert "".join(capfd.readouterr()) == ""
