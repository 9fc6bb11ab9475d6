from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from damaged_files import saved, with_garbage

from sharpose.errors import SourceError
from sharpose.runtime.options import SourceOptions
from sharpose.runtime.sources.video import VideoSource

TURNED_CLOCKWISE = (0, 1 << 16, 0, -(1 << 16), 0, 0)


def with_display_matrix(data: bytes, values: tuple[int, ...]) -> bytes:
    """The mp4 with another matrix (its first six numbers) in its track header."""
    at = data.index(b"tkhd") + 4 + 40
    matrix = b"".join(value.to_bytes(4, "big", signed=True) for value in values)
    return data[:at] + matrix + data[at + len(matrix) :]


@pytest.mark.parametrize(
    ("name", "codec", "b_frames"),
    [
        ("a.mp4", "libx264", 3),
        ("a.mkv", "libx264", 3),
        ("a.avi", "libx264", 2),
        ("a.ts", "libx264", 0),
        ("a.avi", "mpeg4", 2),
        ("a.avi", "mjpeg", 0),
    ],
)
def test_all_frames_in_the_order_they_are_shown(tmp_path, make_video, shown, name, codec, b_frames):
    source = VideoSource(str(make_video(tmp_path / name, codec=codec, b_frames=b_frames)))
    frames = list(source)
    assert shown(frames) == list(range(40))
    assert [frame.index for frame in frames] == [frame.image_id for frame in frames] == list(range(40))
    np.testing.assert_allclose([frame.time for frame in frames], np.arange(40) / 25, atol=2e-3)
    assert {(frame.image.shape, frame.image.dtype.name) for frame in frames} == {((48, 64, 3), "uint8")}
    assert source.info.warnings == []
    assert source.info.frame_count in (40, None)
    assert source.info.image_ids is None
    source.close()
    source.close()


def test_colours_are_bgr(tmp_path):
    path = tmp_path / "blue.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        image = np.zeros((48, 64, 3), np.uint8)
        image[:] = (220, 60, 10)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
        container.mux(stream.encode(None))
    (frame,) = VideoSource(str(path))
    np.testing.assert_allclose(frame.image[24, 32], (220, 60, 10), atol=8)


def test_variable_frame_rate_keeps_its_times(tmp_path, make_video):
    stamps = [0, 1, 2, 50, 51, 200, 201, 202, 203, 1000]
    source = VideoSource(str(make_video(tmp_path / "vfr.mkv", frames=10, stamps=stamps, b_frames=0)))
    np.testing.assert_allclose([frame.time for frame in source], np.array(stamps) / 25, atol=2e-3)


def test_a_stream_that_does_not_begin_at_zero_begins_at_zero(tmp_path, make_video):
    source = VideoSource(str(make_video(tmp_path / "late.mkv", frames=5, stamps=range(2500, 2505), b_frames=0)))
    np.testing.assert_allclose([frame.time for frame in source], np.arange(5) / 25, atol=2e-3)


def test_pictures_that_stand_on_their_side_are_turned(tmp_path, make_video):
    upright = make_video(tmp_path / "upright.mp4", frames=3)
    turned = saved(tmp_path / "turned.mp4", with_display_matrix(upright.read_bytes(), TURNED_CLOCKWISE))
    for stored, frame in zip(VideoSource(str(upright)), VideoSource(turned), strict=True):
        np.testing.assert_array_equal(frame.image, np.rot90(stored.image, -1))
        assert (frame.height, frame.width) == (64, 48)


def test_a_change_of_size_inside_the_stream(tmp_path, make_video):
    parts = [
        make_video(tmp_path / f"{index}.h264", frames=5, size=size, b_frames=0, format_name="h264").read_bytes()
        for index, size in enumerate([(48, 64), (96, 80), (48, 64)])
    ]
    source = VideoSource(saved(tmp_path / "sizes.h264", b"".join(parts)))
    shapes = [frame.image.shape[:2] for frame in source]
    assert shapes == [(48, 64)] * 5 + [(96, 80)] * 5 + [(48, 64)] * 5


def test_a_name_with_a_colon_is_a_file(tmp_path, make_video, monkeypatch):
    make_video(tmp_path / "plain.mp4", frames=2).rename(tmp_path / "take1:2.mp4")
    monkeypatch.chdir(tmp_path)
    assert len(list(VideoSource("take1:2.mp4"))) == 2


def test_it_is_read_once(tmp_path, make_video):
    source = VideoSource(str(make_video(tmp_path / "a.mp4", frames=3)))
    assert len(list(source)) == 3
    with pytest.raises(SourceError, match="read once"):
        next(iter(source))


def test_closing_in_the_middle_ends_it_without_a_warning(tmp_path, make_video):
    source = VideoSource(str(make_video(tmp_path / "a.mp4")))
    frames = iter(source)
    next(frames)
    source.close()
    assert list(frames) == []
    assert source.info.warnings == []


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Callable[[bytes], str]]:
    """Serves bytes over HTTP, without a length and without seeking, as a live stream is."""
    bodies: dict[str, bytes] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = bodies.get(self.path.split("?")[0])
            self.send_response(404 if body is None else 200)
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()

    def serve(body: bytes) -> str:
        bodies["/live"] = body
        return f"http://me:hunter2@127.0.0.1:{server.server_port}/live?token=hunter2"

    yield serve
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_live_stream_goes_on_after_damage(tmp_path, make_video, served):
    whole = make_video(tmp_path / "a.h264", frames=80, b_frames=0, format_name="h264").read_bytes()
    for at in (0.3, 0.4, 0.5, 0.6):
        whole = with_garbage(whole, at, 700)
    source = VideoSource(served(whole))
    assert 40 < len(list(source)) < 80
    assert all(line.startswith("http://***@127.0.0.1:") and "hunter2" not in line for line in source.info.warnings)
    assert ["the stream ended after" in line for line in source.info.warnings] == [
        True,
        False,
    ]  # FFmpeg can't tell an end from a failure
    assert "skipped" in source.info.warnings[1]


def test_no_password_in_names_and_errors(served):
    url = served(b"")
    with pytest.raises(SourceError) as caught:
        VideoSource(url.replace("live", "missing"))
    assert "hunter2" not in str(caught.value)
    assert str(caught.value).startswith("http://***@127.0.0.1:")
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_an_address_that_does_not_answer(unused_udp_port):
    with pytest.raises(SourceError, match="no answer in time"):
        VideoSource(f"udp://127.0.0.1:{unused_udp_port}", SourceOptions(timeout=0.3))


@pytest.fixture
def unused_udp_port() -> int:
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.shared
def test_crowd_holds_half_of_what_it_claims(shared_dir):
    source = VideoSource(str(shared_dir / "media" / "crowd.avi"))
    assert source.info.frame_count == 682
    times = [frame.time for frame in source]
    assert len(times) == 341
    np.testing.assert_allclose(np.diff(times), 0.04, atol=1e-6)
    assert len(source.info.warnings) == 1
    assert "claims 682 frames, but it ends after 341" in source.info.warnings[0]


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "shape", "step"), [("street.mp4", (540, 960, 3), 0.2), ("posetrack_clip.mp4", (720, 1280, 3), 1 / 30)]
)
def test_short_clips(shared_dir, name, shape, step):
    source = VideoSource(str(shared_dir / "media" / name))
    frames = list(source)
    assert [frame.image.shape for frame in frames] == [shape] * 5
    np.testing.assert_allclose([frame.time for frame in frames], np.arange(5) * step, atol=1e-3)
    assert source.info.warnings == []
