"""Model configurations: what a checkpoint can't say of itself, validated; unknown keys are refused. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from sharpose.errors import ConfigError, describe_validation_error
from sharpose.files import parse_yaml, read_yaml
from sharpose.skeleton import Skeleton, load_skeleton, with_indices
from sharpose.tokens import HEATMAP_STRIDE, REGION_SIZE, region_grid, selected_regions

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def _known_skeleton(value: object) -> object:
    if isinstance(value, str):
        return load_skeleton(value)
    return with_indices(value, "skeleton") if isinstance(value, Mapping) else value


def _refuse_abs(value: object) -> object:
    if value == "abs":
        raise ConfigError(
            "quality_activation 'abs' is not supported: no released model uses it; expected 'gelu' or 'sigmoid'"
        )
    return value


_Side = Annotated[int, Field(le=2048)]
_MOST_WEIGHTS = 1 << 32
_LEAST_KEYPOINTS = 2


class ModelConfig(BaseModel):
    """A SHaRPose model. Sizes are `(height, width)` in pixels; names as in the paper (AAAI'24, section 3)."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str = Field(min_length=1, max_length=200)
    skeleton: Annotated[Skeleton, BeforeValidator(_known_skeleton)]
    crop_size: tuple[_Side, _Side]
    width: int = Field(gt=0, le=8192, description="token width C")
    depth: int = Field(gt=0, le=256, description="transformer blocks, shared by both stages")
    heads: int = Field(gt=0, le=1024, description="attention heads")
    mlp_ratio: float = Field(default=4.0, gt=0, le=64)
    alpha: float = Field(gt=0, le=1, description="share of the regions that the fine stage looks at")
    quality_threshold: float = Field(description="a crop whose predicted quality is below it is refined")
    head: Literal["linear", "mlp"] = "linear"
    head_hidden: int | None = Field(default=None, gt=0, le=1 << 16, description="hidden width of an mlp head")
    quality_activation: Annotated[Literal["gelu", "sigmoid"], BeforeValidator(_refuse_abs)] = "gelu"
    pixel_mean: tuple[float, float, float] = IMAGENET_MEAN
    pixel_std: tuple[float, float, float] = IMAGENET_STD

    @model_validator(mode="after")
    def _check(self) -> ModelConfig:
        height, width = self.crop_size
        if height <= 0 or width <= 0 or height % REGION_SIZE or width % REGION_SIZE:
            raise ValueError(f"crop_size must be positive multiples of {REGION_SIZE}, got {height}x{width}")
        if self.skeleton.num_keypoints < _LEAST_KEYPOINTS:
            raise ValueError(
                f"skeleton: expected at least {_LEAST_KEYPOINTS} keypoints, as the attention of all but the last ranks "
                f"regions, got {self.skeleton.num_keypoints}"
            )
        if self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads, got {self.width} and {self.heads}")
        if self.head == "linear" and self.head_hidden is not None:
            raise ValueError("head_hidden goes with head: mlp, got head: linear")
        if min(self.pixel_std) <= 0:
            raise ValueError(f"pixel_std must be positive, got {list(self.pixel_std)}")
        weights = self.depth * self.width * (4 * self.width + 2 * self.mlp_hidden)
        if weights > _MOST_WEIGHTS:
            raise ValueError(
                f"width, depth and mlp_ratio: expected at most {_MOST_WEIGHTS} weights in the blocks, got {weights}"
            )
        return self

    @property
    def num_keypoints(self) -> int:
        """J."""
        return self.skeleton.num_keypoints

    @property
    def region_grid(self) -> tuple[int, int]:
        """Rows and columns of regions."""
        return region_grid(self.crop_size)

    @property
    def num_regions(self) -> int:
        """R."""
        rows, columns = self.region_grid
        return rows * columns

    @property
    def num_selected(self) -> int:
        """K, the regions that the fine stage looks at."""
        return selected_regions(self.alpha, self.num_regions)

    @property
    def heatmap_size(self) -> tuple[int, int]:
        """`(h, w)` of a heatmap."""
        return self.crop_size[0] // HEATMAP_STRIDE, self.crop_size[1] // HEATMAP_STRIDE

    @property
    def mlp_hidden(self) -> int:
        """Hidden width of a block's MLP."""
        return int(self.width * self.mlp_ratio)

    @property
    def head_hidden_width(self) -> int:
        """Hidden width of an mlp head: `head_hidden`, else half of a heatmap's pixels as in the released models."""
        rows, columns = self.heatmap_size
        return self.head_hidden or rows * columns // 2

    def replace(self, changes: Mapping[str, object]) -> ModelConfig:
        """A validated copy with some fields changed; an unknown field is a `ConfigError`."""
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        return parse_config(fields | dict(changes), source=self.name)


def parse_config(values: object, *, source: str) -> ModelConfig:
    """A configuration from a mapping of plain values; `source` names it in a `ConfigError`."""
    try:
        return ModelConfig.model_validate(dict(values) if isinstance(values, Mapping) else values)
    except ValidationError as error:
        raise ConfigError(f"configuration {source}: {describe_validation_error(error)}") from error


def list_configs() -> list[str]:
    """Names of the configurations that come with the package."""
    folder = resources.files("sharpose.configs")
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_config(name_or_path: str | Path) -> ModelConfig:
    """A configuration that comes with the package, by name, or any YAML file, by path.

    Its `skeleton` is a built-in one's name, a path (relative to the file) as `load_skeleton` takes it, or a mapping.

    Raises:
        ConfigError: there is no such name or file, it isn't YAML, or its values are not valid.
    """
    text = str(name_or_path)
    folder = Path()

    def failure(reason: str) -> ConfigError:
        return ConfigError(f"configuration {text}: {reason}")

    if text in list_configs():
        content = resources.files("sharpose.configs").joinpath(f"{text}.yaml").read_text("utf-8")
        values = parse_yaml(content, failure)
    elif Path(name_or_path).exists():
        values = read_yaml(Path(name_or_path), failure)
        folder = Path(name_or_path).parent
    else:
        raise ConfigError(f"no configuration {text!r}: expected a YAML file or one of {', '.join(list_configs())}")
    if not isinstance(values, dict):
        raise ConfigError(f"configuration {text}: expected a mapping of keys to values, got {type(values).__name__}")
    if isinstance(skeleton := values.get("skeleton"), str | dict):
        values = values | {"skeleton": load_skeleton(skeleton, folder)}
    return parse_config(values, source=text)
