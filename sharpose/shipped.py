"""The bundle that comes with the package, for those who name none."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from sharpose.errors import BundleError
from sharpose.manifest import MANIFEST_NAME

__all__ = ["SHIPPED_BUNDLE", "shipped_bundle"]

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
