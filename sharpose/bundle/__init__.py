"""A bundle: the folder with all that inference needs, and its strict `bundle.json`. Torch-free."""

from __future__ import annotations

from sharpose.bundle.folder import (
    RANDOM_WEIGHTS,
    SHIPPED_BUNDLE,
    Bundle,
    change_manifest,
    open_bundle,
    shipped_bundle,
)
from sharpose.bundle.manifest import (
    MANIFEST_NAME,
    MAX_BATCH,
    MOST_VERIFIED,
    PATCHES_AXIS,
    BatchTime,
    GainCurve,
    Gate,
    GraphEntry,
    GraphPair,
    Manifest,
    OutputParity,
    ParityReport,
    Precision,
    TensorEntry,
    Verified,
    largest_batch,
)

__all__ = [
    "MANIFEST_NAME",
    "MAX_BATCH",
    "MOST_VERIFIED",
    "PATCHES_AXIS",
    "RANDOM_WEIGHTS",
    "SHIPPED_BUNDLE",
    "BatchTime",
    "Bundle",
    "GainCurve",
    "Gate",
    "GraphEntry",
    "GraphPair",
    "Manifest",
    "OutputParity",
    "ParityReport",
    "Precision",
    "TensorEntry",
    "Verified",
    "change_manifest",
    "largest_batch",
    "open_bundle",
    "shipped_bundle",
]
