import errno
import os
import resource
from pathlib import Path

import pytest
import torch

from sharpose.errors import SinkError
from sharpose.files import atomic_file


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
