"""From a bundle to engines on a GPU: finds what is missing, then the cached engines, and builds them where need be."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sharpose.bundle import Bundle
from sharpose.engines.cache import EngineCache, EngineRequest
from sharpose.engines.devices import Device
from sharpose.engines.gpu import Gpu, probe_gpu
from sharpose.engines.memory import Memory
from sharpose.engines.memory_select import open_memory
from sharpose.engines.sidecar import StoredEngine
from sharpose.engines.tensorrt_build import (
    ENGINES_FOLDER,
    BuiltEngine,
    build_engine,
    describe_options,
    is_portable,
)
from sharpose.engines.tensorrt_engine import DeviceEngine
from sharpose.engines.tensorrt_flavour import TensorRtFlavour, find_flavour
from sharpose.engines.tensorrt_options import BuildOptions, check_options
from sharpose.engines.tensorrt_progress import OnBuildProgress
from sharpose.engines.tensorrt_run import TensorRtProgram
from sharpose.engines.tensorrt_two_stage import DeviceTwoStage
from sharpose.errors import EngineError
from sharpose.manifest import Precision, gpu_precision

__all__ = ["TensorRtSettings", "choose_precision", "load_tensorrt_engine", "load_tensorrt_two_stage"]

_log = logging.getLogger("sharpose.tensorrt")


@dataclass(frozen=True)
class TensorRtSettings:
    """How to run with TensorRT.

    Attributes:
        engine_cache: Folder of engines; `default_cache_folder()` if None.
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


def load_tensorrt_two_stage(bundle: Bundle, device: Device, settings: TensorRtSettings) -> DeviceTwoStage:
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
    return DeviceTwoStage(coarse, fine, memory, str(device), use_graphs=use_graphs)


def load_tensorrt_engine(bundle: Bundle, stage: str, device: Device, settings: TensorRtSettings) -> DeviceEngine:
    """One stage as an `Engine`; raises as `load_tensorrt_two_stage`."""
    loader = _Loader(bundle, device, settings)
    memory: Memory = open_memory(device.index, settings.cuda_bindings)
    try:
        with memory.active():
            program = loader.program(stage, specialize=False)
    except BaseException:
        memory.close()
        raise
    return DeviceEngine(program, memory, str(device))


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

    def program(self, stage: str, *, specialize: bool) -> TensorRtProgram:
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

    def _load(self, engine: StoredEngine, stage: str, specialize: bool) -> TensorRtProgram:
        _, entry = self._bundle.graph(stage, self.precision)
        return TensorRtProgram(self.flavour, engine.plan, entry, str(engine.path), specialize=specialize)

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
        from sharpose.engines.build_bar import build_bar

        tell = self._settings.on_progress
        with build_bar() if tell is None else contextlib.nullcontext(tell) as on_progress:
            return build_engine(
                self._bundle, stage, self.precision, self._options, on_progress, flavour=self.flavour, gpu=self.gpu
            )
