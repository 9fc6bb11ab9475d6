"""Downloads of detectors from a server on this machine, which breaks off, redirects, refuses or says nothing."""

from __future__ import annotations

import errno
import hashlib
import ssl
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.client import HTTPMessage, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import pytest

from sharpose.errors import DetectorError
from sharpose.runtime.detectors.catalogue import (
    _Redirects,
    download,
)

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
        self.redirect: str | None = None  # where those who ask for /model.onnx are sent
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
        if self.server.redirect and self.path == "/model.onnx":
            self.send_response(302)
            self.send_header("Location", self.server.redirect)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
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


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where downloads go; the folder isn't there yet."""
    return tmp_path / "downloads" / "model.onnx"


def refused_download(url: str, path: Path, sha256: str = SHA256, timeout: float = 30) -> str:
    with pytest.raises(DetectorError) as caught:
        download(url, path, sha256, timeout=timeout)
    message = str(caught.value)
    assert "\n" not in message
    assert not path.exists()
    return message


def test_a_file_comes_whole_and_once(server: Server, path: Path) -> None:
    told: list[tuple[int, int | None]] = []
    assert download(server.url, path, SHA256, on_progress=lambda done, total: told.append((done, total))) == SHA256
    assert path.read_bytes() == CONTENT
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert download(server.url, path, SHA256) == SHA256
    assert server.asked == [None]
    assert sorted(file.name for file in path.parent.iterdir()) == ["model.onnx", "model.onnx.lock"]


def test_a_connection_that_breaks_off_is_resumed(server: Server, path: Path) -> None:
    server.cut_after = [300_000, 400_000]
    download(server.url, path, SHA256)
    assert path.read_bytes() == CONTENT
    assert server.asked == [None, "bytes=300000-", "bytes=700000-"]


@pytest.mark.parametrize("error", [OSError(errno.EHOSTUNREACH, "No route to host"), ssl.SSLError(1, "bad record")])
def test_a_network_that_goes_away_is_no_full_disk(
    server: Server, path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    read, calls = HTTPResponse.read, []

    def failing(self: HTTPResponse, amount: int | None = None) -> bytes:
        calls.append(amount)
        if len(calls) == 2:
            raise error
        return read(self, amount)

    monkeypatch.setattr(HTTPResponse, "read", failing)
    assert download(server.url, path, SHA256) == SHA256
    assert server.asked == [None, f"bytes={1 << 18}-"]

    def fails(self: HTTPResponse) -> None:
        raise error

    monkeypatch.setattr(HTTPResponse, "begin", fails)
    path.unlink()
    assert f"{server.url}: {error.strerror} (3 tries)" in refused_download(server.url, path)


def test_what_came_is_kept_for_the_next_run(server: Server, path: Path) -> None:
    server.cut_after = [100_000, 100_000, 100_000]
    assert "300000 bytes are kept, run again to resume" in refused_download(server.url, path)
    download(server.url, path, SHA256)
    assert path.read_bytes() == CONTENT
    assert server.asked[-1] == "bytes=300000-"


def test_a_server_without_ranges_starts_over(server: Server, path: Path) -> None:
    server.cut_after, server.ranges = [300_000], False
    download(server.url, path, SHA256)
    assert path.read_bytes() == CONTENT


def test_a_server_that_does_not_say_how_much(server: Server, path: Path) -> None:
    server.length = False
    told: list[int | None] = []
    download(server.url, path, SHA256, on_progress=lambda done, total: told.append(total))
    assert path.read_bytes() == CONTENT
    assert set(told) == {None}


def test_a_complete_part_file_is_used(server: Server, path: Path) -> None:
    path.parent.mkdir()
    path.with_name("model.onnx.part").write_bytes(CONTENT)
    download(server.url, path, SHA256)
    assert path.read_bytes() == CONTENT


def test_a_wrong_hash_is_refused_and_the_file_deleted(server: Server, path: Path) -> None:
    message = refused_download(server.url, path, sha256="0" * 64)
    assert SHA256 in message
    assert "0" * 64 in message
    assert [file.name for file in path.parent.iterdir()] == ["model.onnx.lock"]


def test_a_file_that_was_tampered_with_is_not_used(server: Server, path: Path) -> None:
    download(server.url, path, SHA256)
    path.write_bytes(b"something else")
    assert "expected sha256" in refused_download(server.url, path)


@pytest.mark.parametrize(("status", "said"), [(404, "404 Not Found"), (500, "500"), (403, "403")])
def test_a_server_that_refuses(server: Server, path: Path, status: int, said: str) -> None:
    server.status = status
    assert said in refused_download(server.url, path)


@pytest.mark.parametrize("to", ["http://127.0.0.2", "http://127.0.0.1:1@127.0.0.2", "ftp://127.0.0.1"])
def test_a_redirect_to_where_the_table_may_not_go_is_refused(server: Server, path: Path, to: str) -> None:
    server.redirect = f"{to}:{server.server_address[1]}/other.onnx?key=hunter2"
    scheme, _, host = to.partition("://")
    got = f"{server.url}: expected a redirect to https://, got one to {scheme}://{host.rpartition('@')[2]}"
    assert refused_download(server.url, path) == got
    assert (server.asked, path.exists()) == ([None], False)


def test_a_redirect_on_this_machine_is_followed(server: Server, path: Path) -> None:
    server.redirect = "/moved.onnx"
    assert download(server.url, path, SHA256) == SHA256
    assert (server.asked, path.read_bytes()) == ([None, None], CONTENT)


def test_a_redirect_from_https_to_this_machine_is_refused() -> None:
    request = urllib.request.Request("https://host.example/d.onnx")
    with pytest.raises(DetectorError, match=r"to https://, got one to http://127\.0\.0\.1$"):
        _Redirects().redirect_request(request, BytesIO(), 302, "Found", HTTPMessage(), "http://127.0.0.1:80/d.onnx")


def test_a_silent_server(server: Server, path: Path) -> None:
    server.silent = True
    assert "timed out (1 try)" in refused_download(server.url, path, timeout=0.2)
    assert len(server.asked) == 1  # the time is for all tries


def test_nobody_listens(server: Server, path: Path) -> None:
    server.shutdown()
    server.server_close()
    assert "Connection refused" in refused_download(server.url, path)


def test_a_full_disk(server: Server, path: Path) -> None:
    """/dev/full takes nothing."""
    path.parent.mkdir()
    path.with_name("model.onnx.part").symlink_to("/dev/full")
    message = refused_download(server.url, path)
    assert "No space left on device" in message
    assert "make room" in message


def test_a_folder_that_cannot_be_made(server: Server, path: Path) -> None:
    path.parent.write_text("a file")
    assert "can't be written" in refused_download(server.url, path)


def test_two_at_once_download_once(server: Server, path: Path) -> None:
    results: list[str] = []
    threads = [threading.Thread(target=lambda: results.append(download(server.url, path, SHA256))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == [SHA256] * 4
    assert server.asked == [None]
