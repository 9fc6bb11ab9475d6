"""The two-stage pipeline: pictures with boxes in, poses out."""

from __future__ import annotations

import os
import reprlib
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sharpose.bundle import Bundle, open_bundle, shipped_bundle
from sharpose.engines.batches import settle
from sharpose.engines.choose import load_on
from sharpose.engines.device import detector_devices
from sharpose.engines.load import OnnxRuntimeSettings, load_two_stage
from sharpose.engines.precision import PrecisionChoice, RunPrecision
from sharpose.engines.tensorrt.load import TensorRtSettings
from sharpose.engines.two_stage import TwoStage
from sharpose.errors import InputError
from sharpose.runtime.crowd import Crowd, CrowdRunner
from sharpose.runtime.estimator import Estimator
from sharpose.runtime.refinement import DeadlineScheduler
from sharpose.runtime.refinement.gate import Refine, check_refine, check_threshold, gate
from sharpose.runtime.result import Picture, PoseResult, StageTimings
from sharpose.scores.tables import ScoreCalibration, ScoreTables
from sharpose.skeleton import Skeleton

if TYPE_CHECKING:
    from sharpose.runtime.detectors.onnx import Detector


class PoseEstimator(Estimator):
    """Poses of the people in pictures, from a bundle, without PyTorch.

    All people share one coarse batch, and those whose predicted quality is below the threshold one fine batch; on a CPU
    they are cut into the sizes of batches that were measured to be cheapest, once, and kept in the cache folder. More
    than the bundle's max batch are run in chunks. Buffers are allocated once. Threads may share one: their calls wait
    for each other. A process may not use one that was made before it was forked.

    Args:
        bundle: A folder written by `sharpose-export`; the bundle that comes with the package if None.
        device: `cpu`, `cuda[:i]`, `tensorrt[:i]`, `ort-tensorrt[:i]`, `openvino[:CPU|GPU[.i]|NPU]`, `coreml`,
            `directml[:i]`, or `auto`: the best that this machine has, as the attribute `device` says then.
        precision: `fp32`, `fp16`, `bf16` or `int8` to compute in, or `auto`: the fastest that was verified here, else
            fp32, on a GPU fp16; as the attribute `precision` says then.
        refine: `auto`, `always` or `never`.
        quality_threshold: The bundle's own if None.
        alpha: Share of a person's regions that the fine stage looks at, above 0 and at most 1; the bundle's own if
            None. The weights are the same, but were trained with one alpha.
        keep_regions: Whether results have `PoseResult.regions_xyxy`.
        scheduler: Decides who is refined where pictures have deadlines; the gate alone does if None.
        threads: CPU threads inside an operator; the engine's choice if None.
        batch: Most people in a batch of either stage, at most the bundle's max batch: nothing is measured, and results
            are the same to the last bit in every run. The cheapest sizes if None.
        tensorrt: For device `tensorrt`: the engine cache, CUDA bindings, CUDA graphs.
        onnxruntime: For devices `cuda` and `ort-tensorrt`: TF32, the engine cache.
        detector: Finds the people of pictures that come without boxes. If None, that is `Detector.from_name()` on the
            estimator's device, made at the first such picture.

    Raises:
        BundleError: the bundle is missing, damaged or not valid, or has no graphs of that precision or that alpha.
        EngineError: the device is not there, or can't run the graphs in that precision.
        InputError: `precision`, `refine`, `quality_threshold`, `alpha`, `threads` or `batch` isn't one.

    Attributes:
        bundle: The bundle it runs, at the alpha that it runs it at.
        refine: `auto` (the gate decides), `always` or `never`.
        quality_threshold: People below it are refined.
        keep_regions: Whether results have `PoseResult.regions_xyxy`; may be changed.
        scheduler: Keeps pictures' deadlines; None where the gate alone decides.
        detector: As given; may be changed.
    """

    def __init__(
        self,
        bundle: str | Path | None = None,
        *,
        device: str = "cpu",
        precision: PrecisionChoice = "auto",
        refine: Refine = "auto",
        quality_threshold: float | None = None,
        alpha: float | None = None,
        keep_regions: bool = False,
        scheduler: DeadlineScheduler | None = None,
        threads: int | None = None,
        batch: int | None = None,
        tensorrt: TensorRtSettings | None = None,
        onnxruntime: OnnxRuntimeSettings | None = None,
        detector: Detector | None = None,
    ) -> None:
        check_refine(refine)
        _check_threads(threads)
        if quality_threshold is not None:
            check_threshold(quality_threshold)
        if bundle is not None and not isinstance(bundle, str | os.PathLike):
            raise InputError(
                f"bundle: expected a folder's path, or None for the model that comes along, got {bundle!r}"
            )
        if not isinstance(device, str):
            raise InputError(f"device: expected a name such as 'cpu' or 'cuda:0', got {device!r}")
        opened = open_bundle(shipped_bundle() if bundle is None else bundle).at_alpha(alpha)
        load = partial(
            load_two_stage, opened, precision=precision, threads=threads, tensorrt=tensorrt, onnxruntime=onnxruntime
        )
        stages = load_on(device, load, None if onnxruntime is None else onnxruntime.say)
        threshold = opened.manifest.gate.quality_threshold if quality_threshold is None else quality_threshold
        super().__init__(
            refine,
            threshold,
            keep_regions,
            detector,
            detector_devices(stages.device),
            tensorrt=tensorrt,
            onnxruntime=onnxruntime,
        )
        self._set_up(opened, stages, scheduler, batch)

    @classmethod
    def from_bundle(
        cls,
        path: str | Path | None = None,
        *,
        device: str = "cpu",
        precision: PrecisionChoice = "auto",
        refine: Refine = "auto",
        quality_threshold: float | None = None,
        alpha: float | None = None,
        keep_regions: bool = False,
        scheduler: DeadlineScheduler | None = None,
        threads: int | None = None,
        batch: int | None = None,
        tensorrt: TensorRtSettings | None = None,
        onnxruntime: OnnxRuntimeSettings | None = None,
        detector: Detector | None = None,
    ) -> PoseEstimator:
        """The same as `PoseEstimator(path, …)`."""
        return cls(
            path,
            device=device,
            precision=precision,
            refine=refine,
            quality_threshold=quality_threshold,
            alpha=alpha,
            keep_regions=keep_regions,
            scheduler=scheduler,
            threads=threads,
            batch=batch,
            tensorrt=tensorrt,
            onnxruntime=onnxruntime,
            detector=detector,
        )

    @classmethod
    def from_stages(
        cls,
        bundle: Bundle,
        stages: TwoStage,
        *,
        refine: Refine = "auto",
        quality_threshold: float | None = None,
        keep_regions: bool = False,
        scheduler: DeadlineScheduler | None = None,
        batch: int | None = None,
        detector: Detector | None = None,
    ) -> PoseEstimator:
        """An estimator of a bundle whose engines are loaded already; it closes them."""
        estimator = cls.__new__(cls)
        threshold = bundle.manifest.gate.quality_threshold if quality_threshold is None else quality_threshold
        Estimator.__init__(estimator, refine, threshold, keep_regions, detector)
        estimator._set_up(bundle, stages, scheduler, batch)
        return estimator

    def _set_up(self, bundle: Bundle, stages: TwoStage, scheduler: DeadlineScheduler | None, batch: int | None) -> None:
        self.bundle = bundle
        self._stages = stages
        self.scheduler = scheduler
        self._now: Callable[[], float] = time.perf_counter
        if scheduler is not None:
            scheduler.attach(stages)
            self._now = scheduler.clock
        self._batch = None if batch is None else _check_batch(batch, stages.max_batch)
        tables = bundle.manifest.scores
        self._calibration = None if tables is None else ScoreCalibration(tables, bundle.model.skeleton)
        self._settled = False  # whether it was tried to find out what batches cost
        self._runner = CrowdRunner(stages, bundle.model.num_selected, self._now, self._batch)

    @property
    def skeleton(self) -> Skeleton:
        """The keypoints that results have."""
        return self.bundle.model.skeleton

    @property
    def score_tables(self) -> ScoreTables | None:
        """What makes the scores of results probabilities; None where they stay raw, as the heatmaps' peaks."""
        return self.bundle.manifest.scores

    @property
    def device(self) -> str:
        """Where the engines run."""
        return self._stages.device

    @property
    def precision(self) -> RunPrecision:
        """What the engines compute in."""
        return self._stages.precision

    def estimate(self, pictures: Sequence[Picture], *, stop: Callable[[], bool] = lambda: False) -> list[PoseResult]:
        """Poses of the people in several pictures, in shared batches.

        Args:
            pictures: May differ in size and belong to several streams.
            stop: Asked between batches, and after one that was ended by `terminate`, whether to give up.

        Returns:
            A result for each picture, in order. The time of a batch is shared among its pictures by their people in it.

        Raises:
            InputError: a picture has a deadline and the estimator no scheduler; or it has one, and two pictures belong
                to one stream.
            EngineError: an engine failed.
            EstimateStopped: `stop` said so.
        """
        if self.scheduler is None and any(picture.deadline is not None for picture in pictures):
            raise InputError("deadline: expected none, as the estimator has no scheduler; give it a DeadlineScheduler")
        return self._estimate(pictures, None, stop)

    def _estimate(
        self,
        pictures: Sequence[Picture],
        chosen: npt.NDArray[np.bool_] | None,
        stop: Callable[[], bool] = lambda: False,
    ) -> list[PoseResult]:
        with self._lock:
            if self.scheduler is None and self._batch is None and sum(len(picture.boxes) for picture in pictures) > 1:
                self._settle_batches()
            manifest, scheduler = self.bundle.manifest, self.scheduler
            regions = self.bundle.model.num_selected if self.keep_regions else None
            crowd = Crowd(pictures, self.bundle.model.crop_size, self.skeleton, regions, self._calibration)
            plan = None
            if scheduler is not None and chosen is None:
                plan = scheduler.plan(crowd, self.skeleton, self.quality_threshold, manifest.gate.gain)

            def choose(part: slice, quality: npt.NDArray[np.float32]) -> npt.NDArray[np.int32]:
                if chosen is None:
                    return gate(quality, self.quality_threshold, self.refine)
                return np.flatnonzero(chosen[part]).astype(np.int32)

            self._runner.run(crowd, choose, plan, stop)
            return crowd.results()

    def warm_up(self, people: int = 1) -> float:
        """Run both stages on a black picture, so that later calls meet no first-time cost.

        On a CPU, and where deadlines are kept, batches of several sizes are run for about a second, to learn what they
        cost. Without deadlines that is kept in the cache folder for later runs.

        Args:
            people: How many people to run; at least 1.

        Returns:
            Seconds it took.
        """
        with self._lock:
            started = time.perf_counter()
            self._run_black(people)
            if self.scheduler is not None or self._batch is None:
                self._settle_batches()
            if self.scheduler is not None:
                self.scheduler.costs.start_from_measured()
            return time.perf_counter() - started

    def _settle_batches(self) -> None:
        """Find out what batches cost, once, where that decides something: how people are cut, or who is refined."""
        stages = self._stages
        if self._settled or not (self.scheduler or stages.coarse_buckets.divisible):
            return
        self._settled = True

        def run(people: int) -> tuple[float, float]:
            timings = self._run_black(people)
            coarse = timings.crop + timings.coarse + timings.gate + timings.map_back
            return coarse, timings.gather + timings.fine

        # Deadlines need the costs of now, whatever else the machine does.
        cache = stages.batch_cache if self.scheduler is None else None
        settle(stages.coarse_buckets, stages.fine_buckets, run, self._now, cache)

    def _run_black(self, people: int) -> StageTimings:
        """Both stages for so many people in a black picture."""
        height, width = self.bundle.model.crop_size
        image = np.zeros((height, width, 3), dtype=np.uint8)
        boxes = np.tile(np.array([[0, 0, width, height]], np.float32), (people, 1))
        return self(image, boxes, rows=range(people)).timings

    def terminate(self) -> None:
        """End the batch at hand early, from another thread, where the engine can (ONNX Runtime).

        That call and all later ones raise `EngineError`, or `EstimateStopped` where their `stop` says so.
        """
        self._stages.terminate()

    def close(self) -> None:
        """Free the engines, once no call is under way; not a detector that was given. May be called twice; does nothing
        in a forked process.
        """
        if not self._lock.forked:
            with self._lock:
                self._stages.close()
                if self._own_detector is not None:
                    self._own_detector.close()


def _check_batch(batch: int, most: int) -> int:
    whole = isinstance(batch, int | np.integer) and not isinstance(batch, bool)
    if whole and 1 <= batch <= most:
        return int(batch)
    raise InputError(f"batch: expected 1 to {most}, the bundle's max batch, got {reprlib.repr(batch)}")


def _check_threads(threads: int | None) -> None:
    most = 4 * (os.cpu_count() or 1)
    whole = isinstance(threads, int | np.integer) and not isinstance(threads, bool)
    if threads is not None and not (whole and 1 <= threads <= most):
        raise InputError(f"threads: expected 1 to {most} on this machine, or None, got {reprlib.repr(threads)}")
