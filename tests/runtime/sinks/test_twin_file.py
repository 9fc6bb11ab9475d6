from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from sharpose.errors import SinkError
from sharpose.runtime.sinks import coco as twin_file
from sharpose.runtime.sinks.coco import TwinFile


def array_file(path: Path) -> TwinFile:
    return TwinFile(path, tail=b"\n]\n")


def add(file: TwinFile, number: int) -> None:
    file.append((b",\n" if file.made else b"[\n") + json.dumps({"number": number, "text": "x" * 5000}).encode())


def numbers(path: Path) -> list[int]:
    return [entry["number"] for entry in json.loads(path.read_bytes())]


@pytest.fixture(params=["hard links", "no hard links"])
def links(request, monkeypatch):
    if request.param == "no hard links":

        def refuse(old: object, new: object) -> None:
            raise OSError(1, "Operation not permitted")

        monkeypatch.setattr(twin_file.os, "link", refuse)
    return request.param


def test_it_is_whole_after_every_entry(tmp_path, links):
    file = array_file(tmp_path / "deep" / "a.json")
    assert not file.made
    for number in range(5):
        add(file, number)
        assert numbers(file.path) == list(range(number + 1))
    file.close()
    file.close()
    assert [entry.name for entry in (tmp_path / "deep").iterdir()] == ["a.json"]
    assert numbers(file.path) == list(range(5))


def test_it_is_whole_whatever_call_the_kill_comes_before(tmp_path, monkeypatch):
    """Looked at before and after every call that changes the disk, with writes that come in pieces."""
    file = array_file(tmp_path / "a.json")
    seen: list[int] = []

    def look() -> None:
        if file.path.exists():
            seen.append(len(numbers(file.path)))

    def watched(name: str) -> None:
        call = getattr(os, name)

        def watching(*arguments: object) -> object:
            look()
            if name == "pwrite":
                descriptor, data, position = arguments
                arguments = (descriptor, bytes(data[:1000]), position)  # type: ignore[index]
            result = call(*arguments)
            look()
            return result

        monkeypatch.setattr(twin_file.os, name, watching)

    for name in ("pwrite", "link", "replace"):
        watched(name)
    for number in range(4):
        add(file, number)
    file.close()
    assert len(seen) > 30
    assert seen == sorted(seen)
    assert set(seen) == {1, 2, 3, 4}


def test_what_a_killed_run_leaves_beside_it_is_taken_over(tmp_path):
    (tmp_path / ".a.json.spare").write_text("long" * 9999)
    (tmp_path / ".a.json.old").write_text("older")
    file = array_file(tmp_path / "a.json")
    for number in range(3):
        add(file, number)
    file.close()
    assert numbers(file.path) == [0, 1, 2]
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def test_a_link_keeps_its_name(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "a.json").symlink_to(tmp_path / "there" / "b.json")
    file = array_file(tmp_path / "a.json")
    for number in range(3):
        add(file, number)
    file.close()
    assert (tmp_path / "a.json").is_symlink()
    assert numbers(tmp_path / "there" / "b.json") == [0, 1, 2]


def test_a_full_disk_leaves_the_entries_before(tmp_path, monkeypatch, links):
    file = array_file(tmp_path / "a.json")
    for number in range(3):
        add(file, number)

    def full(descriptor: int, data: bytes, position: int) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(twin_file.os, "pwrite", full)
        with pytest.raises(SinkError, match=r"a\.json: can't be written: No space left on device"):
            add(file, 3)
    assert file.abandon() == tmp_path / "a.partial.json"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.partial.json"]
    assert numbers(tmp_path / "a.partial.json") == [0, 1, 2]


def test_a_first_entry_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(descriptor: int, data: bytes, position: int) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(twin_file.os, "pwrite", full)
    file = array_file(tmp_path / "a.json")
    with pytest.raises(SinkError):
        add(file, 0)
    assert file.abandon() is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", ["removed", "replaced"])
def test_a_file_that_is_not_ours_any_more(tmp_path, what):
    file = array_file(tmp_path / "deep" / "a.json")
    add(file, 0)
    add(file, 1)
    if what == "removed":
        shutil.rmtree(tmp_path / "deep")
    else:
        (tmp_path / "deep" / "b.json").write_text("[]")
        (tmp_path / "deep" / "b.json").replace(file.path)
    with pytest.raises(SinkError, match=r"a\.json: was removed while it was being written"):
        add(file, 2)
    assert file.abandon() is None
    assert what == "removed" or file.path.read_text() == "[]"
