"""The two-stage pipeline: boxes of a picture in, poses out."""

from __future__ import annotations

import math
import reprlib
import time
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from sharpose.bundle import Bundle, open_bundle
from sharpose.engines.load import load_two_stage
from sharpose.engines.tensorrt_load import TensorRtSettings
from sharpose.engines.two_stage import TwoStage
from sharpose.errors import InputError
from sharpose.geometry import CropFrames, crop_frames, extract_crops, keypoints_to_image
from sharpose.runtime.gate import Refine, check_refine, gate
from sharpose.runtime.gather import gather_patches
from sharpose.runtime.result import Boxes, PoseResult, StageTimings
from sharpose.skeleton import Skeleton

__all__ = ["PoseEstimator"]


class PoseEstimator:
    """Poses of the people in a picture, from a bundle, without PyTorch.

    All people of a picture share one coarse batch, and those whose predicted quality is below the threshold share one
    fine batch; more than the bundle's max batch are run in chunks. Buffers are allocated once. Not thread-safe: use one
    estimator a thread.

    Attributes:
        bundle: The bundle it runs.
        refine: `auto` (the gate decides), `always` or `never`.
        quality_threshold: People below it are refined.
    """

    def __init__(
        self,
        bundle: Bundle,
        stages: TwoStage,
        *,
        refine: Refine = "auto",
        quality_threshold: float | None = None,
    ) -> None:
        self.bundle = bundle
        self.refine = check_refine(refine)
        threshold = bundle.manifest.gate.quality_threshold if quality_threshold is None else quality_threshold
        self.quality_threshold = _check_threshold(threshold)
        self._stages = stages
        self._max_batch = stages.max_batch
        self._selected = bundle.model.num_selected

    @classmethod
    def from_bundle(
        cls,
        path: str | Path,
        *,
        device: str = "cpu",
        refine: Refine = "auto",
        quality_threshold: float | None = None,
        threads: int | None = None,
        tensorrt: TensorRtSettings | None = None,
    ) -> PoseEstimator:
        """An estimator for the bundle in a folder.

        Args:
            path: A folder written by `sharpose-export`.
            device: `cpu`, `cuda[:i]`, `tensorrt[:i]` or `ort-tensorrt[:i]`.
            refine: `auto`, `always` or `never`.
            quality_threshold: The bundle's own if None.
            threads: CPU threads inside an operator; the engine's own choice if None.
            tensorrt: Where the device is `tensorrt`: the engine cache, CUDA bindings, CUDA graphs …

        Raises:
            BundleError: the bundle is missing, damaged or not valid.
            EngineError: the device is not there, or can't run the graphs.
            InputError: `refine` or `quality_threshold` isn't one.
        """
        check_refine(refine)
        if quality_threshold is not None:
            _check_threshold(quality_threshold)
        bundle = open_bundle(path)
        stages = load_two_stage(bundle, device, threads=threads, tensorrt=tensorrt)
        return cls(bundle, stages, refine=refine, quality_threshold=quality_threshold)

    @property
    def skeleton(self) -> Skeleton:
        """The keypoints that results have."""
        return self.bundle.model.skeleton

    @property
    def device(self) -> str:
        """Where the engines run."""
        return self._stages.device

    def __call__(
        self, image_bgr: npt.NDArray[np.uint8], boxes_xyxy: npt.ArrayLike | Boxes, *, rows: npt.ArrayLike | None = None
    ) -> PoseResult:
        """Poses of the people in one picture.

        Args:
            image_bgr: uint8 [H, W, 3], BGR.
            boxes_xyxy: [n, 4], `x1, y1, x2, y2` in picture pixels, or `Boxes` with their scores. May reach outside
                the picture; n = 0 runs nothing.
            rows: Indices of the people to refine, instead of asking the gate.

        Returns:
            Keypoints in picture pixels, quality, who was refined, and timings.

        Raises:
            InputError: the picture or the boxes have a wrong type, shape or value.
            EngineError: an engine failed.
        """
        _check_image(image_bgr)
        boxes = boxes_xyxy if isinstance(boxes_xyxy, Boxes) else Boxes.from_xyxy(boxes_xyxy)
        people = len(boxes)
        chosen = None if rows is None else _check_rows(rows, people)
        frames = crop_frames(boxes.xyxy, self.bundle.model.crop_size)
        keypoints = np.zeros((people, self.skeleton.num_keypoints, 3), dtype=np.float32)
        quality = np.zeros(people, dtype=np.float32)
        refined = np.zeros(people, dtype=np.bool_)
        timings = StageTimings()
        for start in range(0, people, self._max_batch):
            part = slice(start, min(start + self._max_batch, people))
            self._run_chunk(
                image_bgr,
                CropFrames(frames.center[part], frames.size[part], frames.crop_size),
                None if chosen is None else chosen[part],
                (keypoints[part], quality[part], refined[part]),
                timings,
            )
        return PoseResult(boxes, keypoints, quality, refined, timings)

    def _run_chunk(
        self,
        image_bgr: npt.NDArray[np.uint8],
        frames: CropFrames,
        chosen: npt.NDArray[np.bool_] | None,
        out: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.bool_]],
        timings: StageTimings,
    ) -> None:
        """Both stages for at most max-batch people; writes into the views in `out`."""
        keypoints, quality, refined = out
        clock = _Clock()
        crops = extract_crops(image_bgr, frames, self._stages.crops)
        timings.crop += clock.lap()

        coarse = self._stages.run_coarse(len(frames))
        timings.coarse += clock.lap()

        quality[:] = coarse.quality
        crop_keypoints = coarse.keypoints
        if chosen is None:
            rows = gate(quality, self.quality_threshold, self.refine)
        else:
            rows = np.flatnonzero(chosen).astype(np.int32)
        timings.gate += clock.lap()

        if len(rows):
            gather_patches(crops, rows, coarse.region_order, self._selected, self._stages.patches)
            timings.gather += clock.lap()
            crop_keypoints[rows] = self._stages.run_fine(rows)
            refined[rows] = True
            timings.fine += clock.lap()
        keypoints[:] = keypoints_to_image(crop_keypoints, frames)
        timings.map_back += clock.lap()

    def warm_up(self, people: int = 1) -> float:
        """Run both stages once on a black picture, so that later calls meet no first-time cost.

        Args:
            people: How many people to run; at least 1.

        Returns:
            Seconds it took.
        """
        height, width = self.bundle.model.crop_size
        image = np.zeros((height, width, 3), dtype=np.uint8)
        started = time.perf_counter()
        self(image, np.tile(np.array([[0, 0, width, height]], np.float32), (people, 1)), rows=range(people))
        return time.perf_counter() - started

    def close(self) -> None:
        """Free the engines. May be called twice."""
        self._stages.close()

    def __enter__(self) -> PoseEstimator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Clock:
    """Seconds since the last lap."""

    def __init__(self) -> None:
        self._last = time.perf_counter()

    def lap(self) -> float:
        now = time.perf_counter()
        passed, self._last = now - self._last, now
        return passed


