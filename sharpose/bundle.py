"""Opening a bundle: the folder that holds all that inference needs. Every file is checked before anything is run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError

from sharpose.config import ModelConfig, describe_validation_error
from sharpose.errors import BundleError, ConfigError
from sharpose.manifest import MANIFEST_NAME, SCHEMA_VERSION, GraphEntry, Manifest, Precision
from sharpose.onnx_locations import external_data_locations

__all__ = ["Bundle", "file_sha256", "open_bundle"]

_CHUNK = 1 << 20  # bytes

_ADDED_LATER = frozenset({"gate.gain"})  # bundles that were written before lack them, and are none the worse


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files are all there and are those that `bundle.json` was written for.

    Attributes:
        path: The folder.
        manifest: What `bundle.json` says.
    """

    path: Path
    manifest: Manifest

    @property
    def model(self) -> ModelConfig:
        """The model's configuration."""
        return self.manifest.model

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """The precisions that the bundle holds graphs of."""
        return tuple(self.manifest.graphs)

    def graph(self, stage: str, precision: Precision = "fp32") -> tuple[Path, GraphEntry]:
        """The ONNX file of `"coarse"` or `"fine"` and its description; `BundleError` if the precision isn't there."""
        pair = self.manifest.graphs.get(precision)
        if pair is None:
            raise BundleError(f"bundle {self.path}: holds {', '.join(self.precisions)} graphs, not {precision}")
        entry = {"coarse": pair.coarse, "fine": pair.fine}[stage]
        return self.path / entry.file, entry


def file_sha256(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def open_bundle(path: str | Path) -> Bundle:
    """Open and check a bundle.

    Args:
        path: The bundle's folder.

    Raises:
        BundleError: the folder or a file is missing, `bundle.json` isn't valid, a file isn't the one that was exported,
            or a graph points outside the folder.
    """
    folder = Path(path)
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise BundleError(f"bundle {folder}: expected a folder written by sharpose-export, found {found} there")
    manifest = _read_manifest(folder)
    for name, expected in manifest.files.items():
        file = folder / name
        if not file.is_file():
            raise BundleError(f"bundle {folder}: {name} is missing; export it again")
        if file.resolve().parent != folder.resolve():
            raise BundleError(f"bundle {folder}: {name} is a link that leaves the folder")
        try:
            actual = file_sha256(file)
        except OSError as error:
            raise BundleError(f"bundle {folder}: {name} can't be read ({error.strerror})") from error
        if actual != expected:
            raise BundleError(
                f"bundle {folder}: {name} is damaged or was changed (expected sha256 {expected[:12]}…, "
                f"got {actual[:12]}…); export it again"
            )
    for pair in manifest.graphs.values():
        for entry in (pair.coarse, pair.fine):
            _check_locations(folder, entry.file, manifest.weights)
    return Bundle(folder, manifest)


def _read_manifest(folder: Path) -> Manifest:
    file = folder / MANIFEST_NAME
    if not file.is_file():
        raise BundleError(f"bundle {folder}: no {MANIFEST_NAME} in it; expected a folder written by sharpose-export")
    try:
        values = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"bundle {folder}: {MANIFEST_NAME} can't be read as JSON ({error})") from error
    version = values.get("schema_version") if isinstance(values, dict) else None
    if type(version) is not int or version != SCHEMA_VERSION:  # True and 1.0 equal 1
        raise BundleError(
            f"bundle {folder}: expected schema_version {SCHEMA_VERSION}, got {version!r}; "
            "export it again with this version"
        )
    try:
        manifest = Manifest.model_validate(values)
    except (ValidationError, ConfigError) as error:
        reason = describe_validation_error(error) if isinstance(error, ValidationError) else str(error)
        raise BundleError(f"bundle {folder}: {MANIFEST_NAME}: {reason}") from error
    for key in _left_out(manifest):
        raise BundleError(f"bundle {folder}: {MANIFEST_NAME}: {key}: missing key")
    return manifest


def _left_out(value: object, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Keys that fell back to a default; that is for YAML files and for code, a bundle says everything."""
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            key = ".".join((*path, name))
            if name not in value.model_fields_set and key not in _ADDED_LATER:
                yield key
            yield from _left_out(getattr(value, name), (*path, name))
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _left_out(item, (*path, str(name)))
    elif isinstance(value, tuple):
        for index, item in enumerate(value):
            yield from _left_out(item, (*path, str(index)))


def _check_locations(folder: Path, graph: str, weights: str) -> None:
    """Refuse a graph whose weights are anywhere but in the bundle's one weights file."""
    try:
        locations = external_data_locations((folder / graph).read_bytes())
    except BundleError as error:
        raise BundleError(f"bundle {folder}: {graph}: {error}") from error
    for location in sorted(locations - {weights}):
        raise BundleError(f"bundle {folder}: {graph} takes weights from {location!r}; expected {weights!r} beside it")
