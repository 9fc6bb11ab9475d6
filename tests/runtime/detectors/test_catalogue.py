"""Detectors by name: the table, hashes and mirrors."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from pathlib import Path

import pytest
from detector_graphs import says, yolox_rows
from rich.console import Console

from sharpose.errors import DetectorError
from sharpose.runtime.detectors.catalogue import (
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
