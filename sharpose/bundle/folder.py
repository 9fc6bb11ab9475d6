"""The folder of a bundle: opening and checking it, changing its `bundle.json`, and the one that is shipped."""

from __future__ import annotations

import hashlib
import reprlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import get_args

from pydantic import BaseModel, ValidationError

from sharpose.bundle.manifest import MANIFEST_NAME, SCHEMA_VERSION, GraphEntry, Manifest, Precision
from sharpose.config import ModelConfig
from sharpose.errors import BundleError, ConfigError, describe_validation_error
from sharpose.files import file_sha256, read_json, replacing
from sharpose.onnx_file import check_node_inputs, declared_inputs, external_data_locations
from sharpose.tokens import check_alpha

RANDOM_WEIGHTS = "random weights"
"""What the source of a bundle with random weights begins with."""

_GRAPH_BYTES = 2 << 30  # of an ONNX file, which can't be longer
_CHECKPOINTS = frozenset({".pth", ".pt", ".ckpt", ".safetensors"})
# Optional: older bundles lack them.
_ADDED_LATER = frozenset({"gate.gain", "verified", "region_slot_agreement", "scores"})


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files are complete and match `bundle.json`."""

    path: Path  # the folder
    manifest: Manifest  # what `bundle.json` says

    @property
    def model(self) -> ModelConfig:
        """The model's configuration."""
        return self.manifest.model

    @property
    def has_random_weights(self) -> bool:
        """Whether the weights were never trained, so that the poses mean nothing."""
        return self.manifest.source.startswith(RANDOM_WEIGHTS)

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """The precisions that the bundle holds graphs of."""
        return tuple(self.manifest.graphs)

    def graph(self, stage: str, precision: Precision = "fp32") -> tuple[Path, GraphEntry]:
        """The ONNX file of `"coarse"` or `"fine"`, and its description at the model's alpha.

        Raises:
            BundleError: the precision isn't there.
        """
        pair = self.manifest.graphs.get(precision)
        if pair is None:
            held = ", ".join(self.precisions)
            both = ",".join(item for item in get_args(Precision) if item in (*self.precisions, precision))
            raise BundleError(
                f"bundle {self.path}: holds {held} graphs, not {precision}; export it with --precision {both}"
            )
        entry = {"coarse": pair.coarse, "fine": pair.fine}[stage]
        return self.path / entry.file, entry.at_regions(self.model.num_selected)

    def graph_sha256(self, stage: str, precision: Precision) -> str:
        """sha256 of a graph's file, and of K where it takes any number of regions; raises as `graph`."""
        sha256 = self.manifest.files[self.graph(stage, precision)[1].file]
        if stage == "coarse" or not self.manifest.graphs[precision].fine.takes_any_regions:
            return sha256
        return hashlib.sha256(f"{sha256} {self.model.num_selected}".encode()).hexdigest()

    @property
    def weights_sha256(self) -> str:
        """sha256 of the file of weights."""
        return self.manifest.files[self.manifest.weights]

    def graphs_sha256(self, precision: Precision) -> str:
        """sha256 of a precision's two graphs (see `graph_sha256`) and the weights; raises as `graph`."""
        graphs = (self.graph_sha256(stage, precision) for stage in ("coarse", "fine"))
        return hashlib.sha256("".join((*graphs, self.weights_sha256)).encode()).hexdigest()

    def at_alpha(self, alpha: float | None) -> Bundle:
        """The bundle whose fine stage looks at another share of the regions, with the same weights; itself if None.

        Raises:
            InputError: `alpha` isn't a number above 0 and at most 1.
            BundleError: a fine graph has another number of regions fixed.
        """
        if alpha is None:
            return self
        model = self.model.replace({"alpha": check_alpha(alpha)})
        fixed = not all(pair.fine.takes_any_regions for pair in self.manifest.graphs.values())
        if fixed and model.num_selected != self.model.num_selected:
            raise BundleError(
                f"bundle {self.path}: alpha {alpha:g} is {model.num_selected} regions, but its fine graph takes "
                f"{self.model.num_selected} alone (alpha {self.model.alpha:g}), as earlier versions exported it; "
                "export it again"
            )
        return Bundle(self.path, self.manifest.model_copy(update={"model": model}))


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
        is_checkpoint = folder.suffix.lower() in _CHECKPOINTS
        how = f"; export the checkpoint: sharpose-export --checkpoint {folder} --output bundle" if is_checkpoint else ""
        raise BundleError(f"bundle {folder}: expected a folder written by sharpose-export, found {found} there{how}")
    manifest = _read_manifest(folder)
    for name, expected in manifest.files.items():
        file = folder / name
        if not file.is_file():
            raise BundleError(f"bundle {folder}: {name} is missing; export it again")
        if file.resolve().parent != folder.resolve():
            raise BundleError(f"bundle {folder}: {name} is a link that leaves the folder")
        try:
            if name != manifest.weights and file.stat().st_size > _GRAPH_BYTES:
                raise BundleError(f"bundle {folder}: {name}: expected a graph of at most {_GRAPH_BYTES} bytes")
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
            _check_graph(folder, entry, manifest.weights)
    return Bundle(folder, manifest)


