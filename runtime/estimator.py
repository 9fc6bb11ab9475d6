"""What every estimator does: pictures with boxes in, poses out, wherever the two stages run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

import click
import numpy as np
import numpy.typing as npt

from sharpose.engines.load import OnnxRuntimeSettings
from sharpose.engines.locks import EngineLock
from sharpose.engines.tensorrt.load import TensorRtSettings
from sharpose.errors import InputError, SourceError
from sharpose.runtime.inference import Inference, Item, SharedBatches
from sharpose.runtime.options import RunOptions, SourceOptions, as_arguments, check_arguments
from sharpose.runtime.refinement.gate import Refine, check_refine, check_rows, check_threshold
from sharpose.runtime.result import Boxes, Image, Picture, PoseResult
from sharpose.scores.tables import ScoreTables
from sharpose.skeleton import Skeleton

if TYPE_CHECKING:
    from sharpose.runtime.detectors.onnx import Detector
    from sharpose.runtime.messages import StopRequest
    from sharpose.runtime.statistics import ServerStatistics

_Self = TypeVar("_Self", bound="Estimator")


class Estimator(ABC):
    """Poses of the people in pictures: by engines of this process, or by a server.

    Args:
        refine: `auto`, `always` or `never`.
        quality_threshold: People below it are refined.
        keep_regions: Whether results have `PoseResult.regions_xyxy`.
        detector: Finds the people of pictures that come without boxes; if None, the default one is made at the first.
        detector_devices: Where that one may run, best first.
        tensorrt: How it runs on `tensorrt`.
        onnxruntime: How it runs on other devices.

    Attributes:
        refine: As given.
        quality_threshold: As given.
        keep_regions: As given; may be changed.
        detector: As given; may be changed.
        statistics: Of the requests to a server; None where engines of this process run.
    """

    statistics: ServerStatistics | None = None

    def __init__(
        self,
        refine: Refine,
        quality_threshold: float,
        keep_regions: bool,
        detector: Detector | None,
        detector_devices: Sequence[str] = ("cpu",),
        *,
        tensorrt: TensorRtSettings | None = None,
        onnxruntime: OnnxRuntimeSettings | None = None,
    ) -> None:
        self.refine = check_refine(refine)
        self.quality_threshold = check_threshold(quality_threshold)
        self.keep_regions = keep_regions
        self.detector = detector
        self._own_detector: Detector | None = None
        self._detector_devices = tuple(detector_devices)
        self._tensorrt, self._onnxruntime = tensorrt, onnxruntime
        self._lock = EngineLock("estimator")

    @property
    @abstractmethod
    def skeleton(self) -> Skeleton:
        """The keypoints that results have."""

    @property
    @abstractmethod
    def score_tables(self) -> ScoreTables | None:
        """What makes the scores of results probabilities; None where they stay raw, as the heatmaps' peaks."""

    @property
    @abstractmethod
    def device(self) -> str:
        """Where the engines of this process run; a detector runs there too, unless it is told where."""

    def __call__(
        self,
        image_bgr: npt.NDArray[np.uint8],
        boxes_xyxy: npt.ArrayLike | Boxes | None = None,
        *,
        rows: npt.ArrayLike | None = None,
    ) -> PoseResult:
        """Poses of the people in one picture.

        Args:
            image_bgr: uint8 [H, W, 3], BGR.
            boxes_xyxy: [n, 4], `x1, y1, x2, y2` in picture pixels, or `Boxes` with their scores. May reach outside
                the picture; n = 0 runs nothing. None: the detector finds the people.
            rows: Indices of the people to refine, instead of asking the gate; needs boxes.

        Returns:
            Keypoints in picture pixels, quality, who was refined, and timings, without the detector's.

        Raises:
            InputError: the picture or the boxes have a wrong type, shape or value.
            DetectorError: the default detector can't be downloaded.
            EngineError: an engine failed, or this process was forked from the one that made the estimator.
            ServerError: the server failed, or refused.
        """
        if boxes_xyxy is None:
            if rows is not None:
                raise InputError("rows: expected boxes_xyxy as well, whose indices they are")
            boxes_xyxy = self.load_detector()(Picture(image_bgr, Boxes.empty()).image)  # checked
        boxes = boxes_xyxy if isinstance(boxes_xyxy, Boxes) else Boxes.from_xyxy(boxes_xyxy)
        chosen = None if rows is None else check_rows(rows, len(boxes))
        (result,) = self._estimate([Picture(image_bgr, boxes)], chosen)
        return result

    def load_detector(self) -> Detector:
        """The detector that was given, or else the default one, made at the first call.

        Raises:
            DetectorError: the default detector can't be downloaded.
        """
        with self._lock:  # of several threads, one makes the detector
            if self.detector is None and self._own_detector is None:
                from sharpose.runtime.detectors.onnx import Detector

                self._own_detector = Detector.from_name(
                    device=self._detector_devices, tensorrt=self._tensorrt, onnxruntime=self._onnxruntime
                )
            detector = self.detector or self._own_detector
        assert detector is not None
        return detector

    def stream(
        self,
        source: str | Path | int,
        *,
        track: bool = False,
        smooth: bool = False,
        boxes: str | Path | None = None,
        full_frame: bool = False,
        motion: bool = False,
        detect_every: int = 1,
        max_people: int | None = None,
        reading: SourceOptions | None = None,
    ) -> Generator[tuple[Image, PoseResult], None, None]:
        """The frames of a video, live stream or pictures, with their poses: those of `sharpose-run` on that source.

        People are found by the estimator's detector, unless an argument says otherwise; the built-in scene brings its
        own boxes, unless the estimator was given a detector. Warnings go to standard error.

        Args:
            source: As for `sharpose-run`: a video, a picture, a folder or glob of videos (streamed one after another)
                or pictures, a camera's index, a URL, `-`, or `scene`.
            track: Give people ids that stay, `PoseResult.track_ids`.
            smooth: Smooth each track's keypoints; needs `track`.
            boxes: A file of people's boxes: COCO detection results, or annotations. For several videos `{source}` in
                its name stands for theirs.
            full_frame: One person fills every picture.
            motion: Whatever moves in front of a camera that doesn't.
            detect_every: Detection interval in frames; boxes follow poses in between.
            max_people: People per frame at most, the best boxes first.
            reading: How the source is read: stride, start, duration, reconnection.

        Yields:
            The frame, uint8 [H, W, 3], BGR, and its result; `origin` says which frame of what. A live source's frames
            that come meanwhile are dropped for the newest one, unless `reading` says otherwise.

        Raises:
            InputError: arguments exclude one another, or one would do nothing.
            SharposeError: the source, the boxes or the detector can't be used, or an engine or the server failed; of
                several videos one failed, which is raised after the frames of all others.
        """
        from sharpose.runtime.assemble import stream_with

        flags = {"track": track, "smooth": smooth, "full_frame": full_frame, "motion": motion}
        check_arguments(source, flags, boxes, reading)
        try:
            options = RunOptions(
                sources=(str(source),),
                reading=reading or SourceOptions(),
                track=track,
                smooth=smooth,
                boxes=None if boxes is None else str(boxes),
                full_frame=full_frame,
                detector="motion" if motion else None,
                detect_every=detect_every,
                max_people=max_people,
            )
            yield from stream_with(options, self)
        except click.UsageError as error:
            raise InputError(as_arguments(error.message)) from error
        except (InputError, SourceError) as error:
            error.args = (as_arguments(str(error)),)
            raise

    @abstractmethod
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
            ServerError: the server failed, or refused.
            EstimateStopped: `stop` said so.
        """

    @abstractmethod
    def _estimate(
        self,
        pictures: Sequence[Picture],
        chosen: npt.NDArray[np.bool_] | None,
        stop: Callable[[], bool] = lambda: False,
    ) -> list[PoseResult]:
        """The same; `chosen`, bool [n], says who is refined, instead of the gate."""

    def inference(
        self, stop: StopRequest, *, landed: Callable[[], None], reconnect: int | None = None
    ) -> Inference[Item]:
        """What makes the poses of a run's frames.

        Args:
            stop: Whether the user wants the run to end.
            landed: Called, from any thread, when there is something to take.
            reconnect: How often in a row a live stream may find a server gone; no limit if None.
        """
        return SharedBatches(partial(self.estimate, stop=lambda: stop.is_overdue))

    @abstractmethod
    def warm_up(self, people: int = 1) -> float:
        """Run both stages on a black picture, so that later calls meet no first-time cost.

        Args:
            people: How many people to run; at least 1.

        Returns:
            Seconds it took.
        """

    @abstractmethod
    def terminate(self) -> None:
        """End the batch or the request at hand early, from another thread."""

    @abstractmethod
    def close(self) -> None:
        """Free everything. May be called twice."""

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
