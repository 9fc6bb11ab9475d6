"""A bundle that a test may change, and verifications that are short."""

from __future__ import annotations

from pathlib import Path

import pytest

from sharpose.bundle import Bundle


@pytest.fixture
def bundle_copy(two_precisions: Bundle, tmp_path: Path) -> Path:
    """A copy of `two_precisions` that a test may change."""
    import shutil

    return Path(shutil.copytree(two_precisions.path, tmp_path / "bundle"))


@pytest.fixture
def few_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """As nothing goes by how fast an engine is."""
    from sharpose.export import verify

    monkeypatch.setattr(verify, "_TIMED_SECONDS", 0.0)


@pytest.fixture
def on_cpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if there were ONNX Runtime on the CPU, and nothing else."""
    from sharpose.export import verify

    monkeypatch.setattr(verify, "_other_devices", list)
