"""PyTorch's latency: on the CPU here, eager alone, since compiling takes a minute."""

from __future__ import annotations

import pytest
import torch
from torch_latency import measure_torch

from sharpose.config import ModelConfig
from sharpose.errors import EngineError


def test_eager_is_measured_in_half(nano_config: ModelConfig) -> None:
    case = next(measure_torch(nano_config, (2,), "cpu"))
    assert (case.mode, case.people) == ("eager", 2)
    assert case.coarse_ms > 0
    assert case.fine_ms > 0


def test_compiled_graphs_come_after_the_eager_ones(nano_config: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []

    def compile_nothing(graph: torch.nn.Module) -> torch.nn.Module:
        compiled.append(type(graph).__name__)
        return graph

    monkeypatch.setattr(torch, "compile", compile_nothing)
    cases = list(measure_torch(nano_config, (1, 2), "cpu"))
    assert [(case.mode, case.people) for case in cases] == [
        ("eager", 1),
        ("eager", 2),
        ("compiled", 1),
        ("compiled", 2),
    ]
    assert compiled == ["CoarseGraph", "FineGraph"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_cuda_it_says_so(nano_config: ModelConfig) -> None:
    with pytest.raises(EngineError, match=r"PyTorch [\d.]+.* has no CUDA here"):
        next(measure_torch(nano_config, (1,)))
