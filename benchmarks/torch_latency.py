"""Latency of the same model in PyTorch on a GPU, in half precision: what engines are compared with."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from sharpose.config import ModelConfig
from sharpose.errors import EngineError
from sharpose.tokens import PATCH_SIZE, PATCHES_PER_REGION

_WARM_UP, _RUNS = 10, 30


@dataclass(frozen=True)
class TorchCase:
    """Milliseconds of both stages, copies from and to the host not included."""

    mode: str  # `eager` or `compiled`
    people: int
    coarse_ms: float  # median
    fine_ms: float  # median, everybody refined


def measure_torch(config: ModelConfig, numbers: tuple[int, ...], device: str = "cuda") -> Iterator[TorchCase]:
    """Random weights in half on a device, eager and compiled, for each number of people.

    Raises:
        EngineError: PyTorch is not installed, or can't use the device.
    """
    try:
        import torch
    except ImportError:
        raise EngineError("PyTorch is not installed") from None
    if device == "cuda" and not torch.cuda.is_available():
        raise EngineError(f"PyTorch {torch.__version__} has no CUDA here")
    from sharpose.export.onnx import half_model
    from sharpose.model import random_model
    from sharpose.model.graphs import CoarseGraph, FineGraph

    half = half_model(random_model(config).model).eval()
    graphs = [graph(half).to(device).eval() for graph in (CoarseGraph, FineGraph)]

    def milliseconds(graph: Callable[..., Any], *inputs: Any) -> float:  # noqa: ANN401 (tensors, whatever it takes)
        times = []
        for _ in range(_WARM_UP + _RUNS):
            started = time.perf_counter()
            graph(*inputs)[0].cpu()  # waits for it
            times.append(time.perf_counter() - started)
        return float(np.median(times[_WARM_UP:])) * 1000

    with torch.inference_mode():
        for mode in ("eager", "compiled"):
            coarse, fine = graphs if mode == "eager" else map(torch.compile, graphs)
            for people in numbers:
                image = torch.zeros((people, *config.crop_size, 3), dtype=torch.uint8, device=device)
                order, features, embeddings = coarse(image)[2:5]
                size = people, PATCHES_PER_REGION * config.num_selected, 3 * PATCH_SIZE**2
                patches = torch.zeros(size, dtype=torch.uint8, device=device)
                rows = torch.arange(people, dtype=torch.int32, device=device)
                coarse_ms = milliseconds(coarse, image)
                yield TorchCase(mode, people, coarse_ms, milliseconds(fine, rows, patches, order, features, embeddings))
