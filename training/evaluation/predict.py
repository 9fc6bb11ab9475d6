"""Coarse and fine poses of everybody, predicted once; the results of any gate are chosen from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from sharpose.engines.stages import Arrays, Stages, fine_inputs
from sharpose.errors import EngineError, counted
from sharpose.geometry import CropFrames, crop_frames, extract_crops, keypoints_to_image
from sharpose.heatmap import decode_heatmaps
from sharpose.runtime.refinement.gate import Refine, gate
from sharpose.runtime.result import Boxes, PoseResult
from sharpose.scores.tables import ScoreCalibration, ScoreTables
from sharpose.similarity import oks_nms
from sharpose.skeleton import Skeleton
from sharpose.training.data.sample import PictureSizeError, UndecodableImageError
from sharpose.training.evaluation.data import EvaluationData


@dataclass(frozen=True)
class GatedPoses:
    """The poses that a gate lets out."""

    keypoints: npt.NDArray[np.float32]  # float32 [n, J, 3], `x, y` in picture pixels and score
    scores: npt.NDArray[np.float32]  # float32 [n], see `PoseResult.scores`
    refined: npt.NDArray[np.float64]  # [n], share of passes refined: 0 or 1, 0.5 too in a flip test


@dataclass(frozen=True)
class Predictions:
    """Coarse and fine poses of n boxes."""

    boxes_xyxy: npt.NDArray[np.float32]  # float32 [n, 4]
    box_scores: npt.NDArray[np.float32]  # float32 [n]
    frame_areas: npt.NDArray[np.float64]  # float64 [n], square picture pixels of the crops
    quality: npt.NDArray[np.float32]  # [n, passes], predicted; in a flip test the second pass is the mirrored crop's
    # [n, 2, J, 3], coarse and fine, `x, y` in picture pixels and score; in a flip test [n, 2, 2, J, 3], mirrored last
    poses: npt.NDArray[np.float32]
    # what is wrong with the pictures that can't be read, by image id; their boxes are not among the n
    unreadable: dict[int, str] = field(default_factory=dict)
    calibration: ScoreCalibration | None = None  # makes scores probabilities; not in a flip test, whose peaks differ

    def __len__(self) -> int:
        return len(self.boxes_xyxy)

    def gated(self, refine: Refine, threshold: float) -> GatedPoses:
        """The poses after a gate, which decides on each pass by itself, as in the released flip test."""
        passes = self.quality.shape[1]
        chosen = np.zeros((passes, len(self)), np.int64)
        for number in range(passes):
            chosen[number, gate(self.quality[:, number], threshold, refine)] = 1
        return self._poses(chosen)

    def refined_where(self, people: npt.NDArray[np.bool_]) -> GatedPoses:
        """The poses where `people`, bool [n], decides on all passes of a person."""
        return self._poses(np.tile(people.astype(np.int64), (self.quality.shape[1], 1)))

    def _poses(self, chosen: npt.NDArray[np.int64]) -> GatedPoses:
        """`chosen` is [passes, n]: 1 where the fine stage ran."""
        index = (np.arange(len(self)), *chosen)
        keypoints = self.poses[index]
        boxes = Boxes(self.boxes_xyxy, self.box_scores)
        refined = chosen.mean(axis=0)
        confidence = None
        if self.calibration is not None:
            confidence = self.calibration.apply(keypoints, refined > 0)
        scores = PoseResult(boxes, keypoints, self.quality[:, 0], refined > 0, confidence=confidence).scores
        return GatedPoses(keypoints, scores, refined)


def predict(
    stages: Stages,
    data: EvaluationData,
    *,
    flip_test: bool = False,
    tables: ScoreTables | None = None,
    on_people: Callable[[int], None] = lambda people: None,
) -> Predictions:
    """Both stages on every box whose picture can be read.

    Raises `EngineError` where an engine failed, or gave values that are NaN or infinite.

    A flip test averages heatmaps with the mirrored crop's, for which score `tables` don't hold. `on_people` is called
    with the number of people of each finished batch. A picture of another size than its labels say raises
    `PictureSizeError`.
    """
    people, crop_size = data.people, stages.config.crop_size
    frames = crop_frames(people.boxes_xyxy, crop_size)
    joints = data.skeleton.num_keypoints
    passes: Literal[1, 2] = 2 if flip_test else 1
    quality = np.zeros((len(people), passes), np.float32)
    poses = np.zeros((len(people), *(2,) * passes, joints, 3), np.float32)
    crops = np.zeros((stages.max_batch, *crop_size, 3), np.uint8)
    image_id, image = None, np.zeros((1, 1, 3), np.uint8)
    unreadable: dict[int, str] = {}
    for start in range(0, len(people), stages.max_batch):
        stop = min(start + stages.max_batch, len(people))
        for row in range(start, stop):
            if people.image_ids[row] != image_id:
                image_id = int(people.image_ids[row])
                try:
                    image = data.read(image_id)
                except PictureSizeError:
                    raise
                except UndecodableImageError as error:
                    unreadable[image_id] = str(error)
                    image = np.zeros((1, 1, 3), np.uint8)
            one = CropFrames(frames.center[row : row + 1], frames.size[row : row + 1], frames.crop_size)
            extract_crops(image, one, crops[row - start : row - start + 1])
        batch = crops[: stop - start]
        plain = _run_both(stages, batch)
        quality[start:stop, 0] = plain["quality"]
        if flip_test:
            mirrored = _run_both(stages, np.ascontiguousarray(batch[:, :, ::-1]))
            quality[start:stop, 1] = mirrored["quality"]
            poses[start:stop] = _averaged(plain["heatmaps"], mirrored["heatmaps"], data.skeleton, crop_size)
        else:
            poses[start:stop] = plain["keypoints"]
        _refuse_broken(quality[start:stop], poses[start:stop], people.image_ids[start:stop])
        on_people(stop - start)
    for stages_of_passes in np.ndindex(*(2,) * passes):
        index = (slice(None), *stages_of_passes)
        poses[index] = keypoints_to_image(poses[index], frames)
    areas = frames.size.astype(np.float64).prod(axis=1)
    kept = ~np.isin(people.image_ids, list(unreadable))
    boxes, scores = people.boxes_xyxy[kept], people.box_scores[kept]
    calibration = None if tables is None or flip_test else ScoreCalibration(tables, data.skeleton)
    return Predictions(boxes, scores, areas[kept], quality[kept], poses[kept], unreadable, calibration)


def _refuse_broken(
    quality: npt.NDArray[np.float32], poses: npt.NDArray[np.float32], image_ids: npt.NDArray[np.int64]
) -> None:
    """Raise `EngineError` for a person whose quality [n, …] or pose [n, …] isn't finite; `image_ids` is [n]."""
    sure, placed = (np.isfinite(values.reshape(len(values), -1).sum(axis=1)) for values in (quality, poses))
    broken = np.flatnonzero(~(sure & placed))
    if len(broken):
        what = "pose" if sure[broken[0]] else "quality"
        raise EngineError(
            f"picture {image_ids[broken[0]]}: expected finite numbers of the engine, got a {what} with NaN or infinity "
            f"({counted(len(broken), 'person')} of its batch); measure on another --device or in another --precision"
        )


