from __future__ import annotations

import ctypes

import pytest

from sharpose.engines import gpu
from sharpose.engines.gpu import probe_gpu, probe_gpus
from sharpose.errors import EngineError


class Driver:
    """libcuda of a machine with two GPUs."""

    GPUS = ((b"NVIDIA H100", 9, 0, 132, 0), (b"Orin", 8, 7, 8, 1))

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
        out._obj.value = self.gpus[device.value][{75: 1, 76: 2, 16: 3, 18: 4}[attribute]]
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
    assert (second.index, second.name, second.compute_capability) == (1, "Orin", "8.7")
    assert [(card.multiprocessors, card.integrated) for card in (first, second)] == [(132, False), (8, True)]
    assert str(second) == "Orin (compute capability 8.7)"


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
    with pytest.raises(EngineError, match=r"can't start \(cuInit gave CUDA error 7\): check nvidia-smi"):
        probe_gpus(lambda name: Driver(init=7))
    with pytest.raises(EngineError, match="cuDeviceGetName failed with CUDA error 999"):
        probe_gpus(lambda name: Driver(fail="name"))


@pytest.mark.parametrize(
    ("code", "what", "mend"),
    [
        (34, "a stub of the CUDA toolkit", "take its folder"),
        (100, "shows no GPU", "check nvidia-smi and CUDA_VISIBLE_DEVICES"),
        (802, "not ready yet", "Fabric Manager"),
        (803, "library and its kernel module have different versions", "restart the machine"),
        (804, "cuda-compat", "take /usr/local/cuda/compat out of LD_LIBRARY_PATH"),
        (999, "unknown error", "modprobe nvidia_uvm"),
    ],
)
def test_a_driver_that_can_not_start_says_why_and_what_to_do(code, what, mend):
    with pytest.raises(EngineError, match=rf"\(cuInit gave CUDA error {code}\): ") as caught:
        probe_gpus(lambda name: Driver(init=code))
    text, _, advice = str(caught.value).partition(": ")  # as sharpose-doctor takes it apart
    assert what in text
    assert mend in advice


def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(EngineError, match=r"GPU 2: expected one of this machine's 2 \(0 NVIDIA H100, 1 Orin\)"):
        probe_gpu(2, lambda name: Driver())
