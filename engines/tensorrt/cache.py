"""The engine cache: finds the engine that fits, and builds it where there is none, or only a stale or broken one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sharpose.config import describe_validation_error
from sharpose.engines.gpu import Gpu
from sharpose.errors import EngineError
from sharpose.files import UNFINISHED, cache_folder, file_lock, replacing

__all__ = [
    "SIDECAR_SCHEMA",
    "BuiltFor",
    "EngineCache",
    "EngineRequest",
    "EngineTensor",
    "PlanAndSidecar",
    "Profile",
    "Sidecar",
    "StoredEngine",
    "UnusableEngineError",
    "engine_paths",
    "read_engine",
    "remove_stale_files",
    "write_engine",
]

SIDECAR_SCHEMA = 1


class UnusableEngineError(EngineError):
    """A stored engine is missing, damaged, or not the one that is wanted."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class BuiltFor(_Strict):
    """The GPU that an engine was built on."""

    name: str
    compute_capability: str
    driver: str


class EngineTensor(_Strict):
    """An input or output."""

    name: str
    mode: Literal["input", "output"]
    dtype: str
    shape: list[int | str] = Field(description="a name is a dynamic axis")


class Profile(_Strict):
    """Shapes of one input that the engine takes."""

    min: list[int]
    opt: list[int]
    max: list[int]


class Options(_Strict):
    """The builder's options."""

    min_batch: int
    opt_batch: int
    max_batch: int
    workspace_mib: int | None
    optimization_level: int | None
    hardware_compatible: bool
    version_compatible: bool


class Sidecar(_Strict):
    """The whole of `coarse.json` or `fine.json`.

    Attributes:
        gpu: None if there was no GPU when it was built.
        layers: How many layers of every kind and dtype the strongly typed network has.
        engine_layers: The engine's own account of its layers; None if there was no GPU to load it.
    """

    schema_version: Literal[1]
    sharpose_version: str
    stage: str
    precision: str
    graph_sha256: str
    weights_sha256: str
    flavour: str
    flavour_version: str
    gpu: BuiltFor | None
    options: Options
    profiles: dict[str, Profile]
    tensors: list[EngineTensor]
    layers: dict[str, int]
    engine_layers: list[str] | None
    build_seconds: float
    plan_bytes: int
    plan_sha256: str


class StoredEngine:
    """A plan whose bytes are those that its sidecar was written for.

    Attributes:
        plan: The serialized engine.
        sidecar: What it is.
        path: Where it lies.
    """

    def __init__(self, plan: bytes, sidecar: Sidecar, path: Path) -> None:
        self.plan = plan
        self.sidecar = sidecar
        self.path = path


def engine_paths(folder: Path, name: str) -> tuple[Path, Path]:
    """The plan and the sidecar of an engine's name."""
    return folder / f"{name}.plan", folder / f"{name}.json"


def read_engine(folder: Path, name: str) -> StoredEngine:
    """Read a plan and check it against its sidecar; raises `UnusableEngineError` with the reason."""
    plan_path, sidecar_path = engine_paths(folder, name)
    try:
        values = json.loads(sidecar_path.read_text("utf-8"))
        plan = plan_path.read_bytes()
    except FileNotFoundError as error:
        raise UnusableEngineError(f"{error.filename}: no such file") from None
    except (OSError, ValueError) as error:
        raise UnusableEngineError(f"{plan_path}: it or its sidecar can't be read ({error})") from error
    version = values.get("schema_version") if isinstance(values, dict) else None
    if version != SIDECAR_SCHEMA:
        raise UnusableEngineError(f"{sidecar_path}: expected schema_version {SIDECAR_SCHEMA}, got {version!r}")
    try:
        sidecar = Sidecar.model_validate(values)
    except ValidationError as error:
        raise UnusableEngineError(f"{sidecar_path}: {describe_validation_error(error)}") from error
    if len(plan) != sidecar.plan_bytes or hashlib.sha256(plan).hexdigest() != sidecar.plan_sha256:
        raise UnusableEngineError(
            f"{plan_path}: truncated or changed ({len(plan)} bytes, its sidecar speaks of {sidecar.plan_bytes})"
        )
    return StoredEngine(plan, sidecar, plan_path)


