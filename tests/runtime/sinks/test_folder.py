from __future__ import annotations

import os
import shutil

import pytest

from sharpose.errors import InputError, SinkError
from sharpose.runtime.sinks import folders as folder
from sharpose.runtime.sinks.folders import FolderSink


def test_files_are_numbered_and_nothing_is_made_before(tmp_path):
    results = FolderSink(tmp_path / "deep" / "out", stem="a", ending=".txt")
    assert not (tmp_path / "deep").exists()
    results.write_file(0, b"zero")
    results.write_file(12, b"twelve")
    assert {path.name: path.read_bytes() for path in results.path.iterdir()} == {
        "a_000000000000.txt": b"zero",
        "a_000000000012.txt": b"twelve",
    }


def test_two_runs_are_not_mixed(tmp_path):
    (tmp_path / "a_000000000099.txt").write_text("older")
    with pytest.raises(InputError, match=r"already holds files of this kind \(a_000000000099\.txt\)"):
        FolderSink(tmp_path, stem="a", ending=".txt")
    FolderSink(tmp_path, stem="b", ending=".txt").write_file(0, b"")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="expected a folder, found a file"):
        FolderSink(tmp_path / "file", stem="a", ending=".txt")


def test_no_half_file_has_a_name(tmp_path, monkeypatch):
    results = FolderSink(tmp_path / "out", stem="a", ending=".txt")
    results.write_file(0, b"whole")

    def nearly_full(descriptor: int, data: bytes) -> int:
        if len(data) < 4:
            raise OSError(28, "No space left on device")
        return write(descriptor, bytes(data[:3]))

    write = os.write
    monkeypatch.setattr(folder.os, "write", nearly_full)
    with pytest.raises(SinkError, match=r"a_000000000001\.txt: can't be written: No space left on device"):
        results.write_file(1, b"too long")
    assert [path.name for path in results.path.iterdir()] == ["a_000000000000.txt"]


def test_a_first_file_that_fails_leaves_no_folder(tmp_path, monkeypatch):
    def full(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder.os, "write", full)
    results = FolderSink(tmp_path / "out", stem="a", ending=".txt")
    with pytest.raises(SinkError):
        results.write_file(0, b"x")
    assert results.abandon() is None
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_vanishes_is_not_made_again(tmp_path):
    results = FolderSink(tmp_path / "out", stem="a", ending=".txt")
    results.write_file(0, b"x")
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(SinkError, match="out: was removed while it was being written"):
        results.write_file(1, b"x")
    assert results.abandon() is None
    assert list(tmp_path.iterdir()) == []


def test_folders_of_failed_runs_are_marked(tmp_path):
    for expected in ("out.partial", "out.partial2", "out.partial3"):
        results = FolderSink(tmp_path / "out", stem="a", ending=".txt")
        results.write_file(0, b"x")
        assert results.abandon() == tmp_path / expected
        assert not (tmp_path / "out").exists()
    (tmp_path / "mine").mkdir()
    results = FolderSink(tmp_path / "mine", stem="a", ending=".txt")
    results.write_file(0, b"x")
    assert results.abandon() == tmp_path / "mine"  # it was somebody's before
