"""Both stages, numpy in and numpy out, with all their outputs: what comparisons and evaluations run. Torch-free.

Engines are `EngineStages`; the same model in PyTorch is `sharpose.model.graphs.TorchStages`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from sharpose.bundle import Bundle
from sharpose.config import ModelConfig
from sharpose.engines.base import HostArray, Runner
from sharpose.engines.device import parse_device
from sharpose.engines.load import OnnxRuntimeSettings, load_both, load_runners
from sharpose.engines.precision import RunPrecision, choose_precision, graphs_of
from sharpose.engines.two_stage import CARRIED
from sharpose.tokens import gather_patches

Arrays: TypeAlias = dict[str, HostArray]
"""Inputs or outputs by the names that the bundle's graphs have for them."""


class Stages(Protocol):
    """Both stages of a model, by whatever runs them."""

    @property
    def config(self) -> ModelConfig:
        """The model's configuration."""
        ...

    @property
    def max_batch(self) -> int:
        """The largest batch."""
        ...

    def coarse(self, crops: npt.NDArray[np.uint8]) -> Arrays:
        """The coarse stage's outputs on uint8 crops [n, H, W, 3], RGB; raises `EngineError` where it fails."""
        ...

    def fine(self, inputs: Arrays) -> Arrays:
        """The fine stage's outputs; floating inputs may come in another precision than the stage's own."""
        ...

    def close(self) -> None:
        """Free what they hold. May be called twice."""
        ...


def fine_inputs(crops: npt.NDArray[np.uint8], coarse: Arrays, config: ModelConfig) -> Arrays:
    """The fine stage's inputs for all of some crops, from the coarse stage's outputs on them."""
    rows = np.arange(len(crops), dtype=np.int32)
    patches = gather_patches(crops, rows, coarse["region_order"].astype(np.int32), config.num_selected)
    return {"rows": rows, "patches": patches, **{name: coarse[name] for name in CARRIED}}


@dataclass(frozen=True)
class EngineStages:
    """The engines of a bundle's two graphs as `Stages`; what goes from one to the other travels through the host."""

    config: ModelConfig
    precision: RunPrecision  # what both compute in
    coarse_runner: Runner
    fine_runner: Runner

    @property
    def max_batch(self) -> int:
        """The largest batch."""
        return min(self.coarse_runner.max_batch, self.fine_runner.max_batch)

    def coarse(self, crops: npt.NDArray[np.uint8]) -> Arrays:
        """See `Stages`."""
        return _run(self.coarse_runner, {"image": crops})

    def fine(self, inputs: Arrays) -> Arrays:
        """See `Stages`."""
        return _run(self.fine_runner, inputs)

    def terminate(self) -> None:
        """End the run at hand early, from another thread, where the engines can: it and all later ones then fail."""
        self.coarse_runner.terminate()
        self.fine_runner.terminate()

    def close(self) -> None:
        """Free both engines. May be called twice."""
        self.coarse_runner.close()
        self.fine_runner.close()


def _run(runner: Runner, inputs: Arrays) -> Arrays:
    fitted = {name: np.ascontiguousarray(inputs[name], dtype=spec.dtype) for name, spec in runner.inputs.items()}
    return {name: cast(HostArray, value) for name, value in runner.run(fitted, list(runner.outputs)).items()}


def open_stages(
    bundle: Bundle,
    device: str = "cpu",
    precision: str = "auto",
    *,
    threads: int | None = None,
    say: Callable[[str], None] | None = None,
) -> EngineStages:
    """A bundle's stages on a device.

    Args:
        bundle: An opened bundle.
        device: What `parse_device` takes.
        precision: To compute in: `fp32`, `fp16`, `bf16`, `int8`, or `auto` (see `choose_precision`).
        threads: CPU threads inside an operator; the engine's own choice if None.
        say: Called with a line about what is built, waited for or runs elsewhere; logged if None.

    Raises:
        InputError: `precision` isn't one.
        BundleError: the bundle has no graphs in that precision.
        EngineError: the device is not there, hasn't that precision, or can't load a graph.
    """
    where = parse_device(device)
    chosen = choose_precision(bundle, where, precision)
    if where.kind == "tensorrt":
        from sharpose.engines.tensorrt.load import TensorRtSettings, load_tensorrt_runner

        settings = TensorRtSettings(say=say, tf32=False)  # as sharpose-run without --tf32
        loaded = load_both(lambda stage: load_tensorrt_runner(bundle, stage, where, graphs_of(chosen), settings))
        return EngineStages(bundle.model, chosen, *loaded)
    runners = load_runners(bundle, where, chosen, threads=threads, onnxruntime=OnnxRuntimeSettings(say=say))
    return EngineStages(bundle.model, chosen, *runners)
