"""mypy strict over the package, benchmarks and examples; `make lint` checks the tests, too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_mypy_strict_is_clean() -> None:
    script = Path(__file__).with_name("typecheck.py")
    done = subprocess.run([sys.executable, str(script), "--without-tests"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
