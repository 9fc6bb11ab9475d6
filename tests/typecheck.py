"""Type-check the whole project with mypy, strict; of tests, what is annotated: `python tests/typecheck.py`.

`--platform win32` or `darwin` checks the package alone, as on that system: its tests are for Linux. `--without-tests`
leaves out the tests, a third of the time.

mypy can't follow an editable install of folders that lie side by side. It checks a temporary tree of links that has the
layout of the import names.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("export", "engines", "runtime", "serving", "training", "archive", "configs")


def link_tree(target: Path) -> None:
    """Make the tree of links in an empty folder."""
    package = target / "sharpose"
    package.mkdir()
    for entry in (ROOT / "sharpose").iterdir():
        (package / entry.name).symlink_to(entry)
    for folder in FOLDERS:
        (package / folder).symlink_to(ROOT / folder)
    for folder in ("tests", "benchmarks", "examples"):
        (target / folder).symlink_to(ROOT / folder)
    (target / "setup.cfg").symlink_to(ROOT / "setup.cfg")


def main() -> int:
    """Print what mypy finds; returns 0 if it finds nothing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--platform", choices=("linux", "darwin", "win32"), default="linux")
    parser.add_argument("--without-tests", action="store_true")
    options = parser.parse_args()
    platform = options.platform
    with tempfile.TemporaryDirectory() as temporary:
        tree = Path(temporary)
        link_tree(tree)
        # Files in the other folders import one another without a package name.
        roots = [tree, tree / "tests" / "helpers", tree / "examples", tree / "benchmarks"]
        cache = ROOT / (".mypy_cache" if platform == "linux" else f".mypy_cache/{platform}")
        command = [sys.executable, "-m", "mypy", "--explicit-package-bases", "--cache-dir", str(cache)]
        command += ["--platform", platform]
        environment = os.environ | {"MYPYPATH": os.pathsep.join(map(str, roots))}
        if platform != "linux":
            checked = ["sharpose"]
        else:
            checked = ["sharpose", "benchmarks", "examples"] if options.without_tests else ["."]
        return subprocess.run([*command, *checked], cwd=tree, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
