from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from sharpose.engines.tensorrt import library as tensorrt_options
from sharpose.engines.tensorrt.library import BuildOptions, TensorRtFlavour, check_options
from sharpose.errors import EngineError

TENSORRT = TensorRtFlavour("tensorrt", "10.3.0", ModuleType("tensorrt"))
RTX = TensorRtFlavour("tensorrt_rtx", "1.7.1", ModuleType("tensorrt_rtx"))

EXTRAS = {
    "--timing-cache": BuildOptions(timing_cache=Path("cache")),
    "--hardware-compatible": BuildOptions(hardware_compatible=True),
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


@pytest.mark.parametrize(("largest", "smallest", "optimal"), [(16, 1, 4), (2, 1, 2), (16, 8, 8), (1, 1, 1)])
def test_the_optimal_batch_is_a_typical_one(largest, smallest, optimal):
    assert BuildOptions(max_batch=largest, min_batch=smallest).optimal_batch == optimal


@pytest.mark.parametrize("sizes", [(0, 1, 2), (1, 3, 2), (3, 2, 4), (5, None, 4)])
def test_batch_sizes_out_of_order_are_refused(sizes):
    smallest, best, largest = sizes
    with pytest.raises(EngineError, match="expected 1 <= min <= opt <= max"):
        BuildOptions(min_batch=smallest, opt_batch=best, max_batch=largest)


@pytest.mark.parametrize("wrong", [{"workspace_mib": 0}, {"optimization_level": 6}, {"optimization_level": -1}])
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(EngineError, match="expected"):
        BuildOptions(**wrong)
