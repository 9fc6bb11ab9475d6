"""Both stages on every crop, coarse pose and fine pose side by side: from any engine, or from PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt

from sharpose.bundle import Bundle
from sharpose.engines.base import HostArray, Runner
from sharpose.engines.load import load_two_stage, parse_device
from sharpose.engines.two_stage import TwoStage
from sharpose.runtime.gate import gather_patches

__all__ = ["EngineStages", "HeatmapEngineStages", "PoseStages", "StageOutputs", "open_stages"]


@dataclass(frozen=True)
class StageOutputs:
    """What both stages say of n crops.

    Attributes:
        quality: float32 [n].
        keypoints: float32 [n, 2, J, 3], `x, y` in crop pixels and score: coarse, then fine.
        heatmaps: float32 [n, 2, J, h, w], or None where the engine hands none out.
    """

    quality: npt.NDArray[np.float32]
    keypoints: npt.NDArray[np.float32]
    heatmaps: npt.NDArray[np.float32] | None


class PoseStages(Protocol):
    """Runs crops through both stages.

    Attributes:
        max_batch: Most crops in a run.
    """

    max_batch: int

    def run(self, crops: npt.NDArray[np.uint8]) -> StageOutputs:
        """Coarse and fine poses of crops uint8 [n, H, W, 3], RGB. Raises `EngineError` where an engine fails."""
        ...

    def close(self) -> None:
        """Free the engines. May be called twice."""
        ...


class EngineStages:
    """The very stages that `PoseEstimator` runs. Without heatmaps: the runtime never copies them."""

    def __init__(self, stages: TwoStage, selected: int) -> None:
        self.max_batch = stages.max_batch
        self._stages = stages
        self._selected = selected

    def run(self, crops: npt.NDArray[np.uint8]) -> StageOutputs:
        """See `PoseStages.run`."""
        stages, count = self._stages, len(crops)
        stages.crops[:count] = crops
        coarse = stages.run_coarse(count)
        quality, keypoints = coarse.quality.copy(), coarse.keypoints.copy()
        rows = np.arange(count, dtype=np.int32)
        gather_patches(stages.crops[:count], rows, coarse.region_order, self._selected, stages.patches)
        return StageOutputs(quality, np.stack([keypoints, stages.run_fine(rows)], axis=1), None)

    def close(self) -> None:
        """See `PoseStages.close`."""
        self._stages.close()


class HeatmapEngineStages:
    """The same graphs as plain engines, which hand out heatmaps; features travel through the host."""

    def __init__(self, coarse: Runner, fine: Runner, selected: int) -> None:
        self.max_batch = coarse.max_batch
        self._coarse, self._fine = coarse, fine
        self._selected = selected

    def run(self, crops: npt.NDArray[np.uint8]) -> StageOutputs:
        """See `PoseStages.run`."""
        carried = ("region_order", "region_features", "region_embeddings")
        coarse = _on_host(self._coarse, {"image": crops}, ("keypoints", "quality", "heatmaps", *carried))
        rows = np.arange(len(crops), dtype=np.int32)
        patches = gather_patches(crops, rows, coarse["region_order"].astype(np.int32), self._selected)
        inputs: dict[str, HostArray] = {"rows": rows, "patches": patches, **{name: coarse[name] for name in carried}}
        fine = _on_host(self._fine, inputs, ("keypoints", "heatmaps"))
        both = {name: np.stack([coarse[name], fine[name]], axis=1) for name in ("keypoints", "heatmaps")}
        return StageOutputs(
            coarse["quality"].astype(np.float32),
            both["keypoints"].astype(np.float32),
            both["heatmaps"].astype(np.float32),
        )

    def close(self) -> None:
        """See `PoseStages.close`."""
        self._coarse.close()
        self._fine.close()


def open_stages(bundle: Bundle, device: str, *, heatmaps: bool, threads: int | None = None) -> PoseStages:
    """A bundle's stages on a device.

    Args:
        bundle: An opened bundle.
        device: As `load_two_stage` takes it.
        heatmaps: Whether they must hand out heatmaps (flip test).
        threads: CPU threads inside an operator; the engine's own choice if None.

    Raises:
        EngineError: the device is not there, or a graph can't be loaded on it.
    """
    selected = bundle.model.num_selected
    if not heatmaps:
        return EngineStages(load_two_stage(bundle, device, threads=threads), selected)
    coarse, fine = (_load_engine(bundle, stage, device, threads) for stage in ("coarse", "fine"))
    return HeatmapEngineStages(coarse, fine, selected)


def _load_engine(bundle: Bundle, stage: str, device: str, threads: int | None) -> Runner:
    where = parse_device(device)
    if where.kind == "tensorrt":
        from sharpose.engines.tensorrt.runtime import TensorRtSettings, load_tensorrt_runner

        return load_tensorrt_runner(bundle, stage, where, TensorRtSettings())
    from sharpose.engines.onnxrt import OnnxRuntimeRunner

    return OnnxRuntimeRunner(*bundle.graph(stage), bundle.manifest.max_batch, device=device, threads=threads)


def _on_host(engine: Runner, inputs: dict[str, HostArray], outputs: tuple[str, ...]) -> dict[str, HostArray]:
    """Outputs copied: an engine may reuse its buffers."""
    run = engine.run({name: np.ascontiguousarray(value) for name, value in inputs.items()}, outputs)
    return {name: np.array(cast(HostArray, value)) for name, value in run.items()}
