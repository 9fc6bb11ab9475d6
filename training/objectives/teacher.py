"""A teacher: another network, an ONNX file, that sees the same crops as the student, in ONNX Runtime or OpenVINO."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor
from torch.nn import functional

from sharpose.config import IMAGENET_MEAN, IMAGENET_STD
from sharpose.engines.openvino import openvino_core
from sharpose.errors import ConfigError, EngineError, how_to_install

_ASPECT_TOLERANCE = 0.02
Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.float32] | npt.NDArray[np.uint8]
Shape = tuple[int | str, ...]  # a free axis by its name


class TeacherRecipe(BaseModel):
    """The file of a teacher, and how it takes pixels; one that takes uint8 gets them as they are, in RGB."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())

    onnx: str = Field(max_length=4096, pattern=r"^[^\x00]+$", description="file of the network")
    pixel_mean: tuple[float, float, float] = Field(default=IMAGENET_MEAN, description="of pixels from 0 to 1")
    pixel_std: tuple[float, float, float] = Field(
        default=IMAGENET_STD, description="of pixels from 0 to 1; 1/255 with a mean of 0 gives values from 0 to 255"
    )
    bgr: bool = Field(default=False, description="whether its channels are blue, green, red")
    runtime: Literal["onnxruntime", "openvino"] = "onnxruntime"
    bf16: bool = Field(default=False, description="compute in bfloat16; OpenVINO on CPUs alone")

    @model_validator(mode="after")
    def _check_runtime(self) -> TeacherRecipe:
        if self.bf16 and self.runtime != "openvino":
            raise ValueError(f"bf16 is for runtime openvino, got {self.runtime}")
        if not min(self.pixel_std) > 0:
            raise ValueError(f"pixel_std: expected three positive numbers, got {list(self.pixel_std)}")
        return self


class _Network(Protocol):
    """A loaded ONNX file."""

    where: str  # what it runs on
    fed: tuple[str, str, Shape]  # name, element type and shape of its first input
    outputs: dict[str, Shape]  # shapes by name

    def run(self, names: Sequence[str], pixels: Pixels) -> list[Floats]:
        """Outputs by name."""
        ...


class _OnnxRuntime:
    def __init__(self, path: Path, recipe: TeacherRecipe, device: torch.device) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the student's threads wait for it
        providers: list[str | tuple[str, dict[str, str]]] = ["CPUExecutionProvider"]
        if device.type == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            providers.insert(0, ("CUDAExecutionProvider", {"device_id": str(device.index or 0)}))
        self._session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        self.where = self._session.get_providers()[0]
        first = self._session.get_inputs()[0]
        self.fed = first.name, first.type, self._shape(first.shape)
        self.outputs = {item.name: self._shape(item.shape) for item in self._session.get_outputs()}

    def run(self, names: Sequence[str], pixels: Pixels) -> list[Floats]:
        found = self._session.run(list(names), {self.fed[0]: pixels})
        return [np.asarray(item, np.float32) for item in found]

    @staticmethod
    def _shape(axes: Sequence[int | str | None]) -> Shape:
        return tuple(axis if isinstance(axis, int) else str(axis) for axis in axes)


class _OpenVino:
    def __init__(self, path: Path, recipe: TeacherRecipe, device: torch.device) -> None:
        self._model: Any = openvino_core().read_model(str(path))
        first = self._model.inputs[0]
        kinds = {"f32": "tensor(float)", "u8": "tensor(uint8)"}
        kind = first.element_type.get_type_name()
        self.fed = first.any_name, kinds.get(kind, kind), self._shape(first)
        # an output also has the names of what it is equal to
        self.outputs = {name: self._shape(item) for item in self._model.outputs for name in sorted(item.get_names())}
        self.where = "OpenVINO, bf16" if recipe.bf16 else "OpenVINO"
        self._settings = {
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "INFERENCE_PRECISION_HINT": "bf16" if recipe.bf16 else "f32",
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,
        }
        self._requests: dict[tuple[int, ...], Any] = {}  # a network for each shape: free axes cost much time

    def run(self, names: Sequence[str], pixels: Pixels) -> list[Floats]:
        if pixels.shape not in self._requests:
            self._model.reshape(list(pixels.shape))
            compiled = openvino_core().compile_model(self._model, "CPU", self._settings)
            self._requests[pixels.shape] = compiled.create_infer_request()
        found = self._requests[pixels.shape].infer([pixels])
        by_name = {name: value for port, value in found.items() for name in port.get_names()}
        return [np.array(by_name[name], np.float32) for name in names]

    @staticmethod
    def _shape(port: Any) -> Shape:  # noqa: ANN401 (OpenVINO's)
        axes = enumerate(port.partial_shape)
        return tuple(axis.get_length() if axis.is_static else f"axis {index}" for index, axis in axes)


