"""Downloads from a server on this machine: whole, cut off, wrong, slow, absent, and without room on the disk."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sharpose.errors import DetectorError
from sharpose.runtime.detectors.catalogue import Download, download

CONTENT = bytes(range(256)) * 4096  # a megabyte
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT under any path, as the test tells it to."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.cut_after: list[int | None] = []  # bytes after which each coming answer breaks off; then none does
        self.ranges = True
        self.status = 200
        self.silent = False
        self.length = True
        self.asked: list[str | None] = []

    def handle_error(self, request: object, client_address: object) -> None:
        """The clients of these tests hang up."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/model.onnx"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        if self.server.silent:
            time.sleep(5)
            return
        if self.server.status != 200:
            self.send_error(self.server.status)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.server.ranges else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        if self.server.length:
            self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        cut = self.server.cut_after.pop(0) if self.server.cut_after else None
        self.wfile.write(CONTENT[start:] if cut is None else CONTENT[start : start + cut])

    def log_message(self, *arguments: object) -> None:
        """Quiet."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


def job(server: Server, folder: Path, sha256: str | None = SHA256, timeout: float = 30) -> Download:
    return Download(server.url, folder / "cache" / "model.onnx", sha256, timeout)


def refused(what: Download) -> str:
    with pytest.raises(DetectorError) as caught:
        download(what)
    message = str(caught.value)
    assert "\n" not in message
    assert not what.path.exists()
    return message


def test_a_file_comes_whole_and_once(server: Server, tmp_path: Path) -> None:
    told: list[tuple[int, int | None]] = []
    what = job(server, tmp_path)
    assert download(what, lambda done, total: told.append((done, total))) == SHA256
    assert what.path.read_bytes() == CONTENT
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert download(what) == SHA256
    assert server.asked == [None]
    assert sorted(path.name for path in what.path.parent.iterdir()) == ["model.onnx", "model.onnx.lock"]


def test_a_connection_that_breaks_off_is_gone_on_with(server: Server, tmp_path: Path) -> None:
    server.cut_after = [300_000, 400_000]
    what = job(server, tmp_path)
    download(what)
    assert what.path.read_bytes() == CONTENT
    assert server.asked == [None, "bytes=300000-", "bytes=700000-"]


def test_what_came_is_kept_for_the_next_run(server: Server, tmp_path: Path) -> None:
    server.cut_after = [100_000, 100_000, 100_000]
    what = job(server, tmp_path)
    assert "300000 bytes are kept, run again to go on" in refused(what)
    download(what)
    assert what.path.read_bytes() == CONTENT
    assert server.asked[-1] == "bytes=300000-"


def test_a_server_without_ranges_starts_anew(server: Server, tmp_path: Path) -> None:
    server.cut_after, server.ranges = [300_000], False
    what = job(server, tmp_path)
    download(what)
    assert what.path.read_bytes() == CONTENT


def test_a_server_that_does_not_say_how_much(server: Server, tmp_path: Path) -> None:
    server.length = False
    what = job(server, tmp_path)
    told: list[int | None] = []
    download(what, lambda done, total: told.append(total))
    assert what.path.read_bytes() == CONTENT
    assert set(told) == {None}


def test_a_whole_part_file_is_taken_up(server: Server, tmp_path: Path) -> None:
    what = job(server, tmp_path)
    what.path.parent.mkdir()
    what.path.with_name("model.onnx.part").write_bytes(CONTENT)
    download(what)
    assert what.path.read_bytes() == CONTENT


def test_a_wrong_hash_is_refused_and_the_file_deleted(server: Server, tmp_path: Path) -> None:
    what = job(server, tmp_path, sha256="0" * 64)
    message = refused(what)
    assert SHA256 in message
    assert "0" * 64 in message
    assert [path.name for path in what.path.parent.iterdir()] == ["model.onnx.lock"]


def test_a_file_that_was_tampered_with_is_not_used(server: Server, tmp_path: Path) -> None:
    what = job(server, tmp_path)
    download(what)
    what.path.write_bytes(b"something else")
    assert "expected sha256" in refused(what)


@pytest.mark.parametrize(("status", "said"), [(404, "404 Not Found"), (500, "500"), (403, "403")])
def test_a_server_that_refuses(server: Server, tmp_path: Path, status: int, said: str) -> None:
    server.status = status
    assert said in refused(job(server, tmp_path))


def test_a_silent_server(server: Server, tmp_path: Path) -> None:
    server.silent = True
    assert "timed out (3 tries)" in refused(job(server, tmp_path, timeout=0.2))


def test_nobody_listens(server: Server, tmp_path: Path) -> None:
    what = job(server, tmp_path)
    server.shutdown()
    server.server_close()
    assert "Connection refused" in refused(what)


def test_a_full_disk(server: Server, tmp_path: Path) -> None:
    """/dev/full takes nothing."""
    what = job(server, tmp_path)
    what.path.parent.mkdir()
    what.path.with_name("model.onnx.part").symlink_to("/dev/full")
    message = refused(what)
    assert "No space left on device" in message
    assert "make room" in message


def test_a_folder_that_cannot_be_made(server: Server, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    assert "can't be written" in refused(job(server, tmp_path)).replace("File exists", "")


def test_two_at_once_download_once(server: Server, tmp_path: Path) -> None:
    what, results = job(server, tmp_path), []
    threads = [threading.Thread(target=lambda: results.append(download(what))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == [SHA256] * 4
    assert server.asked == [None]
