"""Who may import whom (docs/architecture.md), read from the source; and a runtime without PyTorch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Folder: what of ours it may import. `model` stands for sharpose.model, `sharpose` for the torch-free rest of it.
ALLOWED = {
    "sharpose": {"sharpose"},
    "model": {"sharpose", "model"},
    "engines": {"sharpose", "engines"},
    "runtime": {"sharpose", "engines", "runtime"},
    "export": {"sharpose", "model", "engines", "runtime", "export"},
    "training": {"sharpose", "model", "engines", "runtime", "training"},
    "configs": set(),
    "benchmarks": {"sharpose", "model", "engines", "runtime", "export", "benchmarks"},
    "examples": {"sharpose", "engines", "runtime"},
}
MAY_IMPORT_TORCH = {"model", "export", "training", "benchmarks"}


def python_files() -> Iterator[tuple[str, Path]]:
    for folder in ALLOWED:
        top = ROOT / ("sharpose/model" if folder == "model" else folder)
        for path in sorted(top.rglob("*.py")):
            if folder != "sharpose" or "model" not in path.relative_to(top).parts:
                yield folder, path


def imported_modules(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def folder_of(module: str) -> str | None:
    """The folder of ours that a module belongs to, None for other people's."""
    parts = module.split(".")
    if parts[0] != "sharpose":
        return None
    if len(parts) > 1 and parts[1] in ALLOWED and parts[1] != "sharpose":
        return parts[1]
    return "sharpose"


def test_every_folder_has_files() -> None:
    assert {folder for folder, _ in python_files()} == set(ALLOWED)


@pytest.mark.parametrize(
    ("folder", "path"), [pytest.param(*item, id=str(item[1].relative_to(ROOT))) for item in python_files()]
)
def test_imports_follow_the_table(folder: str, path: Path) -> None:
    # `from sharpose import PoseEstimator` is the one way down: the package's own file, on first use.
    allowed = ALLOWED[folder] | ({"runtime"} if path == ROOT / "sharpose" / "__init__.py" else set())
    for module in imported_modules(path):
        target = folder_of(module)
        assert target is None or target in allowed, f"{path}: {folder} may not import {module}"
        if module.split(".")[0] in {"torch", "onnxscript"}:
            assert folder in MAY_IMPORT_TORCH, f"{path}: {folder} may not import {module}"
        assert module.split(".")[0] not in {"mmcv", "mmpose", "timm", "torchvision"}, f"{path}: {module}"


def test_the_table_catches_a_forbidden_import(tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    file.write_text("def f():\n    from sharpose.model.backbone import Block\n    import torch\n")
    assert [folder_of(module) for module in imported_modules(file)] == ["model", None]


def test_the_runtime_works_without_torch() -> None:
    program = (
        "import sys\n"
        "sys.modules['torch'] = None\n"  # importing it raises ImportError
        "from sharpose.runtime import PoseEstimator\n"
        "import sharpose.runtime.run, sharpose.runtime.sources, sharpose.runtime.sinks\n"
        "import sharpose.runtime.detectors.onnx"
        ", sharpose.runtime.cli, sharpose.engines.load, sharpose.scene\n"
        "heavy = {'torch', 'onnx', 'yaml', 'scipy', 'matplotlib'} & {m for m, v in sys.modules.items() if v}\n"
        "assert not heavy, heavy\n"
        "print(PoseEstimator.__name__)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "PoseEstimator\n", "")


def test_help_needs_nothing_heavy() -> None:
    """`sharpose-run --help` has to answer at once: only click and the standard library."""
    program = (
        "import sys\n"
        "import sharpose.runtime.cli\n"
        "heavy = {'numpy', 'cv2', 'av', 'pydantic', 'rich', 'onnxruntime'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["sharpose.runtime", "sharpose.engines.tensorrt.build", "sharpose.training.data"])
def test_a_checkout_can_be_imported_from_its_root(name: str) -> None:
    """Whether or not anything is installed: `-S` leaves out site-packages, `-c` has the root on the path."""
    program = f"import importlib.util, sharpose; print(importlib.util.find_spec({name!r}).origin)"
    done = subprocess.run([sys.executable, "-S", "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(ROOT)


def test_the_estimator_is_at_the_top_and_imported_on_first_use() -> None:
    program = (
        "import sys\n"
        "import sharpose\n"
        "heavy = {'numpy', 'cv2', 'av', 'pydantic', 'onnxruntime'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "from sharpose import PoseEstimator\n"
        "from sharpose.runtime.pipeline import PoseEstimator as same\n"
        "assert PoseEstimator is same\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
