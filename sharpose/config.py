"""Model configurations: what a checkpoint can't say of itself, validated; unknown keys are refused. Torch-free."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from sharpose.errors import ConfigError, counted
from sharpose.files import parse_yaml, read_yaml
from sharpose.skeleton import Skeleton, get_skeleton
from sharpose.tokens import HEATMAP_STRIDE, REGION_SIZE, region_grid, selected_regions

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def _known_skeleton(value: object) -> object:
    return get_skeleton(value) if isinstance(value, str) else value


def _refuse_abs(value: object) -> object:
    if value == "abs":
        raise ConfigError(
            "quality_activation 'abs' is not supported: no released model uses it; expected 'gelu' or 'sigmoid'"
        )
    return value


_Side = Annotated[int, Field(le=2048)]
_MOST_WEIGHTS = 1 << 32


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


_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "string": "text",
    "bool": "true or false",
    "list": "a list",
    "tuple": "a list",
    "dict": "a mapping of keys to values",
    "model": "a mapping of keys to values",
    "model_attributes": "a mapping of keys to values",
    "dataclass": "a mapping of keys to values",
}
_LIMITS = {"gt": "more than", "ge": "at least", "lt": "less than", "le": "at most"}


def describe_problem(problem: Mapping[str, Any]) -> str:
    """One of a pydantic error's problems, from its `errors()`: the key, what was expected and what was found."""
    kind, context = str(problem["type"]), problem.get("ctx", {})
    place = ".".join(str(part) for part in problem["loc"] if not re.match("constrained-|function-|tagged-", str(part)))
    found = f", got {reprlib.repr(problem['input'])}"
    name = kind.removesuffix("_type").removesuffix("_parsing").removesuffix("_parsing_size")
    key = str(context.get("discriminator")).strip("'")  # which of a union's models it is
    limit = next((limit for limit in _LIMITS if limit in context), None)
    if kind == "extra_forbidden":
        message = "unknown key"
    elif kind == "missing":
        message = "missing key"
    elif kind == "value_error":
        message = str(context["error"])
        message += "" if ", got" in message or isinstance(problem["input"], dict) else found
    elif kind in ("too_long", "too_short"):
        most = kind == "too_long"
        actual = context["actual_length"]
        limit_of = counted(context["max_length" if most else "min_length"], "entry")
        message = f"expected at {'most' if most else 'least'} {limit_of}"
        message += f", got {'more' if actual is None else actual}"
    elif kind in ("string_too_long", "string_too_short"):
        most = kind == "string_too_long"
        limit_of = counted(context["max_length" if most else "min_length"], "character")
        message = f"expected text of at {'most' if most else 'least'} {limit_of}{found}"
    elif kind == "union_tag_invalid":
        message = f"{key}: expected one of {context['expected_tags']}, got {context['tag']!r}"
    elif kind == "union_tag_not_found":
        message = f"{key}: missing key"
    elif limit is not None:
        number = context[limit]
        message = f"expected {_LIMITS[limit]} {f'{number:g}' if isinstance(number, float) else number}{found}"
    elif kind in ("literal_error", "enum"):
        message = f"expected {context['expected']}{found}"
    elif kind == "string_pattern_mismatch":
        message = f"expected text that matches {context['pattern']}{found}"
    elif kind == "finite_number":
        message = f"expected a finite number{found}"
    elif name in _KINDS or kind == "int_from_float":
        message = f"expected {_KINDS.get(name, _KINDS['int'])}{found}"
    else:
        message = f"{str(problem['msg']).removeprefix('Value error, ').replace('Input should be', 'expected')}{found}"
    return f"{place[:300]}: {message}" if place else message


def describe_validation_error(error: ValidationError) -> str:
    """The first problem of a pydantic error and how many follow, in one line."""
    problems = error.errors(include_url=False)
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{describe_problem(problems[0])}{more}"


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

    Raises:
        ConfigError: there is no such name or file, it isn't YAML, or its values are not valid.
    """
    text = str(name_or_path)

    def failure(reason: str) -> ConfigError:
        return ConfigError(f"configuration {text}: {reason}")

    if text in list_configs():
        content = resources.files("sharpose.configs").joinpath(f"{text}.yaml").read_text("utf-8")
        values = parse_yaml(content, failure)
    elif Path(name_or_path).exists():
        values = read_yaml(Path(name_or_path), failure)
    else:
        raise ConfigError(f"no configuration {text!r}: expected a YAML file or one of {', '.join(list_configs())}")
    if not isinstance(values, dict):
        raise ConfigError(f"configuration {text}: expected a mapping of keys to values, got {type(values).__name__}")
    return parse_config(values, source=text)
