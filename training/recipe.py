"""A training recipe: data, model, loss and optimiser of a run in one YAML file; unknown keys are refused."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sharpose.config import ModelConfig, load_config
from sharpose.errors import ConfigError, SourceError, describe_validation_error
from sharpose.files import atomic_file, parse_yaml, read_yaml
from sharpose.skeleton import Skeleton, load_skeleton
from sharpose.training.data.augment import AugmentSpec
from sharpose.training.data.coco import CocoDataset
from sharpose.training.data.mixed import CachedDataset, MixedDataset, SampleCache, Subset
from sharpose.training.data.mpii import MpiiDataset
from sharpose.training.data.sample import FileDataset, PoseDataset
from sharpose.training.data.scene import SceneDataset
from sharpose.training.objectives.distillation import DistillationRecipe
from sharpose.training.objectives.guidance import GuidanceRecipe
from sharpose.training.objectives.mae import MaeRecipe
from sharpose.training.objectives.pose import DEFAULT_SIGMA, LossRecipe
from sharpose.training.optimizer import OptimizerRecipe, Schedule

_MOST = 10**8  # people, epochs or steps
_SEED = (1 << 63) - 1  # what PyTorch takes
Precision = Literal["fp32", "bf16", "fp16", "auto"]
_File = Annotated[str, Field(max_length=4096, pattern=r"^[^\x00]+$")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    weight: float = Field(default=1.0, gt=0, description="share of an epoch, relative to the other datasets")
    limit: int | None = Field(default=None, gt=0, le=_MOST, description="number of people, from the first; all if null")


class CocoPart(_Part):
    """COCO-format keypoints; paths are relative to --data."""

    kind: Literal["coco"]
    annotations: _File
    images: _File
    weak_weight: float | None = Field(default=None, ge=0, le=1, description="weight of labels of visibility 1")


class MpiiPart(_Part):
    """MPII keypoints; paths are relative to --data."""

    kind: Literal["mpii"]
    annotations: _File
    images: _File


class ScenePart(_Part):
    """The built-in scene, labelled with COCO's or Halpe's points: other people every epoch, unless `repeat` is set."""

    kind: Literal["scene"]
    seed: int = Field(default=0, ge=0, le=_SEED)
    length: int = Field(default=10_000, gt=0, le=_MOST, description="people in an epoch")
    repeat: bool = Field(default=False, description="the same people in every epoch")


DatasetPart = Annotated[CocoPart | MpiiPart | ScenePart, Field(discriminator="kind")]


class DataRecipe(BaseModel):
    """Datasets and their augmentation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    train: tuple[DatasetPart, ...] = Field(min_length=1)
    evaluation: tuple[DatasetPart, ...] = Field(default=(), description="no evaluations if empty")
    people_per_epoch: int | None = Field(default=None, gt=0, le=_MOST, description="all people if null")
    augmentation: AugmentSpec = AugmentSpec()
    sigma: float = Field(default=DEFAULT_SIGMA, gt=0, description="standard deviation of a target in heatmap pixels")
    cache_mib: int = Field(default=0, ge=0, le=1 << 20, description="memory for decoded pictures, of each worker")
    max_undecodable: int = Field(default=10, ge=0, description="number of pictures that may fail to decode")


