"""Engines that record what they are given, for tests of the pipeline."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from sharpose.bundle import Bundle
from sharpose.engines.batches import BatchBuckets, BatchCache
from sharpose.engines.precision import RunPrecision
from sharpose.engines.two_stage import CoarseOutput
from sharpose.runtime import PoseEstimator
from sharpose.runtime.refinement.gate import Refine

REGION, PATCH = 32, 16
MAX_BATCH = 4


class StubStages:
    """Stands in for the engines: says the quality it is told to, and records what it is asked.

    Its outputs are views of buffers that the next run overwrites, as an engine's pinned memory is.
    """

    def __init__(self, bundle: Bundle, qualities: list[float] | None = None, *, max_batch: int = MAX_BATCH) -> None:
        height, width = self.crop_size = bundle.model.crop_size
        self.device = "stub"
        self.precision: RunPrecision = "fp32"
        self.max_batch = max_batch
        self.coarse_buckets, self.fine_buckets = (BatchBuckets(1, max_batch, exact=True) for _ in range(2))
        self.batch_cache: BatchCache | None = None
        self.regions = (height // REGION, width // REGION)
        self.selected = bundle.model.num_selected
        self.crops = np.full((max_batch, height, width, 3), 77, np.uint8)
        self.patches = np.full((max_batch, 4 * self.selected, PATCH * PATCH * 3), 77, np.uint8)
        self.joints = bundle.model.skeleton.num_keypoints
        self.qualities = list(qualities or [])
        self.coarse_batches: list[int] = []
        self.fine_rows: list[list[int]] = []
        self.fine_patches: list[npt.NDArray[np.uint8]] = []
        self.closed = 0
        self._coarse_keypoints = np.zeros((max_batch, self.joints, 3), np.float32)
        self._fine_keypoints = np.zeros((max_batch, self.joints, 3), np.float32)
        self._quality = np.zeros(max_batch, np.float32)
        self._order = np.zeros((max_batch, math.prod(self.regions)), np.int32)

    def run_coarse(self, people: int) -> CoarseOutput:
        self.coarse_batches.append(people)
        self._coarse_keypoints[:people] = [[1, 2, 0.5]] * self.joints
        for row in range(people):
            self._quality[row] = self.qualities.pop(0) if self.qualities else 0.5
            self._order[row] = np.roll(np.arange(self._order.shape[1]), -row)
        return CoarseOutput(self._coarse_keypoints[:people], self._quality[:people], self._order[:people])

    def run_fine(self, rows: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        assert rows.dtype == np.int32
        self.fine_rows.append(rows.tolist())
        self.fine_patches.append(self.patches[: len(rows)].copy())
        self._fine_keypoints[: len(rows)] = [[3, 4, 0.9]] * self.joints
        return self._fine_keypoints[: len(rows)]

    def terminate(self) -> None:
        """A batch takes no time."""

    def close(self) -> None:
        self.closed += 1


class Ticks:
    """A clock that only moves when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class TimedStages(StubStages):
    """Takes as long as it is told to, on a clock of its own, and takes up to 16 people.

    The coarse pose is as many crop pixels off, to the right, as its quality lacks hundredths; the fine pose is right.

    Attributes:
        coarse_seconds: Of a batch with one person; each more takes as long again.
        fine_seconds: Likewise.
    """

    def __init__(self, bundle: Bundle, clock: Ticks, *, coarse_seconds: float = 0.001, fine_seconds: float = 0.010):
        super().__init__(bundle, max_batch=16)
        self.clock = clock
        self.coarse_seconds, self.fine_seconds = coarse_seconds, fine_seconds

    def run_coarse(self, people: int) -> CoarseOutput:
        self.clock.now += self.coarse_seconds * people
        found = super().run_coarse(people)
        self._coarse_keypoints[:people] = [[96, 128, 0.5]] * self.joints
        self._coarse_keypoints[:people, :, 0] += 100 * (1 - self._quality[:people, None])
        return found

    def run_fine(self, rows: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        self.clock.now += self.fine_seconds * len(rows)
        found = super().run_fine(rows)
        found[:] = [[96, 128, 0.9]] * self.joints
        return found


def stub_estimator(
    bundle: Bundle,
    qualities: list[float] | None = None,
    *,
    refine: Refine = "auto",
    quality_threshold: float | None = None,
) -> tuple[PoseEstimator, StubStages]:
    stages = StubStages(bundle, qualities)
    return PoseEstimator.from_stages(bundle, stages, refine=refine, quality_threshold=quality_threshold), stages


def raw_scores(bundle: Bundle) -> Bundle:
    """The bundle without score tables, so that scores are the peaks that a stand-in gives."""
    return Bundle(bundle.path, bundle.manifest.model_copy(update={"scores": None}))


def some_boxes(people: int) -> npt.NDArray[np.float32]:
    left = np.arange(people, dtype=np.float32) * 9
    return np.stack([left, left / 2, left + 60, left / 2 + 90], axis=1)


PICTURE = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