def change_manifest(folder: Path, change: Callable[[Bundle], dict[str, object]]) -> Bundle:
    """Replace parts of a bundle's `bundle.json`, atomically. Engines that were built from its graphs stay valid.

    Args:
        folder: The bundle.
        change: Gets the bundle as it is now, and gives the new values by the names of `Manifest`.

    Returns:
        The changed bundle.

    Raises:
        BundleError: the bundle isn't valid, or `bundle.json` can't be written.
    """
    bundle = open_bundle(folder)
    changed = Bundle(folder, bundle.manifest.model_copy(update=change(bundle)))
    try:
        with replacing(folder / MANIFEST_NAME) as temporary:
            temporary.write_text(changed.manifest.to_json(), "utf-8")
    except OSError as error:
        raise BundleError(f"bundle {folder}: {MANIFEST_NAME} can't be written ({error.strerror})") from error
    return changed


def _read_manifest(folder: Path) -> Manifest:
    file = folder / MANIFEST_NAME
    if not file.is_file():
        raise BundleError(f"bundle {folder}: no {MANIFEST_NAME} in it; expected a folder written by sharpose-export")
    values = read_json(file, lambda reason: BundleError(f"bundle {folder}: {MANIFEST_NAME}: {reason}"))
    if not isinstance(values, dict):
        raise BundleError(f"bundle {folder}: {MANIFEST_NAME}: expected a JSON object, got {reprlib.repr(values)}")
    version = values.get("schema_version")
    if type(version) is not int or version != SCHEMA_VERSION:  # True and 1.0 equal 1
        raise BundleError(
            f"bundle {folder}: expected schema_version {SCHEMA_VERSION}, got {reprlib.repr(version)}; "
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
    """Keys that fell back to a default: fine in YAML and in code, but a bundle must state everything."""
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            key = ".".join((*path, name))
            if name not in value.model_fields_set and not {key, name} & _ADDED_LATER:
                yield key
            yield from _left_out(getattr(value, name), (*path, name))
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _left_out(item, (*path, str(name)))
    elif isinstance(value, tuple):
        for index, item in enumerate(value):
            yield from _left_out(item, (*path, str(index)))


def _check_graph(folder: Path, entry: GraphEntry, weights: str) -> None:
    """Refuse what ONNX Runtime does for minutes, or crashes on, before it compares inputs and finds that it is wrong.

    That is a graph whose weights are anywhere but in the bundle's one weights file, whose nodes lack an input, or whose
    inputs are of another shape than `bundle.json` says.
    """
    graph = entry.file
    try:
        model = (folder / graph).read_bytes()
        locations = external_data_locations(model)
        check_node_inputs(model)
        inputs = declared_inputs(model)
    except BundleError as error:
        raise BundleError(f"bundle {folder}: {graph}: {error}") from error
    for location in sorted(locations - {weights}):
        raise BundleError(f"bundle {folder}: {graph} takes weights from {location!r}; expected {weights!r} beside it")
    for item in entry.inputs:
        found, expected = inputs.get(item.name), tuple(None if isinstance(side, str) else side for side in item.shape)
        if found not in (None, expected):
            sides = ", ".join("any" if side is None else str(side) for side in found or ())
            raise BundleError(
                f"bundle {folder}: {graph}: input {item.name}: expected [{', '.join(map(str, item.shape))}], as "
                f"{MANIFEST_NAME} has it, found [{sides}]"
            )


SHIPPED_BUNDLE = "sharpose_tiny_coco_256x192"
"""Its folder in `sharpose/weights`; the model card lies beside its `bundle.json`."""


def shipped_bundle() -> Path:
    """The folder of the bundle that comes with the package.

    Raises:
        BundleError: the package was installed without it.
    """
    folder = Path(str(resources.files("sharpose") / "weights" / SHIPPED_BUNDLE))
    if not (folder / MANIFEST_NAME).is_file():
        raise BundleError(
            f"expected the bundle that comes with the package in {folder}, found no {MANIFEST_NAME} there; install "
            "the package again, or name a bundle of your own (--bundle DIR)"
        )
    return folder
