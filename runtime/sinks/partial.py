"""Marking what a failed run leaves behind, so that nobody takes it for the whole."""

from __future__ import annotations

from pathlib import Path

from sharpose.errors import SinkError

__all__ = ["mark_partial"]


def mark_partial(path: Path) -> Path:
    """Renames `out.mp4` to `out.partial.mp4`, replacing one that is there.

    Returns:
        The new path; `path` itself where there is nothing to rename (no file, a device, a pipe).

    Raises:
        SinkError: the file can't be renamed.
    """
    if not path.is_file() or path.is_relative_to("/dev") or path.is_relative_to("/proc"):
        return path
    partial = path.with_name(f"{path.stem}.partial{path.suffix}")
    try:
        path.replace(partial)
    except OSError as error:
        raise SinkError(f"{path}: expected to rename this incomplete file to {partial}: {error.strerror}") from None
    return partial
