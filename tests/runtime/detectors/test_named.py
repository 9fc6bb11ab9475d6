"""Detectors by name: the table, the user's own, hashes that nobody knows, and what is said where none is given."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from detector_graphs import says, yolox_rows
from rich.console import Console

from sharpose.errors import DetectorError
from sharpose.runtime.detectors.catalogue import (
    find_detector,
    how_to_find_people,
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
    assert "can't be read" in refused("yolox-tiny", table=tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("text", "file"), [("a.onnx", True), ("./yolox-tiny", True), ("yolox-tiny", False), ("motion", False)]
)
def test_files_and_names_are_told_apart(text: str, file: bool) -> None:
    assert is_file_name(text) == file


def test_what_to_use_is_named_in_one_line() -> None:
    message = how_to_find_people("street.mp4")
    assert "\n" not in message
    for what in ("--detector FILE.onnx", "yolox-tiny", "--detector motion", "--boxes", "--full-frame", "scene"):
        assert what in message
    assert np.char.find(message, "street.mp4") >= 0
