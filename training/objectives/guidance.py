"""Guidance: inner features of a convolutional network show a transformer what to see in few pictures.

Locality guidance (Li et al., ECCV 2022): after an inner block, a linear projection of the tokens is to equal the
teacher's features of the same place. Region tokens of the coarse stage learn from features at a region's stride, the
fine stage's patch tokens from those at a patch's. Besides, final region tokens learn the teacher's heatmaps of
everybody in the crop. The projections are in the training's state, not in checkpoints, and cost nothing at inference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from sharpose.config import ModelConfig
from sharpose.errors import ConfigError
from sharpose.model.backbone import Block
from sharpose.model.stages import SHaRPose
from sharpose.tokens import FINE_PER_SIDE, PATCHES_PER_REGION
from sharpose.training.data.augment import PixelChange
from sharpose.training.objectives.network import DenseHead, PoseNetwork, TrainingOutput
from sharpose.training.objectives.teacher import Teacher, TeacherRecipe

_LEAST_DEVIATION = 0.03  # of a channel, in mean deviations: one that is nearly constant says nothing, but noise
_SMALL = 1e-6
_LOGIT = -4.0  # initial bias of the heatmaps: nearly nobody anywhere


class GuidanceRecipe(TeacherRecipe):
    """The teacher, which of its outputs the student learns, and how much they count. Its file is relative to --data."""

    region_features: str | None = Field(default=None, description="output [B, C, h, w] with a pixel for each region")
    patch_features: str | None = Field(default=None, description="output [B, C, h, w], a pixel for each fine patch")
    heatmaps: str | None = Field(
        default=None, description="output [B, J, h, w], 0 to 1, of everybody in the crop, of the student's size"
    )
    after_block: int = Field(default=5, ge=1, description="block whose tokens learn the features, from 1")
    weight: float = Field(default=0.5, gt=0, description="squared error of features, which have a deviation of 1")
    heatmap_weight: float = Field(default=5.0, gt=0, description="cross-entropy of the heatmaps' pixels")
    share: float = Field(default=0.25, gt=0, le=1, description="share of a batch that the teacher sees")
    final_share: float = Field(default=0.25, ge=0, le=1, description="last part of the epochs, with less weight")
    final_factor: float = Field(default=0.2, ge=0, le=1, description="factor on both weights in it; 0 ends guidance")
    measured_people: int = Field(
        default=384, gt=0, le=10**6, description="people whose features give the mean and deviation of each channel"
    )

    @model_validator(mode="after")
    def _check_outputs(self) -> GuidanceRecipe:
        if not (self.region_features or self.patch_features or self.heatmaps):
            raise ValueError("expected region_features, patch_features or heatmaps, the names of outputs; got none")
        return self

    def factor(self, epoch: int, epochs: int) -> float:
        """The factor on both weights after `epoch` of `epochs`."""
        return self.final_factor if epoch >= epochs * (1 - self.final_share) else 1.0


class GuidanceTeacher:
    """The outputs of the recipe's teacher, by the recipe's names for them.

    Args:
        recipe: The guidance.
        path: The teacher's file.
        config: The student's.
        device: The student's device.

    Attributes:
        recipe: As given.
        channels: Of each output.
        description: A line for the user.

    Raises:
        ConfigError: the file can't be used, or has no such outputs.
    """

    def __init__(self, recipe: GuidanceRecipe, path: Path, config: ModelConfig, device: torch.device) -> None:
        self.recipe = recipe
        names = {
            "region_features": recipe.region_features,
            "patch_features": recipe.patch_features,
            "heatmaps": recipe.heatmaps,
        }
        self._names = {key: name for key, name in names.items() if name is not None}
        self._teacher = Teacher(recipe, path, config.crop_size, device, "guidance")
        for key, name in self._names.items():
            if name not in self._teacher.outputs:
                outputs = ", ".join(self._teacher.outputs)
                raise ConfigError(f"guidance.{key}: expected an output of {path}, one of {outputs}; got {name}")
        # graphs leave inner shapes open: a black crop shows them
        found = self(torch.zeros(1, *config.crop_size, 3, dtype=torch.uint8))
        self.channels = {key: value.shape[1] for key, value in found.items()}
        rows, columns = config.region_grid
        expected: dict[str, tuple[int | str, tuple[int, int]]] = {
            "region_features": ("C", (rows, columns)),
            "patch_features": ("C", (rows * FINE_PER_SIDE, columns * FINE_PER_SIDE)),
            "heatmaps": (config.num_keypoints, config.heatmap_size),
        }
        crop = "x".join(map(str, config.crop_size))
        for key, value in found.items():
            channels, size = expected[key]
            if value.ndim != 4 or value.shape[2:] != size or channels not in ("C", value.shape[1]):
                raise ConfigError(
                    f"guidance.{key}: expected [B, {channels}, {size[0]}, {size[1]}] for crops of {crop}, "
                    f"{self._names[key]} of {path} has {['B', *value.shape[1:]]}"
                )
        height, width = self._teacher.size
        outputs = ", ".join(self._names.values())
        self.description = f"guidance by {outputs} of {recipe.onnx} at {height}x{width}, {self._teacher.where}"

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Outputs [B, …], float32, for crops uint8 [B, H, W, 3] in RGB, on their device."""
        found = self._teacher(images, list(self._names.values()))
        return {key: torch.from_numpy(value).to(images.device) for key, value in zip(self._names, found, strict=True)}


