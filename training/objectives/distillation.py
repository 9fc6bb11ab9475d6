"""Distillation: another pose model, in ONNX, gives a second target for the same crops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from sharpose.config import ModelConfig
from sharpose.errors import ConfigError
from sharpose.training.objectives.network import TrainingOutput
from sharpose.training.objectives.pose import heatmap_mse, heatmap_targets
from sharpose.training.objectives.teacher import Floats, Teacher, TeacherRecipe


class DistillationRecipe(TeacherRecipe):
    """The model to distil from, beside the labels; people without labels count too then.

    Its file is a pose model, or a bundle's coarse.onnx, relative to the working folder.
    """

    weight: float = Field(default=1.0, gt=0, description="weight of the squared error to its heatmaps")
    min_score: float = Field(
        default=0.2, description="least score of a keypoint that counts, unless the teacher gives heatmaps"
    )


class Distillation:
    """A pose model that was trained elsewhere. Its output is recognised by its shape: heatmaps, keypoints in pixels of
    its input, or SimCC's two classifications.

    Args:
        recipe: The file, and how its pixels are normalised.
        config: The student's.
        sigma: Standard deviation in heatmap pixels of targets that are made of keypoints.
        device: The student's device; the teacher runs there too if ONNX Runtime can.

    Raises:
        ConfigError: the file isn't a pose model of this skeleton, or its runtime isn't there.
    """

    def __init__(self, recipe: DistillationRecipe, config: ModelConfig, sigma: float, device: torch.device) -> None:
        self._recipe, self._config, self._sigma, self._device = recipe, config, sigma, device
        self._teacher = Teacher(recipe, Path(recipe.onnx), config.crop_size, device, "teacher")
        self._size = self._teacher.size
        self._kind, self._names = self._read_output()
        self.description = (
            f"teacher {recipe.onnx}: {self._kind} at {self._size[0]}x{self._size[1]}, {self._teacher.where}"
        )

    def add_loss(self, terms: dict[str, Tensor], output: TrainingOutput, images: Tensor) -> dict[str, Tensor]:
        """The terms with the squared error of both stages to the teacher's heatmaps, in `loss` and as `teacher_mse`."""
        targets, weights = self(images)
        error = heatmap_mse(output.coarse, targets, weights)
        if output.fine is not None:
            first = slice(len(output.fine))
            error = error + heatmap_mse(output.fine, targets[first], weights[first])
        return terms | {"loss": terms["loss"] + self._recipe.weight * error, "teacher_mse": error}

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Targets [B, J, h, w] and weights [B, J] for crops uint8 [B, H, W, 3] in RGB, on the student's device."""
        outputs = self._teacher(images, self._names)
        if self._kind == "heatmaps":
            heatmaps = torch.from_numpy(outputs[0])
            if heatmaps.shape[-2:] != self._config.heatmap_size:
                # corner pixels stay in place: coordinates are measured between their centres
                size = self._config.heatmap_size
                heatmaps = functional.interpolate(heatmaps, size=size, mode="bilinear", align_corners=True)
            return heatmaps.to(self._device), torch.ones(heatmaps.shape[:2], device=self._device)
        return self._targets(outputs[0] if self._kind == "keypoints" else self._from_simcc(*outputs))

    def _targets(self, keypoints: Floats) -> tuple[Tensor, Tensor]:
        """Gaussians around keypoints [B, J, 2 or 3] in pixels of the teacher's input."""
        config = self._config
        scale = (np.array(config.crop_size[::-1], np.float32) - 1) / (np.array(self._size[::-1], np.float32) - 1)
        placed = np.ones((*keypoints.shape[:2], 3), np.float32)
        placed[..., :2] = keypoints[..., :2] * scale
        if keypoints.shape[2] > 2:
            placed[..., 2] = keypoints[..., 2] >= self._recipe.min_score
        made = [heatmap_targets(person, config.crop_size, config.heatmap_size, self._sigma) for person in placed]
        targets, weights = (np.stack(parts) for parts in zip(*made, strict=True))
        return torch.from_numpy(targets).to(self._device), torch.from_numpy(weights).to(self._device)

    def _from_simcc(self, x: Floats, y: Floats) -> Floats:
        """Keypoints [B, J, 3] from SimCC's scores of every bin along an axis."""
        axes = ((x, self._size[1]), (y, self._size[0]))
        places = [part.argmax(axis=2) * (size / part.shape[2]) for part, size in axes]
        return np.stack([*places, np.minimum(x.max(axis=2), y.max(axis=2))], axis=2).astype(np.float32)

    def _read_output(self) -> tuple[str, list[str]]:
        """Kind and names: heatmaps [B, J, h, w], keypoints [B, J, 2 or 3], or simcc's x and y [B, J, bins]."""
        joints = self._config.num_keypoints
        rows = {name: shape for name, shape in self._teacher.outputs.items() if len(shape) > 2 and shape[1] == joints}
        for name, shape in rows.items():
            if len(shape) == 4:
                return "heatmaps", [name]
        flat = {name: shape[2] for name, shape in rows.items() if len(shape) == 3}
        for name, length in flat.items():
            if length in (2, 3):
                return "keypoints", [name]
        if len(flat) == 2:
            x, y = flat.values()  # SimCC's models give x first; bins are a multiple of the input's pixels
            if isinstance(x, int) and isinstance(y, int) and x * self._size[0] == y * self._size[1]:
                return "simcc", list(flat)
        shapes = ", ".join(f"{name} {list(shape)}" for name, shape in self._teacher.outputs.items())
        raise ConfigError(
            f"teacher {self._recipe.onnx}: expected heatmaps [B, {joints}, h, w], keypoints [B, {joints}, 2 or 3] or "
            f"SimCC's two outputs, for the skeleton {self._config.skeleton.name}; it has {shapes}"
        )
