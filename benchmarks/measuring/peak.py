"""The fastest matrix product that this machine computes in a precision: what the stages are measured against."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from sharpose.engines import Untyped

_CHAINED = 8  # products of a probe graph, one after another, so that copies of its input and output hardly count
_SIZES = (512, 1024, 2048)  # of square matrices: caches decide which is fastest
_GPU_SIZES = (4096, 8192)


@dataclass(frozen=True)
class Peak:
    """The most multiply-adds per second of a matrix product, and what computed it."""

    precision: str
    multiply_adds_per_s: float
    library: str  # with its version
    size: int  # of the square matrices


def measure_peak(
    precision: str, *, gpu: int | None = None, threads: int | None = None, seconds: float = 1.0
) -> Peak | None:
    """Try what is installed: numpy, ONNX Runtime and OpenVINO on a CPU, PyTorch on a GPU.

    Args:
        precision: fp32, fp16, bf16 or int8.
        gpu: Index of the GPU to measure; the CPU if None.
        threads: CPU threads; each library's choice if None.
        seconds: Time for each library and size.

    Returns:
        None where nothing here computes in that precision: ONNX Runtime and OpenVINO compute fp16 in float32 on a CPU.
    """
    probes = _on_cpu(precision, threads) if gpu is None else _on_gpu(precision, gpu)
    found = [
        Peak(precision, products * size**3 / _quickest(run, seconds), library, size)
        for library, size, products, run in probes
    ]
    return max(found, key=lambda peak: peak.multiply_adds_per_s, default=None)


def _quickest(run: Callable[[], object], seconds: float) -> float:
    run()
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - began)
    return best


_Probe = tuple[str, int, int, Callable[[], object]]


def _on_cpu(precision: str, threads: int | None) -> Iterator[_Probe]:
    for size in _SIZES if precision != "fp16" else ():
        if precision == "fp32" and threads is None:
            values = np.random.default_rng(0).random((size, size), np.float32)
            yield f"numpy {np.__version__}", size, 1, partial(np.matmul, values, values)
        if find_spec("onnx") is None:
            continue
        with TemporaryDirectory() as folder:
            path = Path(folder) / "products.onnx"
            write_products(path, size, quantised=precision == "int8")
            image = np.random.default_rng(0).random((size, size), np.float32)
            if precision != "bf16" and find_spec("onnxruntime") is not None:
                yield _in_onnxruntime(path, image, threads)
            if find_spec("openvino") is not None:
                yield _in_openvino(path, image, "bf16" if precision == "bf16" else "f32", threads)


def _in_onnxruntime(path: Path, image: np.ndarray[Any, Any], threads: int | None) -> _Probe:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    library = f"ONNX Runtime {onnxruntime.__version__}"
    return library, len(image), _CHAINED, lambda: session.run(None, {"x": image})


def _in_openvino(path: Path, image: np.ndarray[Any, Any], hint: str, threads: int | None) -> _Probe:
    from sharpose.engines.openvino import import_openvino, openvino_core

    settings: dict[str, Untyped] = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    compiled = openvino_core().compile_model(str(path), "CPU", settings)
    request = compiled.create_infer_request()
    version = import_openvino().__version__.partition("-")[0]
    return f"OpenVINO {version}", len(image), _CHAINED, lambda: request.infer({"x": image}, share_inputs=True)


def write_products(path: Path, size: int, *, quantised: bool) -> None:
    """An ONNX graph of eight products of square matrices, one after another: x of float32 [size, size] in, y out.

    With `quantised`, both factors of each are quantised to 8 bits (weights symmetric, by tensor) as bundles' are.
    """
    from onnx import TensorProto, helper, numpy_helper, save

    rng = np.random.default_rng(0)
    weight = rng.integers(-127, 128, (size, size), np.int8)
    values = [numpy_helper.from_array(np.float32(scale), name) for name, scale in (("ws", 0.001), ("xs", 0.01))]
    values += [numpy_helper.from_array(np.int8(0), "wz"), numpy_helper.from_array(np.uint8(128), "xz")]
    values.append(
        numpy_helper.from_array(weight, "w8")
        if quantised
        else numpy_helper.from_array(weight.astype(np.float32) / size, "w")
    )
    nodes = [helper.make_node("DequantizeLinear", ["w8", "ws", "wz"], ["w"])] if quantised else []
    last = "x"
    for index in range(_CHAINED):
        factor = last
        if quantised:
            nodes.append(helper.make_node("QuantizeLinear", [last, "xs", "xz"], [f"q{index}"]))
            factor = f"d{index}"
            nodes.append(helper.make_node("DequantizeLinear", [f"q{index}", "xs", "xz"], [factor]))
        last = "y" if index == _CHAINED - 1 else f"y{index}"
        nodes.append(helper.make_node("MatMul", [factor, "w"], [last]))
    used = values if quantised else values[-1:]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [size, size]) for name in "xy")
    graph = helper.make_graph(nodes, "products", [x], [y], used)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(path))


def _on_gpu(precision: str, index: int) -> Iterator[_Probe]:
    if find_spec("torch") is None:
        return
    import torch

    types = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "int8": torch.int8}
    device = torch.device("cuda", index)
    for size in _GPU_SIZES if torch.cuda.is_available() else ():
        # Not ones: a GPU clocks higher where few bits change. Fractions: their sums are within fp16's range.
        values = torch.randint(-64, 64, (size, size), device=device)
        values = (values if precision == "int8" else values / 64).to(types[precision])
        multiply: Callable[..., Any] = vars(torch)["_int_mm"] if precision == "int8" else torch.matmul

        def run(values: Any = values, multiply: Callable[..., Any] = multiply) -> None:  # noqa: ANN401 (a tensor)
            for _ in range(_CHAINED):
                multiply(values, values)
            torch.cuda.synchronize(device)

        yield f"PyTorch {torch.__version__}", size, _CHAINED, run