class StartRecipe(BaseModel):
    """Initial weights, where --init doesn't give them."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    sine_positions: bool = Field(default=False, description="sines as initial position embeddings, not noise")
    dct_patches: bool = Field(default=False, description="a cosine transform as initial patch projection")
    init_head_factor: float = Field(
        default=1.0, gt=0, description="factor on the heatmaps of --init: 1 / temperature makes heatmaps of logits"
    )


class Recipe(BaseModel):
    """All settings of a run. The defaults are the paper's; everything else is off."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    model: ModelConfig
    data: DataRecipe
    batch_size: int = Field(
        gt=0, le=1 << 16, description="people in a step, over all processes and accumulated batches"
    )
    schedule: Schedule
    optimizer: OptimizerRecipe = OptimizerRecipe()
    loss: LossRecipe = LossRecipe()
    start: StartRecipe = StartRecipe()
    teacher: DistillationRecipe | None = Field(default=None, description="distillation from another model")
    guidance: GuidanceRecipe | None = Field(default=None, description="learning another network's features as well")
    pretrain: MaeRecipe | None = Field(default=None, description="MAE pre-training, without labels")
    drop_path: float = Field(default=0.1, ge=0, lt=1, description="rate of the last block; rises linearly from 0")
    ema_decay: float | None = Field(default=None, gt=0, lt=1, description="decay of averaged weights (EMA)")
    seed: int = Field(default=0, ge=0, le=_SEED)
    accumulate: int = Field(default=1, gt=0, le=1 << 16, description="batches in a step")
    precision: Precision = Field(
        default="fp32", description="of the passes; auto times fp32 and bf16 at the start and takes the faster"
    )
    compile: bool = False
    gradient_checkpointing: bool = False
    workers: int = Field(default=4, ge=0, le=1024, description="processes that make batches; 0 for none")
    evaluate_every: int = Field(default=10, gt=0, le=_MOST, description="epochs")
    checkpoint_every: int | None = Field(
        default=None, gt=0, le=_MOST, description="steps, and evaluations; an epoch if null"
    )
    log_every: int = Field(default=50, gt=0, le=_MOST, description="steps")
    tensorboard: bool = False

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size {self.batch_size} can't be shared by {self.accumulate} accumulated batches")
        if self.pretrain is not None and self.teacher is not None:
            raise ValueError("pretrain and teacher exclude each other: pre-training has no heatmaps to distil")
        if self.guidance is not None:
            if self.pretrain is not None or self.compile:
                raise ValueError("guidance excludes pretrain and compile")
            if self.guidance.after_block > self.model.depth:
                raise ValueError(
                    f"guidance.after_block: expected at most the model's {self.model.depth} blocks, got "
                    f"{self.guidance.after_block}"
                )
        return self

    def batch_of_rank(self, world_size: int) -> int:
        """People in one batch of one process. Raises `ConfigError` where they can't be shared evenly."""
        shares = self.accumulate * world_size
        if self.batch_size % shares:
            raise ConfigError(
                f"batch_size {self.batch_size} can't be shared by {world_size} processes with {self.accumulate} "
                f"batches each; give a multiple of {shares}"
            )
        return self.batch_size // shares


def list_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    folder = resources.files("sharpose.configs").joinpath("recipes")
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_recipe(name_or_path: str | Path, changes: Sequence[str] = ()) -> Recipe:
    """A recipe that comes with the package, by name, or any YAML file, by path.

    Its `model` is a model configuration's name, a path (relative to the recipe), or a mapping of its fields, of which
    `skeleton` is as `load_skeleton` takes it.

    Args:
        name_or_path: Name or path.
        changes: `key=value` each, the key with dots (`optimizer.learning_rate=1e-4`), the value as YAML.

    Raises:
        ConfigError: there is no such recipe, it isn't YAML, or its values are not valid.
    """
    text = str(name_or_path)
    folder = Path()

    def failure(reason: str) -> ConfigError:
        return ConfigError(f"recipe {text}: {reason}")

    if text in list_recipes():
        content = resources.files("sharpose.configs").joinpath("recipes").joinpath(f"{text}.yaml").read_text("utf-8")
        values = parse_yaml(content, failure)
    elif Path(name_or_path).exists():
        values = read_yaml(Path(name_or_path), failure)
        folder = Path(name_or_path).parent
    else:
        raise ConfigError(f"no recipe {text!r}: expected a YAML file or one of {', '.join(list_recipes())}")
    if not isinstance(values, dict):
        raise ConfigError(f"recipe {text}: expected a mapping of keys to values, got {type(values).__name__}")
    for change in changes:
        if change.startswith("model.") and isinstance(values.get("model"), str):
            values["model"] = _model(values["model"], folder).model_dump(mode="json")
        _apply(values, change)
    if isinstance(values.get("model"), str):
        values["model"] = _model(values["model"], folder)
    elif isinstance(values.get("model"), dict) and isinstance(values["model"].get("skeleton"), str | dict):
        values["model"]["skeleton"] = load_skeleton(values["model"]["skeleton"], folder)
    return parse_recipe(values, source=text)


def parse_recipe(values: Mapping[str, object], *, source: str) -> Recipe:
    """A recipe from plain values; `source` names it in a `ConfigError`."""
    try:
        return Recipe.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError(f"recipe {source}: {describe_validation_error(error)}") from error


