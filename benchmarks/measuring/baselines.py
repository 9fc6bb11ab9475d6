"""What the engines are compared with: this model in PyTorch, and a dense vision transformer of the same size."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from flops import DECODER_WIDTH
from torch import Tensor, nn

from sharpose.config import ModelConfig
from sharpose.engines.batches import BatchBuckets, BatchCache
from sharpose.engines.precision import RunPrecision
from sharpose.engines.two_stage import CoarseOutput
from sharpose.errors import EngineError, one_line
from sharpose.export.bundle import ExportOptions, export_bundle
from sharpose.export.onnx import half_model
from sharpose.export.pictures import ParityPictures
from sharpose.model import LoadedModel, SHaRPose, random_model
from sharpose.model.backbone import Backbone
from sharpose.model.graphs import CoarseGraph, FineGraph
from sharpose.model.stages import CoarseOutput as StageOutput
from sharpose.tokens import PATCH_SIZE, PATCHES_PER_REGION


class TorchTwoStage:
    """Both stages in PyTorch, eager or compiled, with random weights; a `TwoStage`.

    Args:
        config: The model.
        device: `cpu` or `cuda[:i]`.
        compiled: Whether `torch.compile` compiles both graphs, at their first run with each batch size.
        half: Whether the model computes in float16.
        threads: CPU threads inside an operator; PyTorch's choice if None.

    Raises:
        EngineError: PyTorch can't use the device, or there is no compiler for `torch.compile`.
    """

    def __init__(
        self,
        config: ModelConfig,
        device: str,
        max_batch: int,
        *,
        compiled: bool = False,
        half: bool = False,
        threads: int | None = None,
    ) -> None:
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise EngineError(f"PyTorch {torch.__version__} has no CUDA here")
        if compiled and device == "cpu":
            _need_compiler()
        if threads is not None:
            torch.set_num_threads(threads)
        model = random_model(config).model
        self.device, self.max_batch = device, max_batch
        self.precision: RunPrecision = "fp16" if half else "fp32"
        self.batch_cache: BatchCache | None = None
        self.coarse_buckets = self.fine_buckets = BatchBuckets(1, max_batch, exact=True)
        self._device = torch.device(device)
        model = half_model(model) if half else model
        self._coarse: Callable[..., Sequence[Tensor]] = CoarseGraph(model).to(self._device).eval()
        self._fine: Callable[..., Sequence[Tensor]] = FineGraph(model).to(self._device).eval()
        if compiled:
            # Each batch size is compiled for itself; beyond the limit, 8, it would run eager without a word.
            vars(import_module("torch._dynamo.config"))["recompile_limit"] = 64
            self._coarse = torch.compile(self._coarse, dynamic=False)
            self._fine = torch.compile(self._fine, dynamic=False)
        self.crops: npt.NDArray[np.uint8] = np.empty((max_batch, *config.crop_size, 3), np.uint8)
        patches = PATCHES_PER_REGION * config.num_selected
        self.patches: npt.NDArray[np.uint8] = np.empty((max_batch, patches, 3 * PATCH_SIZE**2), np.uint8)
        self._carried: Sequence[Tensor] = ()
        if compiled:  # a compiler that is missing shows now
            self.run_coarse(1)
            self.run_fine(np.zeros(1, np.int32))

    def run_coarse(self, people: int) -> CoarseOutput:
        """See `TwoStage.run_coarse`."""
        with torch.inference_mode(), _as_engine_error():
            found = self._coarse(self._tensor(self.crops[:people]))
            self._carried = found[2:5]
            return CoarseOutput(*(tensor.cpu().numpy() for tensor in found[:3]))  # copies wait for a GPU

    def run_fine(self, rows: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        """See `TwoStage.run_fine`."""
        with torch.inference_mode(), _as_engine_error():
            patches = self._tensor(self.patches[: len(rows)])
            keypoints = self._fine(self._tensor(rows), patches, *self._carried)[0]
            found: npt.NDArray[np.float32] = keypoints.cpu().numpy()
        return found

    def _tensor(self, array: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(array).to(self._device)

    def terminate(self) -> None:
        """Do nothing: PyTorch can't."""

    def close(self) -> None:
        """See `TwoStage.close`."""
        self._carried = ()


