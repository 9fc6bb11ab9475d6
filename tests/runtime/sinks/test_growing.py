from __future__ import annotations

import os
import shutil

import pytest

from sharpose import files as growing
from sharpose.errors import SinkError
from sharpose.files import GrowingFile


def test_every_entry_is_there_at_once(tmp_path):
    file = GrowingFile(tmp_path / "new" / "folders" / "a.txt")
    assert not file.made
    assert not (tmp_path / "new").exists()
    file.append(b"one,")
    assert file.path.read_bytes() == b"one,"
    file.append(b"two,")
    assert file.path.read_bytes() == b"one,two,"
    file.close()
    file.close()
    assert file.made


def test_an_older_file_is_replaced(tmp_path):
    (tmp_path / "a.txt").write_text("much longer than what comes")
    file = GrowingFile(tmp_path / "a.txt")
    file.append(b"new")
    file.close()
    assert (tmp_path / "a.txt").read_bytes() == b"new"


def test_an_entry_that_fits_only_in_part_is_taken_back(tmp_path, monkeypatch):
    file = GrowingFile(tmp_path / "a.txt")
    file.append(b"whole")
    room = 3
    write = os.write

    def nearly_full(descriptor: int, data: bytes) -> int:
        nonlocal room
        if room <= 0:
            raise OSError(28, "No space left on device")
        room -= 3
        return write(descriptor, bytes(data[:3]))

    with monkeypatch.context() as patched:
        patched.setattr(growing.os, "write", nearly_full)
        with pytest.raises(SinkError, match=r"a\.txt: can't be written: No space left on device"):
            file.append(b"too long for the disk")
        room = 3
    assert file.path.read_bytes() == b"whole"
    file.append(b", more")
    assert file.path.read_bytes() == b"whole, more"


def test_a_first_entry_that_fails_leaves_no_file(tmp_path, monkeypatch):
    file = GrowingFile(tmp_path / "a.txt")

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(growing.os, "write", full)
        with pytest.raises(SinkError):
            file.append(b"x")
    assert not file.path.exists()
    assert not file.made


def test_a_folder_where_the_file_should_be(tmp_path):
    with pytest.raises(SinkError, match="can't be written: Is a directory"):
        GrowingFile(tmp_path).append(b"x")


def test_a_file_where_a_folder_should_be(tmp_path):
    (tmp_path / "a").write_text("")
    with pytest.raises(SinkError, match=r"can't be written: (Not a directory|File exists)"):
        GrowingFile(tmp_path / "a" / "b.txt").append(b"x")


def test_a_removed_file_is_noticed_within_a_second(tmp_path):
    now = 0.0
    file = GrowingFile(tmp_path / "deep" / "a.txt", clock=lambda: now)
    file.append(b"one")
    shutil.rmtree(tmp_path / "deep")
    now = 0.9
    file.append(b"two")
    now = 1.0
    with pytest.raises(SinkError, match=r"a\.txt: was removed while it was being written"):
        file.append(b"three")
    assert file.abandon() is None
    assert list(tmp_path.iterdir()) == []


def test_a_moved_file_is_written_on(tmp_path):
    now = 0.0
    file = GrowingFile(tmp_path / "a.txt", clock=lambda: now)
    file.append(b"one")
    (tmp_path / "a.txt").rename(tmp_path / "b.txt")
    now = 5.0
    file.append(b"two")
    assert (tmp_path / "b.txt").read_bytes() == b"onetwo"


def test_a_pipe_whose_reader_went_away(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    file = GrowingFile(tmp_path / "pipe")
    file.append(b"one")
    os.close(reader)
    with pytest.raises(SinkError, match="can't be written: Broken pipe"):
        file.append(b"two")
