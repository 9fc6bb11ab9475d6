"""TensorRT's timing cache: how fast kernels were, kept in a file so that a build doesn't measure them again."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sharpose.engines import Untyped
from sharpose.engines.gpu import Gpu
from sharpose.engines.tensorrt.library import TensorRtFlavour, because, collect_errors
from sharpose.errors import EngineError
from sharpose.file_locks import file_lock
from sharpose.files import UNFINISHED, replacing

_log = logging.getLogger("sharpose.tensorrt")


class TimingCache:
    """A timing cache for one build.

    Args:
        path: Its file.
        given: Whether the user named the file: then TensorRT must take it. One of our own is replaced if it doesn't.
    """

    def __init__(self, path: Path, *, given: bool) -> None:
        self._path, self._given = path, given
        self._cache: Untyped = None

    def attach(self, config: Untyped) -> None:
        """Let a builder configuration read and extend it. Raises `EngineError` where the given file can't be used."""
        try:
            data = self._path.read_bytes() if self._path.exists() else b""
        except OSError as error:
            raise EngineError(f"--timing-cache {self._path}: can't be read ({error.strerror})") from error
        for content in (data,) if self._given else (data, b""):
            with collect_errors() as messages:
                self._cache = config.create_timing_cache(content)
                if self._cache is not None and config.set_timing_cache(self._cache, False):
                    return
        reason = because(messages, "made by another version or for another GPU")
        raise EngineError(f"--timing-cache {self._path}: TensorRT refuses it{reason}; give a new file")

    def save(self) -> None:
        """Write it back, atomically. Where that can't be written the log says so: the engine is worth more."""
        try:
            with replacing(self._path) as temporary:
                temporary.write_bytes(self._cache.serialize())
        except OSError as error:
            _log.warning("%s: can't be written, so the next build measures kernels again (%s)", self._path, error)


@contextlib.contextmanager
def open_timing_cache(
    flavour: TensorRtFlavour, given: Path | None, folder: Path, gpu: Gpu | None
) -> Iterator[TimingCache | None]:
    """A timing cache for a build inside the block, saved after it; None for TensorRT-RTX, which honours none.

    Args:
        flavour: Which TensorRT.
        given: The file that the user named, or None for one in `folder`, locked meanwhile, for this version and GPU.
        folder: Where engines are written.
        gpu: That kernels are measured on.

    Raises:
        EngineError: the file can't be read or used, or its folder can't be written, which is tried before the block.
    """
    if flavour.is_rtx:
        yield None
        return
    if given is not None:
        try:
            with tempfile.NamedTemporaryFile(dir=given.parent, prefix=f".{given.name}.", suffix=UNFINISHED):
                pass
        except OSError as error:
            raise EngineError(f"--timing-cache {given}: can't be written there ({error.strerror})") from error
        cache = TimingCache(given, given=True)
        yield cache
        cache.save()
        return
    name = f"timing-{flavour.version}-{'none' if gpu is None else gpu.file_name}"
    # Held for the whole build: two builds at once would also measure each other.
    with file_lock(folder / f".{name}.lock"):
        cache = TimingCache(folder / f"{name}.cache", given=False)
        yield cache
        cache.save()
