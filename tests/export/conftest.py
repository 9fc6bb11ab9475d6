"""A bundle that a test may change."""

from __future__ import annotations

from pathlib import Path

import pytest

from sharpose.bundle import Bundle


@pytest.fixture
def bundle_copy(two_precisions: Bundle, tmp_path: Path) -> Path:
    """A copy of `two_precisions` that a test may change."""
    import shutil

    return Path(shutil.copytree(two_precisions.path, tmp_path / "bundle"))
