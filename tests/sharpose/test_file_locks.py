"""Files and folders that one run at a time may write."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from pathlib import Path

import pytest

from sharpose.errors import OutputTakenError
from sharpose.file_locks import check_not_held, file_lock, hold_folder, open_to_write
from sharpose.files import GrowingFile


def test_a_file_that_another_run_writes_is_refused_untouched(tmp_path):
    path = tmp_path / "a.txt"
    first, second = GrowingFile(path), GrowingFile(path)
    check_not_held(path)  # nothing is there yet
    first.append(b"one\n")
    with pytest.raises(OutputTakenError, match=r"a\.txt: is being written by another run"):
        check_not_held(path)
    with pytest.raises(OutputTakenError):
        second.append(b"two\n")
    assert second.abandon() is None
    first.append(b"three\n")
    assert path.read_bytes() == b"one\nthree\n"
    first.close()
    check_not_held(path)
    GrowingFile(path).append(b"four\n")
    assert path.read_bytes() == b"four\n"
    assert [found.name for found in tmp_path.iterdir()] == ["a.txt"]


def test_runs_that_look_at_the_same_time_do_not_refuse_each_other(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.touch()
    looks, flock = [], fcntl.flock

    def look_meanwhile(descriptor, operation):
        flock(descriptor, operation)
        looks.append(operation)
        if len(looks) == 1:
            check_not_held(path)  # another run's, while the first one's lock lasts

    monkeypatch.setattr("fcntl.flock", look_meanwhile)
    check_not_held(path)
    assert len(looks) == 2


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_breaks_nothing(tmp_path, monkeypatch, number):
    def refuse(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    file = GrowingFile(tmp_path / "a.txt")
    file.append(b"one\n")
    file.close()
    check_not_held(tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_bytes() == b"one\n"


def test_a_pipe_and_a_device_are_not_held(tmp_path):
    first, second = open_to_write(Path("/dev/null")), open_to_write(Path("/dev/null"))
    os.close(first)
    os.close(second)
    os.mkfifo(tmp_path / "pipe")
    check_not_held(tmp_path / "pipe")  # doesn't wait for a writer


def test_a_folder_that_another_run_writes_is_refused(tmp_path: Path) -> None:
    held = hold_folder(tmp_path)
    with pytest.raises(OutputTakenError, match="is being written by another run"):
        check_not_held(tmp_path)
    with pytest.raises(OutputTakenError):
        hold_folder(tmp_path)
    held.close()
    check_not_held(tmp_path)
    hold_folder(tmp_path).close()
    assert list(tmp_path.iterdir()) == []


def test_who_waits_for_a_lock_says_so_and_gets_it(tmp_path: Path) -> None:
    order: list[str] = []
    waiting = threading.Event()

    def second() -> None:
        with file_lock(tmp_path / "lock", waiting.set):
            order.append("second")

    thread = threading.Thread(target=second)
    with file_lock(tmp_path / "lock", lambda: pytest.fail("nobody has it")):
        thread.start()
        assert waiting.wait(30)
        order.append("first")
    thread.join(30)
    assert order == ["first", "second"]
