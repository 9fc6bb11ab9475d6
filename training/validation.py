"""The quick look at a model between epochs: losses, PCK of both stages, and a few crops for the sheets.

AP by the field's tools is `sharpose-eval`'s; this needs no detections and takes one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sharpose.config import ModelConfig
from sharpose.model.decode import HeatmapDecoder
from sharpose.training.data.augment import AugmentSpec
from sharpose.training.data.batch import Batch
from sharpose.training.data.dataset import PoseDataset
from sharpose.training.data.loader import CropLoader
from sharpose.training.data_recipe import DataRecipe, PartOf
from sharpose.training.distributed import Ranks
from sharpose.training.network import TrainedNetwork
from sharpose.training.task import Terms

__all__ = ["PCK_THRESHOLDS", "Shown", "Validation", "Validator", "correct_keypoints"]

PCK_THRESHOLDS = (0.05, 0.1)
"""Shares of the diagonal of a person's labelled keypoints that a keypoint may be off by."""

_SHOWN = 16  # crops on a sheet


@dataclass(frozen=True)
class Shown:
    """Crops for the sheets.

    Attributes:
        crops: uint8 [N, H, W, 3], RGB.
        labels: float32 [N, J, 3], crop pixels and visibility.
        predictions: float32 [N, J, 3], crop pixels and score, of the fine stage.
        region_order: int64 [N, R].
    """

    crops: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.float32]
    predictions: npt.NDArray[np.float32]
    region_order: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Validation:
    """What came of it.

    Attributes:
        values: By name: the loss's terms, `coarse_pck_0.05`, `fine_pck_0.05` …
        shown: Crops for the sheets; None on all processes but the first.
    """

    values: dict[str, float]
    shown: Shown | None

    @property
    def score(self) -> float:
        """What the best model is chosen by: the fine stage's PCK at the strictest threshold."""
        return self.values[f"fine_pck_{PCK_THRESHOLDS[0]:g}"]


class Validator:
    """Looks at the same people, without augmentation, every time.

    Args:
        dataset: Who; processes share them.
        config: The model's.
        data: For the targets' sigma.
        batch_size: People at a time.
        workers: Processes that make batches.
        ranks: Who takes part.
    """

    def __init__(
        self,
        dataset: PoseDataset,
        config: ModelConfig,
        data: DataRecipe,
        batch_size: int,
        workers: int,
        ranks: Ranks,
    ) -> None:
        own = range(ranks.rank, len(dataset), ranks.world_size)
        self._ranks = ranks
        self._decode = HeatmapDecoder(config.heatmap_size, config.crop_size).to(ranks.device)
        self._loader: CropLoader | None = None
        if len(own):
            self._loader = CropLoader(
                PartOf(dataset, own),
                AugmentSpec.none(data.augmentation.padding),
                config.crop_size,
                config.heatmap_size,
                data.sigma,
                batch_size=min(batch_size, len(own)),
                seed=0,
                workers=workers,
                shuffle=False,
                drop_last=False,
                max_undecodable=data.max_undecodable,
            )
            self._start = self._loader.state()

    @torch.no_grad()
    def run(
        self,
        network: TrainedNetwork,
        objective: Terms,
        autocast: Callable[[], AbstractContextManager[object]],
        epoch: int,
    ) -> Validation:
        """One pass with the weights as they are; the network is in evaluation mode meanwhile."""
        was_training = network.training
        network.eval()
        terms: dict[str, float] = {}
        people = 0
        counts = torch.zeros(2, len(PCK_THRESHOLDS), dtype=torch.float64)
        labelled = torch.zeros((), dtype=torch.float64)
        shown: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        if self._loader is not None:
            self._loader.load_state(self._start)
            for batch in _undisturbed(self._loader):
                images, targets, weights = (
                    part.to(self._ranks.device) for part in (batch.images, batch.targets, batch.weights)
                )
                with autocast():
                    output = network(images)
                for name, value in objective(output, targets, weights, epoch).items():
                    terms[name] = terms.get(name, 0.0) + float(value) * len(batch)
                people += len(batch)
                assert output.fine is not None  # in evaluation mode both stages always run
                coarse, fine = (self._decode(maps.float()).cpu() for maps in (output.coarse, output.fine))
                known = (batch.weights > 0) & (batch.keypoints[..., 2] > 0)
                for stage, found in enumerate((coarse, fine)):
                    counts[stage] += correct_keypoints(found, batch.keypoints, known)
                labelled += known.sum()
                if sum(len(item[0]) for item in shown) < _SHOWN:
                    shown.append((batch.images, batch.keypoints, fine, output.region_order.cpu()))
        network.train(was_training)
        return Validation(self._together(terms, people, counts, labelled), self._shown(shown))

    def _together(self, terms: dict[str, float], people: int, counts: Tensor, labelled: Tensor) -> dict[str, float]:
        """Means over all processes."""
        gathered = self._ranks.gather((terms, people, counts.tolist(), float(labelled)))
        total = np.zeros((2, len(PCK_THRESHOLDS)))
        everybody, all_labelled, sums = 0, 0.0, dict[str, float]()
        for item in gathered:
            assert isinstance(item, tuple)
            rank_terms, rank_people, rank_counts, rank_labelled = item
            everybody += rank_people
            all_labelled += rank_labelled
            total += np.array(rank_counts)
            for name, value in rank_terms.items():
                sums[name] = sums.get(name, 0.0) + value
        values = {name: value / max(everybody, 1) for name, value in sums.items()}
        for stage, name in enumerate(("coarse", "fine")):
            for index, threshold in enumerate(PCK_THRESHOLDS):
                values[f"{name}_pck_{threshold:g}"] = float(total[stage, index]) / max(all_labelled, 1.0)
        return values

    def _shown(self, shown: list[tuple[Tensor, Tensor, Tensor, Tensor]]) -> Shown | None:
        if not self._ranks.is_first or not shown:
            return None
        crops, labels, predictions, order = (torch.cat(parts)[:_SHOWN].numpy() for parts in zip(*shown, strict=True))
        return Shown(crops, labels, predictions, order)


def _undisturbed(loader: CropLoader) -> Iterator[Batch]:
    """One pass; starting it draws from torch's generator, which training must not notice."""
    with torch.random.fork_rng(devices=[]):
        yield from loader


def correct_keypoints(found: Tensor, labels: Tensor, known: Tensor) -> Tensor:
    """How many labelled keypoints are near enough, for every one of `PCK_THRESHOLDS`: float64 [2].

    Args:
        found: [B, J, 2 or more], x and y in crop pixels.
        labels: [B, J, 2 or more], likewise.
        known: bool [B, J], which labels count. The diagonal of their box is the unit of distance.
    """
    infinity = torch.tensor(float("inf"))
    places = labels[..., :2]
    low = torch.where(known.unsqueeze(-1), places, infinity).amin(dim=1)
    high = torch.where(known.unsqueeze(-1), places, -infinity).amax(dim=1)
    diagonal = torch.where(known.any(dim=1), (high - low).norm(dim=-1), torch.zeros(()))
    distance = (found[..., :2] - places).norm(dim=-1)
    near = [(distance <= threshold * diagonal.unsqueeze(1)) & known for threshold in PCK_THRESHOLDS]
    return torch.stack([hit.sum() for hit in near]).double()
