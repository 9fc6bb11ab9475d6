"""From a bundle to engines that run on a GPU: found beside the bundle or in the cache, or built, then loaded."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from sharpose.bundle import Bundle, Precision
from sharpose.engines.base import GraphError
from sharpose.engines.cuda.device import open_cuda_device
from sharpose.engines.device import Device
from sharpose.engines.gpu import probe_gpu
from sharpose.engines.load import load_both
from sharpose.engines.tensorrt.build import (
    ENGINES_FOLDER,
    BuildProgress,
    OnBuildProgress,
    build_engine,
    describe_options,
)
from sharpose.engines.tensorrt.cache import EngineCache, EngineRequest, Sidecar, StoredEngine
from sharpose.engines.tensorrt.library import BuildOptions, check_options, find_flavour
from sharpose.engines.tensorrt.runner import TensorRtRunner
from sharpose.engines.tensorrt.runtime import TensorRtEngine
from sharpose.engines.tensorrt.two_stage import TensorRtTwoStage
from sharpose.errors import EngineError

_log = logging.getLogger("sharpose.tensorrt")


@dataclass(frozen=True)
class TensorRtSettings:
    """How to run with TensorRT."""

    engine_cache: Path | None = None  # folder of engines; `cache_folder()` if None
    cuda_bindings: str | None = None  # `cuda-python` or `pycuda`; the first that is installed if None
    cuda_graphs: bool | None = None  # capture CUDA graphs; if None, where the bindings can
    warm_up: bool = True  # run every batch size before the first frame
    mapped_memory: bool = True  # a GPU that shares the host's memory reads and writes its arrays instead of copies
    flavour: str | None = None  # `tensorrt` or `tensorrt_rtx`; the first that loads if None
    tf32: bool | None = None  # TF32 in float32 graphs; if None, as the bundle's engines have it, else without
    options: BuildOptions | None = None  # if None, the default ones, and the bundle's own engines whatever theirs
    on_progress: OnBuildProgress | None = None  # if None, a bar on stderr, where that is a terminal
    say: Callable[[str], None] | None = None  # called with a line of text for each step; logged if None

    def build_options(self, max_batch: int) -> BuildOptions:
        """The options to build with, by default for `max_batch` people."""
        return self.options or BuildOptions(max_batch=max_batch, tf32=bool(self.tf32))


def load_tensorrt_two_stage(
    bundle: Bundle, device: Device, precision: Precision, settings: TensorRtSettings
) -> TensorRtTwoStage:
    """Both stages on a GPU, with the bundle's graphs of a precision.

    Raises:
        BundleError: the bundle doesn't have that precision.
        EngineError: the driver, the GPU, TensorRT or a CUDA binding is missing, or an engine can't be built or loaded.
    """
    loader = _EngineLoader(bundle, device, precision, settings)
    cuda = open_cuda_device(device.index, settings.cuda_bindings)
    try:
        use_graphs = cuda.has_graphs if settings.cuda_graphs is None else settings.cuda_graphs
        if use_graphs and not cuda.has_graphs:
            raise EngineError(
                f"--cuda-graphs: {cuda.name} has none; use --cuda-bindings cuda-python, or --no-cuda-graphs"
            )
        loader.say(
            f"{loader.flavour}, {loader.precision} graphs, {loader.gpu.name}, {cuda.name}, "
            f"CUDA graphs {'on' if use_graphs else 'off'}"
        )
        with cuda.active():
            coarse, fine = load_both(lambda stage: loader.load(stage, specialize=use_graphs))
    except BaseException:
        cuda.close()
        raise
    mapped = cuda.shares_memory and settings.mapped_memory
    stages = TensorRtTwoStage(coarse, fine, cuda, str(device), precision, use_graphs=use_graphs, mapped=mapped)
    if settings.warm_up:
        loader.say("running every batch size once, so that no frame waits for it")
        try:
            stages.warm_up()
        except BaseException:
            stages.close()
            raise
    return stages


def load_tensorrt_runner(
    bundle: Bundle, stage: str, device: Device, precision: Precision, settings: TensorRtSettings
) -> TensorRtRunner:
    """One stage on a GPU; raises as `load_tensorrt_two_stage`."""
    loader = _EngineLoader(bundle, device, precision, settings)
    cuda = open_cuda_device(device.index, settings.cuda_bindings)
    try:
        with cuda.active():
            engine = loader.load(stage, specialize=False)
    except BaseException:
        cuda.close()
        raise
    return TensorRtRunner(engine, cuda, str(device))


class _EngineLoader:
    """Finds or builds a bundle's engines for one GPU, and loads them."""

    def __init__(self, bundle: Bundle, device: Device, precision: Precision, settings: TensorRtSettings) -> None:
        self.gpu = probe_gpu(device.index)  # first: without a driver nothing else matters
        self.flavour = find_flavour(settings.flavour)
        self.precision = precision
        self._bundle = bundle
        self._settings = settings
        self._options = settings.build_options(bundle.manifest.max_batch)
        check_options(self._options, self.flavour)
        self.say = settings.say or _log.info

    def load(self, stage: str, *, specialize: bool) -> TensorRtEngine:
        """A stage's engine, loaded. One that doesn't load is rebuilt, once."""
        _, entry = self._bundle.graph(stage, self.precision)
        tf32 = None if self._settings.tf32 is None else self._settings.tf32 and self.precision == "fp32"
        request = EngineRequest(
            stage=stage,
            precision=self.precision,
            graph_sha256=self._bundle.graph_sha256(stage, self.precision),
            weights_sha256=self._bundle.weights_sha256,
            flavour=self.flavour.name,
            flavour_version=self.flavour.version,
            gpu=self.gpu,
            options=describe_options(self._options, self.precision, self.flavour),
            any_options=self._settings.options is None,
            tf32=tf32 if self._settings.options is None else None,
            portable=self.flavour.is_rtx,
        )

        def load(stored: StoredEngine) -> TensorRtEngine:
            return TensorRtEngine(self.flavour, stored, entry, self.gpu, specialize=specialize)

        return load_engine(
            request, partial(self._build, stage), load, self._settings, self._bundle.path / ENGINES_FOLDER
        )

    def _build(self, stage: str, folder: Path) -> tuple[bytes, Sidecar]:
        with reporting(self._settings) as report:
            try:
                return build_engine(
                    self._bundle,
                    stage,
                    self.precision,
                    self._options,
                    report,
                    flavour=self.flavour,
                    gpu=self.gpu,
                    folder=folder,
                )
            except GraphError as error:
                others = [name for name in self._bundle.precisions if name != self.precision]
                hint = f"; try --precision {' or '.join(others)}" if others else ""
                raise GraphError(f"{error}{hint}") from error


