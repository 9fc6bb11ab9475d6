"""The engines and devices that run poses, and the shipped bundle on them."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

from sharpose.engines.device import UNTRIED, Device
from sharpose.errors import BundleError, EngineError, how_to_install
from sharpose.runtime.doctor.findings import (
    ALL_DEVICES,
    ON_GPU,
    ON_OPENVINO,
    ON_ORT,
    ON_TENSORRT,
    Finding,
    import_problem,
    installed,
    obstacles,
    words,
)

if TYPE_CHECKING:
    from sharpose.bundle import Bundle

_FREE_OF_THE_LOCK = (12, 9, 1)  # the first cuda-bindings that release the GIL
_ORT_PACKAGES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml")
_REMOVE = "pip uninstall onnxruntime onnxruntime-gpu, then"
_PROVIDERS = {  # what brings each device's provider
    "cpu": f"{how_to_install('cpu')} --force-reinstall",
    "cuda": f"{_REMOVE} {how_to_install('gpu')}",
    "ort-tensorrt": f"{_REMOVE} {how_to_install('gpu')} and TensorRT 10's libraries",
    "coreml": "onnxruntime for macOS has it, others haven't",
    "directml": f"on Windows, {_REMOVE} {how_to_install('directml')}",
}
_MEND_RUNTIME = "check nvidia-smi, and that the driver is recent enough for this TensorRT's CUDA"


def check_onnxruntime(asked: Collection[str] = ()) -> Iterator[Finding]:
    """ONNX Runtime, and the providers that a session really gets, whatever the package lists.

    Args:
        asked: Kinds of devices that are looked at even where this system has none.
    """
    packages = [name for name in _ORT_PACKAGES if installed(name) is not None]
    try:
        import onnxruntime as ort
    except ImportError as error:
        text = f"doesn't load ({words(error)})" if packages else "not installed"
        yield Finding("ONNX Runtime", False, text, f"{how_to_install('cpu')}, or [gpu]", ON_ORT)
        return
    origin = " and ".join(packages) or "own build"
    yield Finding("ONNX Runtime", True, f"{ort.__version__}, {origin}", needed_by=ON_ORT)
    if len(packages) > 1:
        mend = f"pip uninstall {' '.join(packages)}, then {how_to_install('gpu')} (or [cpu])"
        yield Finding("ONNX Runtime packages", False, f"{origin} overwrite each other's files", mend)
    from sharpose.engines.choose import provider_works
    from sharpose.engines.onnxrt import ON_NVIDIA, PROVIDERS, missing_library

    listed = ort.get_available_providers()
    if "CUDAExecutionProvider" in listed:
        yield _cuda_libraries()
    for device, mend in _PROVIDERS.items():
        provider, name, needed = PROVIDERS[device], f"provider {device}", frozenset({device})
        if device in UNTRIED and provider not in listed and device not in asked:
            continue
        if provider not in listed:
            yield Finding(name, False, f"this package has no {provider}", mend, needed)
        elif provider_works(provider):
            yield Finding(name, True, provider, needed_by=needed)
        else:
            missing = missing_library(device) if device in ON_NVIDIA else None
            reason = "its libraries don't load" if missing is None else missing.problem
            mend = "install the CUDA and cuDNN that onnxruntime-gpu was built for" if missing is None else missing.mend
            if device in UNTRIED:
                reason, mend = "can't start", "check the version of the system, and the GPU's driver"
            yield Finding(name, False, f"{provider} is listed, but {reason}", mend, needed)


def _cuda_libraries() -> Finding:
    """Whether ONNX Runtime finds CUDA and cuDNN, as every session on a GPU makes it look for them."""
    import onnxruntime as ort

    from sharpose.engines.onnxrt import missing_library, preload_cuda

    preload_cuda()
    missing = missing_library("cuda")
    how = "pip's or the system's" if hasattr(ort, "preload_dlls") else "the system's; before 1.21 it can't load pip's"
    name, needed = "ONNX Runtime's CUDA", frozenset({"cuda", "ort-tensorrt"})
    if missing is not None:
        return Finding(name, False, missing.problem, missing.mend, needed)
    cuda = getattr(ort, "cuda_version", "") or "of unknown version"
    return Finding(name, True, f"CUDA {cuda} and cuDNN load ({how})", needed_by=needed)


def check_openvino(devices: Collection[Device]) -> Iterator[Finding]:
    """OpenVINO, the devices that it sees, and those of `devices` that it doesn't."""
    from sharpose.engines.openvino import find_device, visible_devices

    try:
        seen = visible_devices()
    except EngineError as error:  # its message says what is wrong, a colon, and what mends it
        text, _, mend = str(error).partition(": ")
        yield Finding("OpenVINO", False, text, mend, ON_OPENVINO)
        return
    yield Finding("OpenVINO", True, installed("openvino") or "own build", needed_by=ON_OPENVINO)
    for item in seen:
        yield Finding(f"OpenVINO {item.name}", True, f"{item.full_name}, computes in {', '.join(item.precisions)}")
    for device in devices:
        try:
            find_device(device)
        except EngineError as error:
            text, _, mend = str(error).partition(": ")[2].partition("; ")
            yield Finding(str(device), False, text, mend, frozenset({str(device)}))


