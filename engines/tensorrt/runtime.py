"""TensorRT's runtime: a loaded engine and its execution contexts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sharpose.bundle import GraphEntry
from sharpose.engines import Untyped
from sharpose.engines.base import TensorSpec, check_signature, specs
from sharpose.engines.cuda.device import CudaStream
from sharpose.engines.gpu import Gpu
from sharpose.engines.tensorrt.build import numpy_dtype
from sharpose.engines.tensorrt.cache import StoredEngine
from sharpose.engines.tensorrt.kernel_cache import KernelCache
from sharpose.engines.tensorrt.library import TensorRtFlavour, because, collect_errors, tensorrt_logger
from sharpose.engines.tensorrt.profiles import axis_sizes, batch_axis, find_range
from sharpose.errors import EngineError

# By the names in TensorRT-RTX's EngineInvalidityDiagnostics. Too little memory is left to the loading itself.
_INVALID = {
    "UNSUPPORTED_CC": "it has no kernels for this GPU; use NVIDIA TensorRT, or the device cuda (--device cuda)",
    "VERSION_MISMATCH": "another version built it",
    "OLD_CUDA_DRIVER": "the GPU driver is too old; update it",
    "OLD_CUDA_RUNTIME": "CUDA is too old; update it",
    "MALFORMED_ENGINE": "it is damaged",
}


class TensorRtEngine:
    """A plan loaded on the GPU (`ICudaEngine`). Made and used inside `CudaDevice.active`.

    Its inputs and outputs are the declared ones, by name; an execution context computes in `scratch_bytes` of memory,
    enough for every profile. `batch_axis` is the axis of its outputs that is the batch (None if all shapes are fixed),
    `ranges` are the smallest and the largest batch of each profile.

    Args:
        flavour: Which TensorRT.
        stored: The plan, whose hash is the sidecar's.
        entry: What the bundle declares of the graph; the engine must agree. None for a graph of no bundle: what the
            sidecar says of it, all of fixed sizes.
        gpu: The GPU, named in errors.
        specialize: TensorRT-RTX compiles kernels for exactly the shapes that are set, before the first run with them;
            a CUDA graph would otherwise keep the general ones.

    Raises:
        EngineError: the plan can't be loaded here, or isn't an engine for this graph.
    """

    def __init__(
        self,
        flavour: TensorRtFlavour,
        stored: StoredEngine,
        entry: GraphEntry | None,
        gpu: Gpu,
        *,
        specialize: bool = False,
    ) -> None:
        self.name, self._flavour = str(stored.path), flavour
        self.compiles_shapes = flavour.is_rtx  # every shape that is new costs a compilation
        with collect_errors(log_after=True) as messages:
            try:
                self._runtime: Untyped = flavour.module.Runtime(tensorrt_logger(flavour))
            except TypeError:  # pybind's way of saying that the constructor returned null
                raise EngineError(f"{self.name}: {flavour} can't load it{because(messages)}") from None
            if stored.sidecar.options.version_compatible:
                # Such a plan brings a TensorRT of its own, as code for the host. We know who built it.
                self._runtime.engine_host_code_allowed = True
            self._check_validity(stored.plan, gpu)
            self._engine: Untyped = self._runtime.deserialize_cuda_engine(stored.plan)
            if self._engine is None:
                raise EngineError(f"{self.name}: {flavour} can't load it{because(messages)}")
        modes = flavour.module.TensorIOMode
        self.inputs, self.outputs = _stored_specs(stored) if entry is None else specs(entry)
        for mode, declared in ((modes.INPUT, self.inputs), (modes.OUTPUT, self.outputs)):
            check_signature(self.name, _signature(self._engine, mode), tuple(declared.values()))
        self.batch_axis = batch_axis(self.outputs)
        self.ranges = tuple(self._range(profile) for profile in range(self._engine.num_optimization_profiles))
        self.min_batch, self.max_batch = self.ranges[0][0], self.ranges[-1][1]
        self.scratch_bytes = _scratch_bytes(self._engine)
        # Contexts don't keep the configuration that they are made with, so the engine does.
        self._configuration: Untyped = flavour.module.ExecutionContextAllocationStrategy.USER_MANAGED
        self._kernels: KernelCache | None = None
        if flavour.is_rtx:
            self._kernels = KernelCache(stored, gpu)
            self._configuration = self._configure_rtx(self._kernels, specialize=specialize)

    def sizes(self, batch: int) -> dict[str, int]:
        """The size of every dynamic axis for a batch."""
        return axis_sizes(self.inputs, self.batch_axis, batch, self.max_batch)

    def profile(self, batch: int) -> int:
        """The index of the profile for a batch."""
        return find_range(self.ranges, batch)

    def create_context(self, profile: int, stream: CudaStream) -> ExecutionContext:
        """A new context for a profile, without shapes, addresses and scratch memory. Waits for the stream."""
        if self._engine is None:
            raise EngineError("this engine was closed")
        with collect_errors(log_after=True) as messages:
            raw = self._engine.create_execution_context(self._configuration)
            if raw is None:
                raise EngineError(f"{self._flavour} can't make an execution context{because(messages)}")
        context = ExecutionContext(self._flavour, raw)
        if profile:  # a new context has the first
            context.set_profile(profile, stream)
        return context

    def save_kernels(self) -> None:
        """Keep the kernels that TensorRT-RTX has compiled, beside the engine, so that the next start doesn't."""
        if self._kernels is not None:
            self._kernels.save()

    def close(self) -> None:
        """Free it, after its contexts. May be called twice."""
        if self._kernels is not None:
            self._kernels.save()
            self._kernels.close()
        self._engine = self._configuration = self._runtime = self._kernels = None

    def _configure_rtx(self, kernels: KernelCache, *, specialize: bool) -> Untyped:
        trt = self._flavour.module
        configuration = self._engine.create_runtime_config()
        configuration.set_execution_context_allocation_strategy(self._configuration)
        if specialize:
            strategies = trt.DynamicShapesKernelSpecializationStrategy
            configuration.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
        kernels.attach(configuration)
        return configuration

    def _check_validity(self, plan: bytes, gpu: Gpu) -> None:
        """Ask TensorRT-RTX whether the plan is for this GPU, version and driver."""
        ask = getattr(self._runtime, "get_engine_validity", None) if self._flavour.is_rtx else None
        if ask is None:
            return
        trt = self._flavour.module
        validity, diagnostics = ask(plan)
        if validity != trt.EngineValidity.INVALID:
            return
        for name, reason in _INVALID.items():
            bit = getattr(trt.EngineInvalidityDiagnostics, name, None)
            if bit is not None and int(diagnostics) & int(bit):
                raise EngineError(f"{self.name}: {self._flavour} can't run it on {gpu}: {reason}")

    def _range(self, profile: int) -> tuple[int, int]:
        """The smallest and the largest batch that all inputs may have in a profile."""
        lows, highs = [1], list[int]()
        for name, spec in self.inputs.items():
            low, _, high = self._engine.get_tensor_profile_shape(name, profile)
            for axis, size in enumerate(spec.shape):
                if size == self.batch_axis:
                    lows.append(int(low[axis]))
                    highs.append(int(high[axis]))
        return max(lows), min(highs, default=1)


