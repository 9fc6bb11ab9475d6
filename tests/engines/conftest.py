"""Engines without a GPU: small sums in numpy, or a bundle's graph in ONNX Runtime, on host memory."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from host_cuda import HostCuda, HostStream

from sharpose.engines.base import TensorSpec, specs
from sharpose.engines.cuda.device import CudaStream
from sharpose.engines.tensorrt.library import BuildOptions, TensorRtFlavour, tensorrt_logger
from sharpose.engines.tensorrt.profiles import axis_sizes, batch_axis, batch_ranges, find_range
from sharpose.errors import EngineError

Arrays = Mapping[str, np.ndarray]
TENSORRT = TensorRtFlavour("tensorrt", "10.3.0", ModuleType("tensorrt"))
TENSORRT.module.ILogger = object


class HostContext:
    """A context that computes on host memory when its stream gets there."""

    def __init__(self, engine: HostEngine, profile: int) -> None:
        self.engine, self.profile = engine, profile
        self.addresses: dict[str, int] = {}
        self.sizes: dict[str, int] = {}
        self.scratch: tuple[int, int] | None = None
        self.closed = False
        self.executed_once_since_shape = False

    def set_input_shape(self, name, shape):
        if self.engine.refuse_shapes:
            raise EngineError(f"{self.engine.name}: the shape was refused")
        spec = self.engine.inputs[name]
        low, high = self.engine.ranges[self.profile]
        for axis, size in zip(spec.shape, shape, strict=True):
            if isinstance(axis, str):
                assert low <= size <= high if axis == self.engine.batch_axis else size == self.engine.max_batch
                self.sizes[axis] = size
        self.executed_once_since_shape = False
        self.engine.cuda.log.append(f"shape {name} {shape[0]}")

    def set_tensor_address(self, name, address):
        self.addresses[name] = address

    def set_scratch(self, address, nbytes):
        assert nbytes >= self.engine.scratch_bytes
        self.scratch = (address, nbytes)

    def can_be_captured(self, stream: CudaStream) -> bool:
        return self.engine.capturable

    def execute(self, stream: CudaStream) -> None:
        assert isinstance(stream, HostStream)
        engine = self.engine
        if engine.fail:
            raise EngineError(f"{engine.name}: the run failed")
        if engine.cuda.is_capturing and not self.executed_once_since_shape:
            raise EngineError("captured before a run with these shapes")
        self.executed_once_since_shape = True
        sizes, addresses, scratch = dict(self.sizes), dict(self.addresses), self.scratch
        label = f"{engine.name} " + " ".join(f"{axis}={size}" for axis, size in sorted(sizes.items()))
        stream.enqueue(label, lambda: engine.compute(sizes, addresses, scratch))
        if engine.cuda.is_capturing and engine.logged_in_capture is not None:
            tensorrt_logger(TENSORRT).log(1, engine.logged_in_capture)
        if engine.cuda.is_capturing and engine.fail_in_capture:
            raise EngineError(f"{engine.name}: operation not permitted when stream is capturing")

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.engine.contexts -= 1


class HostEngine:
    """Stands in for `TensorRtEngine`; `function` maps input arrays to output arrays."""

    def __init__(self, name, cuda, inputs, outputs, function, *, max_batch, min_batch=1, scratch_bytes=64):
        self.name = name
        self.cuda = cuda
        self.inputs: Mapping[str, TensorSpec] = inputs
        self.outputs: Mapping[str, TensorSpec] = outputs
        self.function: Callable[[Arrays], Arrays] = function
        self.max_batch, self.min_batch, self.scratch_bytes = max_batch, min_batch, scratch_bytes
        self.batch_axis = batch_axis(outputs)
        wanted = batch_ranges(BuildOptions(max_batch=max_batch, min_batch=min_batch), TENSORRT)
        self.ranges = tuple((item.min, item.max) for item in wanted)
        self.compiles_shapes = False
        self.saved = 0
        self.logged_in_capture: str | None = None
        self.fail_in_capture = False
        self.contexts = 0
        self.contexts_made = 0
        self.closed = 0
        self.fail = False
        self.refuse_shapes = False
        self.capturable = True
        self.made: list[HostContext] = []

    def sizes(self, batch):
        return axis_sizes(self.inputs, self.batch_axis, batch, self.max_batch)

    def profile(self, batch):
        return find_range(self.ranges, batch)

    def create_context(self, profile, stream) -> HostContext:
        self.contexts += 1
        self.contexts_made += 1
        self.made.append(HostContext(self, profile))
        return self.made[-1]

    def save_kernels(self) -> None:
        self.saved += 1

    def close(self) -> None:
        assert self.contexts == 0, "closed before its contexts"
        self.closed += 1

    def compute(self, sizes, addresses, scratch) -> None:
        if self.scratch_bytes:
            self.cuda.buffers[scratch[0]].data[:] = 0xCD  # whoever else computes there must not rely on it
        inputs = {
            name: self.cuda.at(addresses[name], spec.shape_at(sizes), spec.dtype).copy()
            for name, spec in self.inputs.items()
        }
        results = self.function(inputs)
        for name, spec in self.outputs.items():
            view = self.cuda.at(addresses[name], spec.shape_at(sizes), spec.dtype)
            assert results[name].shape == view.shape
            view[...] = results[name]


def spec(name: str, dtype: str, *shape: int | str) -> TensorSpec:
    return TensorSpec(name, np.dtype(dtype), shape)


CARRIED = (
    spec("region_order", "int32", "N", 4),
    spec("region_features", "float32", "N", 4, 2),
    spec("region_embeddings", "float32", "N", 4, 2),
)
COARSE = (
    (spec("image", "uint8", "N", 2, 2, 3),),
    (
        spec("keypoints", "float32", "N", 2, 3),
        spec("quality", "float32", "N"),
        *CARRIED,
        spec("heatmaps", "float32", "N", 2, 5),
    ),
)
FINE = (
    (spec("rows", "int32", "M"), spec("patches", "uint8", "M", 8, 6), *CARRIED),
    (spec("keypoints", "float32", "M", 2, 3), spec("heatmaps", "float32", "M", 2, 5)),
)


def coarse_sum(inputs: Arrays) -> Arrays:
    image = inputs["image"].astype(np.float32)
    total = image.sum(axis=(1, 2, 3))
    people = len(image)
    order = (np.arange(4) + total[:, None].astype(np.int32)) % 4
    return {
        "keypoints": total[:, None, None] + np.arange(6, dtype=np.float32).reshape(2, 3),
        "quality": image[:, 0, 0, 0] / 255,
        "region_order": order.astype(np.int32),
        "region_features": np.repeat(total, 8).reshape(people, 4, 2) * 2,
        "region_embeddings": np.repeat(total, 8).reshape(people, 4, 2) * 3,
        "heatmaps": np.zeros((people, 2, 5), np.float32),
    }


def fine_sum(inputs: Arrays) -> Arrays:
    rows = inputs["rows"]
    assert rows.min() >= 0
    assert rows.max() < len(inputs["region_order"])
    carried = inputs["region_features"][rows, 0, 0] + inputs["region_embeddings"][rows, 0, 0]
    total = carried + inputs["patches"].sum(axis=(1, 2), dtype=np.float32) + inputs["region_order"][rows, 0]
    return {
        "keypoints": np.repeat(total, 6).reshape(len(rows), 2, 3).astype(np.float32),
        "heatmaps": np.zeros((len(rows), 2, 5), np.float32),
    }


def _by_name(items):
    return {item.name: item for item in items}


@pytest.fixture
def live() -> Callable[[HostCuda], dict[str, int]]:
    """Counts what of a device is still allocated, by kind, when garbage has been collected."""

    def count(cuda: HostCuda) -> dict[str, int]:
        gc.collect()
        return dict(+cuda.live)

    gc.freeze()  # what was imported: a second a collection, else, with torch loaded
    return count


@pytest.fixture
def host_engine() -> type[HostEngine]:
    """The class, to make others than `small_engines`."""
    return HostEngine


@pytest.fixture
def small_engines() -> Callable[..., tuple[HostEngine, HostEngine]]:
    """Makes a coarse and a fine engine that do sums."""

    def make(cuda: HostCuda, *, max_batch: int = 8, min_batch: int = 1) -> tuple[HostEngine, HostEngine]:
        sizes = {"max_batch": max_batch, "min_batch": min_batch}
        coarse = HostEngine("coarse", cuda, _by_name(COARSE[0]), _by_name(COARSE[1]), coarse_sum, **sizes)
        fine = HostEngine("fine", cuda, _by_name(FINE[0]), _by_name(FINE[1]), fine_sum, scratch_bytes=256, **sizes)
        return coarse, fine

    return make


@pytest.fixture
def bundle_engines() -> Callable[[Path, HostCuda], tuple[HostEngine, HostEngine]]:
    """Makes a bundle's own graphs, computed by ONNX Runtime, into engines."""
    import onnxruntime as ort

    from sharpose.bundle import open_bundle

    def make(path: Path, cuda: HostCuda) -> tuple[HostEngine, HostEngine]:
        bundle = open_bundle(path)
        engines = []
        for stage in ("coarse", "fine"):
            file, entry = bundle.graph(stage)
            options = ort.SessionOptions()
            options.intra_op_num_threads = 1
            session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
            inputs, outputs = specs(entry)

            def function(arrays, session=session, outputs=outputs):
                return dict(zip(outputs, session.run(list(outputs), dict(arrays)), strict=True))

            engines.append(HostEngine(stage, cuda, inputs, outputs, function, max_batch=bundle.manifest.max_batch))
        return engines[0], engines[1]

    return make


@pytest.fixture(scope="session")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of `scale_graph`."""
    from scale_graph import write_graph

    return write_graph(tmp_path_factory.mktemp("graphs") / "scale.onnx")
