"""The peak of matrix products: what is multiplied, and who is asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from measuring import peak
from measuring.peak import measure_peak, write_products


@pytest.mark.parametrize("quantised", [False, True])
def test_the_graph_multiplies_eight_times(quantised: bool, tmp_path: Path) -> None:
    import onnx
    import onnxruntime

    path = tmp_path / "products.onnx"
    write_products(path, 16, quantised=quantised)
    graph = onnx.load(path).graph
    assert [node.op_type for node in graph.node].count("MatMul") == 8
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    image = np.random.default_rng(0).random((16, 16), np.float32)
    (found,) = session.run(None, {"x": image})
    if not quantised:
        weight = onnx.numpy_helper.to_array(graph.initializer[0])
        np.testing.assert_allclose(found, image @ np.linalg.matrix_power(weight, 8), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_fastest_library_counts(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak, "_SIZES", (32, 64))
    found = measure_peak(precision, seconds=0.01)
    assert found is not None
    assert found.size in (32, 64)
    assert found.library.startswith(("numpy ", "ONNX Runtime ", "OpenVINO "))
    assert 1e6 < found.multiply_adds_per_s < 1e14


def test_the_speed_is_work_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    probes = [("slow", 100, 8, lambda: None), ("fast", 200, 1, lambda: None)]
    times = iter([4.0, 1.0])
    monkeypatch.setattr(peak, "_on_cpu", lambda precision, threads: iter(probes))
    monkeypatch.setattr(peak, "_quickest", lambda run, seconds: next(times))
    found = measure_peak("fp32")
    assert found == peak.Peak("fp32", 8e6, "fast", 200)


def test_a_cpu_has_no_half_of_its_own() -> None:
    assert measure_peak("fp16") is None


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
def test_a_gpu_is_faster_than_a_cpu(precision: str) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no GPU that PyTorch can use")
    found = measure_peak(precision, gpu=0, seconds=0.1)
    assert found is not None
    assert found.library.startswith("PyTorch ")
    assert found.multiply_adds_per_s > 1e12
