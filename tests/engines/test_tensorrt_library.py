"""Which TensorRT is used, and the build options that it takes."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from sharpose.engines.tensorrt import library as tensorrt_options
from sharpose.engines.tensorrt.library import (
    BuildOptions,
    TensorRtFlavour,
    check_options,
    collect_errors,
    find_flavour,
    installed_flavours,
    runtime_problem,
    tensorrt_logger,
)
from sharpose.errors import EngineError, how_to_install


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


def test_a_tensorrt_that_does_not_load_is_skipped_with_its_reason(modules):
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
    assert how_to_install("tensorrt-rtx-cu13") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_name_is_refused(modules):
    with pytest.raises(EngineError, match="expected tensorrt or tensorrt_rtx, got 'trt'"):
        find_flavour("trt")


TENSORRT = TensorRtFlavour("tensorrt", "10.3.0", ModuleType("tensorrt"))
TENSORRT.module.HardwareCompatibilityLevel = SimpleNamespace(NONE=0, AMPERE_PLUS=1)
RTX = TensorRtFlavour("tensorrt_rtx", "1.7.1", ModuleType("tensorrt_rtx"))


class FakeTensorRt(ModuleType):
    """Says something as its runtime is made, and may refuse to make it."""

    ILogger = object

    def __init__(self, severity, message, *, refuse):
        super().__init__("tensorrt")
        self.severity, self.message, self.refuse = severity, message, refuse

    def Runtime(self, logger):
        logger.log(self.severity, self.message)
        if self.refuse:
            raise TypeError("pybind11::init(): factory function returned nullptr")
        return object()


@pytest.mark.parametrize(
    ("severity", "refuse", "problem"),
    [
        (1, True, "CUDA initialization failure with error: 35"),
        (1, False, "CUDA initialization failure with error: 35"),
        (3, True, "pybind11::init(): factory function returned nullptr"),
        (3, False, None),
    ],
)
def test_the_runtimes_first_error_is_what_keeps_it_from_running(severity, refuse, problem):
    module = FakeTensorRt(severity, "CUDA initialization failure\nwith error: 35", refuse=refuse)
    assert runtime_problem(TensorRtFlavour("tensorrt", "10.3.0", module)) == problem


def test_errors_are_of_the_thread_that_collects_them(caplog):
    logger = tensorrt_logger(TensorRtFlavour("tensorrt", "10.3.0", FakeTensorRt(3, "", refuse=False)))
    with collect_errors() as messages, ThreadPoolExecutor(1) as detector:
        detector.submit(logger.log, 1, "a detector's").result()
        logger.log(1, "ours")
    assert messages == ["ours"]
    assert [record.getMessage() for record in caplog.records] == ["a detector's"]


def test_rtxs_runtime_starts_without_a_gpu():
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed (see the README)")
    assert runtime_problem(find_flavour("tensorrt_rtx")) is None


EXTRAS = {
    "--timing-cache": BuildOptions(timing_cache=Path("cache")),
    "--hardware-compatible": BuildOptions(hardware_compatible="ampere-plus"),
    "--version-compatible": BuildOptions(version_compatible=True),
    "--optimization-level": BuildOptions(optimization_level=0),
}


@pytest.mark.parametrize("name", EXTRAS)
def test_rtx_refuses_by_name_what_it_does_not_honour(name):
    with pytest.raises(EngineError, match=rf"^{name}: TensorRT-RTX 1\.7\.1 doesn't honour it"):
        check_options(EXTRAS[name], RTX)
    check_options(EXTRAS[name], TENSORRT)


def test_jetson_refuses_hardware_compatibility(monkeypatch, tmp_path):
    monkeypatch.setattr(tensorrt_options, "_JETSON", tmp_path)
    with pytest.raises(EngineError, match=r"--hardware-compatible: TensorRT 10\.3\.0 doesn't support it on Jetson"):
        check_options(EXTRAS["--hardware-compatible"], TENSORRT)
    check_options(BuildOptions(workspace_mib=64), TENSORRT)


def test_a_level_of_hardware_compatibility_that_a_version_does_not_know_is_refused():
    with pytest.raises(EngineError, match=r"TensorRT 10\.3\.0 doesn't know same-compute-capability; use ampere-plus"):
        check_options(BuildOptions(hardware_compatible="same-compute-capability"), TENSORRT)


@pytest.mark.parametrize("sizes", [(0, (1,), 2), (1, (3,), 2), (3, (2,), 4), (5, None, 4), (1, (4, 1), 8), (1, (), 8)])
def test_batch_sizes_out_of_order_are_refused(sizes):
    smallest, best, largest = sizes
    with pytest.raises(EngineError, match="expected 1 <= min <= opt <= max"):
        BuildOptions(min_batch=smallest, opt_batch=best, max_batch=largest)


@pytest.mark.parametrize("wrong", [{"workspace_mib": 0}, {"optimization_level": 6}, {"optimization_level": -1}])
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(EngineError, match="expected"):
        BuildOptions(**wrong)
