"""Detectors by name: the table, hashes, and downloads from a server on this machine."""

from __future__ import annotations

import errno
import hashlib
import ssl
import threading
import time
import urllib.request
from collections.abc import Iterator
from functools import partial
from http.client import HTTPMessage, HTTPResponse
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO, StringIO
from pathlib import Path

import pytest
from detector_graphs import says, yolox_rows
from rich.console import Console

from sharpose.errors import DetectorError
from sharpose.runtime.detectors.catalogue import (
    _Redirects,
    download,
    find_detector,
    is_file_name,
    load_table,
    user_table_path,
)
from sharpose.runtime.detectors.onnx import Detector


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The address of a real detector, and its file."""
    folder = tmp_path / "served"
    folder.mkdir()
    file = says(folder / "d.onnx", output=yolox_rows((0, [0, 0, 0, 0, 0.5, 0.5, 0, 0])))
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/d.onnx", file
        server.shutdown()


def write_table(url: str, **more: str) -> Path:
    path = user_table_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    entry = {"url": url, "family": "yolox", "licence": "mine"} | more
    path.write_text("detectors:\n  mine:\n" + "".join(f"    {key}: {value}\n" for key, value in entry.items()))
    return path


def quiet() -> Console:
    return Console(file=StringIO())


def test_a_user_without_a_home_folder_has_the_built_in_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """As containers have that run as any number."""
    pytest.importorskip("pwd")
    for name in ("HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)

    def nobody(number: int) -> None:
        raise KeyError(number)

    monkeypatch.setattr("pwd.getpwuid", nobody)
    assert str(user_table_path()) == "~/.config/sharpose/detectors.yaml"
    assert "yolox-nano" in load_table()


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def refused(name: str, **options: object) -> str:
    with pytest.raises(DetectorError) as caught:
        find_detector(name, console=quiet(), **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_hash_of_our_table_names_its_source() -> None:
    table = load_table()
    assert {"yolox-tiny", "yolox-s", "yolox-nano"} <= set(table)
    for entry in table.values():
        assert (entry.sha256 is None) == (entry.sha256_source is None)
        assert entry.url.startswith("https://")


def test_the_users_detector_is_downloaded_once_and_loads(served: tuple[str, Path], tmp_path: Path) -> None:
    url, file = served
    write_table(url, sha256=sha256_of(file), sha256_source="me")
    path = find_detector("mine", console=quiet())
    assert path == tmp_path / "cache" / "sharpose" / "detectors" / "mine.onnx"
    assert Detector.from_onnx(path).family.name == "YOLOX"
    file.unlink()
    assert find_detector("mine", console=quiet()) == path


def test_the_table_says_how_pictures_are_prepared(served: tuple[str, Path]) -> None:
    url, file = served
    write_table(url, sha256=sha256_of(file), sha256_source="me", mean="[1, 2, 3]", std="[4, 5, 6]", rgb="true")
    detector = Detector.from_name("mine")
    assert str(detector.preprocessing) == "RGB, mean 1,2,3 subtracted, divided by std 4,5,6"
    assert "BGR, mean 1,2,3" in str(Detector.from_name("mine", rgb=False).preprocessing)
    write_table(url, mean="[1, 2]")
    assert "mean" in refused("mine")


def test_a_name_whose_hash_nobody_knows_is_refused(served: tuple[str, Path]) -> None:
    write_table(served[0])
    message = refused("mine")
    assert "--detector-sha256" in message
    assert str(user_table_path()) in message
    assert "no published sha256" in refused("yolox-nano")  # nothing is asked of the network


def test_the_users_hash_will_do_and_a_wrong_one_will_not(served: tuple[str, Path]) -> None:
    url, file = served
    write_table(url)
    assert "expected sha256 " + "0" * 64 in refused("mine", sha256="0" * 64)
    assert find_detector("mine", sha256="sha256:" + sha256_of(file).upper().lower(), console=quiet()).is_file()
    assert "64 hexadecimal digits" in refused("mine", sha256="abc")


def test_trust_is_said_and_holds(served: tuple[str, Path]) -> None:
    url, file = served
    write_table(url)
    said = Console(file=StringIO())
    path = find_detector("mine", sha256="trust", console=said)
    assert sha256_of(file) in said.file.getvalue()  # type: ignore[attr-defined]
    assert find_detector("mine", console=quiet()) == path  # pinned from now on
    path.write_bytes(b"another")
    assert "expected sha256" in refused("mine", sha256="trust")


def test_another_address_in_the_table_is_another_file(served: tuple[str, Path]) -> None:
    url, file = served
    file.with_name("v2.onnx").write_bytes(b"the second")
    write_table(url)
    path = find_detector("mine", sha256="trust", console=quiet())
    write_table(url.replace("d.onnx", "v2.onnx"))
    path.with_name("mine.onnx.part").write_bytes(b"a piece of the first")
    said: list[str] = []
    assert "no published sha256" in refused("mine", say=said.append)  # the first one was trusted
    assert said == [f"mine: the table names another address by now; what came from {url} is {path}.old"]
    assert path.with_name("mine.onnx.old").read_bytes() == file.read_bytes()
    assert find_detector("mine", sha256="trust", console=quiet()).read_bytes() == b"the second"
    assert find_detector("mine", console=quiet()).read_bytes() == b"the second"
    write_table(url, sha256=sha256_of(file), sha256_source="me")
    assert find_detector("mine", console=quiet()).read_bytes() == file.read_bytes()


def test_a_file_is_taken_where_its_address_cant_be_noted(served: tuple[str, Path], tmp_path: Path) -> None:
    url, file = served
    write_table(url, sha256=sha256_of(file), sha256_source="me")
    path = tmp_path / "cache" / "sharpose" / "detectors" / "mine.onnx"
    path.with_name("mine.onnx.url").mkdir(parents=True)
    path.write_bytes(file.read_bytes())
    assert find_detector("mine", console=quiet()) == path


def test_a_file_that_the_user_has_copied_there_is_taken(served: tuple[str, Path], tmp_path: Path) -> None:
    url, file = served
    write_table(url, sha256=sha256_of(file), sha256_source="me")
    path = tmp_path / "cache" / "sharpose" / "detectors" / "mine.onnx"
    path.parent.mkdir(parents=True)
    path.write_bytes(file.read_bytes())
    content = file.read_bytes()
    file.unlink()
    assert find_detector("mine", console=quiet()) == path
    write_table("http://localhost/moved/d.onnx", sha256=sha256_of(path), sha256_source="me")
    assert find_detector("mine", console=quiet()).read_bytes() == content  # by its hash it is the right one


@pytest.mark.parametrize("content", ["", "d722"])
def test_a_pin_that_was_cut_off_is_none(served: tuple[str, Path], content: str) -> None:
    url, file = served
    write_table(url)
    path = find_detector("mine", sha256="trust", console=quiet())
    pin = path.with_name("mine.onnx.sha256")
    pin.write_text(content)
    assert "no published sha256" in refused("mine")
    assert find_detector("mine", sha256="trust", console=quiet()) == path
    assert pin.read_text() == sha256_of(file) + "\n"


def test_an_unknown_name_is_helped() -> None:
    message = refused("yolox-tinny")
    assert "did you mean yolox-tiny?" in message
    assert "motion" in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("detectors: [", "not valid YAML"),
        ("models: {}", "missing key"),
        ("detectors: {a: {url: 'https://x/a.onnx', family: yolox}}", "a.licence: missing key"),
        ("detectors: {a: {url: 'https://x/a.onnx', family: ssd, licence: x}}", "family"),
        ("detectors: {a: {url: 'ftp://x/a.onnx', family: yolox, licence: x}}", "url"),
        ("detectors: {a: {url: 'http://x.org/a.onnx', family: yolox, licence: x}}", "url"),
        ("detectors: {a: {url: 'https://x/a.onnx', family: yolox, licence: x, sha256: 'abc'}}", "sha256"),
        (
            f"detectors: {{a: {{url: 'https://x/a.onnx', family: yolox, licence: x, sha256: '{'0' * 64}'}}}}",
            "go together",
        ),
        ("detectors: {motion: {url: 'https://x/a.onnx', family: yolox, licence: x}}", "motion"),
        ("detectors: {../a: {url: 'https://x/a.onnx', family: yolox, licence: x}}", "../a"),
        ("- 1", "table of detectors"),
    ],
)
def test_a_table_that_is_not_valid(text: str, said: str) -> None:
    path = user_table_path()
    path.parent.mkdir(parents=True)
    path.write_text(text)
    message = refused("yolox-tiny")
    assert str(path) in message
    assert said in message


def test_a_table_given_must_be_there(tmp_path: Path) -> None:
    assert "No such file" in refused("yolox-tiny", table=tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("text", "file"), [("a.onnx", True), ("./yolox-tiny", True), ("yolox-tiny", False), ("motion", False)]
)
def test_files_and_names_are_told_apart(text: str, file: bool) -> None:
    assert is_file_name(text) == file


def test_a_mirror_has_the_file_under_its_own_name(
    served: tuple[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url, file = served
    write_table("https://example.invalid/v1/d.onnx", sha256=sha256_of(file), sha256_source="me")
    monkeypatch.setenv("SHARPOSE_DETECTOR_MIRROR", url.removesuffix("/d.onnx"))
    said: list[str] = []
    path = find_detector("mine", console=quiet(), say=said.append)
    assert path.read_bytes() == file.read_bytes()
    assert said == [f"downloading {url} to {path}"]
    monkeypatch.setenv("SHARPOSE_DETECTOR_MIRROR", url)  # what is there already isn't asked for
    assert find_detector("mine", console=quiet(), say=said.append) == path
    assert len(said) == 1


def test_a_mirror_with_another_file_is_refused(served: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    write_table("https://example.invalid/v1/d.onnx", sha256="a" * 64, sha256_source="me")
    monkeypatch.setenv("SHARPOSE_DETECTOR_MIRROR", served[0].removesuffix("/d.onnx"))
    assert "expected sha256 " + "a" * 64 in refused("mine")


def test_a_download_that_fails_names_other_ways(served: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARPOSE_DETECTOR_MIRROR", served[0].removesuffix("/d.onnx"))
    message = refused("yolox-tiny")
    assert message.startswith("the detector yolox-tiny can't be downloaded: ")
    for way in (
        "404",
        "--detector FILE.onnx",
        "--detector motion",
        "--full-frame",
        "--boxes",
        "SHARPOSE_DETECTOR_MIRROR",
    ):
        assert way in message


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
