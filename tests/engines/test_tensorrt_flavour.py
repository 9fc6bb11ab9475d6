from __future__ import annotations

import sys
from types import ModuleType

import pytest

from sharpose.engines.tensorrt.library import find_flavour, installed_flavours
from sharpose.errors import EngineError


@pytest.fixture
def modules(monkeypatch, tmp_path):
    """Puts modules in the place of TensorRT's: a version, an exception to raise on import, or None for not there."""
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(sys, "path_importer_cache", {})

    def put(**versions):
        for name in ("tensorrt", "tensorrt_rtx"):
            monkeypatch.delitem(sys.modules, name, raising=False)
            version = versions.get(name)
            if isinstance(version, str) and version.startswith("raise"):
                (tmp_path / f"{name}.py").write_text(version)
            elif version is not None:
                module = ModuleType(name)
                module.__version__ = version
                monkeypatch.setitem(sys.modules, name, module)

    return put


def test_tensorrt_is_preferred_where_both_load(modules):
    modules(tensorrt="10.3.0", tensorrt_rtx="1.7.1.116")
    assert str(find_flavour()) == "TensorRT 10.3.0"
    assert not find_flavour().is_rtx
    assert str(find_flavour("tensorrt_rtx")) == "TensorRT-RTX 1.7.1.116"


@pytest.mark.parametrize("version", ["10.3.0", "10.13.3.9", "11.4.0"])
def test_versions_that_are_served(modules, version):
    modules(tensorrt=version)
    assert find_flavour("tensorrt").version == version


@pytest.mark.parametrize("version", ["8.6.1", "10.2.0", "9.3.0.1", "unknown"])
def test_old_versions_are_refused_by_name(modules, version):
    modules(tensorrt=version)
    with pytest.raises(EngineError, match=rf"TensorRT {version} is too old: expected 10\.3 or later"):
        find_flavour()


def test_a_tensorrt_that_does_not_load_is_passed_over_and_told_of(modules):
    modules(tensorrt='raise ImportError("libnvinfer.so.10: cannot\\n open")', tensorrt_rtx="1.7.1")
    found, reasons = installed_flavours()
    assert [flavour.name for flavour in found] == ["tensorrt_rtx"]
    assert reasons == ("TensorRT is installed, but doesn't load: libnvinfer.so.10: cannot open",)
    with pytest.raises(EngineError, match=r"libnvinfer\.so\.10"):
        find_flavour("tensorrt")


def test_a_module_that_tensorrt_itself_misses_is_named(modules):
    modules(tensorrt='raise ModuleNotFoundError("No module named tensorrt_libs", name="tensorrt_libs")')
    with pytest.raises(EngineError, match="TensorRT is installed, but doesn't load: No module named tensorrt_libs"):
        find_flavour()


def test_none_at_all_says_how_to_get_it(modules):
    modules()
    with pytest.raises(EngineError, match="TensorRT is not installed; TensorRT-RTX is not installed") as caught:
        find_flavour()
    assert "pip install tensorrt-rtx-cu13-libs" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_name_is_refused(modules):
    with pytest.raises(EngineError, match="expected tensorrt or tensorrt_rtx, got 'trt'"):
        find_flavour("trt")
