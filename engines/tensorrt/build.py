"""Building engines (plan files) from a bundle's graphs. TensorRT-RTX needs no GPU for it."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

import sharpose
from sharpose.bundle import Bundle, GraphEntry, Precision
from sharpose.engines import Untyped
from sharpose.engines.base import GraphError, TensorSpec, check_signature, specs
from sharpose.engines.gpu import Gpu, probe_gpu
from sharpose.engines.load import STAGES
from sharpose.engines.tensorrt.cache import (
    BuiltFor,
    EngineRequest,
    EngineTensor,
    Options,
    Profile,
    Sidecar,
    StoredEngine,
    write_engine,
)
from sharpose.engines.tensorrt.library import (
    BuildOptions,
    TensorRtFlavour,
    because,
    check_options,
    collect_errors,
    find_flavour,
    hardware_level,
    tensorrt_logger,
)
from sharpose.engines.tensorrt.profiles import BatchRange, axis_sizes, batch_axis, batch_ranges, tuned_batches
from sharpose.engines.tensorrt.timing_cache import TimingCache, open_timing_cache
from sharpose.errors import EngineError
from sharpose.file_locks import file_lock

ENGINES_FOLDER = "engines"
"""Where a bundle's engines lie, inside its folder and outside `bundle.json`."""

_SHORT_OF_MEMORY = "; if it is short of memory, build it with sharpose-export --bundle DIR --tensorrt --workspace 256"
_DTYPES = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class BuildProgress:
    """How far a build is."""

    stage: str  # `coarse` or `fine`
    phase: str  # what the builder is doing, in its words
    fraction: float  # 0 to 1, never falling


OnBuildProgress = Callable[[BuildProgress], None]


@dataclass(frozen=True)
class Layer:
    """A layer of a network as it was parsed."""

    name: str  # begins with the ONNX node's name
    kind: str  # `MATRIX_MULTIPLY`, `NORMALIZATION` …
    inputs: tuple[str, ...]  # dtypes by numpy's names
    outputs: tuple[str, ...]  # likewise


@dataclass(frozen=True)
class ParsedNetwork:
    """A network, and the objects that must outlive it. All but the flavour are TensorRT's own, without types."""

    flavour: TensorRtFlavour
    builder: Untyped
    network: Untyped
    parser: Untyped
    path: Path

    def inputs(self) -> tuple[TensorSpec, ...]:
        """Inputs; a dynamic axis has the name that the graph gives it."""
        return tuple(_spec(self.network.get_input(index)) for index in range(self.network.num_inputs))

    def outputs(self) -> tuple[TensorSpec, ...]:
        """Outputs, likewise."""
        return tuple(_spec(self.network.get_output(index)) for index in range(self.network.num_outputs))

    def layers(self) -> tuple[Layer, ...]:
        """Every layer with its dtypes; the network is strongly typed, so the engine keeps them."""
        return tuple(_layer(self.network.get_layer(index)) for index in range(self.network.num_layers))


def parse_network(flavour: TensorRtFlavour, path: Path) -> ParsedNetwork:
    """Parse an ONNX file, with the weights that lie beside it, into a strongly typed network.

    Raises:
        GraphError: TensorRT can't parse the graph.
        EngineError: TensorRT can't start here.
    """
    trt = flavour.module
    logger = tensorrt_logger(flavour)
    with collect_errors() as messages:
        try:
            builder = trt.Builder(logger)
        except TypeError:  # pybind's way of saying that the constructor returned null
            raise EngineError(f"{flavour} can't start its builder here{because(messages)}") from None
        # On 11 every network is strongly typed, and the flag is ignored.
        typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        network = builder.create_network(0 if typed is None else 1 << int(typed))
        parser = trt.OnnxParser(network, logger)
        # From a path, not from bytes: the weights are found beside it.
        if not parser.parse_from_file(str(path)):
            reasons = [" ".join(parser.get_error(index).desc().split()) for index in range(parser.num_errors)]
            raise GraphError(f"{path}: {flavour} can't parse it: {'; '.join(reasons) or 'no reason given'}")
    return ParsedNetwork(flavour, builder, network, parser, path)


def numpy_dtype(dtype: Untyped) -> str:
    """The name in numpy of a TensorRT dtype."""
    name: str = dtype.name
    return _DTYPES.get(name, name.lower())


def _spec(tensor: Untyped) -> TensorSpec:
    shape = tuple(
        (tensor.get_dimension_name(axis) or f"axis{axis}") if size < 0 else size
        for axis, size in enumerate(tuple(tensor.shape))
    )
    return TensorSpec(tensor.name, np.dtype(numpy_dtype(tensor.dtype)), shape)