def load_engine(
    request: EngineRequest,
    build: Callable[[Path], tuple[bytes, Sidecar]],
    load: Callable[[StoredEngine], TensorRtEngine],
    settings: TensorRtSettings,
    own: Path | None = None,
) -> TensorRtEngine:
    """The engine that is wanted, loaded: found in `own` or the cache, or built. One that doesn't load is rebuilt, once.

    Args:
        request: Which engine.
        build: Builds it; gets the cache's folder.
        load: Loads it.
        settings: For the cache's folder, and what to call with lines of text.
        own: Where a bundle has engines of its own.

    Raises:
        EngineError: it can't be built or loaded.
    """
    say = settings.say or _log.info
    cache = EngineCache(settings.engine_cache, say)
    stored = cache.obtain(request, lambda: build(cache.folder), own)
    try:
        return load(stored)
    except EngineError as error:
        say(f"{request.stage} engine: {error}; trying another")
    if not cache.discard(stored):
        own = None  # the bundle's engine isn't ours to remove
    return load(cache.obtain(request, lambda: build(cache.folder), own))


def reporting(settings: TensorRtSettings) -> contextlib.AbstractContextManager[OnBuildProgress]:
    """A block that yields what a build calls with its progress: the settings' own, or what draws a bar."""
    return build_bar() if settings.on_progress is None else contextlib.nullcontext(settings.on_progress)


@contextlib.contextmanager
def build_bar() -> Iterator[OnBuildProgress]:
    """A progress bar of builds on stderr, where that is a terminal; yields what to call with their progress."""
    console = Console(stderr=True)
    columns = (
        TextColumn("building {task.description} engine"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} % {task.fields[phase]}", markup=False),
        TimeElapsedColumn(),
    )
    progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    tasks: dict[str, TaskID] = {}

    def update(event: BuildProgress) -> None:
        if event.stage not in tasks:
            progress.start()
            tasks[event.stage] = progress.add_task(event.stage, total=1.0, phase="")
        progress.update(tasks[event.stage], completed=event.fraction, phase=event.phase)

    try:
        yield update
    finally:
        progress.stop()
