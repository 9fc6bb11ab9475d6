"""The JSON beside a plan file: what it was built from, for whom and how. A plan without one is not believed."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sharpose.config import describe_validation_error
from sharpose.errors import EngineError

__all__ = [
    "SIDECAR_SCHEMA",
    "BuiltFor",
    "EngineTensor",
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
_TEMPORARY = ".tmp"


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
        _write(plan_path, plan)
        _write(sidecar_path, (sidecar.model_dump_json(indent=2) + "\n").encode())
    except OSError as error:
        raise EngineError(f"engine {plan_path}: can't be written ({error.strerror})") from error
    return StoredEngine(plan, sidecar, plan_path)


def remove_stale_files(folder: Path, name: str) -> None:
    """Remove what a killed build of this engine left; only for who holds its lock."""
    for path in folder.glob(f".{name}.*{_TEMPORARY}"):
        path.unlink(missing_ok=True)


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.stem}.{path.suffix[1:]}.{os.getpid()}{_TEMPORARY}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
