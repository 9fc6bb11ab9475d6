"""What each address of the server answers, over real sockets."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time

import cv2
import numpy as np
import pytest

from sharpose.errors import InputError
from sharpose.runtime.frames import SourceHealth

pytest.importorskip("prometheus_client")


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
    assert len([line for line in lines if "unexpected" in line]) == 1


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


@pytest.mark.parametrize("address", ["192.0.2.1:8080", "no-such-host.invalid:80"])
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
        "ServeServer('0', say=print)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert "InputError: --serve: expected prometheus-client to be installed" in done.stderr
    assert "sharpose[serve]" in done.stderr