class GuidedNetwork(PoseNetwork):
    """A `PoseNetwork` that in training also compares its tokens with a teacher's features.

    Args:
        pose: The model.
        teacher: The teacher.
        epochs: Epochs of the run.
        dense: As in `PoseNetwork`, and so are the next two.
        fine_from_epoch: See there.
        fine_share: See there.
    """

    def __init__(
        self,
        pose: SHaRPose,
        teacher: GuidanceTeacher,
        epochs: int,
        *,
        dense: bool = False,
        fine_from_epoch: int = 0,
        fine_share: float = 1.0,
    ) -> None:
        super().__init__(pose, dense=dense, fine_from_epoch=fine_from_epoch, fine_share=fine_share)
        config, channels = pose.config, teacher.channels
        self.teacher = teacher
        self._epochs, self._factor = epochs, 1.0
        self.guided = nn.ModuleDict(
            {
                key: DenseHead(config) if key == "heatmaps" else _Projection(config.width, count)
                for key, count in channels.items()
            }
        )
        if isinstance(everybody := self._part("heatmaps"), DenseHead):
            nn.init.constant_(everybody.proj.bias, _LOGIT)
        self._coarse_tokens = 1 + config.num_keypoints + config.num_regions
        self._kept: dict[str, Tensor] = {}
        self._watch(pose)

    def begin_step(self, epoch: int) -> None:
        """See `TrainedNetwork`: guidance may end."""
        super().begin_step(epoch)
        self._factor = self.teacher.recipe.factor(epoch, self._epochs)

    def measure(self, batches: Iterable[Tensor], mean: Callable[[Tensor], Tensor]) -> None:
        """Find the mean and the deviation of each of the teacher's channels, by which its features are standardised.

        Args:
            batches: Crops, uint8 [B, H, W, 3], RGB.
            mean: Averages a tensor over all processes.
        """
        found = [self.teacher(images) for images in batches]
        for key, part in self.guided.items():
            if isinstance(part, _Projection):
                features = torch.cat([item[key] for item in found]).double()
                moments = mean(torch.stack([features.mean((0, 2, 3)), features.square().mean((0, 2, 3))]))
                deviation = (moments[1] - moments[0].square()).clamp(min=0).sqrt()
                part.mean.copy_(moments[0])
                part.deviation.copy_(deviation.clamp(min=_LEAST_DEVIATION * float(deviation.mean()) + _SMALL))

    def forward(self, images: Tensor, change: PixelChange | None = None) -> TrainingOutput:
        """See `PoseNetwork`."""
        output = super().forward(images, change)
        kept, self._kept = self._kept, {}
        if not self.training:
            return output
        terms = self._terms(images, output, kept) if self._factor > 0 else {}
        parts = [part for key, part in self.guided.items() if f"guidance_{key}" not in terms]
        idle = [parameter.sum() for part in parts for parameter in part.parameters()]
        if idle:  # zero: processes that train together must all have all gradients
            output = output._replace(coarse=output.coarse + 0.0 * torch.stack(idle).sum())
        return output._replace(guidance=terms)

    def _terms(self, images: Tensor, output: TrainingOutput, kept: dict[str, Tensor]) -> dict[str, Tensor]:
        """Scalars `guidance_NAME`."""
        people = max(round(self.teacher.recipe.share * len(images)), 1)
        with torch.no_grad():
            wanted = self.teacher(images[:people])
        config, joints = self.pose.config, self.pose.config.num_keypoints
        terms: dict[str, Tensor] = {}
        if isinstance(regions := self._part("region_features"), _Projection):
            target = regions.standardised(wanted["region_features"]).flatten(2).transpose(1, 2)
            tokens = kept["coarse"][:people, 1 + joints :]
            terms["guidance_region_features"] = functional.mse_loss(regions(tokens), target)
        if isinstance(patches := self._part("patch_features"), _Projection) and output.fine is not None:
            both = min(people, len(output.fine))
            selected = output.region_order[:both, : config.num_selected]
            target = by_region(patches.standardised(wanted["patch_features"][:both]), config.region_grid)
            target = target[torch.arange(both, device=target.device).unsqueeze(1), selected].flatten(1, 2)
            tokens = kept["fine"][:both, joints : joints + target.shape[1]]
            terms["guidance_patch_features"] = functional.mse_loss(patches(tokens), target)
        if isinstance(everybody := self._part("heatmaps"), DenseHead):
            logits = everybody(output.region_features[:people]).float()
            target = wanted["heatmaps"].clamp(0, 1)
            terms["guidance_heatmaps"] = functional.binary_cross_entropy_with_logits(logits, target)
        return terms

    def _part(self, key: str) -> nn.Module | None:
        return dict(self.guided.items()).get(key)

    def _watch(self, pose: SHaRPose) -> None:
        """Keep the tokens after the guided block; the coarse stage's and the fine stage's differ in number."""
        block = pose.backbone.blocks[self.teacher.recipe.after_block - 1]
        assert isinstance(block, Block)
        plain, mined = block.forward, block.forward_mined

        def keep(tokens: Tensor) -> Tensor:
            if self.training and torch.is_grad_enabled():
                self._kept["coarse" if tokens.shape[1] == self._coarse_tokens else "fine"] = tokens
            return tokens

        def forward(x: Tensor) -> Tensor:
            return keep(plain(x))

        def forward_mined(x: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
            tokens, attention = mined(x, rows)
            return keep(tokens), attention

        for name, method in (("forward", forward), ("forward_mined", forward_mined)):
            setattr(block, name, method)


class _Projection(nn.Module):
    """Tokens to the standardised features of a teacher."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, channels)
        nn.init.trunc_normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("deviation", torch.ones(channels))

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, T, C] to float32 [B, T, channels]."""
        return self.linear(self.norm(tokens)).float()

    def standardised(self, features: Tensor) -> Tensor:
        """The teacher's [B, channels, h, w], each channel with a mean of 0 and a deviation of 1."""
        return (features - self.mean[:, None, None]) / self.deviation[:, None, None]


def by_region(features: Tensor, grid: tuple[int, int]) -> Tensor:
    """[B, C, rows * s, columns * s] to [B, R, s * s, C]: a region's fine patches row by row. `grid` is of regions."""
    rows, columns = grid
    parts = features.reshape(len(features), -1, rows, FINE_PER_SIDE, columns, FINE_PER_SIDE)
    return parts.permute(0, 2, 4, 3, 5, 1).reshape(len(features), rows * columns, PATCHES_PER_REGION, -1)