class Teacher:
    """A network that gets the student's crops at its own size: float [B, 3, H, W], normalised, or uint8 [B, H, W, 3] in
    RGB, as the graphs of our bundles.

    Args:
        recipe: How it takes pixels, and its runtime.
        path: Its file.
        crop_size: `(height, width)` of the student's crops.
        device: The student's device; ONNX Runtime runs the teacher there too if it can.
        what: What errors call it.

    Attributes:
        size: `(height, width)` of its crops.
        outputs: Shapes by name; free axes are names.

    Raises:
        ConfigError: the file can't be used, or the runtime isn't there.
    """

    def __init__(
        self, recipe: TeacherRecipe, path: Path, crop_size: tuple[int, int], device: torch.device, what: str
    ) -> None:
        self._recipe, self._what = recipe, f"{what} {path}"
        if not path.is_file():
            raise ConfigError(f"{self._what}: expected an ONNX file, found none")
        kind, name, extra = (
            (_OnnxRuntime, "ONNX Runtime", how_to_install("cpu,train"))
            if recipe.runtime == "onnxruntime"
            else (_OpenVino, "OpenVINO", "pip install openvino, or runtime: onnxruntime")
        )
        try:
            self._network: _Network = kind(path, recipe, device)
        except (ImportError, EngineError):
            raise ConfigError(f"{what}: needs {name}: {extra}") from None
        except Exception as error:  # the runtimes' errors have no common type
            reason = " ".join(str(error).split())[:160]
            raise ConfigError(f"{self._what}: {name} can't load it ({reason})") from error
        self.outputs = self._network.outputs
        self._as_bytes, self._batch, self.size = self._read_input(crop_size)
        self.where = self._network.where

    def __call__(self, images: Tensor, names: Sequence[str]) -> list[Floats]:
        """Outputs by name, float32 [B, …], for crops uint8 [B, H, W, 3] in RGB."""
        fed = self.pixels(images)
        step = self._batch or len(fed)
        answers: list[list[Floats]] = []
        for start in range(0, len(fed), step):
            part = fed[start : start + step]
            missing = step - len(part)
            padded = np.concatenate([part, np.repeat(part[-1:], missing, axis=0)]) if missing else part
            answers.append([item[: len(part)] for item in self._network.run(names, padded)])
        return [np.concatenate(parts) for parts in zip(*answers, strict=True)]

    def pixels(self, images: Tensor) -> Pixels:
        """Crops uint8 [B, H, W, 3] in RGB as the network takes them."""
        pixels = images.permute(0, 3, 1, 2).contiguous().float()
        if tuple(images.shape[1:3]) != self.size:
            pixels = functional.interpolate(pixels, size=self.size, mode="bilinear", align_corners=True)
        if self._as_bytes:
            return pixels.round().byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()
        mean, std = (
            255.0 * torch.tensor(values, device=pixels.device).reshape(3, 1, 1)
            for values in (self._recipe.pixel_mean, self._recipe.pixel_std)
        )
        normalised = (pixels - mean) / std
        return (normalised.flip(1) if self._recipe.bgr else normalised).contiguous().cpu().numpy()

    def _read_input(self, crop_size: tuple[int, int]) -> tuple[bool, int | None, tuple[int, int]]:
        """Whether it takes uint8, a fixed batch if it has one, and `(height, width)`."""
        _, kind, shape = self._network.fed
        as_bytes = kind == "tensor(uint8)" and len(shape) == 4 and shape[3] == 3
        if not as_bytes and not (kind == "tensor(float)" and len(shape) == 4 and shape[1] == 3):
            raise ConfigError(
                f"{self._what}: expected an input float [B, 3, H, W] or uint8 [B, H, W, 3], got {kind} {list(shape)}"
            )
        own = {key: field.default for key, field in TeacherRecipe.model_fields.items()}
        changed = [key for key in ("pixel_mean", "pixel_std", "bgr") if getattr(self._recipe, key) != own[key]]
        if as_bytes and changed:
            raise ConfigError(
                f"{self._what}: takes uint8 [B, H, W, 3], RGB, which it normalises itself; leave "
                f"{', '.join(changed)} out"
            )
        height, width = shape[1:3] if as_bytes else shape[2:]
        size = (height, width) if isinstance(height, int) and isinstance(width, int) else crop_size
        if abs(size[0] / size[1] - crop_size[0] / crop_size[1]) > _ASPECT_TOLERANCE:
            raise ConfigError(
                f"{self._what}: expected crops of the student's aspect ({crop_size[0]}x{crop_size[1]}), it takes "
                f"{size[0]}x{size[1]}"
            )
        return as_bytes, shape[0] if isinstance(shape[0], int) else None, size