def check_gpu(devices: Collection[Device]) -> Iterator[Finding]:
    """The GPUs that the driver shows, and those of `devices` that it doesn't."""
    from sharpose.engines.gpu import probe_gpus

    try:
        gpus = probe_gpus()
    except EngineError as error:  # its message says what is wrong, a colon, and what mends it
        text, _, mend = str(error).partition(": ")
        yield Finding("GPU", False, text, mend or "check nvidia-smi", ON_GPU)
        return
    for gpu in gpus:
        text = f"{gpu.name}, compute capability {gpu.compute_capability}, driver {gpu.driver}"
        yield Finding(f"GPU {gpu.index}", True, text)
    for device in devices:
        if device.kind in ON_GPU and device.index >= len(gpus):
            text = f"expected GPU {device.index}, the driver shows {len(gpus)}"
            mend = f"use {device.kind}:0, or check CUDA_VISIBLE_DEVICES"
            yield Finding(str(device), False, text, mend, frozenset({str(device)}))


def check_tensorrt() -> Iterator[Finding]:
    """TensorRT's flavours whose libraries load, and the first error of a runtime that doesn't start."""
    from sharpose.engines.tensorrt.library import HOW_TO_INSTALL, installed_flavours, runtime_problem

    found, reasons = installed_flavours()
    for place, flavour in enumerate(found):
        problem = runtime_problem(flavour)
        text = str(flavour) if problem is None else f"{flavour} is installed, but its runtime doesn't start: {problem}"
        # The first is the one that is used.
        yield Finding("TensorRT", problem is None, text, _MEND_RUNTIME, ON_TENSORRT if place == 0 else frozenset())
    if not found:
        yield Finding("TensorRT", False, "; ".join(reasons), HOW_TO_INSTALL, ON_TENSORRT)


def check_bindings() -> Iterator[Finding]:
    """Either of pycuda and cuda-python is enough."""
    from sharpose.engines.cuda.device import import_binding, installed_bindings

    name = "CUDA bindings"
    problems = {binding: import_problem(binding, import_binding) for binding in installed_bindings()}
    reasons = [f"{binding} {problem}" for binding, problem in problems.items() if problem is not None]
    packages = {"cuda-python": ("cuda-bindings", "cuda-python"), "pycuda": ("pycuda",)}
    versions = [
        f"{binding} {next(filter(None, map(installed, packages[binding])), 'of unknown version')}"
        for binding, problem in problems.items()
        if problem is None
    ]
    if versions:
        yield Finding(name, True, ", ".join(versions + reasons), needed_by=ON_TENSORRT)
        numbers = tuple(map(int, re.findall(r"\d+", installed("cuda-bindings") or "")[:3]))
        if numbers and numbers < _FREE_OF_THE_LOCK:
            text = f"cuda-bindings {installed('cuda-bindings')} holds Python's lock in every call: other threads wait"
            yield Finding("CUDA bindings' age", False, text, f'pip install "cuda-bindings=={numbers[0]}.*" --upgrade')
    elif reasons:
        mend = "install NVIDIA's driver; the bindings load its libcuda"
        yield Finding(name, False, "; ".join(reasons), mend, ON_TENSORRT)
    else:
        text = "neither cuda-python nor pycuda is installed"
        mend = 'pip install cuda-bindings, or "cuda-bindings<13" for drivers before 580'
        yield Finding(name, False, text, mend, ON_TENSORRT)


