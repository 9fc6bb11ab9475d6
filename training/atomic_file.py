"""A file that appears whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sharpose.errors import SinkError

__all__ = ["atomic_file"]


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`, which takes its place when the block ends without an error.

    It is on the disk (fsync) before it is renamed, so that neither a killed process nor a lost power supply leaves
    half a file under that name. Any error, Ctrl-C included, removes the temporary file.

    Raises:
        SinkError: the file can't be written, as on a full disk; what was there before stays as it is.
    """
    temporary: Path | None = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.unfinished-", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        temporary.chmod(0o644)
        _to_disk(temporary)
        temporary.replace(path)
        temporary = None
        _to_disk(path.parent)
    # torch's writer turns a full disk into a RuntimeError of many lines
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).split("\n")[0][:160]
        kept = "; the earlier one is untouched" if path.exists() else ""
        raise SinkError(
            f"{path}: can't be written ({reason}){kept}; free some space and go on with --resume"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
