"""TensorRT-RTX's runtime cache: kernels that it compiled for an engine on this GPU, kept in a file beside the plan."""

from __future__ import annotations

import hashlib
import logging

from sharpose.engines import Untyped
from sharpose.engines.gpu import Gpu
from sharpose.engines.tensorrt.cache import KERNELS_SUFFIX, StoredEngine
from sharpose.engines.tensorrt.library import collect_errors
from sharpose.errors import EngineError
from sharpose.file_locks import file_lock
from sharpose.files import replacing

_log = logging.getLogger("sharpose.tensorrt")
_DIGEST_BYTES = 32


class KernelCache:
    """The one `IRuntimeCache` of all contexts of an engine.

    The file is a sha256 of what follows and of the plan, then TensorRT-RTX's own bytes, which it checks against its
    version, the GPU and the driver. A file that doesn't fit is ignored and replaced.

    Args:
        stored: The engine; the file lies beside its plan.
        gpu: That it runs on; a plan that runs on several has a file for each.
    """

    def __init__(self, stored: StoredEngine, gpu: Gpu) -> None:
        self._path = stored.path.with_name(f"{stored.path.stem}-{gpu.file_name}{KERNELS_SUFFIX}")
        self._plan_sha256 = stored.sidecar.plan_sha256.encode()
        self._cache: Untyped = None
        self._kept = b""  # what the file has of it
        self._unfit = b""  # what the file had that TensorRT-RTX refused

    def attach(self, configuration: Untyped) -> None:
        """Fill it from its file, and let contexts that are made with this configuration use it."""
        cache = configuration.create_runtime_cache()
        if cache is None:
            return
        content = self._read()
        with collect_errors():  # it says there why a file doesn't fit
            if content and cache.deserialize(content):
                self._kept = content
            else:
                self._unfit = content
        if configuration.set_runtime_cache(cache):
            self._cache = cache

    def save(self) -> None:
        """Write what was compiled since it was filled. Where that can't be written, the log says so."""
        content = b"" if self._cache is None else bytes(self._cache.serialize() or b"")
        if not content or content == self._kept:
            return
        try:
            with file_lock(self._path.with_name(f".{self._path.name}.lock")):
                there = self._read()
                if there == self._unfit or len(there) < len(content):  # another process may have compiled more
                    with replacing(self._path) as temporary:
                        temporary.write_bytes(self._digest(content) + content)
        except (OSError, EngineError) as error:
            _log.warning("%s: compiled kernels can't be kept, so every start compiles them (%s)", self._path, error)
        self._kept = content

    def close(self) -> None:
        """Free it, after the contexts."""
        self._cache = None

    def _read(self) -> bytes:
        try:
            content = self._path.read_bytes()
        except OSError:
            return b""
        digest, content = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        return content if digest == self._digest(content) else b""

    def _digest(self, content: bytes) -> bytes:
        return hashlib.sha256(self._plan_sha256 + content).digest()
