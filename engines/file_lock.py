"""A lock between processes. The kernel frees it when its holder dies, however it dies."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Callable, Iterator
from pathlib import Path

from sharpose.errors import EngineError

__all__ = ["file_lock"]


@contextlib.contextmanager
def file_lock(path: Path, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold an exclusive lock on a file, which stays there: removing it would let two in.

    Args:
        path: The lock's file, made if need be; its folder must be there.
        on_wait: Called once if somebody else holds it.

    Raises:
        EngineError: the file can't be made, or its file system has no locks.
    """
    try:
        file = path.open("ab")
    except OSError as error:
        raise EngineError(f"lock {path}: can't be made ({error.strerror}); give a writable --engine-cache") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            raise EngineError(
                f"lock {path}: its file system has no locks ({error.strerror}); give another --engine-cache"
            ) from error
        yield
