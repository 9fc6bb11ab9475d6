"""Hostile inputs of every kind: right results, or an exit code and one line; never a traceback, never a lot of memory.

`make test` tries a few of each kind, `make soak` more than two thousand. What breaks is named by kind and number:
`python tests/fuzz/try_inputs.py KIND --inputs DIR --seed NUMBER --count 1 --keep OUT` tries it again.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("try_inputs.py")
KINDS = ("bundle_json", "bundle_files", "boxes", "labels", "checkpoints", "recipes", "videos", "pictures", "requests")


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, str(PROGRAM), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture(scope="session")
def inputs(made_once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    def make(folder: Path) -> None:
        done = run("inputs", "--inputs", folder)
        assert done.returncode == 0, done.stderr

    return made_once("fuzz_inputs", make)


@pytest.mark.parametrize(
    ("seed", "count"), [pytest.param(0, 12, id="short"), pytest.param(1000, 230, id="long", marks=pytest.mark.soak)]
)
@pytest.mark.parametrize("kind", KINDS)
def test_hostile_inputs(inputs: Path, kind: str, seed: int, count: int) -> None:
    done = run(kind, "--inputs", inputs, "--seed", seed, "--count", count)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert f"{kind}: {count} inputs, 0 of them break the rule" in done.stdout
