"""Poses by a server: people are cropped here, both stages run there, keypoints are mapped back here."""

from __future__ import annotations

import os
import reprlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from sharpose.bundle import open_bundle
from sharpose.engines.locks import check_process
from sharpose.errors import InputError, ServerError
from sharpose.runtime.crowd import Crowd, EstimateStopped
from sharpose.runtime.estimator import Estimator
from sharpose.runtime.inference import Inference, Item
from sharpose.runtime.refinement.gate import Refine, check_refine, check_threshold, region_boxes
from sharpose.runtime.result import Boxes, Picture, PoseResult
from sharpose.runtime.statistics import ServerStatistics
from sharpose.scores.tables import ScoreCalibration, ScoreTables
from sharpose.serving.client import DEFAULT_TIMEOUT, DEFAULT_TRIES
from sharpose.serving.client.address import Credentials
from sharpose.serving.client.client import Patience, PoseClient, RequestStoppedError
from sharpose.serving.contract import ServedModel, bundle_sha256
from sharpose.skeleton import Skeleton

if TYPE_CHECKING:
    from sharpose.runtime.detectors.onnx import Detector
    from sharpose.runtime.messages import StopRequest


class RemotePoseEstimator(Estimator):
    """Poses of the people in pictures, by a Triton server of a repository that `sharpose-export --triton` wrote.

    The same methods as `PoseEstimator`'s, and the same results where the server runs the same engine. Threads may share
    one, and their calls run side by side: each has a request under way, and the server makes batches of them. The
    server's bundle is pinned at first contact; another is refused later, as after a restart.

    Args:
        server: `http://HOST:8000/sharpose`, or https; grpc or grpcs with the extra `triton-grpc`.
        bundle: A folder written by `sharpose-export` that the server must serve; whatever it serves if None.
        refine: `auto`, `always` or `never`.
        quality_threshold: That of the server's bundle if None.
        keep_regions: Whether results have `PoseResult.regions_xyxy`.
        token: For a gateway in front of the server, which gets `Authorization: Bearer TOKEN`.
        ca: A file of certificates (PEM) to trust instead of the system's.
        certificate: A file (PEM) with the client's certificate and key, where the server asks for one.
        timeout: Seconds for a request, from connecting to the end of the answer.
        tries: Tries of a request that a server which is gone, fails or is late gets, with waits of up to 5 s between;
            None for no limit. While the server is busy there is no limit.
        say: Called with a line when the server is lost, busy for long, or back; from any thread.
        detector: Finds the people of pictures that come without boxes. If None, that is `Detector.from_name()` on the
            CPU, made at the first such picture.

    Raises:
        BundleError: the bundle is missing, damaged or not valid.
        InputError: an argument isn't what is expected, or gRPC's extra is not installed.
        ServerError: the server can't be reached, refuses, or has another bundle.

    Attributes:
        served: The model that the server has.
        statistics: Requests, failed tries and their times so far.
    """

    def __init__(
        self,
        server: str,
        *,
        bundle: str | Path | None = None,
        refine: Refine = "auto",
        quality_threshold: float | None = None,
        keep_regions: bool = False,
        token: str | None = None,
        ca: str | Path | None = None,
        certificate: str | Path | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        tries: int | None = DEFAULT_TRIES,
        say: Callable[[str], None] = lambda line: None,
        detector: Detector | None = None,
    ) -> None:
        check_refine(refine)
        if quality_threshold is not None:
            check_threshold(quality_threshold)
        if not isinstance(timeout, int | float) or not 0 < timeout < float("inf"):
            raise InputError(f"timeout: expected seconds above 0, got {reprlib.repr(timeout)}")
        if tries is not None and (not isinstance(tries, int) or tries < 1):
            raise InputError(f"tries: expected at least 1, or None for no limit, got {reprlib.repr(tries)}")
        credentials = Credentials(
            token, None if ca is None else Path(ca), None if certificate is None else Path(certificate)
        )
        self.statistics: ServerStatistics = ServerStatistics()
        self._client = PoseClient(
            server,
            credentials,
            timeout=timeout,
            expected=None if bundle is None else bundle_sha256(open_bundle(bundle)),
            say=say,
            note=lambda exchange: self.statistics.add(exchange.seconds, failed=exchange.error is not None),
        )
        self._patience, self._made_in = Patience(tries), os.getpid()
        try:
            served = self._client.contact(self._patience)
        except RequestStoppedError:
            raise ServerError(f"{self._client.address}: the estimator was closed") from None
        threshold = served.quality_threshold if quality_threshold is None else quality_threshold
        super().__init__(refine, threshold, keep_regions, detector)

    @property
    def served(self) -> ServedModel:
        """The model that the server has."""
        return self._client.contact(self._patience)

    @property
    def skeleton(self) -> Skeleton:
        """The keypoints that results have."""
        return self.served.skeleton

    @property
    def score_tables(self) -> ScoreTables | None:
        """What makes the scores of results probabilities; None where they stay raw, as the heatmaps' peaks."""
        return self.served.scores

    @property
    def device(self) -> str:
        """`cpu`: where a detector runs, unless it is told where; the poses' device is the server's."""
        return "cpu"

    def estimate(self, pictures: Sequence[Picture], *, stop: Callable[[], bool] = lambda: False) -> list[PoseResult]:
        """Poses of the people in several pictures, in as few requests as the server's max batch allows, one by one.

        Args:
            pictures: May differ in size and belong to several streams.
            stop: Asked between tries and requests, and after one that was ended by `terminate`, whether to give up.

        Returns:
            A result for each picture, in order. The time of a request is shared among its pictures by their people.

        Raises:
            InputError: a picture has a deadline.
            ServerError: the server refuses, is gone after all tries, or doesn't answer with poses.
            EstimateStopped: `stop` said so.
        """
        return self._estimate(pictures, None, stop)

    def estimate_once(self, picture: Picture, *, stop: Callable[[], bool] = lambda: False) -> PoseResult:
        """Poses of a picture that nobody waits for, as a live stream's: each of its requests has one try.

        Raises:
            ServerBusyError: the server has no room.
            ServerGoneError: it is gone, failed or was late.
            ServerError: it refuses, or doesn't answer with poses.
            EstimateStopped: `stop` said so.
        """
        return self._run([picture], None, stop, Patience(drop=True))[0]

    def inference(
        self, stop: StopRequest, *, landed: Callable[[], None], reconnect: int | None = None
    ) -> Inference[Item]:
        """See `Estimator`: a request under way for each stream."""
        from sharpose.runtime.remote.in_flight import InFlight

        def gives_up() -> bool:  # asked where the server was busy or gone
            return stop.closed or stop.is_overdue

        return InFlight(self, reconnect=reconnect, stop=gives_up, landed=landed)

    def _estimate(
        self,
        pictures: Sequence[Picture],
        chosen: npt.NDArray[np.bool_] | None,
        stop: Callable[[], bool] = lambda: False,
    ) -> list[PoseResult]:
        return self._run(pictures, chosen, stop, self._patience)

    def _run(
        self,
        pictures: Sequence[Picture],
        chosen: npt.NDArray[np.bool_] | None,
        stop: Callable[[], bool],
        patience: Patience,
    ) -> list[PoseResult]:
        check_process("estimator", self._made_in)
        if any(picture.deadline is not None for picture in pictures):
            raise InputError("deadline: expected none: a server keeps no deadlines; use a PoseEstimator for them")
        served, most = self.served, self.served.max_batch
        regions = served.selected if self.keep_regions else None
        calibration = None if served.scores is None else ScoreCalibration(served.scores, served.skeleton)
        crowd = Crowd(pictures, served.crop_size, served.skeleton, regions, calibration)
        try:
            for start in range(0, len(crowd), most):
                if start and stop():
                    raise EstimateStopped
                self._run_part(crowd, slice(start, min(start + most, len(crowd))), chosen, stop, patience)
        except RequestStoppedError:
            if stop():
                raise EstimateStopped from None
            raise ServerError(f"{self._client.address}: the request was ended by terminate() or close()") from None
        return crowd.results()

    def _run_part(
        self,
        crowd: Crowd,
        part: slice,
        chosen: npt.NDArray[np.bool_] | None,
        stop: Callable[[], bool],
        patience: Patience,
    ) -> None:
        """One request for some of the people."""
        began = time.perf_counter()
        crops = crowd.crop(part, np.empty((part.stop - part.start, *self.served.crop_size, 3), np.uint8))
        cropped = time.perf_counter()
        crowd.charge("crop", part, cropped - began)
        found = self._client.infer(
            crops, self._thresholds(part, chosen), regions=self.keep_regions, patience=patience, stop=stop
        )
        answered = time.perf_counter()
        crowd.charge("server", part, answered - cropped)
        crowd.keep(part, found.keypoints, found.refined)
        crowd.quality[part] = found.quality
        if crowd.regions_xyxy is not None and found.region_order is not None:
            rows = np.flatnonzero(found.refined)
            people = part.start + rows
            crowd.regions_xyxy[people] = region_boxes(
                found.region_order[rows], crowd.frames_of(people), self.served.selected
            )
        crowd.charge("map_back", part, time.perf_counter() - answered)

    def _thresholds(self, part: slice, chosen: npt.NDArray[np.bool_] | None) -> npt.NDArray[np.float32]:
        """float32 [N, 1], for the server's gate."""
        if chosen is not None:
            return np.where(chosen[part], np.inf, -np.inf).astype(np.float32)[:, None]
        limit = {"never": -np.inf, "always": np.inf}.get(self.refine, self.quality_threshold)
        return np.full((part.stop - part.start, 1), limit, np.float32)

    def warm_up(self, people: int = 1) -> float:
        """Send the crop of a black picture, so that a server which can't answer is noticed before anything is read.

        Args:
            people: How many crops to send; at least 1.

        Returns:
            Seconds it took.
        """
        started = time.perf_counter()
        height, width = self.served.crop_size
        boxes = Boxes.from_xyxy(np.tile(np.array([[0, 0, width, height]], np.float32), (people, 1)))
        everybody = np.ones(people, np.bool_)
        self._estimate([Picture(np.zeros((height, width, 3), np.uint8), boxes)], everybody)
        return time.perf_counter() - started

    def terminate(self) -> None:
        """End the requests at hand, from another thread.

        Those calls and all later ones raise `ServerError`, or `EstimateStopped` where their `stop` says so.
        """
        self._client.terminate()

    def wait(self, seconds: float) -> None:
        """Wait, but not beyond `terminate` or `close`."""
        self._client.wait(seconds)

    def close(self) -> None:
        """End the requests at hand and close the connections; not a detector that was given. May be called twice."""
        self._client.close()
        if self._own_detector is not None:
            self._own_detector.close()
