from __future__ import annotations

import ctypes

import pytest

from sharpose.engines import gpu
from sharpose.engines.gpu import probe_gpu, probe_gpus
from sharpose.errors import EngineError


class Driver:
    """libcuda of a machine with two GPUs."""

    GPUS = ((b"NVIDIA H100", 9, 0), (b"NVIDIA T400", 7, 5))

    def __init__(self, init=0, gpus=GPUS, fail=None):
        self.init, self.gpus, self.fail = init, gpus, fail

    def cuInit(self, flags):
        return self.init

    def cuDriverGetVersion(self, out):
        out._obj.value = 13010
        return 0

    def cuDeviceGetCount(self, out):
        out._obj.value = len(self.gpus)
        return 0

    def cuDeviceGet(self, out, index):
        out._obj.value = index
        return 0

    def cuDeviceGetName(self, out, size, device):
        ctypes.memmove(out, self.gpus[device.value][0], len(self.gpus[device.value][0]))
        return 999 if self.fail == "name" else 0

    def cuDeviceGetAttribute(self, out, attribute, device):
        out._obj.value = self.gpus[device.value][{75: 1, 76: 2}[attribute]]
        return 0


def test_gpus_are_described(monkeypatch, tmp_path):
    version = tmp_path / "version"
    version.write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\nGCC 12.3.0\n"
    )
    monkeypatch.setattr(gpu, "_KERNEL_MODULE", version)
    first, second = probe_gpus(lambda name: Driver())
    assert (first.index, first.name, first.compute_capability) == (0, "NVIDIA H100", "9.0")
    assert first.driver == "580.65.06 (CUDA 13.1)"
    assert (second.index, second.name, second.compute_capability) == (1, "NVIDIA T400", "7.5")


def test_the_driver_is_told_by_its_cuda_where_the_kernel_module_says_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu, "_KERNEL_MODULE", tmp_path / "none")
    assert probe_gpu(1, lambda name: Driver()).driver == "CUDA 13.1"


def test_no_driver_is_told_apart_from_no_gpu():
    def missing(name):
        raise OSError(f"{name}: cannot open shared object file")

    with pytest.raises(EngineError, match=r"^no GPU driver \(libcuda\.so\.1 can't be loaded\)") as caught:
        probe_gpus(missing)
    assert "\n" not in str(caught.value)
    with pytest.raises(EngineError, match="driver is installed, but it shows no GPU"):
        probe_gpus(lambda name: Driver(init=100))
    with pytest.raises(EngineError, match=r"can't start .*CUDA error 803"):
        probe_gpus(lambda name: Driver(init=803))
    with pytest.raises(EngineError, match="cuDeviceGetName failed with CUDA error 999"):
        probe_gpus(lambda name: Driver(fail="name"))


def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(EngineError, match=r"GPU 2: expected one of this machine's 2 \(0 NVIDIA H100, 1 NVIDIA T400\)"):
        probe_gpu(2, lambda name: Driver())
