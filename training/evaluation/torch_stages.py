"""Both stages of a PyTorch model; see `sharpose.training.evaluation.stages`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from sharpose.errors import EngineError
from sharpose.model import SHaRPose
from sharpose.model.decode import HeatmapDecoder
from sharpose.model.stages import cut_patches
from sharpose.training.evaluation.stages import StageOutputs

__all__ = ["TorchStages"]


class TorchStages:
    """A model as it is, in float32.

    Args:
        model: Put into evaluation mode while it runs, and back after.
        device: Where to move it; it stays where its parameters are if None.
        max_batch: Most crops in a run.

    Raises:
        EngineError: PyTorch can't use the device.
    """

    def __init__(self, model: SHaRPose, device: str | None = None, max_batch: int = 32) -> None:
        self.max_batch = max_batch
        self._model = model
        try:
            self._device = torch.device(device) if device else next(model.parameters()).device
            model.to(self._device)
            self._decoder = HeatmapDecoder(model.config.heatmap_size, model.config.crop_size).to(self._device)
        except (RuntimeError, AssertionError) as error:
            raise EngineError(f"device {device}: PyTorch can't use it ({' '.join(str(error).split())[:120]})") from None

    @torch.no_grad()
    def run(self, crops: npt.NDArray[np.uint8]) -> StageOutputs:
        """See `PoseStages.run`."""
        model, config = self._model, self._model.config
        training = model.training
        model.eval()
        try:
            pixels = torch.from_numpy(np.ascontiguousarray(crops)).to(self._device).permute(0, 3, 1, 2).float() / 255
            mean, std = (
                torch.tensor(values, device=self._device).reshape(1, 3, 1, 1)
                for values in (config.pixel_mean, config.pixel_std)
            )
            image = (pixels - mean) / std
            coarse = model.coarse_stage()(image)
            patches = cut_patches(image, coarse.region_order, config.num_selected, config.region_grid[1])
            fine = model.fine_stage()(patches, coarse.region_order, coarse.region_features, coarse.region_embeddings)
            both = [heatmaps.float() for heatmaps in (coarse.heatmaps, fine)]
            keypoints = [self._decoder(heatmaps) for heatmaps in both]
        finally:
            model.train(training)
        return StageOutputs(
            coarse.quality.float().cpu().numpy(),
            torch.stack(keypoints, dim=1).cpu().numpy(),
            torch.stack(both, dim=1).cpu().numpy(),
        )

    def close(self) -> None:
        """Nothing is held that the model's owner doesn't hold."""
