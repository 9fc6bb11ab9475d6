"""The engine cache: finds the engine that fits, and builds it where there is none, or only a stale or damaged one."""

from __future__ import annotations

import hashlib
import json
import re
import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sharpose.engines.gpu import Gpu
from sharpose.engines.tensorrt.library import HardwareLevel
from sharpose.errors import EngineError, describe_validation_error
from sharpose.file_locks import file_lock
from sharpose.files import UNFINISHED, cache_folder, read_json, replacing

KERNELS_SUFFIX = ".kernels"
"""Of the files beside a plan in which TensorRT-RTX keeps what it compiled of it."""

_SCHEMA = 2
_KEY_DIGITS = 24
_AMPERE = (8, 0)
_SIDECAR_LIMIT = 64 << 20  # bytes; TensorRT describes every layer


class UnusableEngineError(EngineError):
    """A stored engine is missing or damaged."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class BuiltFor(_Strict):
    """The GPU that an engine was built on."""

    name: str
    compute_capability: str
    multiprocessors: int
    driver: str


class EngineTensor(_Strict):
    """An input or output."""

    name: str
    mode: Literal["input", "output"]
    dtype: str
    shape: list[int | str] = Field(description="a name is a dynamic axis")


class Profile(_Strict):
    """Shapes of one input in an optimization profile."""

    min: list[int]
    opt: list[int]
    max: list[int]


class Options(_Strict):
    """The build options that change the engine."""

    min_batch: int
    opt_batch: list[int]
    max_batch: int
    workspace_mib: int | None
    optimization_level: int | None
    tf32: bool
    hardware_compatible: HardwareLevel | None
    version_compatible: bool


class Sidecar(_Strict):
    """What `coarse.json` or `fine.json` beside a plan says of it."""

    schema_version: Literal[2]
    sharpose_version: str
    stage: str
    precision: str
    graph_sha256: str
    weights_sha256: str
    flavour: str
    flavour_version: str
    gpu: BuiltFor | None  # None if there was no GPU when it was built
    options: Options
    profiles: list[dict[str, Profile]]  # by the input's name, for each profile
    tensors: list[EngineTensor]
    layers: dict[str, int]  # how many of every kind and dtype the strongly typed network has
    engine_layers: list[str] | None  # the engine's own account; None if there was no GPU to load it
    build_seconds: float
    plan_bytes: int
    plan_sha256: str


@dataclass(frozen=True)
class StoredEngine:
    """A plan (TensorRT's serialized engine) that its sidecar was written for, and the plan's path."""

    plan: bytes
    sidecar: Sidecar
    path: Path


def _paths(folder: Path, name: str) -> tuple[Path, Path]:
    return folder / f"{name}.plan", folder / f"{name}.json"


def _kernels(folder: Path, name: str) -> list[Path]:
    """What TensorRT-RTX compiled of an engine, on any GPU."""
    return list(folder.glob(f"{name}-*{KERNELS_SUFFIX}"))


def read_engine(folder: Path, name: str) -> StoredEngine:
    """Read a plan and check it against its sidecar; raises `UnusableEngineError` with the reason."""
    plan_path, sidecar_path = _paths(folder, name)
    values = read_json(sidecar_path, lambda reason: UnusableEngineError(f"{sidecar_path}: {reason}"), _SIDECAR_LIMIT)
    version = values.get("schema_version") if isinstance(values, dict) else None
    if version != _SCHEMA:
        raise UnusableEngineError(f"{sidecar_path}: expected schema_version {_SCHEMA}, got {reprlib.repr(version)}")
    try:
        sidecar = Sidecar.model_validate(values)
    except ValidationError as error:
        raise UnusableEngineError(f"{sidecar_path}: {describe_validation_error(error)}") from error
    try:
        size = plan_path.stat().st_size
        plan = plan_path.read_bytes() if size == sidecar.plan_bytes else b""
    except OSError as error:
        raise UnusableEngineError(f"{plan_path}: can't be read ({error.strerror})") from error
    if len(plan) != sidecar.plan_bytes or hashlib.sha256(plan).hexdigest() != sidecar.plan_sha256:
        raise UnusableEngineError(
            f"{plan_path}: truncated or changed ({size} bytes, its sidecar expects {sidecar.plan_bytes})"
        )
    return StoredEngine(plan, sidecar, plan_path)


def write_engine(folder: Path, name: str, plan: bytes, sidecar: Sidecar) -> StoredEngine:
    """Write a plan and then its sidecar, each under a temporary name first: an unfinished write is never believed.

    Only for who holds the engine's lock: what a killed build of this engine left is removed.

    Raises:
        EngineError: the folder can't be written.
    """
    plan_path, sidecar_path = _paths(folder, name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = folder.glob(f".{name}.*{UNFINISHED}")
        for stale in (*unfinished, sidecar_path, *_kernels(folder, name)):  # never an old sidecar beside a new plan
            stale.unlink(missing_ok=True)
        with replacing(plan_path) as temporary:
            temporary.write_bytes(plan)
        with replacing(sidecar_path) as temporary:
            temporary.write_text(sidecar.model_dump_json(indent=2) + "\n", "utf-8")
    except OSError as error:
        raise EngineError(f"engine {plan_path}: can't be written ({error.strerror})") from error
    return StoredEngine(plan, sidecar, plan_path)


@dataclass(frozen=True)
class EngineRequest:
    """The engine that is wanted. The gate's threshold is no part of it, so changing that rebuilds nothing.

    The driver isn't either: TensorRT asks for one GPU model and one version of its own, and newer drivers load older
    engines; one that doesn't load is discarded and rebuilt.
    """

    stage: str  # `coarse` or `fine`
    precision: str
    graph_sha256: str  # of the ONNX file
    weights_sha256: str
    flavour: str  # `tensorrt` or `tensorrt_rtx`
    flavour_version: str
    gpu: Gpu | None  # to run on; None where there is none
    options: Options
    any_options: bool = False  # an engine that somebody built with other options, for as many people or fewer, will do
    tf32: bool | None = None  # whether that one must compute in TF32; either will do if None
    portable: bool = False  # an engine that was built without a GPU runs on this one

    @property
    def name(self) -> str:
        """The file name of the engine in the cache, without its suffix: stage and a hash of what it is built from."""
        key = {
            "stage": self.stage,
            "precision": self.precision,
            "graph": self.graph_sha256,
            "weights": self.weights_sha256,
            "tensorrt": [self.flavour, self.flavour_version],
            "gpu": self.gpu_text,
            "options": self.options.model_dump(),
        }
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        return f"{self.stage}-{digest[:_KEY_DIGITS]}"

    @property
    def gpu_text(self) -> str:
        """Model, compute capability and multiprocessors of the GPU, or `none`."""
        return _gpu_text(self.gpu)

    def mismatch(self, sidecar: Sidecar) -> str | None:
        """Why an engine isn't the one wanted, in words; None if it is."""
        options = sidecar.options if self.any_options else self.options
        wanted_version, version = (
            f"{self.flavour} {self.flavour_version}",
            f"{sidecar.flavour} {sidecar.flavour_version}",
        )
        checks = (
            ("stage", self.stage, sidecar.stage),
            ("precision", self.precision, sidecar.precision),
            ("graph", self.graph_sha256[:12], sidecar.graph_sha256[:12]),
            ("weights", self.weights_sha256[:12], sidecar.weights_sha256[:12]),
            ("TensorRT", wanted_version, wanted_version if self._runs_version(sidecar) else version),
            ("GPU", self.gpu_text, self.gpu_text if self._runs_gpu(sidecar) else _gpu_text(sidecar.gpu)),
            ("options", str(options), str(sidecar.options)),
            ("TF32", str(sidecar.options.tf32 if self.tf32 is None else self.tf32), str(sidecar.options.tf32)),
        )
        for what, wanted, found in checks:
            if wanted != found:
                return f"built for {what} {found}, not {wanted}"
        return None

    def _runs_version(self, sidecar: Sidecar) -> bool:
        """Whether an engine that was built for later versions too runs with this one."""
        here, there = _version(self.flavour_version), _version(sidecar.flavour_version)
        if self.flavour != sidecar.flavour or not sidecar.options.version_compatible or not here or not there:
            return False
        return here[0] == there[0] and here >= there

    def _runs_gpu(self, sidecar: Sidecar) -> bool:
        """Whether an engine that was built without a GPU, or for other GPUs too, runs on this one."""
        if sidecar.gpu is None or self.gpu is None:
            return sidecar.gpu is None and self.portable
        here, there = (_version(gpu.compute_capability) for gpu in (self.gpu, sidecar.gpu))
        if self.gpu.integrated or sidecar.options.hardware_compatible is None:  # it isn't supported on Jetson
            return False
        return here == there if sidecar.options.hardware_compatible == "same-compute-capability" else here >= _AMPERE


def _version(text: str) -> tuple[int, ...]:
    """The numbers that a version begins with."""
    match = re.match(r"\d+(\.\d+)*", text)
    return tuple(map(int, match[0].split("."))) if match else ()


def _gpu_text(gpu: Gpu | BuiltFor | None) -> str:
    return "none" if gpu is None else f"{gpu.name} ({gpu.compute_capability}, {gpu.multiprocessors} SMs)"


class EngineCache:
    """A folder of engines (`cache_folder()` if None) that several processes may use at once; made for the first engine.

    `say` is called with a line of text: why an engine is built, or what is waited for.
    """

    def __init__(self, folder: Path | None = None, say: Callable[[str], None] = lambda line: None) -> None:
        self.folder = cache_folder() if folder is None else folder
        self._say = say

    def find(self, request: EngineRequest, also: Path | None = None) -> StoredEngine | None:
        """The engine that is wanted, if it is there and undamaged; first in `also`, where names are those of stages."""
        found = None if also is None else self._look(also, request.stage, request)
        return found or self._look(self.folder, request.name, request)

    def obtain(
        self, request: EngineRequest, build: Callable[[], tuple[bytes, Sidecar]], also: Path | None = None
    ) -> StoredEngine:
        """The engine that is wanted (see `find`), built if it isn't there; however many processes ask, one builds.

        Raises:
            EngineError: it can't be built, or the cache can't be written.
        """
        found = self.find(request, also)
        if found is not None:
            return found
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EngineError(
                f"engine cache {self.folder}: can't be made ({error.strerror}); give a writable --engine-cache"
            ) from error
        with file_lock(
            self.folder / f"{request.name}.lock",
            lambda: self._say(f"{request.stage} engine: another process is building it; waiting"),
        ):
            found = self._look(self.folder, request.name, request, quiet=True)  # who held the lock may have built it
            if found is not None:
                return found
            self._say(f"{request.stage} engine: building it for {request.gpu_text}, into {self.folder}")
            return write_engine(self.folder, request.name, *build())

    def discard(self, engine: StoredEngine) -> bool:
        """Forget an engine that doesn't load; False if it doesn't lie in this cache."""
        if engine.path.parent != self.folder:
            return False
        for path in (engine.path.with_suffix(".json"), *_kernels(self.folder, engine.path.stem)):
            path.unlink(missing_ok=True)
        return True

    def _look(self, folder: Path, name: str, request: EngineRequest, *, quiet: bool = False) -> StoredEngine | None:
        if not any(path.exists() for path in _paths(folder, name)):
            return None
        try:
            engine = read_engine(folder, name)
            mismatch = request.mismatch(engine.sidecar)
            if mismatch is None:
                return engine
            reason = f"{engine.path}: {mismatch}"
        except UnusableEngineError as error:
            reason = str(error)
        if not quiet:
            self._say(f"{request.stage} engine: skipping {reason}")
        return None
