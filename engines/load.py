"""From a bundle and a device to the two engines."""

from __future__ import annotations

from dataclasses import dataclass

from sharpose.bundle import Bundle
from sharpose.engines.base import Engine
from sharpose.engines.onnxrt import OnnxRuntimeEngine

__all__ = ["StageEngines", "load_engines"]


@dataclass(frozen=True)
class StageEngines:
    """The engines of the two stages, of one backend and on one device."""

    coarse: Engine
    fine: Engine

    def close(self) -> None:
        """Free both."""
        self.coarse.close()
        self.fine.close()


def load_engines(bundle: Bundle, device: str = "cpu", *, threads: int | None = None) -> StageEngines:
    """The engines that run a bundle on a device.

    Args:
        bundle: An opened bundle.
        device: `cpu`, `cuda[:i]` or `ort-tensorrt[:i]`.
        threads: CPU threads inside an operator; the backend's own choice if None.

    Raises:
        EngineError: the device is not there, or a graph can't be loaded on it.
    """
    coarse, fine = (
        OnnxRuntimeEngine(*bundle.graph(stage), bundle.manifest.max_batch, device=device, threads=threads)
        for stage in ("coarse", "fine")
    )
    return StageEngines(coarse, fine)
