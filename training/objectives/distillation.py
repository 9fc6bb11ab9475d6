"""Distillation: another pose model, in ONNX, gives a second target for the same crops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional

from sharpose.config import IMAGENET_MEAN, IMAGENET_STD, ModelConfig
from sharpose.errors import ConfigError, how_to_install
from sharpose.training.objectives.network import TrainingOutput
from sharpose.training.objectives.pose import heatmap_mse, heatmap_targets

_ASPECT_TOLERANCE = 0.02
Floats = npt.NDArray[np.float32]


class DistillationRecipe(BaseModel):
    """The model to distil from, beside the labels; people without labels count too then."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())

    onnx: str = Field(
        max_length=4096, pattern=r"^[^\x00]+$", description="file of an ONNX pose model, or a bundle's coarse.onnx"
    )
    weight: float = Field(default=1.0, gt=0, description="weight of the squared error to its heatmaps")
    pixel_mean: tuple[float, float, float] = IMAGENET_MEAN
    pixel_std: tuple[float, float, float] = IMAGENET_STD
    bgr: bool = Field(default=False, description="whether its channels are blue, green, red")
    min_score: float = Field(default=0.2, description="least score of a keypoint that counts")


class Teacher:
    """A pose model that was trained elsewhere.

    Its input is a crop at its own size, of the student's aspect: float [B, 3, H, W], normalised, or uint8 [B, H, W, 3]
    in RGB as our bundles have it. Its output is recognised by its shape: heatmaps, keypoints in pixels of its input,
    or SimCC's two classifications.

    Args:
        recipe: The file, and how its pixels are normalised.
        config: The student's.
        sigma: Standard deviation in heatmap pixels of targets that are made of keypoints.
        device: The student's device; the teacher runs there too if ONNX Runtime can.

    Raises:
        ConfigError: the file isn't a pose model of this skeleton, or ONNX Runtime isn't there.
    """

    def __init__(self, recipe: DistillationRecipe, config: ModelConfig, sigma: float, device: torch.device) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise ConfigError(f"teacher: needs ONNX Runtime: {how_to_install('cpu,train')}") from None
        if not Path(recipe.onnx).is_file():
            raise ConfigError(f"teacher {recipe.onnx}: expected an ONNX file, found none")
        providers = ["CPUExecutionProvider"]
        if device.type == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            providers.insert(0, "CUDAExecutionProvider")
        try:
            self._session = onnxruntime.InferenceSession(recipe.onnx, providers=providers)
        except Exception as error:  # onnxruntime's errors have no common type
            reason = " ".join(str(error).split())[:160]
            raise ConfigError(f"teacher {recipe.onnx}: ONNX Runtime can't load it ({reason})") from error
        self._recipe, self._config, self._sigma, self._device = recipe, config, sigma, device
        self._input, self._as_bytes, self._batch, self._size = self._read_input()
        self._kind, self._names = self._read_output()
        self.description = (
            f"teacher {recipe.onnx}: {self._kind} at {self._size[0]}x{self._size[1]}, "
            f"{self._session.get_providers()[0]}"
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
        fed = self._pixels(images)
        step = self._batch or len(fed)
        answers: list[list[Floats]] = []
        for start in range(0, len(fed), step):
            part = fed[start : start + step]
            missing = step - len(part)
            padded = np.concatenate([part, np.repeat(part[-1:], missing, axis=0)]) if missing else part
            found = self._session.run(self._names, {self._input: padded})
            answers.append([np.asarray(item, np.float32)[: len(part)] for item in found])
        outputs = [np.concatenate(parts) for parts in zip(*answers, strict=True)]
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

    def _pixels(self, images: Tensor) -> npt.NDArray[np.float32] | npt.NDArray[np.uint8]:
        pixels = images.permute(0, 3, 1, 2).float()
        if tuple(images.shape[1:3]) != self._size:
            pixels = functional.interpolate(pixels, size=self._size, mode="bilinear", align_corners=True)
        if self._as_bytes:
            return pixels.round().byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()
        mean, std = (
            255.0 * torch.tensor(values, device=pixels.device).reshape(3, 1, 1)
            for values in (self._recipe.pixel_mean, self._recipe.pixel_std)
        )
        normalised = (pixels - mean) / std
        return (normalised.flip(1) if self._recipe.bgr else normalised).contiguous().cpu().numpy()

    def _read_input(self) -> tuple[str, bool, int | None, tuple[int, int]]:
        """Name, whether it takes uint8, a fixed batch if it has one, and `(height, width)`."""
        fed = self._session.get_inputs()[0]
        as_bytes = fed.type == "tensor(uint8)" and len(fed.shape) == 4 and fed.shape[3] == 3
        if not as_bytes and not (fed.type == "tensor(float)" and len(fed.shape) == 4 and fed.shape[1] == 3):
            raise ConfigError(
                f"teacher {self._recipe.onnx}: expected an input float [B, 3, H, W] or uint8 [B, H, W, 3], got "
                f"{fed.type} {fed.shape}"
            )
        axes = fed.shape[1:3] if as_bytes else fed.shape[2:]
        crop = self._config.crop_size
        size = (axes[0], axes[1]) if all(isinstance(axis, int) for axis in axes) else crop
        if abs(size[0] / size[1] - crop[0] / crop[1]) > _ASPECT_TOLERANCE:
            raise ConfigError(
                f"teacher {self._recipe.onnx}: expected crops of the student's aspect ({crop[0]}x{crop[1]}), it takes "
                f"{size[0]}x{size[1]}"
            )
        return fed.name, as_bytes, fed.shape[0] if isinstance(fed.shape[0], int) else None, size

    def _read_output(self) -> tuple[str, list[str]]:
        """Kind and names: heatmaps [B, J, h, w], keypoints [B, J, 2 or 3], or simcc's x and y [B, J, bins]."""
        joints = self._config.num_keypoints
        rows = [item for item in self._session.get_outputs() if len(item.shape) > 2 and item.shape[1] == joints]
        for item in rows:
            if len(item.shape) == 4:
                return "heatmaps", [item.name]
        flat = [item for item in rows if len(item.shape) == 3]
        for item in flat:
            if item.shape[2] in (2, 3):
                return "keypoints", [item.name]
        if len(flat) == 2 and all(isinstance(item.shape[2], int) for item in flat):
            x, y = flat  # SimCC's models give x first; bins are a multiple of the input's pixels
            if x.shape[2] * self._size[0] == y.shape[2] * self._size[1]:
                return "simcc", [x.name, y.name]
        shapes = ", ".join(f"{item.name} {item.shape}" for item in self._session.get_outputs())
        raise ConfigError(
            f"teacher {self._recipe.onnx}: expected heatmaps [B, {joints}, h, w], keypoints [B, {joints}, 2 or 3] or "
            f"SimCC's two outputs, for the skeleton {self._config.skeleton.name}; it has {shapes}"
        )
