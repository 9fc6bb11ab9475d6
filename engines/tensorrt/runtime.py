"""TensorRT's runtime: a loaded engine, its execution contexts and CUDA graphs, and a runner of one engine."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sharpose.bundle import GraphEntry
from sharpose.engines import Untyped
from sharpose.engines.base import Runner, TensorSpec, Value, check_signature, specs
from sharpose.engines.cuda.device import CudaBuffer, CudaDevice, CudaGraph, CudaStream
from sharpose.engines.tensorrt.build import numpy_dtype
from sharpose.engines.tensorrt.library import TensorRtFlavour, because, collect_errors, tensorrt_logger
from sharpose.errors import EngineError, InputError


class TensorRtEngine:
    """A plan loaded on the GPU (`ICudaEngine`). Made and used inside `CudaDevice.active`.

    Its inputs and outputs are the declared ones, by name; an execution context computes in `scratch_bytes` of memory.

    Args:
        flavour: Which TensorRT.
        plan: The serialized engine.
        entry: What the bundle declares of the graph; the engine must agree.
        what: Names the engine in errors.
        specialize: TensorRT-RTX compiles kernels for exactly the shapes that are set, before the first run with them;
            a CUDA graph would otherwise keep the general ones.

    Raises:
        EngineError: the plan can't be loaded here, or isn't an engine for this graph.
    """

    def __init__(
        self, flavour: TensorRtFlavour, plan: bytes, entry: GraphEntry, what: str, *, specialize: bool = False
    ) -> None:
        self._flavour, self._specialize = flavour, specialize
        trt = flavour.module
        with collect_errors() as messages:
            try:
                self._runtime: Untyped = trt.Runtime(tensorrt_logger(flavour))
                self._engine: Untyped = self._runtime.deserialize_cuda_engine(plan)
            except TypeError:  # pybind's way of saying that the constructor returned null
                self._engine = None
            if self._engine is None:
                raise EngineError(f"{what}: {flavour} can't load it{because(messages)}")
        self.inputs, self.outputs = specs(entry)
        for mode, declared in ((trt.TensorIOMode.INPUT, self.inputs), (trt.TensorIOMode.OUTPUT, self.outputs)):
            check_signature(what, _signature(self._engine, mode), tuple(declared.values()))
        self.min_batch, self.max_batch = _batches(self._engine, self.inputs)
        self.scratch_bytes = _scratch_bytes(self._engine)

    def create_context(self) -> ExecutionContext:
        """A new context without shapes, addresses and scratch memory."""
        if self._engine is None:
            raise EngineError("this engine was closed")
        strategy = self._flavour.module.ExecutionContextAllocationStrategy.USER_MANAGED
        kernels = getattr(self._flavour.module, "DynamicShapesKernelSpecializationStrategy", None)
        with collect_errors() as messages:
            configuration = strategy
            if self._specialize and self._flavour.is_rtx and kernels is not None:
                configuration = self._engine.create_runtime_config()
                configuration.set_execution_context_allocation_strategy(strategy)
                configuration.dynamic_shapes_kernel_specialization_strategy = kernels.EAGER
            context = self._engine.create_execution_context(configuration)
            if context is None:
                raise EngineError(f"{self._flavour} can't make an execution context{because(messages)}")
        return ExecutionContext(self._flavour, context)

    def close(self) -> None:
        """Free it, after its contexts. May be called twice."""
        self._engine = self._runtime = None


def _signature(engine: Untyped, mode: Untyped) -> list[TensorSpec]:
    found = []
    for name in map(engine.get_tensor_name, range(engine.num_io_tensors)):
        if engine.get_tensor_mode(name) == mode:
            sizes = enumerate(tuple(engine.get_tensor_shape(name)))
            shape = tuple(f"axis{axis}" if size < 0 else size for axis, size in sizes)
            found.append(TensorSpec(name, np.dtype(numpy_dtype(engine.get_tensor_dtype(name))), shape))
    return found


def _batches(engine: Untyped, inputs: Mapping[str, TensorSpec]) -> tuple[int, int]:
    """The sizes that every dynamic axis may have, by the engine's only profile."""
    lows, highs = [1], list[int]()
    for name, spec in inputs.items():
        low, _, high = engine.get_tensor_profile_shape(name, 0)
        dynamic = [axis for axis, size in enumerate(spec.shape) if isinstance(size, str)]
        lows += [int(low[axis]) for axis in dynamic]
        highs += [int(high[axis]) for axis in dynamic]
    return max(lows), min(highs, default=1)


def _scratch_bytes(engine: Untyped) -> int:
    for name in ("device_memory_size_v2", "device_memory_size"):
        size = getattr(engine, name, None)
        if size is not None:
            return int(size)
    raise EngineError("this TensorRT doesn't say how much scratch memory an engine needs; expected 10.3 or later")