def _stored_specs(stored: StoredEngine) -> tuple[dict[str, TensorSpec], dict[str, TensorSpec]]:
    inputs, outputs = (
        {
            item.name: TensorSpec(item.name, np.dtype(item.dtype), tuple(item.shape))
            for item in stored.sidecar.tensors
            if item.mode == mode
        }
        for mode in ("input", "output")
    )
    return inputs, outputs


def _signature(engine: Untyped, mode: Untyped) -> list[TensorSpec]:
    found = []
    for name in map(engine.get_tensor_name, range(engine.num_io_tensors)):
        if engine.get_tensor_mode(name) == mode:
            sizes = enumerate(tuple(engine.get_tensor_shape(name)))
            shape = tuple(f"axis{axis}" if size < 0 else size for axis, size in sizes)
            found.append(TensorSpec(name, np.dtype(numpy_dtype(engine.get_tensor_dtype(name))), shape))
    return found


def _scratch_bytes(engine: Untyped) -> int:
    for name in ("device_memory_size_v2", "device_memory_size"):  # the most that any profile needs
        size = getattr(engine, name, None)
        if size is not None:
            return int(size)
    raise EngineError("this TensorRT doesn't say how much scratch memory an engine needs; expected 10.3 or later")


class ExecutionContext:
    """TensorRT's `IExecutionContext`: shapes, addresses and scratch memory. All failures are `EngineError`."""

    def __init__(self, flavour: TensorRtFlavour, context: Untyped) -> None:
        self._flavour, self._context = flavour, context

    def set_profile(self, profile: int, stream: CudaStream) -> None:
        """Use another profile, before any shape is set. Waits for the stream, which copies what belongs to it."""
        self._call(f"profile {profile}", self._context.set_optimization_profile_async, profile, stream.handle)
        stream.synchronize()

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> None:
        """Set an input's shape for the runs to come."""
        self._call(f"shape {list(shape)} for input {name}", self._context.set_input_shape, name, shape)

    def set_tensor_address(self, name: str, address: int) -> None:
        """Say where an input or output lies, as the device sees it."""
        self._call(f"address of {name}", self._context.set_tensor_address, name, address)

    def set_scratch(self, address: int, nbytes: int) -> None:
        """Lend it memory to compute in; contexts that run in turn on one stream may share it."""
        if hasattr(self._context, "set_device_memory"):
            self._call("scratch memory", self._context.set_device_memory, address, nbytes)
        else:  # older versions
            self._call("scratch memory", setattr, self._context, "device_memory", address)

    def can_be_captured(self, stream: CudaStream) -> bool:
        """Whether `execute` may be captured into a CUDA graph, if TensorRT can say; TensorRT proper can't."""
        ask = getattr(self._context, "is_stream_capturable", None)
        return True if ask is None else bool(ask(stream.handle))

    def execute(self, stream: CudaStream) -> None:
        """Put a run into the stream."""
        self._call("run", self._context.execute_async_v3, stream.handle)

    def close(self) -> None:
        """Free it. May be called twice."""
        self._context = None

    def _call(self, what: str, function: Callable[..., Untyped], *arguments: Untyped) -> None:
        with collect_errors(log_after=True) as messages:
            try:
                refused = function(*arguments) is False  # None is from functions that have nothing to say
            except RuntimeError as error:  # what the bindings of some functions make of False
                raise EngineError(f"{self._flavour} refuses the {what}{because(messages, str(error))}") from error
            if refused:
                raise EngineError(f"{self._flavour} refuses the {what}{because(messages)}")