@contextlib.contextmanager
def _as_engine_error() -> Iterator[None]:
    """A compiler that is missing and GPU memory that is used up are a RuntimeError in PyTorch."""
    try:
        yield
    except RuntimeError as error:
        raise EngineError(f"PyTorch: {one_line(error)}") from error


def _need_compiler() -> None:
    """As `torch.compile` looks for one."""
    names = (os.environ.get("CXX", ""), "g++", "clang++", "c++")
    if not any(shutil.which(name) for name in names if name):
        raise EngineError("torch.compile on a CPU needs a C++ compiler, and there is none: apt install g++")


class DenseModel(SHaRPose):
    """A plain vision transformer on all patches at full size with ViTPose's classic head, instead of the coarse stage.

    Width, depth and attention heads are the configuration's; there are no keypoint tokens. The head is two
    deconvolutions, 4 x 4 with stride 2 and 256 channels, whose batch norms are folded into them, and a 1 x 1
    convolution. Its coarse graph is the whole model. The fine graph, which a bundle must have and nobody runs, holds
    next to nothing, so that it adds neither to memory nor to the time that loading takes.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(config.width, DECODER_WIDTH, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(DECODER_WIDTH, DECODER_WIDTH, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(DECODER_WIDTH, config.num_keypoints, 1),
        )

    def coarse_stage(self) -> nn.Module:  # type: ignore[override]
        """The whole model, with the coarse stage's outputs."""
        return _DenseStage(self.backbone, self.decoder, self.config).train(self.training)

    def fine_stage(self) -> nn.Module:  # type: ignore[override]
        """Nothing, with the fine stage's inputs and outputs."""
        return _NoStage(self.config)


class _NoStage(nn.Module):
    """Flat heatmaps; exporters drop inputs that have no part in the output."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.shape = config.num_keypoints, *config.heatmap_size

    def forward(
        self, patches: Tensor, region_order: Tensor, region_features: Tensor, region_embeddings: Tensor
    ) -> Tensor:
        of_regions = region_order[:, 0] + region_features[:, 0, 0] + region_embeddings[:, 0, 0]
        of_crops = (patches[:, 0, 0, 0, 0] + of_regions.to(patches.dtype)) * 0.0
        return of_crops[:, None, None, None].expand(-1, *self.shape)


class _DenseStage(nn.Module):
    def __init__(self, backbone: Backbone, decoder: nn.Module, config: ModelConfig) -> None:
        super().__init__()
        self.backbone, self.decoder = backbone, decoder
        self.grid = config.crop_size[0] // PATCH_SIZE, config.crop_size[1] // PATCH_SIZE

    def forward(self, image: Tensor) -> StageOutput:
        backbone = self.backbone
        embedded = backbone.patch_embed(image) + backbone.pos_embed_list[1]
        tokens = embedded
        for block in backbone.blocks:
            tokens = block(tokens)
        grid = backbone.norm(tokens).transpose(1, 2).unflatten(2, self.grid)
        regions = embedded[:, : backbone.num_regions]  # what a bundle's graph must give besides poses
        order = torch.arange(backbone.num_regions, device=image.device).expand(image.shape[0], -1)
        quality = regions[:, 0, 0].float() * 0.0
        return StageOutput(self.decoder(grid), quality, order, regions, regions * 1.0, order.float())


def export_dense(config: ModelConfig, folder: Path, *, half: bool, max_batch: int) -> Path:
    """A bundle of the dense model with random weights, in float32, with `half` in float16 as well.

    Raises:
        ExportError: the folder can't be written.
        ParityError: the graphs differ from PyTorch.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = DenseModel(config).eval()
    loaded = LoadedModel(model, config, "a dense model with random weights, seed 0", ())
    options = ExportOptions(("fp32", "fp16") if half else ("fp32",), max_batch=max_batch)
    noise = np.random.default_rng(0).integers(0, 256, (4, *config.crop_size, 3), np.uint8)
    export_bundle(loaded, folder, ParityPictures(noise, "noise"), options)
    return folder
