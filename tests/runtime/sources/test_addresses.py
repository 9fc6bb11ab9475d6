"""Sources at addresses: files and live streams over HTTP, MPEG-TS over UDP, and what this FFmpeg can't do."""

from __future__ import annotations

import contextlib
import http.server
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from video_files import with_garbage

from sharpose.errors import InputError, SourceError
from sharpose.runtime.sources import LiveSource, SourceOptions, open_source
from sharpose.runtime.sources.urls import ffmpeg_options, sends_ranges
from sharpose.runtime.sources.video import VideoSource


class Handler(http.server.BaseHTTPRequestHandler):
    """Files with a length, and with ranges; `/slow` breaks off half-way and stays silent, `/live` has no length,
    `/whole` has no ranges."""

    files: dict[str, bytes]

    def do_GET(self) -> None:
        body = self.files.get(self.path.split("?")[0])
        if body is None:
            self.send_error(404)
            return
        if self.path.startswith("/live"):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)
            return
        if self.path.startswith("/whole"):
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                self.wfile.write(body)
            return
        begin = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        self.send_response(206 if self.headers.get("Range") else 200)
        self.send_header("Content-Length", str(len(body) - begin))
        self.send_header("Accept-Ranges", "bytes")
        if self.headers.get("Range"):
            self.send_header("Content-Range", f"bytes {begin}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            if self.path.startswith("/slow"):
                self.wfile.write(body[begin : len(body) // 2])
                self.wfile.flush()
                time.sleep(2.5)
            else:
                self.wfile.write(body[begin:])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def serve() -> Iterator[Callable[[str, bytes], str]]:
    files: dict[str, bytes] = {}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Served", (Handler,), {"files": files}))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()

    def add(name: str, body: bytes) -> str:
        files[f"/{name}"] = body
        return f"http://me:hunter2@127.0.0.1:{server.server_port}/{name}?token=hunter2"

    yield add
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("name", ["a.mp4", "a.ts", "a.mkv"])
def test_a_file_on_a_server_is_no_live_stream(tmp_path, make_video, serve, shown, name):
    url = serve(name, make_video(tmp_path / name, frames=60, b_frames=0).read_bytes())
    said: list[str] = []
    source = open_source(url, say=said.append)
    assert (type(source), source.info.live) == (LiveSource, False)
    frames = []
    for frame in source:  # slower than it comes: nothing is dropped all the same
        time.sleep(0.005)
        frames.append(frame)
    assert shown(frames) == list(range(60))
    assert {frame.arrived for frame in frames} == {None}
    assert (source.info.health.dropped, source.info.warnings, said) == (0, [], [])
    source.close()


def test_a_part_of_a_file_on_a_server(tmp_path, make_video, serve, shown):
    url = serve("a.mp4", make_video(tmp_path / "a.mp4", frames=60).read_bytes())
    source = open_source(url, SourceOptions(start=1.0, duration=0.8, stride=5))
    assert shown(list(source)) == [25, 30, 35, 40]
    source.close()


@pytest.mark.parametrize("given", [{"buffer": "all"}, {"reconnect": 3}])
def test_a_file_on_a_server_refuses_what_is_for_live_streams(tmp_path, make_video, serve, given):
    url = serve("a.mp4", make_video(tmp_path / "a.mp4", frames=10).read_bytes())
    with pytest.raises(InputError, match=r"http://\*\*\*@.* is a file on a server; leave it out") as caught:
        list(open_source(url, SourceOptions(**given)))
    assert "hunter2" not in str(caught.value)


def test_a_server_that_falls_silent_in_a_file(tmp_path, make_video, serve):
    path = make_video(tmp_path / "a.mp4", frames=60, size=(240, 320), muxer={"movflags": "faststart"})
    url = serve("slow.mp4", path.read_bytes())
    frames = []
    source = open_source(url, SourceOptions(timeout=1.0))
    with pytest.raises(SourceError, match=r"reading broke off after \d+ frames: no answer in time") as caught:
        frames.extend(source)
    assert frames
    assert "hunter2" not in str(caught.value)
    source.close()


def test_an_mp4_whose_index_is_at_its_end_needs_a_server_with_ranges(tmp_path, make_video, serve, shown):
    path = make_video(tmp_path / "a.mp4", frames=150, size=(240, 320))
    assert path.read_bytes().find(b"moov") > path.stat().st_size // 2
    source = open_source(serve("whole.mp4", path.read_bytes()))
    with pytest.raises(
        SourceError, match=r"the server sends no byte ranges, .* download it, or .*\+faststart"
    ) as caught:
        list(source)
    assert "hunter2" not in str(caught.value)
    source.close()
    fast = make_video(tmp_path / "b.mp4", frames=60, muxer={"movflags": "faststart"})
    source = open_source(serve("whole-fast.mp4", fast.read_bytes()))
    assert shown(list(source)) == list(range(60))
    source.close()


def test_whether_a_server_sends_ranges(serve):
    assert sends_ranges(serve("a.mp4", b"1234"), 5.0)
    assert not sends_ranges(serve("whole.mp4", b"1234"), 5.0)
    assert sends_ranges("http://127.0.0.1:1/a.mp4", 5.0)  # nobody there: nothing is known


@pytest.mark.parametrize("scheme", ["rtsp", "http", "tcp"])
def test_a_host_without_a_number(scheme):
    url = f"{scheme}://me:hunter2@no-such-host.invalid:554/x"
    with pytest.raises(SourceError, match=r"its host name can't be resolved \(.+\)$") as caught:
        VideoSource(url)
    assert "hunter2" not in str(caught.value)
    with pytest.raises(SourceError) as caught:
        VideoSource(f"{scheme}://127.0.0.1:1/x")
    assert "resolved" not in str(caught.value)


def test_what_is_not_on_the_server(serve):
    with pytest.raises(SourceError, match=r"http://\*\*\*@127.0.0.1:\d+/missing\?token=\*\*\*: .*404") as caught:
        open_source(serve("a", b"").replace("/a?", "/missing?"))
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_a_live_stream_goes_on_after_damage(tmp_path, make_video, serve):
    whole = make_video(tmp_path / "a.h264", frames=80, b_frames=0, format_name="h264").read_bytes()
    for at in (0.3, 0.4, 0.5, 0.6):
        whole = with_garbage(whole, at, 700)
    source = VideoSource(serve("live", whole))
    assert 40 < len(list(source)) < 80
    ended, damaged = source.info.warnings
    assert ended.startswith("http://***@127.0.0.1:")
    assert "the stream ended after" in ended  # FFmpeg can't tell an end from a failure
    assert "skipped" in damaged
    assert "hunter2" not in ended + damaged


def test_an_address_that_does_not_answer(udp_port):
    with pytest.raises(SourceError, match="no answer in time"):
        VideoSource(f"udp://127.0.0.1:{udp_port}", SourceOptions(timeout=0.3))


class Sender:
    """Sends MPEG-TS over UDP, 25 pictures a second, until it is stopped."""

    def __init__(self, port: int, *, size: tuple[int, int] = (48, 64)) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send, args=(port, size), daemon=True)
        self._thread.start()

    def _send(self, port: int, size: tuple[int, int]) -> None:
        with av.open(f"udp://127.0.0.1:{port}?pkt_size=1316", "w", format="mpegts") as container:
            stream = container.add_stream("libx264", rate=25, options={"tune": "zerolatency", "g": "12"})
            stream.height, stream.width = size
            stream.pix_fmt = "yuv420p"
            for index in itertools.count():
                frame = av.VideoFrame.from_ndarray(np.full((*size, 3), 100, np.uint8), format="bgr24")
                frame.pts, frame.time_base = index, Fraction(1, 25)
                container.mux(stream.encode(frame))
                if self._stop.wait(0.04):
                    return

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(20)


@pytest.fixture
def udp_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_a_stream_over_udp_that_stops_and_comes_back(udp_port):
    said: list[str] = []
    sender = Sender(udp_port)
    source = open_source(f"udp://127.0.0.1:{udp_port}", SourceOptions(timeout=1.0), say=said.append)
    with contextlib.closing(source):
        frames = iter(source)
        first = [next(frames) for _ in range(5)]
        sender.stop()
        until = time.monotonic() + 60
        while source.info.health.connected and time.monotonic() < until:
            time.sleep(0.05)
        sender = Sender(udp_port, size=(96, 80))
        second = next(frame for frame in frames if frame.height == 96)
        sender.stop()
    assert first[0].image.shape == (48, 64, 3)
    assert second.time > first[-1].time + 0.5  # less than the timeout: a busy machine decodes late
    assert second.arrived is not None
    assert source.info.health.reconnects == 1
    assert said[0] == f"udp://127.0.0.1:{udp_port}: lost (no frame for 1 s); reconnecting"
    assert "now 80x96 instead of 64x48" in said[1]


def test_a_protocol_that_this_ffmpeg_does_not_have():
    with pytest.raises(
        SourceError, match=r"gopherx://h: .*can't be opened as one: this FFmpeg has no gopherx; receive"
    ):
        open_source("gopherx://h")


def test_rtsp_comes_over_tcp_unless_told_otherwise():
    assert ffmpeg_options("RTSP://cam", SourceOptions())["rtsp_transport"] == "tcp"
    assert ffmpeg_options("rtsps://cam", SourceOptions(rtsp_transport="udp"))["rtsp_transport"] == "udp"
    assert ffmpeg_options("http://cam", SourceOptions()) == {}


@pytest.fixture
def http_camera() -> Iterator[tuple[str, threading.Event]]:
    """Serves JPEGs one after the other, 20 a second, as cameras do; every connection ends when the event is set."""
    cut = threading.Event()

    class Camera(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                for index in itertools.count():
                    body = cv2.imencode(".jpg", np.full((48, 64, 3), index % 200, np.uint8))[1].tobytes()
                    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(body)}\r\n\r\n"
                    self.wfile.write(head.encode() + body + b"\r\n")
                    time.sleep(0.05)
                    if cut.is_set():
                        return

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Camera)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://me:hunter2@127.0.0.1:{server.server_port}/video", cut
    cut.set()
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_camera_that_sends_jpegs_over_http(http_camera):
    url, cut = http_camera
    said: list[str] = []
    source = open_source(url, SourceOptions(timeout=5.0), say=said.append)
    assert source.info.live
    with contextlib.closing(source):
        frames = iter(source)
        first = next(frames)
        assert first.arrived is not None
        cut.set()
        until = time.monotonic() + 60
        while source.info.health.connected and time.monotonic() < until:
            time.sleep(0.02)
        cut.clear()
        last = next(frame for frame in frames if source.info.health.reconnects)
        assert last.time > first.time
    assert said[0].startswith("http://***@127.0.0.1:")
    assert said[0].endswith("); reconnecting")
    assert "hunter2" not in "".join(said)
