"""Validation between epochs: losses, PCK of both stages, and contact sheets of a few crops."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sharpose.config import ModelConfig
from sharpose.errors import SourceError
from sharpose.files import atomic_file
from sharpose.model.decode import HeatmapDecoder
from sharpose.runtime.drawing.style import colour_of
from sharpose.skeleton import Skeleton
from sharpose.tokens import REGION_SIZE
from sharpose.training.data.augment import AugmentSpec
from sharpose.training.data.loader import CropLoader
from sharpose.training.data.mixed import Subset
from sharpose.training.data.sample import PoseDataset
from sharpose.training.distributed import Ranks
from sharpose.training.evaluation.metrics import PCK_FRACTIONS, correct_keypoints, keypoint_diagonals
from sharpose.training.objectives.network import TrainedNetwork
from sharpose.training.recipe import DataRecipe
from sharpose.training.step import Objective

Picture = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

_SHOWN = 16  # crops on a sheet


@dataclass(frozen=True)
class Shown:
    """Crops for the sheets."""

    crops: Picture  # uint8 [N, H, W, 3], RGB
    labels: Floats  # float32 [N, J, 3], crop pixels and visibility
    predictions: Floats  # float32 [N, J, 3], crop pixels and score, of the fine stage
    region_order: Ints  # int64 [N, R]


@dataclass(frozen=True)
class Validation:
    """Results of a validation."""

    values: dict[str, float]  # by name: the loss's terms, `coarse_pck_0.05`, `fine_pck_0.05` and so on
    shown: Shown | None  # crops for the sheets; None on all processes but the first
    undecodable: tuple[str, ...] = ()  # a message for each picture that can't be decoded, whose people are left out

    @property
    def score(self) -> float:
        """The fine stage's PCK at the strictest threshold, which the best model is chosen by."""
        return self.values[f"fine_pck_{PCK_FRACTIONS[0]:g}"]


class Validator:
    """Measures the same people, without augmentation, every time; processes share them.

    Those whose picture can't be decoded are left out.
    """

    def __init__(
        self, dataset: PoseDataset, config: ModelConfig, data: DataRecipe, batch_size: int, workers: int, ranks: Ranks
    ) -> None:
        own = range(ranks.rank, len(dataset), ranks.world_size)
        self._name = dataset.name
        self._ranks = ranks
        self._decode = HeatmapDecoder(config.heatmap_size, config.crop_size).to(ranks.device)
        self._loader: CropLoader | None = None
        if len(own):
            self._loader = CropLoader(
                Subset(dataset, own),
                AugmentSpec.none(),
                config.crop_size,
                config.heatmap_size,
                data.sigma,
                batch_size=min(batch_size, len(own)),
                seed=0,
                workers=workers,
                shuffle=False,
                drop_last=False,
                substitute=False,
                max_undecodable=data.max_undecodable,
            )
            self._start = self._loader.state()

    @torch.no_grad()
    def run(
        self,
        network: TrainedNetwork,
        objective: Objective,
        autocast: Callable[[], AbstractContextManager[object]],
        epoch: int,
    ) -> Validation:
        """Measure the network with its present weights, in evaluation mode.

        Raises `SourceError` where more pictures can't be decoded than the recipe allows, or none can be.
        """
        was_training = network.training
        network.eval()
        terms: dict[str, float] = {}
        people = 0
        correct, counted = np.zeros((2, len(PCK_FRACTIONS))), 0
        shown: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        if self._loader is not None:
            self._loader.load_state(self._start)
            for batch in self._loader:
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
                labels = (batch.keypoints * (batch.weights > 0).unsqueeze(-1)).numpy()
                units = keypoint_diagonals(labels)
                for stage, found in enumerate((coarse, fine)):
                    for index, fraction in enumerate(PCK_FRACTIONS):
                        right, counts = correct_keypoints(found.numpy(), labels, units, fraction)
                        correct[stage, index] += right.sum()
                counted += int(counts.sum())  # the same for both stages and all fractions
                if sum(len(item[0]) for item in shown) < _SHOWN:
                    shown.append((batch.images, batch.keypoints, fine, output.region_order.cpu()))
        network.train(was_training)
        sheet = None
        if self._ranks.is_first and shown:
            sheet = Shown(*(torch.cat(parts)[:_SHOWN].numpy() for parts in zip(*shown, strict=True)))
        undecodable = tuple(item for part in self._ranks.gather(self._undecodable()) for item in part)
        means = self._means(terms, people, correct, counted)
        if means is None:
            raise SourceError(f"evaluation of {self._name}: expected pictures that can be decoded; {undecodable[0]}")
        return Validation(means, sheet, undecodable)

    def _undecodable(self) -> list[str]:
        """The messages of this process's pictures that can't be decoded."""
        return [] if self._loader is None else list(self._loader.undecodable)

    def _means(
        self, terms: dict[str, float], people: int, correct: npt.NDArray[np.float64], counted: int
    ) -> dict[str, float] | None:
        """Means over all processes; None where nobody was measured."""
        gathered = self._ranks.gather((terms, people, correct, counted))
        everybody, all_correct, all_counted = (sum(item[place] for item in gathered) for place in (1, 2, 3))
        if not everybody:
            return None
        sums: dict[str, float] = {}
        for name, value in (item for rank_terms, *_ in gathered for item in rank_terms.items()):
            sums[name] = sums.get(name, 0.0) + value
        values = {name: value / everybody for name, value in sums.items()}
        for stage, name in enumerate(("coarse", "fine")):
            for index, fraction in enumerate(PCK_FRACTIONS):
                values[f"{name}_pck_{fraction:g}"] = float(all_correct[stage, index]) / max(all_counted, 1)
        return values