class ExecutionContext:
    """TensorRT's `IExecutionContext`: shapes, addresses and scratch memory. All failures are `EngineError`."""

    def __init__(self, flavour: TensorRtFlavour, context: Untyped) -> None:
        self._flavour, self._context = flavour, context

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> None:
        """Set an input's shape for the runs to come."""
        self._call(f"shape {list(shape)} for input {name}", self._context.set_input_shape, name, shape)

    def set_tensor_address(self, name: str, address: int) -> None:
        """Say where on the device an input or output lies."""
        self._call(f"address of {name}", self._context.set_tensor_address, name, address)

    def set_scratch(self, address: int, nbytes: int) -> None:
        """Lend it memory to compute in; contexts that run in turn on one stream may share it."""
        if hasattr(self._context, "set_device_memory"):
            self._call("scratch memory", self._context.set_device_memory, address, nbytes)
        else:  # older versions
            self._call("scratch memory", setattr, self._context, "device_memory", address)

    def can_be_captured(self, stream: CudaStream) -> bool:
        """Whether `execute` may be captured into a CUDA graph. With TensorRT proper it always may."""
        ask = getattr(self._context, "is_stream_capturable", None)
        return True if ask is None else bool(ask(stream.handle))

    def execute(self, stream: CudaStream) -> None:
        """Put a run into the stream."""
        self._call("run", self._context.execute_async_v3, stream.handle)

    def close(self) -> None:
        """Free it. May be called twice."""
        self._context = None

    def _call(self, what: str, function: Callable[..., Untyped], *arguments: Untyped) -> None:
        with collect_errors() as messages:
            if function(*arguments) is False:  # None is from functions that have nothing to say
                raise EngineError(f"{self._flavour} refuses the {what}{because(messages)}")


class DeviceResources:
    """What engines that run in turn on a GPU share; the engines and the device are closed with it."""

    stream: CudaStream  # where all work is put
    buffers: dict[str, CudaBuffer]  # by the tensor's name, large enough for the engine that needs most
    scratch: CudaBuffer | None  # likewise; None if no engine needs any

    def __init__(self, cuda: CudaDevice, engines: Sequence[TensorRtEngine]) -> None:
        self.cuda, self._engines = cuda, engines
        self._stack = contextlib.ExitStack()
        for engine in engines:
            self._stack.callback(engine.close)

    @contextlib.contextmanager
    def allocate(self, max_batch: int) -> Iterator[None]:
        """Allocate, then the block may allocate more; a failure here or there frees everything."""
        try:
            with self.cuda.active():
                self.stream = self.cuda.stream()
                self.free_later(self.stream.free)
                sizes: dict[str, int] = {}
                for engine in self._engines:
                    for name, spec in (*engine.inputs.items(), *engine.outputs.items()):
                        sizes[name] = max(sizes.get(name, 0), spec.max_bytes(max_batch))
                self.buffers = {name: self._buffer(nbytes) for name, nbytes in sizes.items()}
                scratch_bytes = max(engine.scratch_bytes for engine in self._engines)
                self.scratch = self._buffer(scratch_bytes) if scratch_bytes else None
                yield
        except BaseException:
            self.close()
            raise

    def free_later(self, free: Callable[[], None]) -> None:
        """Call `free` at the end, last come first."""
        self._stack.callback(free)

    def upload(self, name: str, source: npt.NDArray[np.generic]) -> None:
        """Put the copy of a host array to a tensor's buffer into the stream."""
        self.cuda.upload(self.buffers[name], source, self.stream)

    def download(self, target: npt.NDArray[np.generic], name: str) -> None:
        """Put the copy of a tensor's buffer to a host array into the stream."""
        self.cuda.download(target, self.buffers[name], self.stream)

    def close(self) -> None:
        """Free everything. May be called twice."""
        # After a device fault every call fails; what went wrong was reported, and the process's end frees the rest.
        with contextlib.suppress(EngineError), self.cuda.active():
            with contextlib.suppress(EngineError, AttributeError):  # there may be no stream yet
                self.stream.synchronize()
            self._stack.close()
        self.cuda.close()

    def _buffer(self, nbytes: int) -> CudaBuffer:
        buffer = self.cuda.buffer(nbytes)
        self.free_later(buffer.free)
        return buffer


_Sizes = tuple[tuple[str, int], ...]  # of the dynamic axes, sorted by name


