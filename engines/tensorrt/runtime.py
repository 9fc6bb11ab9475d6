"""From a bundle to engines on a GPU: plans become programs, programs engines, and what is missing is built."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sharpose.bundle import Bundle, GraphEntry, Precision, gpu_precision
from sharpose.engines.base import TensorSpec, Untyped, Value, check_inputs, check_outputs, check_signature, specs
from sharpose.engines.cuda.memory import DeviceBuffer, Memory, Stream, open_memory
from sharpose.engines.gpu import Gpu, probe_gpu
from sharpose.engines.load import Device
from sharpose.engines.tensorrt.build import (
    ENGINES_FOLDER,
    BuiltEngine,
    build_engine,
    describe_options,
    is_portable,
    numpy_dtype,
)
from sharpose.engines.tensorrt.cache import EngineCache, EngineRequest, StoredEngine
from sharpose.engines.tensorrt.library import (
    BuildOptions,
    TensorRtFlavour,
    check_options,
    collect_errors,
    find_flavour,
    tensorrt_logger,
)
from sharpose.engines.tensorrt.progress import OnBuildProgress
from sharpose.engines.tensorrt.two_stage import (
    ExecutionContext,
    Program,
    StageRunner,
    TensorRtTwoStage,
    max_bytes,
    shape_at,
)
from sharpose.errors import EngineError, InputError

__all__ = [
    "DeviceView",
    "TensorRtEngine",
    "TensorRtRunner",
    "TensorRtSettings",
    "choose_precision",
    "load_tensorrt_runner",
    "load_tensorrt_two_stage",
]


class TensorRtEngine:
    """A `Program` of a plan in TensorRT's runtime. Made and used inside `Memory.active`.

    Args:
        flavour: Which TensorRT.
        plan: The serialized engine.
        entry: What the bundle declares of the graph; the engine must agree.
        what: Names the engine in errors.
        specialize: TensorRT-RTX compiles kernels for exactly the shapes that are set, before the first run with them;
            a CUDA graph would otherwise keep the general ones for ever.

    Raises:
        EngineError: the plan can't be loaded here, or isn't an engine for this graph.
    """

    def __init__(
        self, flavour: TensorRtFlavour, plan: bytes, entry: GraphEntry, what: str, *, specialize: bool = False
    ) -> None:
        self._flavour = flavour
        self._specialize = specialize
        trt = flavour.module
        with collect_errors() as messages:
            try:
                self._runtime: Untyped = trt.Runtime(tensorrt_logger(flavour))
                self._engine: Untyped = self._runtime.deserialize_cuda_engine(plan)
            except TypeError:  # pybind's way of saying that the constructor returned null
                self._engine = None
            if self._engine is None:
                raise EngineError(f"{what}: {flavour} can't load it{_because(messages)}")
        inputs, outputs = specs(entry)
        self.inputs: Mapping[str, TensorSpec] = inputs
        self.outputs: Mapping[str, TensorSpec] = outputs
        for mode, declared in ((trt.TensorIOMode.INPUT, inputs), (trt.TensorIOMode.OUTPUT, outputs)):
            check_signature(what, _signature(self._engine, mode), tuple(declared.values()))
        self.min_batch, self.max_batch = _batches(self._engine, inputs)
        self.scratch_bytes = _scratch_bytes(self._engine)

    def create_context(self) -> ExecutionContext:
        """See `Program.create_context`."""
        if self._engine is None:
            raise EngineError("this engine was closed")
        strategy = self._flavour.module.ExecutionContextAllocationStrategy.USER_MANAGED
        with collect_errors() as messages:
            context = self._engine.create_execution_context(self._configuration(strategy))
            if context is None:
                raise EngineError(f"{self._flavour} can't make an execution context{_because(messages)}")
        return _TensorRtContext(self._flavour, context)

    def close(self) -> None:
        """See `Program.close`."""
        self._engine = None
        self._runtime = None

    def _configuration(self, strategy: Untyped) -> Untyped:
        """What `create_execution_context` takes: a strategy, or with TensorRT-RTX a configuration that has one."""
        if not (self._specialize and self._flavour.is_rtx):
            return strategy
        kernels = getattr(self._flavour.module, "DynamicShapesKernelSpecializationStrategy", None)
        if kernels is None:
            return strategy
        configuration = self._engine.create_runtime_config()
        configuration.set_execution_context_allocation_strategy(strategy)
        configuration.dynamic_shapes_kernel_specialization_strategy = kernels.EAGER
        return configuration


class _TensorRtContext:
    """See `sharpose.engines.tensorrt.two_stage.ExecutionContext`."""

    def __init__(self, flavour: TensorRtFlavour, context: Untyped) -> None:
        self._flavour = flavour
        self._context = context

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> None:
        with self._checked(f"shape {list(shape)} for input {name}") as check:
            check(self._context.set_input_shape(name, shape))

    def set_tensor_address(self, name: str, address: int) -> None:
        with self._checked(f"address of {name}") as check:
            check(self._context.set_tensor_address(name, address))

    def set_scratch(self, address: int, nbytes: int) -> None:
        with self._checked("scratch memory") as check:
            if hasattr(self._context, "set_device_memory"):
                self._context.set_device_memory(address, nbytes)
            else:  # older versions
                self._context.device_memory = address
            check(True)

    def can_be_captured(self, stream: Stream) -> bool:
        """TensorRT proper has no such question: engines with static or profiled shapes always can."""
        ask = getattr(self._context, "is_stream_capturable", None)
        return True if ask is None else bool(ask(stream.handle))

    def execute(self, stream: Stream) -> None:
        with self._checked("run") as check:
            check(self._context.execute_async_v3(stream.handle))

    def close(self) -> None:
        self._context = None

    @contextlib.contextmanager
    def _checked(self, what: str) -> Untyped:
        with collect_errors() as messages:
            verdict: list[bool] = []
            yield lambda result: verdict.append(bool(result))
            if verdict != [True]:
                raise EngineError(f"{self._flavour} refuses the {what}{_because(messages)}")


def _signature(engine: Untyped, mode: Untyped) -> tuple[TensorSpec, ...]:
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    return tuple(
        TensorSpec(
            name,
            np.dtype(numpy_dtype(engine.get_tensor_dtype(name))),
            tuple(
                f"axis{axis}" if size < 0 else size for axis, size in enumerate(tuple(engine.get_tensor_shape(name)))
            ),
        )
        for name in names
        if engine.get_tensor_mode(name) == mode
    )


def _batches(engine: Untyped, inputs: Mapping[str, TensorSpec]) -> tuple[int, int]:
    """The sizes that every dynamic axis may have, by the engine's only profile."""
    smallest, largest = 1, None
    for name, spec in inputs.items():
        low, _, high = engine.get_tensor_profile_shape(name, 0)
        for axis, size in enumerate(spec.shape):
            if isinstance(size, str):
                smallest = max(smallest, int(low[axis]))
                largest = int(high[axis]) if largest is None else min(largest, int(high[axis]))
    return smallest, largest or 1