def check_tf32(device: Device) -> Iterator[Finding]:
    """Whether float32 graphs may be rounded to TF32 on a GPU."""
    override = os.environ.get("NVIDIA_TF32_OVERRIDE")
    forced = "" if override is None else f"; NVIDIA_TF32_OVERRIDE={override} in the environment"
    text = "off in float32 graphs; --tf32 turns it on" if device.kind in ON_GPU else "only NVIDIA's GPUs have it"
    yield Finding("TF32", True, text + forced)


def check_bundle(device: Device, *, run: bool) -> Iterator[Finding]:
    """The shipped bundle: opened, and with `run` its coarse stage run, where that takes no build of engines."""
    from sharpose.bundle import open_bundle, shipped_bundle

    name, mend = "shipped bundle", "reinstall sharpose"
    try:
        bundle = open_bundle(shipped_bundle())
    except BundleError as error:
        yield Finding(name, False, str(error), mend, ALL_DEVICES)
        return
    if not run or device.kind in ("tensorrt", "ort-tensorrt"):
        yield Finding(name, True, f"{bundle.model.name} opens", needed_by=ALL_DEVICES)
        return
    import numpy as np

    from sharpose.engines.stages import open_stages

    lines: list[str] = []
    try:
        stages = open_stages(bundle, str(device), say=lines.append)
        stages.coarse(np.zeros((1, *bundle.model.crop_size, 3), np.uint8))
        stages.close()
    except EngineError as error:
        mend = "OpenVINO" if device.kind == "openvino" else f"ONNX Runtime and provider {device.kind}"
        mend = f"see the rows of {mend}"
        yield Finding(name, False, f"can't run on {device}: {error}", mend, frozenset({device.kind}))
        return
    text = f"{bundle.model.name} runs on {device} in {stages.precision}"
    yield Finding(name, True, text, needed_by=frozenset({device.kind}))
    if device.kind in UNTRIED:
        yield _compared(bundle, device)
    if device.kind in ("cuda", *UNTRIED):
        lines = [line for line in lines if "nodes run on the CPU" in line]
        yield Finding("nodes on the CPU", not lines, "; ".join(lines) or "none: the GPU has the whole coarse graph")


def _compared(bundle: Bundle, device: Device) -> Finding:
    """Whether the poses of a device are the CPU's."""
    from sharpose.runtime.doctor.poses import LEAST_OKS, PICTURE, both_poses, least_oks
    from sharpose.runtime.pipeline import PoseEstimator
    from sharpose.scene import Scene

    frame = Scene(PICTURE).frame(0)
    with PoseEstimator(bundle.path, device=str(device)) as estimator:
        oks = least_oks(both_poses(estimator, frame).keypoints, bundle, frame)
    text = f"coarse and refined, OKS with those of this machine's CPU {oks:.3f}"
    mend = f"expected at least {LEAST_OKS}: use another device, or --precision fp32 if that wasn't it"
    return Finding("poses", oks >= LEAST_OKS, text, mend, frozenset({device.kind}))


def check_detectors(findings: Sequence[Finding], device: Device) -> Iterator[Finding]:
    """Where detectors can run beside poses on a device, by what was found before."""
    from sharpose.engines.device import detector_devices, parse_device

    able = [text for text in detector_devices(str(device)) if not obstacles(findings, parse_device(text))]
    if str(device) not in able:
        yield Finding("detectors", False, f"can't run on {device}")
        return
    yield Finding("detectors", True, f"on {', else '.join(able)}")
    if device.kind == "tensorrt" and len(able) == 1:
        text = "those that TensorRT can't build, as they suppress overlaps in the graph, need ONNX Runtime"
        yield Finding("other detectors", False, text, f"{how_to_install('cpu')}, or [gpu]")
