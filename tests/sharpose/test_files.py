"""Files: documents read with limits, and files that are whole at every moment: replaced, growing, partial."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import stat
from pathlib import Path

import pytest
import torch

from sharpose.errors import ConfigError, InputError, SinkError
from sharpose.files import (
    GrowingFile,
    atomic_file,
    cache_folder,
    file_sha256,
    found_at,
    mark_partial,
    parse_yaml,
    read_json,
    read_yaml,
    replacing,
    to_disk,
)


def explosion(levels: int) -> str:
    """Aliases that repeat nine times what repeats nine times …"""
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels))]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b" ", r"not JSON \(Expecting value: line 1 column 2"),
        (b"{", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"[" * 200_000, "JSON nested too deeply"),
        (b"[%s]" % (b"1" * 5000), r"not JSON \(an integer of more than 4300 digits\)"),
        (b" " * (1 << 20) + b"1", "expected at most 1048576 bytes, got 1048577"),
    ],
)
def test_json_that_is_none(tmp_path: Path, content: bytes, words: str) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=f"^a: {words}"):
        read_json(file, lambda reason: ConfigError(f"a: {reason}"))


def test_a_document_that_is_no_file(tmp_path: Path) -> None:
    for path, words in (
        (tmp_path / "none", "No such file"),
        (tmp_path, "Is a directory"),
        (tmp_path / "a\0b", "null byte"),
        (Path("/dev/zero"), "expected at most 10 bytes, got more"),
    ):
        with pytest.raises(ConfigError, match=words):
            read_json(path, ConfigError, 10)
    sparse = tmp_path / "sparse.json"
    sparse.touch()
    os.truncate(sparse, 6 << 30)
    for read in (read_json, read_yaml):
        with pytest.raises(ConfigError, match="got 6442450944"):
            read(sparse, ConfigError)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1, 2", "not valid YAML"),
        ("a: \0", "not valid YAML"),
        ("a: 2001-99-99", "not valid YAML"),
        ("a: !!timestamp x", "not valid YAML"),
        ("a: !!int ''", "not valid YAML"),
        ("a: " + "1" * 5000, "an integer of more than 4300 digits"),
        ("a: " + "1:" * 2000 + "1.5", "not valid YAML"),
        ("[" * 100_000, "at most 50 levels"),
        (explosion(20), "at most 50 levels and 100000 values"),
        ("\n".join(f"- [{', '.join(['x'] * 1000)}]" for _ in range(101)), "in line 100"),
        ("a: &a [*a]", r"alias \*a stands inside of what it repeats"),
        ("a: &a {<<: *a}", r"alias \*a stands inside of what it repeats"),
    ],
)
def test_yaml_that_is_none(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as refused:
        parse_yaml(text, ConfigError)
    assert len(str(refused.value)) < 500


def test_aliases_and_merge_keys_within_limits_are_read(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("\ufeffa: &a {b: 1}\nc: {<<: *a, d: [*a, *a]}\n")
    assert read_yaml(file, ConfigError) == {"a": {"b": 1}, "c": {"b": 1, "d": [{"b": 1}, {"b": 1}]}}


def names(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir()]


def write(path: Path, content: bytes, error: type[BaseException] | None = None) -> None:
    with atomic_file(path) as temporary:
        temporary.write_bytes(content)
        if error is not None:
            raise error


def test_a_file_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    with atomic_file(path) as temporary:
        temporary.write_bytes(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(error):
        write(path, b"half", error)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_a_full_disk_is_named_and_the_old_file_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with (
        pytest.raises(SinkError, match=r"a\.bin: can't be written \(No space left on device\); the earlier one is unt"),
        atomic_file(path) as temporary,
    ):
        temporary.write_bytes(b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_a_folder_that_can_not_be_synced_holds_the_new_file_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync
    refused: list[int] = []

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode) or code == errno.EIO:
            refused.append(code)
            raise OSError(code, os.strerror(code))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    for code in (errno.EINVAL, errno.EBADF, errno.ENOTSUP):
        write(tmp_path / "a.bin", b"new %d" % code)
        assert (tmp_path / "a.bin").read_bytes() == b"new %d" % code
    code = errno.EIO  # a disk that fails
    with pytest.raises(OSError, match="Input/output error"):
        to_disk(tmp_path)
    assert refused == [errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EIO]


def test_two_writers_of_one_process_number_write_files_of_their_own(tmp_path: Path) -> None:
    """As the first processes of two containers with one volume are: both are number 1."""
    path = tmp_path / "a.json"
    with replacing(path) as first:
        first.write_text("first, half")
        with replacing(path) as second:
            second.write_text("second, whole")
        assert path.read_text() == "second, whole"
        assert first.read_text() == "first, half"
        first.write_text("first, whole")
    assert path.read_text() == "first, whole"
    assert names(tmp_path) == ["a.json"]


def test_a_disk_that_fills_while_torch_writes(tmp_path: Path) -> None:
    """A real limit on file sizes: torch's writer fails in the middle, in its own way."""
    path = tmp_path / "a.pth"
    torch.save({"x": torch.zeros(3)}, path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(SinkError, match=r"a\.pth: can't be written"), atomic_file(path) as temporary:
            torch.save({"x": torch.zeros(1_000_000)}, temporary)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert torch.equal(torch.load(path, weights_only=True)["x"], torch.zeros(3))
    assert names(tmp_path) == ["a.pth"]


def test_permissions_are_those_of_the_file_before(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    for mode in (0o644, 0o600):
        with replacing(path, sync=False) as temporary:
            temporary.write_bytes(b"new")
        assert path.stat().st_mode & 0o777 == mode
        path.chmod(0o600)


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
        patched.setattr(os, "write", nearly_full)
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
        patched.setattr(os, "write", full)
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


def test_the_suffix_stays_last(tmp_path):
    path = tmp_path / "out.v2.mp4"
    path.write_text("half")
    assert mark_partial(path) == tmp_path / "out.v2.partial.mp4"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.v2.partial.mp4"]


def test_an_older_partial_file_gives_way(tmp_path):
    (tmp_path / "out.partial.json").write_text("old")
    (tmp_path / "out.json").write_text("new")
    assert mark_partial(tmp_path / "out.json").read_text() == "new"


def test_what_is_no_file_keeps_its_name(tmp_path):
    assert mark_partial(tmp_path / "missing.json") == tmp_path / "missing.json"
    assert mark_partial(Path("/dev/null")) == Path("/dev/null")
    os.mkfifo(tmp_path / "pipe.json")
    assert mark_partial(tmp_path / "pipe.json") == tmp_path / "pipe.json"
    assert (tmp_path / "pipe.json").exists()


def test_what_can_not_be_renamed(tmp_path):
    (tmp_path / "out.json").write_text("new")
    (tmp_path / "out.partial.json").mkdir()
    with pytest.raises(SinkError, match=r"out\.json: expected to rename this incomplete file"):
        mark_partial(tmp_path / "out.json")


@pytest.mark.parametrize(
    ("variable", "expected"), [("/x/y", "/x/y/sharpose"), ("", ".cache/sharpose"), ("rel", ".cache/sharpose")]
)
def test_the_default_folder_follows_xdg(monkeypatch, variable, expected):
    monkeypatch.setenv("XDG_CACHE_HOME", variable)
    assert str(cache_folder()).endswith(expected)
    assert cache_folder().is_absolute()


def test_the_default_folder_on_windows_is_the_users_own_of_that_machine(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("LOCALAPPDATA", "/users/me/local")
    assert str(cache_folder()).endswith(".cache/sharpose")
    monkeypatch.setattr("sys.platform", "win32")
    assert str(cache_folder()) == "/users/me/local/sharpose"
    monkeypatch.setenv("XDG_CACHE_HOME", "/x/y")
    assert str(cache_folder()) == "/x/y/sharpose"


def test_a_user_without_a_home_folder_needs_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(number: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.setenv("XDG_CACHE_HOME", "/x/y")
    assert str(cache_folder()) == "/x/y/sharpose"
    monkeypatch.delenv("XDG_CACHE_HOME")
    with pytest.raises(InputError, match=r"^cache folder: this user has no home folder; set XDG_CACHE_HOME to the "):
        cache_folder()


def test_what_stands_at_a_path(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "file").write_text("x")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to("nowhere")
    found = {name: found_at(tmp_path / name) for name in ("", "empty", "file", "pipe", "gone", "dangling", "file/x")}
    assert found == {
        "": "a folder",
        "empty": "an empty file",
        "file": "a file",
        "pipe": "a special file",
        "gone": "nothing",
        "dangling": "nothing",
        "file/x": "nothing",
    }
    assert found_at(tmp_path / ("a" * 300)) == "something that can't be looked at (File name too long)"


def test_a_files_hash(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert file_sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    (tmp_path / "a").write_bytes(b"")
    assert file_sha256(tmp_path / "a").startswith("e3b0c44298fc1c14")