def _layer(layer: Untyped) -> Layer:
    inputs, outputs = (
        tuple(numpy_dtype(tensor.dtype) for tensor in map(get, range(count)) if tensor is not None)
        for get, count in ((layer.get_input, layer.num_inputs), (layer.get_output, layer.num_outputs))
    )
    return Layer(layer.name, layer.type.name, inputs, outputs)


def gpu_for_build(flavour: TensorRtFlavour) -> Gpu | None:
    """The GPU that an engine will be built on, the first visible; None only where TensorRT-RTX builds without.

    Raises:
        EngineError: TensorRT proper has no GPU here.
    """
    try:
        return probe_gpu()
    except EngineError as error:
        if flavour.is_rtx:
            return None
        raise EngineError(f"{flavour} needs a GPU to build engines: {error}") from None


def build_bundle_engines(
    bundle: Bundle,
    folder: Path | None = None,
    precision: Precision = "fp32",
    options: BuildOptions | None = None,
    on_progress: OnBuildProgress = lambda progress: None,
    *,
    flavour: TensorRtFlavour | None = None,
) -> tuple[StoredEngine, ...]:
    """Build both graphs of a bundle, one after the other, into `{coarse,fine}.plan` with a `.json` beside each.

    TensorRT builds on the first GPU that it sees; CUDA_VISIBLE_DEVICES chooses another.

    Args:
        bundle: An opened bundle.
        folder: Where to write; the bundle's own `engines/` if None.
        precision: Which of the bundle's graphs.
        options: Build options; the default ones for the bundle's max batch if None.
        on_progress: Called now and then, from any thread.
        flavour: Which TensorRT; see `find_flavour` if None.

    Raises:
        BundleError: the bundle has no such precision.
        EngineError: there is no TensorRT or no GPU that it needs, an option isn't supported, or the build failed.
    """
    flavour = flavour or find_flavour()
    options = options or BuildOptions(max_batch=bundle.manifest.max_batch)
    check_options(options, flavour)
    gpu = gpu_for_build(flavour)
    folder = folder or bundle.path / ENGINES_FOLDER
    for stage in STAGES:
        bundle.graph(stage, precision)  # a precision that isn't there fails before anything is made
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EngineError(f"engines folder {folder}: can't be made ({error.strerror})") from error
    stored = []
    for stage in STAGES:
        with file_lock(folder / f".{stage}.lock"):
            plan, sidecar = build_engine(
                bundle, stage, precision, options, on_progress, flavour=flavour, gpu=gpu, folder=folder
            )
            stored.append(write_engine(folder, stage, plan, sidecar))
    return tuple(stored)


def build_engine(
    bundle: Bundle,
    stage: str,
    precision: Precision,
    options: BuildOptions,
    on_progress: OnBuildProgress,
    *,
    flavour: TensorRtFlavour,
    gpu: Gpu | None,
    folder: Path,
) -> tuple[bytes, Sidecar]:
    """Build one graph, into a plan and its sidecar; see `build_bundle_engines`.

    TensorRT proper keeps its kernel timings in `folder`, so that it measures a kernel once for both graphs.
    """
    if options.max_batch > bundle.manifest.max_batch:
        raise EngineError(
            f"max batch: expected at most the bundle's {bundle.manifest.max_batch}, got {options.max_batch}; "
            "export it again with a larger --max-batch"
        )
    path, entry = bundle.graph(stage, precision)
    described = describe_options(options, precision, flavour)
    hashes = bundle.graph_sha256(stage, precision), bundle.weights_sha256
    request = EngineRequest(stage, precision, *hashes, flavour.name, flavour.version, gpu, described)

    def describe(parsed: ParsedNetwork) -> tuple[list[EngineTensor], list[dict[str, Profile]]]:
        for index, spec in enumerate(parsed.inputs()):
            if spec.name == "patches":  # of any number in the graph, of alpha's in the engine
                parsed.network.get_input(index).shape = (-1, *specs(entry)[0]["patches"].shape[1:])
        return describe_tensors(parsed, *specs(entry)), _profiles(entry, options, flavour)

    return build_file(path, describe, request, options, on_progress, flavour=flavour, folder=folder)