def write_engine(folder: Path, name: str, plan: bytes, sidecar: Sidecar) -> StoredEngine:
    """Write a plan and then its sidecar, each under a temporary name first: whatever is cut off is not believed.

    Raises:
        EngineError: the folder can't be written.
    """
    plan_path, sidecar_path = engine_paths(folder, name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sidecar_path.unlink(missing_ok=True)  # never an old sidecar beside a new plan
        with replacing(plan_path) as temporary:
            temporary.write_bytes(plan)
        with replacing(sidecar_path) as temporary:
            temporary.write_text(sidecar.model_dump_json(indent=2) + "\n", "utf-8")
    except OSError as error:
        raise EngineError(f"engine {plan_path}: can't be written ({error.strerror})") from error
    return StoredEngine(plan, sidecar, plan_path)


def remove_stale_files(folder: Path, name: str) -> None:
    """Remove what a killed build of this engine left; only for who holds its lock."""
    for path in folder.glob(f".{name}.*{UNFINISHED}"):
        path.unlink(missing_ok=True)


_KEY_DIGITS = 24


class PlanAndSidecar(Protocol):
    """What a build gives."""

    @property
    def plan(self) -> bytes:
        """The serialized engine."""
        ...

    @property
    def sidecar(self) -> Sidecar:
        """What is to be written beside it."""
        ...


@dataclass(frozen=True)
class EngineRequest:
    """The engine that is wanted. The gate's threshold is no part of it, so changing that rebuilds nothing.

    The driver isn't either: TensorRT asks for one GPU model and one version of its own, and newer drivers load older
    engines; one that doesn't load is discarded and built anew.

    Attributes:
        stage: `coarse` or `fine`.
        precision: Of the graph.
        graph_sha256: Of the ONNX file.
        weights_sha256: Of its weights.
        flavour: The module's name.
        flavour_version: As it says.
        gpu: The GPU to run on; None where there is none.
        options: The builder's.
        any_options: Whether an engine that somebody built with other options, for as many people or fewer, will do.
        portable: Whether an engine that was built without a GPU runs on this one.
    """

    stage: str
    precision: str
    graph_sha256: str
    weights_sha256: str
    flavour: str
    flavour_version: str
    gpu: Gpu | None
    options: Options
    any_options: bool = False
    portable: bool = False

    @property
    def name(self) -> str:
        """The file name of the engine in the cache, without its ending."""
        key = _key(self)
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        return f"{self.stage}-{digest[:_KEY_DIGITS]}"

    def misfit(self, sidecar: Sidecar) -> str | None:
        """Why an engine isn't the one wanted, in words; None if it is."""
        checks = [
            ("stage", self.stage, sidecar.stage),
            ("precision", self.precision, sidecar.precision),
            ("graph", self.graph_sha256[:12], sidecar.graph_sha256[:12]),
            ("weights", self.weights_sha256[:12], sidecar.weights_sha256[:12]),
            ("TensorRT", f"{self.flavour} {self.flavour_version}", f"{sidecar.flavour} {sidecar.flavour_version}"),
            ("GPU", _gpu_text(self.gpu), self._built_on(sidecar)),
        ]
        if not self.any_options:
            checks.append(("options", str(self.options), str(sidecar.options)))
        for what, wanted, found in checks:
            if wanted != found:
                return f"built for {what} {found}, not {wanted}"
        return None

    def _built_on(self, sidecar: Sidecar) -> str:
        if sidecar.gpu is None:
            return _gpu_text(self.gpu) if self.portable else "none"
        return f"{sidecar.gpu.name} ({sidecar.gpu.compute_capability})"


def _key(request: EngineRequest) -> dict[str, object]:
    """What makes an engine another engine."""
    return {
        "stage": request.stage,
        "precision": request.precision,
        "graph": request.graph_sha256,
        "weights": request.weights_sha256,
        "tensorrt": [request.flavour, request.flavour_version],
        "gpu": _gpu_text(request.gpu),
        "options": request.options.model_dump(),
    }


class EngineCache:
    """A folder of engines that several processes may use at once.

    Args:
        folder: Where they lie; `cache_folder()` if None. Made when something is built.
        say: Told in a line why an engine is built, or what is waited for.
    """

    def __init__(self, folder: Path | None = None, say: Callable[[str], None] = lambda line: None) -> None:
        self.folder = cache_folder() if folder is None else folder
        self._say = say

    def find(self, request: EngineRequest, also: Path | None = None) -> StoredEngine | None:
        """The engine that is wanted, if it is there and whole.

        Args:
            request: Which.
            also: Another folder, whose engines are named after their stage; asked first.
        """
        if also is not None:
            found = self._look(also, request.stage, request)
            if found is not None:
                return found
        return self._look(self.folder, request.name, request)

    def obtain(
        self, request: EngineRequest, build: Callable[[], PlanAndSidecar], also: Path | None = None
    ) -> StoredEngine:
        """The engine that is wanted, built if it isn't there; however many processes ask, one builds.

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
            remove_stale_files(self.folder, request.name)
            self._say(f"{request.stage} engine: building it for {_gpu_text(request.gpu)}, into {self.folder}")
            built = build()
            return write_engine(self.folder, request.name, built.plan, built.sidecar)

    def discard(self, engine: StoredEngine) -> bool:
        """Forget an engine that doesn't load; False if it isn't the cache's own to forget."""
        if engine.path.parent != self.folder:
            return False
        _, sidecar = engine_paths(self.folder, engine.path.stem)
        sidecar.unlink(missing_ok=True)
        return True

    def _look(self, folder: Path, name: str, request: EngineRequest, *, quiet: bool = False) -> StoredEngine | None:
        plan, sidecar = engine_paths(folder, name)
        if not sidecar.exists() and not plan.exists():
            return None
        try:
            engine = read_engine(folder, name)
        except UnusableEngineError as error:
            reason: str | None = str(error)
        else:
            reason = request.misfit(engine.sidecar)
            if reason is None:
                return engine
            reason = f"{plan}: {reason}"
        if not quiet:
            self._say(f"{request.stage} engine: passing over {reason}")
        return None


def _gpu_text(gpu: Gpu | None) -> str:
    return "none" if gpu is None else f"{gpu.name} ({gpu.compute_capability})"
