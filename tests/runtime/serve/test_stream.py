"""`/stream.mjpg`: what players read, who may, and viewers that read nothing."""

from __future__ import annotations

import threading
from dataclasses import replace
from fractions import Fraction

import av
import cv2
import numpy as np
from page_sockets import ASK, connect, until


def decoded(data: bytes) -> np.ndarray:
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    return picture


def test_a_player_reads_the_stream(serve, show, make_record) -> None:
    server = serve()
    wanted, other = show(server, "wanted"), show(server, "other")
    other.write(make_record(9))
    stop = threading.Event()

    def feed() -> None:
        index = 0
        while not stop.wait(0.02):
            index += 1
            wanted.write(make_record(index % 12))

    feeder = threading.Thread(target=feed)
    feeder.start()
    address = f"{server.url}stream.mjpg?stream=wanted"
    try:
        capture = cv2.VideoCapture(address)
        assert capture.isOpened()
        levels = []
        for _ in range(8):
            done, picture = capture.read()
            assert done
            assert picture.shape == (48, 64, 3)
            levels.append(int(picture[2, 2].mean()))
        capture.release()
        assert len({round(level / 20) for level in levels}) > 2  # the stream moves
        with av.open(address, format="mpjpeg", timeout=20) as container:
            frames = [frame for frame, _ in zip(container.decode(video=0), range(5), strict=False)]
        assert [(frame.height, frame.width) for frame in frames] == [(48, 64)] * 5
    finally:
        stop.set()
        feeder.join(30)
    until(lambda: len(server.connections) == 0)  # those that have gone hold no place


def test_the_parts_of_the_stream(serve, ask, show, make_record) -> None:
    server = serve()
    assert ask(server, "/stream.mjpg").status == 503
    sink = show(server, "a")
    with connect(server) as client:
        client.sendall(ASK % b"/stream.mjpg")
        sink.write(make_record(3))
        until(lambda: sink.sink.picture.get() is not None)
        read = client.makefile("rb")
        head = []
        while (line := read.readline()) != b"\r\n":
            head.append(line.decode().strip())
        assert head[0] == "HTTP/1.1 200 OK"
        assert "Content-Type: multipart/x-mixed-replace; boundary=sharpose-frame" in head
        assert "Connection: close" in head
        for index in (3, 8):
            if index == 8:
                sink.write(make_record(index))
            assert read.readline() == b"--sharpose-frame\r\n"
            assert read.readline() == b"Content-Type: image/jpeg\r\n"
            length = int(read.readline().removeprefix(b"Content-Length: "))
            assert read.readline() == b"\r\n"
            assert np.abs(decoded(read.read(length))[2, 2].astype(int) - 20 * index).max() < 8
            assert read.readline() == b"\r\n"
        sink.close()
        assert read.read() == b"--sharpose-frame--\r\n"
    again = ask(server, "/stream.mjpg")  # of a stream that has ended: its last picture
    assert again.body.count(b"Content-Type: image/jpeg") == 1
    assert ask(server, "/stream.mjpg", "HEAD").body == b""
    assert ask(server, "/stream.mjpg?stream=b").status == 404


def test_the_stream_needs_the_token(serve, ask, show, make_record) -> None:
    server = serve(token="a-token-of-24-characters")
    sink = show(server, "a")
    sink.write(make_record(1))
    sink.close()
    assert ask(server, "/stream.mjpg").status == 401
    assert ask(server, "/stream.mjpg?token=wrong").status == 401
    assert ask(server, "/stream.mjpg", Authorization="Bearer a-token-of-24-characters").status == 200
    assert ask(server, "/stream.mjpg?token=a-token-of-24-characters").body.startswith(b"--sharpose-frame\r\n")


def test_viewers_of_the_stream_that_read_nothing_are_cut_and_delay_nobody(serve, ask, show, make_record) -> None:
    server = serve(client_seconds=0.3, max_clients=2)
    sink = show(server, "a")
    noise = np.random.default_rng(0).integers(0, 255, (720, 1280, 3), dtype=np.uint8)
    sink.write(make_record(0, image=noise))
    with connect(server) as one, connect(server) as two:
        one.sendall(ASK % b"/stream.mjpg")
        two.sendall(ASK % b"/stream.mjpg")
        until(lambda: len(server.connections) == 2)
        assert ask(server, "/stream.mjpg").status == 503  # both places are taken
        assert ask(server, "/healthz").status == 200

        def cut() -> bool:
            sink.write(make_record(1, image=noise))  # about a megabyte each, until no buffer takes more
            return len(server.connections) == 0

        until(cut)
    sink.close()
    assert ask(server, "/stream.mjpg").status == 200


def test_pictures_are_stretched_to_square_pixels(serve, ask, show, make_record) -> None:
    server = serve()
    wide, tall = show(server, "wide"), show(server, "tall")
    for sink, ratio in ((wide, Fraction(64, 45)), (tall, Fraction(1, 2))):
        record = make_record(2)
        sink.write(replace(record, frame=replace(record.frame, sample_aspect_ratio=ratio)))
    assert decoded(ask(server, "/snapshot.jpg?stream=wide").body).shape == (48, 91, 3)
    assert decoded(ask(server, "/snapshot.jpg?stream=tall").body).shape == (96, 64, 3)


def test_a_picture_that_can_not_be_made_ends_the_stream(serve, ask, show, make_record, lines) -> None:
    server = serve()
    show(server, "a").write(make_record(0, image=np.zeros((0, 0, 3), np.uint8)))
    for _ in range(2):
        answer = ask(server, "/stream.mjpg")
        assert (answer.status, answer.body) == (200, b"")  # the head had gone
    assert len([line for line in lines if "unexpected" in line]) == 1