def build_file(
    path: Path,
    describe: Callable[[ParsedNetwork], tuple[list[EngineTensor], list[dict[str, Profile]]]],
    request: EngineRequest,
    options: BuildOptions,
    on_progress: OnBuildProgress,
    *,
    flavour: TensorRtFlavour,
    folder: Path,
) -> tuple[bytes, Sidecar]:
    """Build the engine of any ONNX file that is requested; see `build_engine`. All else is freed before it returns.

    `describe` gives the I/O table and the profiles of the network when it is parsed; it may fix its inputs' shapes.

    Raises:
        GraphError: TensorRT can't parse the graph or make an engine of it.
        EngineError: an option isn't supported.
    """
    check_options(options, flavour)
    started = time.perf_counter()
    parsed = parse_network(flavour, path)
    tensors, profiles = describe(parsed)
    layers = Counter(f"{layer.kind} {layer.outputs[0] if layer.outputs else '-'}" for layer in parsed.layers())
    with open_timing_cache(flavour, options.timing_cache, folder, request.gpu) as timing_cache:
        plan = _build(parsed, profiles, request, on_progress, timing_cache)
    del parsed  # a Jetson has no memory for the network, the plan and a loaded engine at once
    sidecar = Sidecar(
        schema_version=2,
        sharpose_version=sharpose.__version__,
        stage=request.stage,
        precision=request.precision,
        graph_sha256=request.graph_sha256,
        weights_sha256=request.weights_sha256,
        flavour=request.flavour,
        flavour_version=request.flavour_version,
        gpu=describe_gpu(request.gpu),
        options=request.options,
        profiles=profiles,
        tensors=tensors,
        layers=dict(sorted(layers.items())),
        engine_layers=_engine_layers(flavour, plan) if request.gpu else None,
        build_seconds=round(time.perf_counter() - started, 3),
        plan_bytes=len(plan),
        plan_sha256=hashlib.sha256(plan).hexdigest(),
    )
    return plan, sidecar


def describe_options(options: BuildOptions, precision: Precision, flavour: TensorRtFlavour) -> Options:
    """The options as a sidecar has them: those that change the engine, so not the timing cache's path."""
    return Options(
        min_batch=options.min_batch,
        opt_batch=list(tuned_batches(options, flavour)),
        max_batch=options.max_batch,
        workspace_mib=options.workspace_mib,
        optimization_level=options.optimization_level,
        # What is float32 in half-precision graphs is so because a half doesn't do.
        tf32=options.tf32 and precision == "fp32",
        hardware_compatible=options.hardware_compatible,
        version_compatible=options.version_compatible,
    )


def describe_gpu(gpu: Gpu | None) -> BuiltFor | None:
    """A GPU as a sidecar has it."""
    if gpu is None:
        return None
    return BuiltFor(
        name=gpu.name,
        compute_capability=gpu.compute_capability,
        multiprocessors=gpu.multiprocessors,
        driver=gpu.driver,
    )


def _build(
    parsed: ParsedNetwork,
    profiles: list[dict[str, Profile]],
    request: EngineRequest,
    on_progress: OnBuildProgress,
    timing_cache: TimingCache | None,
) -> bytes:
    flavour, builder, gpu = parsed.flavour, parsed.builder, request.gpu
    config = builder.create_builder_config()
    for shapes_by_name in profiles:
        profile = builder.create_optimization_profile()
        for name, shapes in shapes_by_name.items():
            profile.set_shape(name, tuple(shapes.min), tuple(shapes.opt), tuple(shapes.max))
        config.add_optimization_profile(profile)
    _configure(config, flavour, request.options, gpu)
    if timing_cache is not None:
        timing_cache.attach(config)
    monitor = progress_monitor(flavour, request.stage, on_progress)
    config.progress_monitor = monitor
    with collect_errors() as messages:
        plan = builder.build_serialized_network(parsed.network, config)
    if monitor.failure is not None:
        raise monitor.failure
    if plan is None:
        for_gpu = "" if gpu is None else f" for {gpu}"
        reason = because(messages, "no reason given")
        small = gpu is not None and gpu.integrated and request.stage in STAGES and request.options.workspace_mib is None
        hint = _SHORT_OF_MEMORY if small else ""
        raise GraphError(f"{parsed.path}: {flavour} can't build the engine{for_gpu}{reason}{hint}")
    on_progress(BuildProgress(request.stage, "done", 1.0))
    return bytes(plan)


def _configure(config: Untyped, flavour: TensorRtFlavour, options: Options, gpu: Gpu | None) -> None:
    trt = flavour.module
    if flavour.is_rtx:
        # Without it the engine may allocate as it runs, which stream capture forbids.
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
        if gpu is not None:  # built without a GPU, the engine is for all that the flavour serves but Turing
            config.num_compute_capabilities = 1
            config.set_compute_capability(trt.ComputeCapability.CURRENT, 0)
    if not options.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.hardware_compatible is not None:
        config.hardware_compatibility_level = hardware_level(flavour, options.hardware_compatible)
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)


