"""What each address answers over real sockets, and clients that read nothing, say nothing or come in crowds."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import socket
import subprocess
import sys
import threading
import time
import weakref

import cv2
import numpy as np
import pytest
from page_sockets import ASK, connect, until

from sharpose.errors import InputError, how_to_install
from sharpose.runtime.frames import SourceHealth
from sharpose.runtime.serve import handler
from sharpose.runtime.serve.server import Address, parse_address


def decoded(data: bytes) -> np.ndarray:
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    return picture


def test_it_says_where_it_is(serve, lines) -> None:
    server = serve("0")
    assert server.address.host == "127.0.0.1"
    assert server.address.port > 0
    assert server.url == f"http://127.0.0.1:{server.address.port}/"
    assert lines == [f"serving {server.url}"]


def test_page(serve, ask) -> None:
    answer = ask(serve(), "/")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.text.startswith("<!doctype html>")
    for outside in ("http://", "https://", "//cdn", "@import", 'src="', "url("):  # nothing from elsewhere
        assert outside not in answer.text.replace("http://www.w3.org/2000/svg", "")


def test_snapshot_of_each_stream(serve, ask, show, make_record) -> None:
    server = serve()
    assert ask(server, "/snapshot.jpg").status == 503
    first, second = show(server, "a&b=c"), show(server, "zwei ü")
    before = ask(server, "/snapshot.jpg")
    assert (before.status, before.text) == (503, "no frame yet\n")
    first.write(make_record(2))
    second.write(make_record(5))
    second.write(make_record(10))
    for path, grey in (
        ("/snapshot.jpg", 40),
        ("/snapshot.jpg?stream=a%26b%3Dc", 40),
        ("/snapshot.jpg?stream=zwei%20%C3%BC", 200),
    ):
        answer = ask(server, path)
        assert answer.headers["Content-Type"] == "image/jpeg"
        assert np.abs(decoded(answer.body)[2, 2].astype(int) - grey).max() < 8
    assert ask(server, "/snapshot.jpg?stream=zwei%20%C3%BC").headers["X-Frame"] == "2"
    unknown = ask(server, "/snapshot.jpg?stream=%3Cscript%3E")
    assert (unknown.status, unknown.text) == (404, "there is no such stream\n")


def test_the_next_frame_comes_when_it_is_there(serve, ask, show, make_record) -> None:
    server = serve()
    sink = show(server, "a")
    sink.write(make_record(0))
    assert ask(server, "/frame.jpg").headers["X-Frame"] == "1"
    answers = []
    client = threading.Thread(target=lambda: answers.append(ask(server, "/frame.jpg?after=1")))
    client.start()
    time.sleep(0.2)
    sink.write(make_record(1))
    client.join(60)
    assert answers[0].headers["X-Frame"] == "2"
    sink.close()  # no more will come, so nobody waits
    assert ask(server, "/frame.jpg?after=2").status == 204
    for bad in ("x", "-1", "1" * 30, "%C2%B2"):
        assert ask(server, f"/frame.jpg?after={bad}").status == 400


def test_who_hangs_up_while_a_picture_is_waited_for_holds_no_place(serve, ask, show, monkeypatch) -> None:
    """The page does so where another stream is chosen."""
    monkeypatch.setattr(handler, "_FRAME_WAIT", 600.0)
    monkeypatch.setattr(handler, "_LOOK_EVERY", 0.02)
    server = serve(max_clients=3)
    sink = show(server, "silent", live=True)
    clients = [connect(server) for _ in range(3)]
    for client in clients:
        client.sendall(ASK % b"/frame.jpg?after=0")
    until(lambda: len(server.connections) == 3)
    clients.pop().close()
    until(lambda: len(server.connections) == 2)
    for client in clients:
        client.close()
    until(lambda: len(server.connections) == 0)
    sink.close()
    assert ask(server, "/frame.jpg?after=0").status == 204


def test_state_of_all_streams(serve, ask, show, make_record, clock) -> None:
    server = serve()
    show(server, "a", live=True, health=SourceHealth(connected=False))
    sink = show(server, "a")  # the same source twice
    sink.write(make_record(0, people=2))
    answer = ask(server, "/state.json")
    assert answer.headers["Content-Type"] == "application/json"
    streams = json.loads(answer.body)["streams"]
    assert [(stream["name"], stream["status"]) for stream in streams] == [("a", "reconnecting"), ("a (2)", "running")]
    assert ask(server, "/snapshot.jpg?stream=a%20(2)").status == 200


def test_names_that_are_no_text(serve, ask, show, make_record) -> None:
    server = serve()
    sink = show(server, "v\udce4.mp4\n")
    sink.write(make_record(0))
    (stream,) = json.loads(ask(server, "/state.json").body)["streams"]
    assert stream["name"] == "v\\udce4.mp4\n"
    assert ask(server, "/metrics").status == 200
    assert ask(server, "/snapshot.jpg?stream=v%5Cudce4.mp4%0A").status == 200


def test_health(serve, ask, show, make_record, clock) -> None:
    server = serve(silent_after=5)
    assert ask(server, "/healthz").text == "ok\n"  # nothing is due
    cam = show(server, "cam", live=True)
    cam.write(make_record(0, age=0.01))
    clock.now += 4
    assert ask(server, "/healthz").status == 200
    clock.now += 2
    sick = ask(server, "/healthz")
    assert (sick.status, sick.text) == (503, "cam: no frame for 6 s\n")
    cam.write(make_record(1, age=0.01))
    assert ask(server, "/healthz").status == 200
    assert cam.abandon() is None
    assert ask(server, "/healthz").text == "cam: the stream has failed\n"


def test_head_is_get_without_the_body(serve, ask, show, make_record) -> None:
    server = serve()
    show(server, "a").write(make_record(0))
    for path in ("/", "/snapshot.jpg", "/healthz", "/state.json", "/nothing"):
        get, head = ask(server, path), ask(server, path, "HEAD")
        assert head.status == get.status
        assert head.body == b""
        if path != "/state.json":  # a moving number has no fixed length
            assert head.headers["Content-Length"] == str(len(get.body))


def test_a_picture_that_can_not_be_made_is_said_once(serve, ask, show, make_record, lines) -> None:
    server = serve()
    show(server, "a").write(make_record(0, image=np.zeros((0, 0, 3), np.uint8)))
    for _ in range(3):
        assert ask(server, "/snapshot.jpg").status == 500
    assert ask(server, "/healthz").status == 200
    assert len([line for line in lines if line.startswith("warning: --serve: unexpected error: OpenCV")]) == 1
    show(server, "b").write(dataclasses.replace(make_record(0), draw=lambda image, poses: 1 / 0))
    assert ask(server, "/snapshot.jpg?stream=b").status == 500
    assert lines[2:] == ["warning: --serve: unexpected ZeroDivisionError: division by zero (said once)"]


def test_sinks_are_sinks(serve, show, make_record) -> None:
    from sharpose.runtime.frames import Sink

    server = serve()
    sink: Sink = show(server, "a").sink
    assert sink.name == server.url
    sink.write(make_record(0))
    sink.close()
    sink.close()
    assert sink.abandon() is None


def test_port_in_use(serve) -> None:
    server = serve()
    with pytest.raises(InputError, match=rf"--serve {server.address}: can't listen there: .*in use; give another"):
        serve(str(server.address))


@pytest.mark.parametrize("address", ["192.0.2.1:8080", "no-such-host.invalid:80", "a..b:80", f"{'x' * 64}:80"])
def test_where_nobody_can_listen(serve, address) -> None:
    with pytest.raises(InputError, match="can't listen there"):
        serve(address)


def test_a_port_is_free_again_at_once(serve, ask) -> None:
    server = serve()
    assert ask(server, "/healthz").status == 200
    server.close()
    server.close()
    again = serve(str(server.address))
    assert ask(again, "/healthz").status == 200


def test_ipv6(serve, ask) -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 here")
    server = serve("[::1]:0")
    assert server.url == f"http://[::1]:{server.address.port}/"
    assert ask(server, "/healthz").status == 200


def test_without_prometheus_client(tmp_path) -> None:
    program = (
        "import sys; sys.modules['prometheus_client'] = None\n"
        "from sharpose.runtime.serve import ServeServer\n"
        "ServeServer('0', say=print, warn=print)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert "InputError: --serve: expected prometheus-client to be installed" in done.stderr
    assert how_to_install("serve") in done.stderr


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("8080", "127.0.0.1", 8080),
        (":8080", "127.0.0.1", 8080),
        ("0", "127.0.0.1", 0),
        ("0.0.0.0:8080", "0.0.0.0", 8080),
        ("[::1]:65535", "::1", 65535),
        ("camera-3.local:80", "camera-3.local", 80),
    ],
)
def test_addresses(text: str, host: str, port: int) -> None:
    assert parse_address(text) == Address(host, port)
    assert parse_address(str(parse_address(text))) == Address(host, port)


@pytest.mark.parametrize(
    "text",
    ["", ":", "65536", ":-1", "host", "host:", "::1", "http://localhost:80", "a b:80", "host:80/x", "[x]:80", "٣:80\n"],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(InputError, match="expected HOST:PORT or PORT with a port from 0 to 65535"):
        parse_address(text)


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
        assert time.monotonic() - began < 4  # clients that were waited for would take their time-outs, 5 s and more
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
    assert time.monotonic() - began < 4  # its time-outs are 5 s and more
    for client in clients:
        client.settimeout(30)
        with contextlib.suppress(OSError):
            while client.recv(65536):
                pass
        client.close()


def test_close_waits_for_a_picture_that_is_being_drawn(serve, show, make_record) -> None:
    """Python would end the thread at the end of the process, inside OpenCV, and the process by SIGABRT with it."""
    begun, drawn = threading.Event(), []

    def draw(image, poses):
        begun.set()
        time.sleep(0.2)
        drawn.append(image.shape)
        return image

    server = serve()
    show(server, "a").write(dataclasses.replace(make_record(0), draw=draw))
    with connect(server) as client:
        client.sendall(ASK % b"/snapshot.jpg")
        assert begun.wait(30)
        server.close()
        assert drawn == [(48, 64, 3)]
        assert not server.connections


def test_of_many_streams_that_ended_the_newest_keep_their_picture(serve, ask, show, make_record) -> None:
    server = serve()
    images = []
    for number in range(12):
        image = np.zeros((48, 64, 3), np.uint8)
        images.append(weakref.ref(image))
        stream = show(server, f"{number}.mp4")
        stream.write(make_record(0, image=image))
        del image
        stream.close()
    show(server, "12.mp4")
    assert [image() is None for image in images] == [True] * 4 + [False] * 8
    assert ask(server, "/snapshot.jpg?stream=11.mp4").status == 200
    for path in ("/snapshot.jpg?stream=0.mp4", "/frame.jpg?stream=0.mp4"):
        answer = ask(server, path)
        assert (answer.status, answer.text) == (410, "this stream has ended, and its last picture is no longer kept\n")
    assert len(json.loads(ask(server, "/state.json").body)["streams"]) == 13


def test_a_crowd_is_turned_away(serve, ask) -> None:
    server = serve(max_clients=3, client_seconds=60)
    clients = [connect(server) for _ in range(3)]
    until(lambda: len(server.connections) == 3)
    for path in ("/", "/state.json", "/nothing"):
        answer = ask(server, path)
        assert (answer.status, answer.text) == (503, "too many clients\n")
        assert answer.headers["Connection"] == "close"
    assert ask(server, "/healthz").status == 200
    clients[0].close()
    until(lambda: len(server.connections) < 3)
    assert ask(server, "/state.json").status == 200
    for client in clients:
        client.close()


def test_readers_who_do_not_read_leave_the_health_alone(serve, ask, show, make_record) -> None:
    server = serve(max_clients=4, client_seconds=60)
    noise = np.random.default_rng(0).integers(0, 255, (720, 1280, 3), np.uint8)
    show(server, "a").write(make_record(0, image=noise))
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(connect(server)).sendall((ASK % b"/snapshot.jpg") * 50)
        until(lambda: len(server.connections) == 4)
        # More than there are places for, who say nothing: the oldest of them makes room.
        silent = [stack.enter_context(connect(server)) for _ in range(40)]
        for _ in range(3):
            began = time.monotonic()
            assert ask(server, "/healthz").status == 200
            assert time.monotonic() - began < 1
        assert ask(server, "/state.json").status == 503
        assert len(server.connections) <= 4 + 8
        silent[0].settimeout(30)
        assert silent[0].recv(1) == b""  # cut


def test_a_connection_that_came_too_late_is_served_once_there_is_room(serve, show) -> None:
    server = serve(max_clients=1, client_seconds=60)
    first, second = connect(server), connect(server)
    with first, second:
        second.sendall(ASK % b"/healthz")
        answer = b""
        while not answer.endswith(b"ok\n"):
            answer += second.recv(65536)
        first.close()
        until(lambda: len(server.connections) == 1)
        second.sendall(ASK % b"/state.json")
        assert second.recv(65536).startswith(b"HTTP/1.1 200")


def test_a_request_that_trickles_in_is_cut(serve, ask) -> None:
    server = serve(client_seconds=0.5)
    with connect(server) as client:
        client.sendall(b"G")
        until(lambda: len(server.connections) == 1)
        began = time.monotonic()
        with contextlib.suppress(OSError):  # reset, or a broken pipe
            while server.connections and time.monotonic() - began < 30:
                client.sendall(b"G")
                time.sleep(0.05)
        assert not server.connections
        assert 0.3 < time.monotonic() - began < 5
    assert ask(server, "/healthz").status == 200


def test_an_answer_that_nobody_takes_is_cut(serve, ask, show, make_record) -> None:
    server = serve(max_clients=1, client_seconds=0.5)
    noise = np.random.default_rng(0).integers(0, 255, (720, 1280, 3), np.uint8)
    show(server, "a").write(make_record(0, image=noise))
    with connect(server) as client:
        client.sendall((ASK % b"/snapshot.jpg") * 50)
        until(lambda: len(server.connections) == 1)
        began = time.monotonic()
        until(lambda: not server.connections)
        assert time.monotonic() - began < 5
        assert ask(server, "/snapshot.jpg").status == 200


def test_a_slow_reader_gets_its_picture(serve, show, make_record) -> None:
    """Each piece must be taken in time, not the whole."""
    server = serve(client_seconds=0.6)
    noise = np.random.default_rng(0).integers(0, 255, (1440, 2560, 3), np.uint8)  # 2.5 MB
    show(server, "a").write(make_record(0, image=noise))
    with connect(server) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 17)
        client.sendall(b"GET /snapshot.jpg HTTP/1.0\r\nHost: localhost\r\n\r\n")
        taken = 0
        began = time.monotonic()
        while data := client.recv(1 << 16):
            taken += len(data)
            if time.monotonic() - began < 1.2:
                time.sleep(0.05)
    assert taken > 2_000_000
    assert time.monotonic() - began > 1.2


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
