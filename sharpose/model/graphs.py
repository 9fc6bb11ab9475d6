"""The two graphs of a bundle as modules, pixels in and decoded keypoints out, and both run on numpy arrays.

Around a half model, too, they normalise pixels and decode heatmaps in float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from sharpose.config import ModelConfig
from sharpose.errors import EngineError, one_line
from sharpose.model.decode import HeatmapDecoder
from sharpose.model.stages import SHaRPose
from sharpose.tokens import PATCH_SIZE

COARSE_OUTPUTS = ["keypoints", "quality", "region_order", "region_features", "region_embeddings", "heatmaps"]
FINE_INPUTS = ["rows", "patches", "region_order", "region_features", "region_embeddings"]
FINE_OUTPUTS = ["keypoints", "heatmaps"]


class Normalise(nn.Module):
    """uint8 RGB pixels, channels last, to normalised floats."""

    mean: Tensor
    scale: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        mean, std = torch.tensor(config.pixel_mean), torch.tensor(config.pixel_std)
        self.register_buffer("mean", mean * 255.0, persistent=False)
        self.register_buffer("scale", 1.0 / (std * 255.0), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 [..., 3] to float32 [..., 3]."""
        return (pixels.to(self.mean.dtype) - self.mean) * self.scale


class AsFloat(nn.Module):
    """uint8 pixels to float32 ones, 0 to 255, for a model that normalises in its first layer."""

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 [..., 3] to float32 [..., 3]."""
        return pixels.to(torch.float32)


def _pixels_of(model: SHaRPose) -> Normalise | AsFloat:
    """What makes a model's input of pixels."""
    return Normalise(model.config) if model.backbone.patch_embed.normalised else AsFloat()


class CoarseGraph(nn.Module):
    """`coarse.onnx`."""

    def __init__(self, model: SHaRPose) -> None:
        super().__init__()
        self.normalise = _pixels_of(model)
        self.stage = model.coarse_stage()
        self.decode = HeatmapDecoder(model.config.heatmap_size, model.config.crop_size)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """uint8 crops [N, H, W, 3], RGB.

        Returns:
            keypoints [N, J, 3], quality [N], region_order int32 [N, R], region_features [N, R, C],
            region_embeddings [N, R, C] (these two in the dtype of the model), heatmaps [N, J, h, w].
        """
        coarse = self.stage(self.normalise(image).permute(0, 3, 1, 2))
        heatmaps = coarse.heatmaps.float()
        # int32: TensorRT warns about int64 inputs and outputs.
        order = coarse.region_order.to(torch.int32)
        return (
            self.decode(heatmaps),
            coarse.quality,
            order,
            coarse.region_features,
            coarse.region_embeddings,
            heatmaps,
        )


class FineGraph(nn.Module):
    """`fine.onnx`."""

    def __init__(self, model: SHaRPose) -> None:
        super().__init__()
        self.normalise = _pixels_of(model)
        self.stage = model.fine_stage()
        self.decode = HeatmapDecoder(model.config.heatmap_size, model.config.crop_size)

    def forward(
        self,
        rows: Tensor,
        patches: Tensor,
        region_order: Tensor,
        region_features: Tensor,
        region_embeddings: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Refine some rows of a coarse batch.

        Args:
            rows: int32 [M], rows of the coarse batch.
            patches: uint8 [M, s*s*K, P*P*3], RGB last.
            region_order: int32 [N, R], and the next two, as `CoarseGraph` gave them.
            region_features: [N, R, C].
            region_embeddings: [N, R, C].

        Returns:
            keypoints [M, J, 3], heatmaps [M, J, h, w].
        """
        index = rows.to(torch.int64)
        # Cast before anything else: TensorRT takes uint8 as an input, but its Reshape doesn't.
        pixels = patches.to(torch.float32).unflatten(-1, (PATCH_SIZE, PATCH_SIZE, 3))
        normalised = self.normalise(pixels).permute(0, 1, 4, 2, 3)
        heatmaps = self.stage(
            normalised,
            region_order.index_select(0, index).to(torch.int64),
            region_features.index_select(0, index),
            region_embeddings.index_select(0, index),
        )
        heatmaps = heatmaps.float()
        return self.decode(heatmaps), heatmaps


class TorchStages:
    """A PyTorch model as `sharpose.engines.stages.Stages`, in the precision that it is in.

    Args:
        model: In evaluation mode while it runs, and then back in the mode that it was in.
        device: Where to move it; it stays where its parameters are if None.
        max_batch: The largest batch.

    Attributes:
        model: As given.

    Raises:
        EngineError: PyTorch can't use the device.
    """

    def __init__(self, model: SHaRPose, device: str | None = None, max_batch: int = 32) -> None:
        self.config = model.config
        self.max_batch = max_batch
        self.model = model
        try:
            self._device = torch.device(device) if device else next(model.parameters()).device
            self._coarse, self._fine = CoarseGraph(model).to(self._device), FineGraph(model).to(self._device)
        except (RuntimeError, AssertionError) as error:
            raise EngineError(f"device {device}: PyTorch can't use it ({one_line(error)[:120]})") from None

    def coarse(self, crops: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.generic]]:
        """The outputs of `coarse.onnx` by name, on uint8 crops [n, H, W, 3], RGB."""
        return self._run(self._coarse, COARSE_OUTPUTS, [crops])

    def fine(self, inputs: dict[str, npt.NDArray[np.generic]]) -> dict[str, npt.NDArray[np.generic]]:
        """The outputs of `fine.onnx` by name; floating inputs are converted to the model's precision."""
        return self._run(self._fine, FINE_OUTPUTS, [inputs[name] for name in FINE_INPUTS])

    def close(self) -> None:
        """Do nothing: the model's owner holds all that there is."""

    def _run(
        self, graph: nn.Module, names: list[str], inputs: Sequence[npt.NDArray[np.generic]]
    ) -> dict[str, npt.NDArray[np.generic]]:
        dtype, training = self.model.backbone.patch_embed.proj.weight.dtype, self.model.training
        tensors = [torch.from_numpy(np.ascontiguousarray(array)).to(self._device) for array in inputs]
        graph.eval()
        try:
            with torch.inference_mode():
                found = graph(*(tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in tensors))
        finally:
            self.model.train(training)
        return {name: tensor.cpu().contiguous().numpy() for name, tensor in zip(names, found, strict=True)}
