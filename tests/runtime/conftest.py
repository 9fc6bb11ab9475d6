"""For the tests of the runtime: `sharpose-run` in a process that can't import torch."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from cli_files import Run


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The process's own environment, but for torch: `import torch` fails as where it isn't installed."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "sitecustomize.py").write_text("import sys\nsys.modules['torch'] = None\n")
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"PYTHONPATH": path, "COLUMNS": "100"}


@pytest.fixture
def sharpose_run(environment: dict[str, str], tiny_bundle: Path, tmp_path: Path) -> Run:
    """Runs the program in a folder of its own; `bundle` stands for the tiny bundle's folder."""
    from cli_files import PROGRAM

    def run(
        *arguments: object, bundle: Path | None = tiny_bundle, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        given = [] if bundle is None else ["--bundle", bundle, "--threads", 1]
        return subprocess.run(
            [PROGRAM, *map(str, (*arguments, *given))],
            cwd=tmp_path,
            env=environment | variables,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    return run


@pytest.fixture
def refused(sharpose_run: Run, tiny_bundle: Path, tmp_path: Path) -> Callable[..., str]:
    """Runs what must be refused: one line, exit code 2, and nothing that could be taken for a result."""
    from cli_files import outputs

    def run(*arguments: object, bundle: Path | None = tiny_bundle, to: Sequence[object] | None = None) -> str:
        folder = tmp_path / "results"
        done = sharpose_run(*arguments, *(outputs(folder) if to is None else to), bundle=bundle)
        assert done.returncode == 2, done.stdout + done.stderr
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
        assert done.stderr.endswith("\n")
        assert "Traceback" not in done.stderr
        assert not [path for path in folder.glob("*") if ".partial." not in path.name]
        return done.stderr

    return run