def _check_image(image_bgr: npt.NDArray[np.uint8]) -> None:
    if not isinstance(image_bgr, np.ndarray):
        raise InputError(f"image_bgr: expected a uint8 array [H, W, 3], got {type(image_bgr).__name__}")
    if image_bgr.dtype != np.uint8 or image_bgr.ndim != 3 or image_bgr.shape[2] != 3 or 0 in image_bgr.shape:
        raise InputError(f"image_bgr: expected uint8 [H, W, 3], got {image_bgr.dtype} {list(image_bgr.shape)}")


def _check_threshold(threshold: float) -> float:
    if math.isnan(threshold):
        raise InputError("quality_threshold: expected a number, got NaN")
    return float(threshold)


def _check_rows(rows: npt.ArrayLike, people: int) -> npt.NDArray[np.bool_]:
    """A mask [people], true at `rows`."""
    try:
        index = np.asarray(rows)
    except ValueError:  # lists of several lengths
        raise InputError(f"rows: expected indices in [0, {people}), got {reprlib.repr(rows)}") from None
    if not index.size and index.ndim == 1:
        index = index.astype(np.int64)  # an empty list is one of floats to numpy
    if index.dtype.kind not in "iu":
        raise InputError(f"rows: expected whole numbers, indices of people, got {index.dtype} {reprlib.repr(rows)}")
    if index.ndim != 1 or (index.size and (index.min() < 0 or index.max() >= people)):
        raise InputError(f"rows: expected indices in [0, {people}), got {reprlib.repr(rows)}")
    chosen = np.zeros(people, dtype=np.bool_)
    chosen[index] = True
    return chosen