def _profiles(entry: GraphEntry, options: BuildOptions, flavour: TensorRtFlavour) -> list[dict[str, Profile]]:
    """Shapes of every input in every profile."""
    inputs, outputs = specs(entry)
    axis = batch_axis(outputs)

    def shape(spec: TensorSpec, batch: int) -> list[int]:
        return list(spec.shape_at(axis_sizes(inputs, axis, batch, options.max_batch)))

    return [
        {
            name: Profile(min=shape(spec, sizes.min), opt=shape(spec, sizes.opt), max=shape(spec, sizes.max))
            for name, spec in inputs.items()
        }
        for sizes in (batch_ranges(options, flavour) if axis is not None else [BatchRange(1, 1, 1)])
    ]


def describe_tensors(
    parsed: ParsedNetwork, inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec]
) -> list[EngineTensor]:
    """The I/O table, as declared. The parser forgets the names of the outputs' axes."""
    check_signature(str(parsed.path), parsed.inputs(), tuple(inputs.values()))
    check_signature(str(parsed.path), parsed.outputs(), tuple(outputs.values()))
    modes: tuple[Literal["input", "output"], ...] = ("input", "output")
    return [
        EngineTensor(name=spec.name, mode=mode, dtype=str(spec.dtype), shape=list(spec.shape))
        for mode, declared in zip(modes, (inputs, outputs), strict=True)
        for spec in declared.values()
    ]


def _engine_layers(flavour: TensorRtFlavour, plan: bytes) -> list[str] | None:
    """The built engine's own list of layers; None where it can't be loaded (built for a GPU that isn't there)."""
    trt = flavour.module
    with collect_errors():
        engine = trt.Runtime(tensorrt_logger(flavour)).deserialize_cuda_engine(plan)
        if engine is None:
            return None
        inspector = engine.create_engine_inspector()
        return [
            str(inspector.get_layer_information(index, trt.LayerInformationFormat.ONELINE)).strip()
            for index in range(engine.num_layers)
        ]


@dataclass
class _Phase:
    """A phase of the builder; its child fills the step that it is at."""

    steps: int
    done: int = 0
    child: _Phase | None = None

    def fraction(self) -> float:
        if self.steps <= 0:
            return 0.0
        inner = self.child.fraction() if self.child is not None and self.done < self.steps else 0.0
        return min((self.done + inner) / self.steps, 1.0)


@dataclass
class _Phases:
    """Nested phases as one fraction, 0 to 1, never falling: builders start phases that nobody announced."""

    fraction: float = 0.0
    running: dict[str, _Phase] = field(default_factory=dict)
    root: _Phase | None = None

    def start(self, name: str, parent: str | None, steps: int) -> None:
        phase = self.running[name] = _Phase(steps)
        if parent is not None and parent in self.running:
            self.running[parent].child = phase
        elif self.root is None:
            self.root = phase

    def step(self, name: str, step: int) -> None:
        phase = self.running.get(name)
        if phase is not None:
            phase.done = max(phase.done, step + 1)
            phase.child = None  # it was of the step that is over

    def finish(self, name: str) -> None:
        phase = self.running.pop(name, None)
        if phase is not None:
            phase.done = phase.steps  # whether or not all its steps were reported

    def update(self) -> float:
        if self.root is not None:
            self.fraction = max(self.fraction, self.root.fraction())
        return self.fraction


def progress_monitor(flavour: TensorRtFlavour, stage: str, on_progress: OnBuildProgress) -> Untyped:
    """TensorRT's `IProgressMonitor` that calls `on_progress`.

    An exception of the callback (Ctrl-C arrives there) can't pass through TensorRT: it stops the build and is kept as
    the monitor's `failure`, to be raised afterwards.
    """
    base: type[Untyped] = flavour.module.IProgressMonitor

    class _Monitor(base):  # type: ignore[misc]  # its base is known at run time only
        def __init__(self) -> None:
            base.__init__(self)
            self.failure: BaseException | None = None
            self._phases = _Phases()
            self._lock = threading.Lock()  # TensorRT may call from several threads

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._report(phase_name, lambda: self._phases.start(phase_name, parent_phase, num_steps))

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._report(phase_name, lambda: self._phases.step(phase_name, step))
            return self.failure is None

        def phase_finish(self, phase_name: str) -> None:
            self._report(phase_name, lambda: self._phases.finish(phase_name))

        def _report(self, phase: str, change: Callable[[], None]) -> None:
            try:
                with self._lock:
                    change()
                    fraction = self._phases.update()
                    if self.failure is None:
                        on_progress(BuildProgress(stage, phase, fraction))
            except BaseException as failure:
                self.failure = self.failure or failure

    return _Monitor()
