"""Shared by all tests: where the extra material lies, and an import path without the checkout's root."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# `./sharpose` at the root would shadow the installed package, whose other folders live beside it.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The material beside the checkout; tests that need it skip where it is absent."""
    path = ROOT.parent / "shared"
    if not (path / "media").is_dir():
        pytest.skip(f"no shared material at {path}")
    return path
