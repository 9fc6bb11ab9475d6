"""Which people a run trains and is evaluated on, as a recipe says it, and making those datasets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from sharpose.errors import ConfigError
from sharpose.skeleton import Skeleton
from sharpose.training.data.augment import AugmentSpec
from sharpose.training.data.cached import CachedDataset, SampleCache
from sharpose.training.data.coco import CocoDataset
from sharpose.training.data.dataset import PoseDataset
from sharpose.training.data.mixed import MixedDataset
from sharpose.training.data.mpii import MpiiDataset
from sharpose.training.data.sample import Sample
from sharpose.training.data.scene import SceneDataset
from sharpose.training.targets import DEFAULT_SIGMA

__all__ = ["DataRecipe", "PartOf", "evaluation_dataset", "training_dataset"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    weight: float = Field(default=1.0, gt=0, description="share of an epoch, beside the other datasets'")
    limit: int | None = Field(default=None, gt=0, description="use only so many people, the first")


class CocoPart(_Part):
    """COCO-format keypoints; paths are relative to --data."""

    kind: Literal["coco"]
    annotations: str
    images: str
    weak_weight: float | None = Field(default=None, ge=0, le=1, description="trust in labels of visibility 1")


class MpiiPart(_Part):
    """MPII keypoints; paths are relative to --data."""

    kind: Literal["mpii"]
    annotations: str
    images: str


class ScenePart(_Part):
    """The built-in scene: other people in every epoch, unless it is to repeat itself."""

    kind: Literal["scene"]
    seed: int = Field(default=0, ge=0)
    length: int = Field(default=10_000, gt=0, description="people in an epoch")
    repeat: bool = Field(default=False, description="the same people in every epoch")


DatasetPart = Annotated[CocoPart | MpiiPart | ScenePart, Field(discriminator="kind")]


class DataRecipe(BaseModel):
    """Datasets and what is done to their crops."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    train: tuple[DatasetPart, ...] = Field(min_length=1)
    evaluation: tuple[DatasetPart, ...] = Field(default=(), description="none: evaluations are left out")
    people_per_epoch: int | None = Field(default=None, gt=0, description="as many as there are if null")
    augmentation: AugmentSpec = AugmentSpec()
    sigma: float = Field(default=DEFAULT_SIGMA, gt=0, description="of a target, in heatmap pixels")
    cache_mib: int = Field(default=0, ge=0, description="keep so much of decoded pictures in memory, each worker")
    max_undecodable: int = Field(default=10, ge=0, description="pictures that may fail to decode")


class PartOf:
    """Some people of a dataset.

    Args:
        dataset: Of whom.
        indices: Which.
    """

    def __init__(self, dataset: PoseDataset, indices: Sequence[int]) -> None:
        self.name = dataset.name
        self.skeleton = dataset.skeleton
        self._dataset = dataset
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    def load(self, index: int, epoch: int = 0) -> Sample:
        """See `PoseDataset.load`."""
        return self._dataset.load(self._indices[index], epoch)


def training_dataset(recipe: DataRecipe, root: Path, skeleton: Skeleton, seed: int) -> PoseDataset:
    """The people to learn from, mixed by weight where there are several datasets.

    Args:
        recipe: Which.
        root: Folder that paths are relative to.
        skeleton: The model's.
        seed: Of the mixture's order.

    Raises:
        SourceError: labels can't be read.
        ConfigError: a dataset has another skeleton.
    """
    cache = SampleCache(recipe.cache_mib << 20)
    parts = [(_cached(_dataset(part, root, skeleton), part, cache), part.weight) for part in recipe.train]
    if len(parts) == 1 and recipe.people_per_epoch is None:
        return parts[0][0]
    return MixedDataset(parts, length=recipe.people_per_epoch, seed=seed)


def evaluation_dataset(recipe: DataRecipe, root: Path, skeleton: Skeleton) -> PoseDataset | None:
    """The people to evaluate on, every one once; None where the recipe has none. Errors as `training_dataset`."""
    datasets = [_dataset(part, root, skeleton) for part in recipe.evaluation]
    if not datasets:
        return None
    if len(datasets) == 1:
        return datasets[0]
    return MixedDataset([(dataset, len(dataset)) for dataset in datasets])


def _dataset(part: CocoPart | MpiiPart | ScenePart, root: Path, skeleton: Skeleton) -> PoseDataset:
    dataset: PoseDataset
    if isinstance(part, CocoPart):
        dataset = CocoDataset(root / part.annotations, root / part.images, skeleton, weak_weight=part.weak_weight)
    elif isinstance(part, MpiiPart):
        dataset = MpiiDataset(root / part.annotations, root / part.images)
    else:
        dataset = SceneDataset(part.seed, part.length, repeat=part.repeat)
    if dataset.skeleton != skeleton:
        raise ConfigError(
            f"dataset {dataset.name}: expected the model's skeleton {skeleton.name}, got {dataset.skeleton.name}"
        )
    return dataset if part.limit is None else PartOf(dataset, range(min(part.limit, len(dataset))))


def _cached(dataset: PoseDataset, part: CocoPart | MpiiPart | ScenePart, cache: SampleCache) -> PoseDataset:
    """What is the same in every epoch is worth keeping."""
    changes = isinstance(part, ScenePart) and not part.repeat
    return dataset if changes or not cache.limit else CachedDataset(dataset, cache)
