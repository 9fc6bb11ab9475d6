"""The commands as they are called by scripts."""

from __future__ import annotations

import sys

import pytest


@pytest.fixture(scope="session")
def on_path(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment, with `sharpose-run` and `sharpose-archive` of this checkout first on the path."""
    folder = tmp_path_factory.mktemp("bin")
    for name in ("run", "archive"):
        program = folder / f"sharpose-{name}"
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m sharpose {name} "$@"\n', "utf-8")
        program.chmod(0o755)
    return environment | {"PATH": f"{folder}:{environment['PATH']}"}