_LABEL = (80, 220, 80)  # BGR
_SCALE = 2  # crops are small, lines are not
_COLUMNS = 8
_GAP = 4
_DIMMED = 0.3
_QUALITY = 88  # JPEG


def write_sheets(shown: Shown, folder: Path, name: str, config: ModelConfig) -> None:
    """Write `NAME_predictions.jpg` and `NAME_regions.jpg`, whole or not at all. Raises `SinkError` where that fails."""
    sheet = prediction_sheet(shown.crops, shown.labels, shown.predictions, config.skeleton)
    _write(folder / f"{name}_predictions.jpg", sheet)
    _write(folder / f"{name}_regions.jpg", region_sheet(shown.crops, shown.region_order, config.num_selected))


def prediction_sheet(
    crops: Picture, labels: Floats, predictions: Floats, skeleton: Skeleton, threshold: float = 0.2
) -> Picture:
    """Crops with labels as green rings and predictions as limbs in the skeleton's colours.

    Crops are uint8 [N, H, W, 3], RGB; labels and predictions [N, J, 3], `x, y` in crop pixels and visibility or score.
    Predictions of a score below `threshold` are not drawn. The sheet is uint8 [.., .., 3], BGR.
    """
    joint_colours, limb_colours = ([colour_of(text) for text in texts] for texts in skeleton.colours)
    tiles = []
    for crop, label, prediction in zip(crops, labels, predictions, strict=True):
        tile = _enlarged(crop)
        shown = np.isfinite(prediction).all(axis=1) & (prediction[:, 2] >= threshold)
        for (a, b), colour in zip(skeleton.limbs, limb_colours, strict=True):
            if shown[a] and shown[b]:
                cv2.line(tile, _point(prediction[a]), _point(prediction[b]), colour, 2, cv2.LINE_AA)
        for index in np.flatnonzero(shown):
            cv2.circle(tile, _point(prediction[index]), 3, joint_colours[index], -1, cv2.LINE_AA)
        for point in label[label[:, 2] > 0]:
            cv2.circle(tile, _point(point), 5, _LABEL, 1, cv2.LINE_AA)
        tiles.append(tile)
    return _grid(tiles)


def region_sheet(crops: Picture, region_order: Ints, selected: int) -> Picture:
    """Crops, dimmed but for the `selected` regions that the fine stage refines, with the ranks of the first five.

    Crops are uint8 [N, H, W, 3], RGB; `region_order` is int64 [N, R], most relevant first; the sheet is BGR.
    """
    columns, side = crops.shape[2] // REGION_SIZE, REGION_SIZE * _SCALE
    tiles = []
    for crop, order in zip(crops, region_order, strict=True):
        tile = _enlarged(crop)
        shown = (tile * _DIMMED).astype(np.uint8)
        for rank, region in enumerate(order[:selected]):
            y, x = (int(place) * side for place in divmod(int(region), columns))
            shown[y : y + side, x : x + side] = tile[y : y + side, x : x + side]
            if rank < 5:
                place = (x + 6, y + 24)
                cv2.putText(shown, str(rank + 1), place, cv2.FONT_HERSHEY_SIMPLEX, 0.6, (0, 0, 0), 4, cv2.LINE_AA)
                cv2.putText(shown, str(rank + 1), place, cv2.FONT_HERSHEY_SIMPLEX, 0.6, _LABEL, 1, cv2.LINE_AA)
        tiles.append(shown)
    return _grid(tiles)


def _write(path: Path, sheet: Picture) -> None:
    encoded, content = cv2.imencode(".jpg", sheet, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    assert encoded
    with atomic_file(path) as temporary:
        temporary.write_bytes(content.tobytes())


def _enlarged(crop: Picture) -> Picture:
    size = (crop.shape[1] * _SCALE, crop.shape[0] * _SCALE)
    return np.asarray(cv2.resize(crop[..., ::-1], size, interpolation=cv2.INTER_LINEAR), np.uint8)


def _point(keypoint: Floats) -> tuple[int, int]:
    # pixel centres: crop pixel x covers [2x, 2x + 2) of the enlarged crop
    x, y = np.clip(keypoint[:2] * _SCALE + (_SCALE - 1) / 2, -30_000, 30_000)
    return round(float(x)), round(float(y))


def _grid(tiles: list[Picture]) -> Picture:
    height, width = tiles[0].shape[:2]
    columns = min(_COLUMNS, len(tiles))
    rows = -(-len(tiles) // columns)
    sheet = np.full((rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, 3), 32, dtype=np.uint8)
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        y, x = row * (height + _GAP), column * (width + _GAP)
        sheet[y : y + height, x : x + width] = tile
    return sheet
