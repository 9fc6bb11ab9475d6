"""Writing a chosen gate into a bundle. Only `bundle.json` changes, so engines stay valid."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from sharpose.bundle import open_bundle
from sharpose.errors import BundleError
from sharpose.manifest import MANIFEST_NAME, GainCurve, Gate

__all__ = ["write_gate"]


def write_gate(folder: Path, threshold: float, chosen_by: str, gain: GainCurve | None = None) -> None:
    """Replace a bundle's gate, atomically: at no time is there half a `bundle.json`.

    Args:
        folder: The bundle.
        threshold: Crops of lower predicted quality are refined.
        chosen_by: How it was found, for people to read.
        gain: What refining gains; None if unknown.

    Raises:
        BundleError: the bundle isn't valid, or can't be written.
    """
    manifest = open_bundle(folder).manifest
    gate = Gate(quality_threshold=threshold, chosen_by=chosen_by, gain=gain)
    changed = manifest.model_copy(update={"gate": gate})
    target = folder / MANIFEST_NAME
    temporary = None
    try:
        mode = target.stat().st_mode & 0o777
        handle, name = tempfile.mkstemp(prefix=f".{MANIFEST_NAME}.", dir=folder)
        temporary = Path(name)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(changed.model_dump_json(indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(mode)
        temporary.replace(target)
    except OSError as error:
        raise BundleError(f"bundle {folder}: {MANIFEST_NAME} can't be written ({error.strerror})") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()