class ContextPool:
    """Execution contexts of one engine. Made and used inside `CudaDevice.active`.

    Without CUDA graphs there is one context, whose input shapes are set when the sizes change. With them every
    combination of sizes has a context of its own, because a captured graph remembers what its context was when it was
    captured; they share scratch memory, as they run in turn. The `DeviceResources` free this object.
    """

    def __init__(self, engine: TensorRtEngine, gpu: DeviceResources, *, use_graphs: bool) -> None:
        self._engine, self._gpu, self._use_graphs = engine, gpu, use_graphs
        self._contexts: dict[_Sizes, ExecutionContext] = {}
        self._graphs: dict[_Sizes, CudaGraph] = {}
        self._single = None if use_graphs else self._new_context()
        self._single_sizes: _Sizes | None = None
        gpu.free_later(self._free)

    def enqueue(self, sizes: Mapping[str, int], upload: Callable[[], None], download: Callable[[], None]) -> None:
        """Put copies in, the run, and copies out into the stream.

        Args:
            sizes: Size of every dynamic axis.
            upload: Puts the copies of inputs into the stream. With CUDA graphs it is captured: for given sizes it must
                always copy between the same places.
            download: The same for outputs.

        Raises:
            EngineError: the run can't be put into the stream.
        """
        key = tuple(sorted(sizes.items()))
        stream = self._gpu.stream
        if key in self._graphs:
            self._graphs[key].launch(stream)
            return
        context = self._context(key, sizes)

        def put() -> None:
            upload()
            context.execute(stream)
            download()

        put()
        # TensorRT finishes its own preparations in the first run after a change of shapes; only then is it captured.
        if self._use_graphs and context.can_be_captured(stream):
            stream.synchronize()
            self._graphs[key] = self._gpu.cuda.capture(stream, put)

    def _context(self, key: _Sizes, sizes: Mapping[str, int]) -> ExecutionContext:
        """A context with the shapes set for these sizes."""
        if self._single is None:
            if key not in self._contexts:
                self._contexts[key] = self._new_context(sizes)
            return self._contexts[key]
        if key != self._single_sizes:
            self._single_sizes = None  # until all are set
            self._set_shapes(self._single, sizes)
            self._single_sizes = key
        return self._single

    def _set_shapes(self, context: ExecutionContext, sizes: Mapping[str, int]) -> None:
        for name, spec in self._engine.inputs.items():
            context.set_input_shape(name, spec.shape_at(sizes))

    def _new_context(self, sizes: Mapping[str, int] | None = None) -> ExecutionContext:
        context = self._engine.create_context()
        try:
            if self._gpu.scratch is not None:
                context.set_scratch(self._gpu.scratch.address, self._gpu.scratch.nbytes)
            for name in (*self._engine.inputs, *self._engine.outputs):
                context.set_tensor_address(name, self._gpu.buffers[name].address)
            if sizes is not None:
                self._set_shapes(context, sizes)
        except BaseException:
            context.close()
            raise
        return context

    def _free(self) -> None:
        for graph in self._graphs.values():
            graph.free()
        for context in (*self._contexts.values(), self._single):
            if context is not None:
                context.close()


@dataclass(frozen=True)
class DeviceView:
    """An output left on the device, until its runner runs again or is closed; a `DeviceTensor`."""

    buffer: CudaBuffer
    sizes: tuple[int, ...]

    def shape(self) -> tuple[int, ...]:
        """The tensor's sizes."""
        return self.sizes


class TensorRtRunner(Runner):
    """One engine that takes and gives host arrays; see `Runner`. `TensorRtTwoStage` is the fast way to run both.

    It closes the engine and `cuda`, also if it can't be made: `EngineError` where the device has too little memory.
    """

    def __init__(self, engine: TensorRtEngine, cuda: CudaDevice, device: str) -> None:
        super().__init__(device, engine.inputs, engine.outputs, engine.max_batch, engine.min_batch)
        self._gpu = DeviceResources(cuda, [engine])
        with self._gpu.allocate(engine.max_batch):
            self._contexts = ContextPool(engine, self._gpu, use_graphs=False)

    def _run(
        self, inputs: Mapping[str, Value], sizes: Mapping[str, int], outputs: Sequence[str], kept: Collection[str]
    ) -> dict[str, Value]:
        results: dict[str, Value] = {}
        arrays: dict[str, npt.NDArray[np.generic]] = {}
        for name in outputs:
            spec = self.outputs[name]
            if name in kept:
                results[name] = DeviceView(self._gpu.buffers[name], spec.shape_at(sizes))
            else:
                results[name] = arrays[name] = np.empty(spec.shape_at(sizes), spec.dtype)

        def download() -> None:
            for name, array in arrays.items():
                self._gpu.download(array, name)

        with self._gpu.cuda.active():
            self._contexts.enqueue(sizes, lambda: self._upload(inputs), download)
            self._gpu.stream.synchronize()
        return results

    def _upload(self, inputs: Mapping[str, Value]) -> None:
        for name, value in inputs.items():
            if isinstance(value, np.ndarray):
                self._gpu.upload(name, value)
            elif isinstance(value, DeviceView):
                nbytes = int(np.prod(value.sizes)) * self.inputs[name].dtype.itemsize
                self._gpu.cuda.copy(self._gpu.buffers[name], value.buffer, nbytes, self._gpu.stream)
            else:
                raise InputError(f"engine input {name}: expected a host array or an output of a TensorRT engine")

    def _free(self) -> None:
        self._gpu.close()
