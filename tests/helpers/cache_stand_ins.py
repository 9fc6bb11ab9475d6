"""A request for an engine, and what stands in for building it."""

from __future__ import annotations

import hashlib

from sharpose.engines.gpu import Gpu
from sharpose.engines.tensorrt.build import describe_gpu
from sharpose.engines.tensorrt.cache import EngineRequest, Options, Sidecar

OPTIONS = Options(
    min_batch=1,
    opt_batch=[1, 4, 16],
    max_batch=16,
    workspace_mib=None,
    optimization_level=None,
    tf32=False,
    hardware_compatible=None,
    version_compatible=False,
)


GPU = Gpu(0, "NVIDIA GeForce RTX 4090", "8.9", "CUDA 13.0", 128, False)


REQUEST = EngineRequest("coarse", "fp16", "a" * 64, "b" * 64, "tensorrt", "10.3.0", GPU, OPTIONS)


def sidecar_for(request: EngineRequest, plan: bytes) -> Sidecar:
    return Sidecar(
        schema_version=2,
        sharpose_version="0",
        stage=request.stage,
        precision=request.precision,
        graph_sha256=request.graph_sha256,
        weights_sha256=request.weights_sha256,
        flavour=request.flavour,
        flavour_version=request.flavour_version,
        gpu=describe_gpu(request.gpu),
        options=request.options,
        profiles=[],
        tensors=[],
        layers={},
        engine_layers=None,
        build_seconds=1.5,
        plan_bytes=len(plan),
        plan_sha256=hashlib.sha256(plan).hexdigest(),
    )


class Builder:
    """Counts its builds; every plan is another."""

    def __init__(self, request=REQUEST):
        self.request = request
        self.count = 0

    def __call__(self) -> tuple[bytes, Sidecar]:
        self.count += 1
        plan = f"plan {self.count} ".encode() * 1000
        return plan, sidecar_for(self.request, plan)
