"""For the tests of the built-in scene: a helper by its bare name."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path


def _register(name: str) -> None:
    """Let tests import a helper of the folder above by its bare name; see tests/conftest.py."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).resolve().parent.parent / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)


for _name in ("scene_stage",):
    _register(_name)