def _run_both(stages: Stages, crops: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.float32]]:
    """Coarse and fine, in float32: `keypoints` [n, 2, J, 3], `heatmaps` [n, 2, J, h, w]; and `quality` [n]."""
    coarse: Arrays = stages.coarse(crops)
    fine = stages.fine(fine_inputs(crops, coarse, stages.config))
    both = {name: np.stack([coarse[name], fine[name]], axis=1) for name in ("keypoints", "heatmaps")}
    return {name: value.astype(np.float32) for name, value in {"quality": coarse["quality"], **both}.items()}


def _averaged(
    plain: npt.NDArray[np.float32], mirrored: npt.NDArray[np.float32], skeleton: Skeleton, crop_size: tuple[int, int]
) -> npt.NDArray[np.float32]:
    """float32 [n, 2, 2, J, 3]: keypoints of every pair of a plain stage and a mirrored one, in crop pixels."""
    back = mirrored[..., list(skeleton.flip_order), :, ::-1]
    pairs = [
        [decode_heatmaps((plain[:, first] + back[:, second]) * np.float32(0.5), crop_size) for second in range(2)]
        for first in range(2)
    ]
    return np.moveaxis(np.array(pairs, np.float32), 2, 0)


def coco_results(data: EvaluationData, predictions: Predictions, poses: GatedPoses) -> list[dict[str, Any]]:
    """COCO keypoint results after OKS-NMS, one entry a pose; without a `bbox`, which changes pycocotools' areas."""
    category = data.document["categories"][0]["id"] if data.document is not None else 1
    image_ids = data.people.image_ids
    results = []
    for image_id in dict.fromkeys(image_ids.tolist()):
        rows = np.flatnonzero(image_ids == image_id)
        kept = oks_nms(poses.keypoints[rows], poses.scores[rows], predictions.frame_areas[rows], data.skeleton.sigmas)
        for row in rows[kept]:
            results.append(
                {
                    "image_id": image_id,
                    "category_id": category,
                    "keypoints": [float(value) for value in poses.keypoints[row].ravel()],
                    "score": float(poses.scores[row]),
                }
            )
    return results