def _scratch_bytes(engine: Untyped) -> int:
    for name in ("device_memory_size_v2", "device_memory_size"):
        size = getattr(engine, name, None)
        if size is not None:
            return int(size)
    raise EngineError("this TensorRT doesn't say how much scratch memory an engine wants; expected 10.3 or later")


def _because(messages: list[str]) -> str:
    return f" ({' '.join(messages[0].split())})" if messages else ""


@dataclass(frozen=True)
class DeviceView:
    """An output left on the device, until its engine runs again or is closed; see `DeviceTensor`."""

    buffer: DeviceBuffer
    sizes: tuple[int, ...]

    def shape(self) -> tuple[int, ...]:
        """The tensor's sizes."""
        return self.sizes


class TensorRtRunner:
    """See `sharpose.engines.base.Runner`.

    Args:
        program: What to run.
        memory: The device; closed with this object, as the program is, also if it can't be made.
        device: The device as the user asked for it.

    Raises:
        EngineError: the device has too little memory.
    """

    def __init__(self, program: Program, memory: Memory, device: str) -> None:
        self.device = device
        self.inputs: Mapping[str, TensorSpec] = program.inputs
        self.outputs: Mapping[str, TensorSpec] = program.outputs
        self.max_batch = program.max_batch
        self._min_batch = program.min_batch
        self._memory = memory
        self._closed = False
        self._resources = contextlib.ExitStack()
        self._resources.callback(program.close)
        try:
            with memory.active():
                self._allocate(program)
        except BaseException:
            self.close()
            raise

    def _allocate(self, program: Program) -> None:
        memory, free = self._memory, self._resources.callback
        self._stream = memory.stream()
        free(self._stream.free)
        self._buffers: dict[str, DeviceBuffer] = {}
        for name, spec in (*program.inputs.items(), *program.outputs.items()):
            self._buffers[name] = memory.device_buffer(max_bytes(spec, program.max_batch))
            free(self._buffers[name].free)
        scratch = memory.device_buffer(program.scratch_bytes) if program.scratch_bytes else None
        if scratch is not None:
            free(scratch.free)
        self._runner = StageRunner(program, self._buffers, scratch, memory, self._stream, use_graphs=False)
        free(self._runner.close)

    def run(
        self, inputs: Mapping[str, Value], outputs: Sequence[str], *, keep_on_device: Collection[str] = ()
    ) -> dict[str, Value]:
        """Run the graph; see `Runner.run`. A batch below the engine's smallest is refused."""
        if self._closed:
            raise EngineError("this engine was closed")
        check_inputs(inputs, self.inputs, self.max_batch)
        check_outputs(outputs, self.outputs)
        sizes: dict[str, int] = {}
        for name, spec in self.inputs.items():
            value = inputs[name]
            shape = value.shape if isinstance(value, np.ndarray) else tuple(value.shape())
            sizes |= {axis: size for axis, size in zip(spec.shape, shape, strict=True) if isinstance(axis, str)}
        for axis, size in sizes.items():
            if size < self._min_batch:
                raise InputError(f"engine axis {axis}: this engine was built for {self._min_batch} or more, got {size}")
        results: dict[str, Value] = {}
        for name in outputs:
            shape = shape_at(self.outputs[name], sizes)
            if name in keep_on_device:
                results[name] = DeviceView(self._buffers[name], shape)
            else:
                results[name] = np.empty(shape, self.outputs[name].dtype)
        with self._memory.active():
            self._runner.run(sizes, lambda: self._upload(inputs), lambda: self._download(results))
            self._stream.synchronize()
        return results

    def close(self) -> None:
        """Free the engine. May be called twice."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(EngineError), self._memory.active():  # after a device fault every call fails
            self._resources.close()
        self._memory.close()

    def _upload(self, inputs: Mapping[str, Value]) -> None:
        for name, value in inputs.items():
            if isinstance(value, np.ndarray):
                self._memory.upload(self._buffers[name], value, self._stream)
            elif isinstance(value, DeviceView):
                spec = self.inputs[name]
                nbytes = int(np.prod(value.sizes)) * spec.dtype.itemsize
                self._memory.copy(self._buffers[name], value.buffer, nbytes, self._stream)
            else:
                raise InputError(f"engine input {name}: expected a host array or an output of a TensorRT engine")

    def _download(self, results: Mapping[str, Value]) -> None:
        for name, value in results.items():
            if isinstance(value, np.ndarray):
                self._memory.download(value, self._buffers[name], self._stream)


_log = logging.getLogger("sharpose.tensorrt")


@dataclass(frozen=True)
class TensorRtSettings:
    """How to run with TensorRT.

    Attributes:
        engine_cache: Folder of engines; `cache_folder()` if None.
        cuda_bindings: `cuda-python` or `pycuda`; the first that is installed if None.
        cuda_graphs: Capture CUDA graphs; if None, where the bindings can.
        flavour: `tensorrt` or `tensorrt_rtx`; the first that loads if None.
        precision: Which of the bundle's graphs; fp16 where it has them, else fp32, if None.
        options: The builder's; if None, the default ones, and engines of the bundle's own folder with whatever options.
        on_progress: Told how far a build is; a bar on stderr, where that is a terminal, if None.
        say: Told in a line what is being done; logged if None.
    """

    engine_cache: Path | None = None
    cuda_bindings: str | None = None
    cuda_graphs: bool | None = None
    flavour: str | None = None
    precision: Precision | None = None
    options: BuildOptions | None = None
    on_progress: OnBuildProgress | None = None
    say: Callable[[str], None] | None = None


def choose_precision(bundle: Bundle, asked: Precision | None = None) -> Precision:
    """The precision to run: the one asked for, else fp16 where the bundle has it, else fp32."""
    if asked is not None:
        bundle.graph("coarse", asked)
        return asked
    return gpu_precision(bundle.precisions)


def load_tensorrt_two_stage(bundle: Bundle, device: Device, settings: TensorRtSettings) -> TensorRtTwoStage:
    """Both stages on a GPU.

    Raises:
        BundleError: the bundle doesn't have the precision asked for.
        EngineError: the driver, the GPU, TensorRT or a CUDA binding is missing, or an engine can't be built or loaded.
    """
    loader = _Loader(bundle, device, settings)
    memory = open_memory(device.index, settings.cuda_bindings)
    try:
        use_graphs = memory.has_graphs if settings.cuda_graphs is None else settings.cuda_graphs
        if use_graphs and not memory.has_graphs:
            raise EngineError(
                f"--cuda-graphs: {memory.name} has none; use --cuda-bindings cuda-python, or --no-cuda-graphs"
            )
        loader.say(
            f"{loader.flavour}, {loader.precision} graphs, {loader.gpu.name}, {memory.name}, "
            f"CUDA graphs {'on' if use_graphs else 'off'}"
        )
        with memory.active():
            coarse, fine = (loader.program(stage, specialize=use_graphs) for stage in ("coarse", "fine"))
    except BaseException:
        memory.close()
        raise
    return TensorRtTwoStage(coarse, fine, memory, str(device), use_graphs=use_graphs)


def load_tensorrt_runner(bundle: Bundle, stage: str, device: Device, settings: TensorRtSettings) -> TensorRtRunner:
    """One stage as a `Runner`; raises as `load_tensorrt_two_stage`."""
    loader = _Loader(bundle, device, settings)
    memory: Memory = open_memory(device.index, settings.cuda_bindings)
    try:
        with memory.active():
            program = loader.program(stage, specialize=False)
    except BaseException:
        memory.close()
        raise
    return TensorRtRunner(program, memory, str(device))


class _Loader:
    """Everything that both stages have in common."""

    def __init__(self, bundle: Bundle, device: Device, settings: TensorRtSettings) -> None:
        self.gpu: Gpu = probe_gpu(device.index)  # first: without a driver nothing else matters
        self.flavour: TensorRtFlavour = find_flavour(settings.flavour)
        self.precision = choose_precision(bundle, settings.precision)
        self._bundle = bundle
        self._settings = settings
        self._options = settings.options or BuildOptions(max_batch=bundle.manifest.max_batch)
        check_options(self._options, self.flavour)
        self.say: Callable[[str], None] = settings.say or _log.info
        self._cache = EngineCache(settings.engine_cache, self.say)

    def program(self, stage: str, *, specialize: bool) -> TensorRtEngine:
        """A stage's engine, loaded. One that doesn't load is built anew, once."""
        own: Path | None = self._bundle.path / ENGINES_FOLDER
        engine = self._obtain(stage, own)
        try:
            return self._load(engine, stage, specialize)
        except EngineError as error:
            if not self._cache.discard(engine):
                own = None  # the bundle's engine isn't ours to remove
            self.say(f"{stage} engine: {error}; trying another")
        return self._load(self._obtain(stage, own), stage, specialize)

    def _load(self, engine: StoredEngine, stage: str, specialize: bool) -> TensorRtEngine:
        _, entry = self._bundle.graph(stage, self.precision)
        return TensorRtEngine(self.flavour, engine.plan, entry, str(engine.path), specialize=specialize)

    def _obtain(self, stage: str, own: Path | None) -> StoredEngine:
        path, _ = self._bundle.graph(stage, self.precision)
        files = self._bundle.manifest.files
        request = EngineRequest(
            stage=stage,
            precision=self.precision,
            graph_sha256=files[path.name],
            weights_sha256=files[self._bundle.manifest.weights],
            flavour=self.flavour.name,
            flavour_version=self.flavour.version,
            gpu=self.gpu,
            options=describe_options(self._options),
            any_options=self._settings.options is None,
            portable=is_portable(self.flavour, self.gpu),
        )
        return self._cache.obtain(request, lambda: self._build(stage), own)

    def _build(self, stage: str) -> BuiltEngine:
        from sharpose.engines.tensorrt.progress import build_bar

        tell = self._settings.on_progress
        with build_bar() if tell is None else contextlib.nullcontext(tell) as on_progress:
            return build_engine(
                self._bundle, stage, self.precision, self._options, on_progress, flavour=self.flavour, gpu=self.gpu
            )
