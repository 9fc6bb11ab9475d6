"""The shape of the tree (docs/architecture.md): who may import whom, no import circles, short files."""

from __future__ import annotations

import ast
import graphlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Our folders that each folder may import. `model` is sharpose/model, `sharpose` the torch-free rest of sharpose/.
ALLOWED = {
    "sharpose": {"sharpose"},
    "model": {"sharpose", "model"},
    "engines": {"sharpose", "engines"},
    "serving": {"sharpose", "engines", "serving"},
    "runtime": {"sharpose", "engines", "serving", "runtime"},
    "export": {"sharpose", "model", "engines", "serving", "runtime", "export"},
    "training": {"sharpose", "model", "engines", "runtime", "training"},
    "archive": {"sharpose", "engines", "serving", "runtime", "archive"},
    "configs": set(),
    "benchmarks": {"sharpose", "model", "engines", "serving", "runtime", "export", "benchmarks"},
    "examples": {"sharpose", "engines", "runtime"},
}
MAY_IMPORT_TORCH = {"model", "export", "training", "benchmarks"}
PRODUCT = ("sharpose", "engines", "serving", "runtime", "export", "training", "archive")
MOST_LINES = 500  # of a file


def python_files() -> Iterator[tuple[str, Path]]:
    for folder in ALLOWED:
        top = ROOT / ("sharpose/model" if folder == "model" else folder)
        for path in sorted(top.rglob("*.py")):
            if folder != "sharpose" or "model" not in path.relative_to(top).parts:
                yield folder, path


def product_files() -> list[Path]:
    return [path for folder in PRODUCT for path in sorted((ROOT / folder).rglob("*.py"))]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    name = ".".join(parts if parts[0] == "sharpose" else ("sharpose", *parts))
    return name.removesuffix(".__init__")


def imported_modules(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        yield from imported_by(node)


def imported_by(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"relative import: {ast.unparse(node)}"
        assert node.module is not None
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def folder_of(module: str) -> str | None:
    """The folder of ours that a module belongs to; None for other packages."""
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
    # The one exception: `from sharpose import PoseEstimator`, imported on first use.
    allowed = ALLOWED[folder] | ({"runtime"} if path == ROOT / "sharpose" / "__init__.py" else set())
    for module in imported_modules(ast.parse(path.read_text("utf-8"))):
        target = folder_of(module)
        assert target is None or target in allowed, f"{path}: {folder} may not import {module}"
        if module.split(".")[0] in {"torch", "onnxscript"}:
            assert folder in MAY_IMPORT_TORCH, f"{path}: {folder} may not import {module}"
        assert module.split(".")[0] not in {"mmcv", "mmpose", "timm", "torchvision"}, f"{path}: {module}"


def test_the_table_catches_a_forbidden_import() -> None:
    tree = ast.parse("def f():\n    from sharpose.model.backbone import Block\n    import torch\n")
    assert [folder_of(module) for module in imported_modules(tree)] == ["model", None]


def test_no_import_circles() -> None:
    """Among imports at module level, and among those for type checkers within a folder."""
    assert find_circle({module_name(path): path.read_text("utf-8") for path in product_files()}) == []


def test_a_circle_is_found() -> None:
    a, b = "from sharpose.x.b import B", "from sharpose.x.a import A"
    typed = f"from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    {b}"
    assert set(find_circle({"sharpose.x.a": a, "sharpose.x.b": b})) == {"sharpose.x.a", "sharpose.x.b"}
    assert find_circle({"sharpose.x.a": a, "sharpose.x.b": typed})
    assert not find_circle({"sharpose.x.a": a.replace(".x.b", ".y.b"), "sharpose.y.b": typed})
    assert not find_circle({"sharpose.x.a": a, "sharpose.x.b": f"def f():\n    {b}"})


def find_circle(sources: dict[str, str]) -> list[str]:
    """The modules of an import circle, in order; empty if there is none."""
    graph: dict[str, set[str]] = {name: set() for name in sources}
    for name, source in sources.items():
        for imported, for_types in module_level_imports(ast.parse(source)):
            module = imported if imported in sources else imported.rpartition(".")[0]
            same_folder = module.rpartition(".")[0] == name.rpartition(".")[0]
            if module in sources and module != name and (same_folder or not for_types):
                graph[name].add(module)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def module_level_imports(node: ast.AST, for_types: bool = False) -> Iterator[tuple[str, bool]]:
    """Imports outside functions, and whether each is under `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from ((module, for_types) for module in imported_by(child))
            guarded = isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING")
            yield from module_level_imports(child, for_types or guarded)


def test_files_are_short() -> None:
    paths = [*product_files(), *(ROOT / "benchmarks").rglob("*.py")]
    lines = {path.relative_to(ROOT): len(path.read_text("utf-8").splitlines()) for path in paths}
    assert {str(path): count for path, count in lines.items() if count > MOST_LINES} == {}


def run(program: str) -> tuple[int, str, str]:
    """Exit code, standard output and error of a new Python."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


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
    assert run(program) == (0, "PoseEstimator\n", "")


def test_bundles_are_evaluated_and_verified_without_torch() -> None:
    program = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "import sharpose.training.evaluation.run, sharpose.training.eval_cli\n"
        "import sharpose.export.cli, sharpose.export.verify\n"
    )
    assert run(program) == (0, "", "")


def test_help_needs_nothing_heavy() -> None:
    """`--help` of `sharpose-run` and `sharpose-archive` imports only click and the standard library."""
    program = (
        "import sys\n"
        "import sharpose.runtime.cli, sharpose.archive.cli\n"
        "heavy = {'numpy', 'cv2', 'av', 'pydantic', 'rich', 'onnxruntime'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    assert run(program) == (0, "", "")


@pytest.mark.parametrize("name", ["sharpose.runtime", "sharpose.engines.tensorrt.build", "sharpose.training.data"])
def test_a_checkout_can_be_imported_from_its_root(name: str) -> None:
    """Without an installation: `-S` leaves out site-packages, `-c` puts the root on the path."""
    program = f"import importlib.util, sharpose; print(importlib.util.find_spec({name!r}).origin)"
    command = [sys.executable, "-S", "-c", program]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
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
    assert run(program) == (0, "", "")


MOST_MODULES = 12  # of a folder, beside its __init__.py and __main__.py


def test_folders_hold_at_most_a_dozen_modules() -> None:
    modules = Counter(path.parent.relative_to(ROOT) for path in product_files() if not path.name.startswith("__"))
    assert {str(folder): count for folder, count in modules.items() if count > MOST_MODULES} == {}
