"""Hostile inputs of every kind: right results, or an exit code and one line; never a traceback, never a lot of memory.

`make test` tries a few of each kind, `make soak` more than two thousand. What breaks is named by kind and number:
`python tests/fuzz/try_inputs.py KIND --inputs DIR --seed NUMBER --count 1 --keep OUT` tries it again.
"""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("try_inputs.py")
# Those that import torch come last, so that the forks of the others stay small.
KINDS = ("requests", "bundle_json", "bundle_files", "boxes", "videos", "pictures", "labels", "recipes", "checkpoints")


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, str(PROGRAM), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture(scope="session")
def inputs(made_once: Callable[[str, Callable[[Path], object]], Path], nano_bundle: Path) -> Path:
    make_inputs = runpy.run_path(str(PROGRAM))["make_inputs"]
    return made_once("fuzz_inputs", lambda folder: make_inputs(folder, nano_bundle))


@pytest.mark.parametrize(
    ("kinds", "seed", "count"),
    [
        pytest.param(KINDS, 0, 3, id="all-short"),
        *(pytest.param([kind], 1000, 230, id=f"{kind}-long", marks=pytest.mark.soak) for kind in KINDS),
    ],
)
def test_hostile_inputs(inputs: Path, kinds: Sequence[str], seed: int, count: int) -> None:
    done = run(*kinds, "--inputs", inputs, "--seed", seed, "--count", count)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    for kind in kinds:
        assert f"{kind}: {count} inputs, 0 of them break the rule" in done.stdout