def write_recipe(recipe: Recipe, path: Path) -> None:
    """Write a recipe as it is run, changes included. Raises `SinkError` where that fails."""
    with atomic_file(path) as temporary:
        temporary.write_text(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False), "utf-8")


def _model(name: str, folder: Path) -> ModelConfig:
    beside = folder / name
    return load_config(beside if beside.is_file() else name)


def _apply(values: dict[str, Any], change: str) -> None:
    """Set one `a.b.c=value`; a number in the key counts list entries."""
    key, equals, text = change.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {change}: expected key=value")
    parts = key.split(".")
    value = parse_yaml(text, lambda reason: ConfigError(f"--set {change}: {reason}"))
    if isinstance(value, str):  # YAML reads 1e-4 as a string
        with contextlib.suppress(ValueError):
            value = float(value)
    place: Any = values
    for part in parts[:-1]:
        if isinstance(place, list) and part in (entries := list(map(str, range(len(place))))):
            place = place[entries.index(part)]
        elif isinstance(place, dict):
            place = place.setdefault(part, {})
        else:
            place = None
    if isinstance(place, list) and parts[-1] in (entries := list(map(str, range(len(place))))):
        place[entries.index(parts[-1])] = value
    elif isinstance(place, dict):
        place[parts[-1]] = value
    else:
        raise ConfigError(f"--set {change}: no {key} in the recipe")


def training_dataset(
    recipe: DataRecipe, root: Path, skeleton: Skeleton, seed: int, say: Callable[[str], None] = lambda line: None
) -> PoseDataset:
    """The people to train on, mixed by weight where there are several datasets.

    Args:
        recipe: The datasets.
        root: Folder that paths are relative to.
        skeleton: The model's.
        seed: Seed of the mixture's order.
        say: Called with a line for each file of labels: how many people are used, how many are left out and why.

    Raises:
        SourceError: labels can't be read, or more pictures are missing than the recipe allows.
        ConfigError: a dataset has another skeleton.
    """
    cache = SampleCache(recipe.cache_mib << 20)
    parts: list[tuple[PoseDataset, float]] = []
    for part in recipe.train:
        dataset = _dataset(part, recipe, root, skeleton, say)
        is_constant = not isinstance(part, ScenePart) or part.repeat
        parts.append((CachedDataset(dataset, cache) if is_constant and cache.limit else dataset, part.weight))
    if len(parts) == 1 and recipe.people_per_epoch is None:
        return parts[0][0]
    return MixedDataset(parts, length=recipe.people_per_epoch, seed=seed)


def evaluation_dataset(
    recipe: DataRecipe, root: Path, skeleton: Skeleton, say: Callable[[str], None] = lambda line: None
) -> PoseDataset | None:
    """The people to evaluate on, each once; None where the recipe has none. Errors as in `training_dataset`."""
    datasets = [_dataset(part, recipe, root, skeleton, say) for part in recipe.evaluation]
    if not datasets:
        return None
    if len(datasets) == 1:
        return datasets[0]
    return MixedDataset([(dataset, len(dataset)) for dataset in datasets])


def _dataset(
    part: DatasetPart, recipe: DataRecipe, root: Path, skeleton: Skeleton, say: Callable[[str], None]
) -> PoseDataset:
    dataset: PoseDataset
    if isinstance(part, CocoPart):
        dataset = CocoDataset(root / part.annotations, root / part.images, skeleton, weak_weight=part.weak_weight)
    elif isinstance(part, MpiiPart):
        dataset = MpiiDataset(root / part.annotations, root / part.images)
    else:
        dataset = SceneDataset(part.seed, part.length, repeat=part.repeat, skeleton=skeleton)
    if dataset.skeleton != skeleton:
        raise ConfigError(
            f"dataset {dataset.name}: expected the model's skeleton {skeleton.name}, got {dataset.skeleton.name}"
        )
    if isinstance(dataset, FileDataset):
        for line in (*(f"note: {note}" for note in dataset.notes), dataset.summary):
            say(line)
        if len(dataset.missing) > recipe.max_undecodable:
            raise SourceError(
                f"{dataset.path}: {len(dataset.missing)} of its pictures are missing, more than the "
                f"{recipe.max_undecodable} that data.max_undecodable allows; the first: {min(dataset.missing)}"
            )
    return dataset if part.limit is None else Subset(dataset, range(min(part.limit, len(dataset))))
