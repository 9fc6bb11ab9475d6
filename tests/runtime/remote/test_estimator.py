"""A remote estimator beside a local one of the same bundle: the same poses, bit for bit."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from score_tables import score_tables
from stand_in_stages import PICTURE, some_boxes
from v2_server import V2Server

from sharpose.bundle import Bundle, open_bundle, shipped_bundle
from sharpose.engines.load import load_two_stage
from sharpose.errors import InputError, ServerError, ServerRefusedError
from sharpose.runtime import PoseEstimator, RemotePoseEstimator
from sharpose.runtime.crowd import EstimateStopped
from sharpose.runtime.refinement.gate import Refine
from sharpose.runtime.result import Boxes, Picture, PoseResult
from sharpose.serving.contract import bundle_sha256

BOXES = some_boxes(3)


@pytest.fixture(scope="module")
def local(nano_bundle: Path) -> Iterator[PoseEstimator]:
    with PoseEstimator(nano_bundle, threads=1, batch=8, keep_regions=True) as estimator:
        yield estimator


def assert_same(remote: PoseResult, local: PoseResult) -> None:
    np.testing.assert_array_equal(remote.keypoints, local.keypoints)
    np.testing.assert_array_equal(remote.quality, local.quality)
    np.testing.assert_array_equal(remote.refined, local.refined)
    if remote.regions_xyxy is not None:
        assert local.regions_xyxy is not None
        np.testing.assert_array_equal(remote.regions_xyxy, local.regions_xyxy)
    assert remote.skeleton == local.skeleton


def test_poses_are_the_local_ones(server: V2Server, local: PoseEstimator) -> None:
    threshold = float(np.median(local(PICTURE, BOXES).quality))  # one is below, one above
    local.quality_threshold = threshold
    with RemotePoseEstimator(server.url, quality_threshold=threshold, keep_regions=True) as remote:
        assert remote.skeleton == local.skeleton
        ours, theirs = remote(PICTURE, BOXES), local(PICTURE, BOXES)
        assert theirs.refined.tolist().count(True) == 1
        assert_same(ours, theirs)
        assert ours.regions_xyxy is not None
        assert np.isnan(ours.regions_xyxy[~ours.refined]).all()
        assert_same(remote(PICTURE, BOXES, rows=[0, 2]), local(PICTURE, BOXES, rows=[0, 2]))
        assert remote(PICTURE, BOXES, rows=[0, 2]).refined.tolist() == [True, False, True]
        nobody = remote(PICTURE, [])
        assert len(nobody) == 0
        pictures = [Picture(PICTURE, Boxes.from_xyxy(BOXES)), Picture(PICTURE[:90, :70].copy(), Boxes.from_xyxy(BOXES))]
        for ours, theirs in zip(remote.estimate(pictures), local.estimate(pictures), strict=True):
            assert_same(ours, theirs)
        assert remote.warm_up() > 0
        timings = ours.timings
        assert timings.crop > 0
        assert timings.server > 0
        assert timings.coarse == timings.fine == 0
        numbers = remote.statistics.snapshot()
    assert [count for count, _ in server.requests] == [3, 3, 3, 6, 1]  # none for nobody
    assert (numbers.requests, numbers.failed, len(numbers.durations)) == (5, 0, 5)


def test_scores_are_calibrated_here_as_by_the_bundles_own_engines(
    server: V2Server, nano_bundle: Path, local: PoseEstimator
) -> None:
    """The server gives peaks, and its configuration the tables."""
    opened = open_bundle(nano_bundle)
    bundle = Bundle(opened.path, opened.manifest.model_copy(update={"scores": score_tables()}))
    server.serve_another(scores=score_tables())
    try:
        threshold = float(np.median(local(PICTURE, BOXES).quality))
        with (
            PoseEstimator.from_stages(bundle, load_two_stage(bundle, threads=1), quality_threshold=threshold) as ours,
            RemotePoseEstimator(server.url, quality_threshold=threshold) as remote,
        ):
            assert remote.score_tables == score_tables()
            expected, found = ours(PICTURE, BOXES), remote(PICTURE, BOXES)
    finally:
        server.serve_another(scores=None)
    assert found.refined.any()
    assert not found.refined.all()
    assert_same(found, expected)
    np.testing.assert_array_equal(np.asarray(found.confidence), np.asarray(expected.confidence))
    raw = local(PICTURE, BOXES, rows=np.flatnonzero(found.refined))
    assert raw.confidence is None
    coarse = ~found.refined
    np.testing.assert_allclose(found.keypoints[coarse, 1:, 2], raw.keypoints[coarse, 1:, 2] / 2, rtol=1e-5)


@pytest.mark.parametrize(("refine", "refined"), [("always", [True] * 3), ("never", [False] * 3)])
def test_the_gate_is_the_clients(server: V2Server, refine: Refine, refined: list[bool]) -> None:
    with RemotePoseEstimator(server.url, refine=refine) as remote:
        assert remote(PICTURE, BOXES).refined.tolist() == refined


def test_the_threshold_is_the_bundles_by_default(server: V2Server, local: PoseEstimator) -> None:
    with RemotePoseEstimator(server.url) as remote:
        assert remote.quality_threshold == local.bundle.manifest.gate.quality_threshold


def test_more_people_than_fit_are_several_requests(server: V2Server, local: PoseEstimator) -> None:
    server.serve_another(max_batch=2)
    try:
        with RemotePoseEstimator(server.url) as remote:
            assert len(remote(PICTURE, some_boxes(5))) == 5
    finally:
        server.serve_another(max_batch=local.bundle.manifest.max_batch)
    assert [count for count, _ in server.requests] == [2, 2, 1]


def test_the_bundle_must_be_the_servers(server: V2Server, nano_bundle: Path) -> None:
    with RemotePoseEstimator(server.url, bundle=nano_bundle) as remote:
        assert remote.served.bundle_sha256 == bundle_sha256_of(nano_bundle)
    with pytest.raises(ServerRefusedError, match=f"yours, got {bundle_sha256_of(nano_bundle)[:12]}"):
        RemotePoseEstimator(server.url, bundle=shipped_bundle())


def bundle_sha256_of(folder: Path) -> str:
    return bundle_sha256(open_bundle(folder))


def test_streams_have_the_same_frames_and_poses(server: V2Server, local: PoseEstimator) -> None:
    scene = "scene:seed=3,frames=4,people=1,size=120x160"
    with RemotePoseEstimator(server.url, quality_threshold=local.quality_threshold) as remote:
        ours, theirs = (list(estimator.stream(scene, track=True)) for estimator in (remote, local))
    assert len(ours) == len(theirs) == 4
    for (picture, poses), (expected, expected_poses) in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(picture, expected)
        assert_same(poses, expected_poses)
        assert poses.origin == expected_poses.origin
        np.testing.assert_array_equal(np.asarray(poses.track_ids), np.asarray(expected_poses.track_ids))


def test_threads_ask_side_by_side(server: V2Server) -> None:
    together = threading.Barrier(2, timeout=10)
    poses = server.poses

    def wait_for_the_other(crops: np.ndarray, thresholds: np.ndarray) -> dict[str, np.ndarray]:
        together.wait()
        return poses(crops, thresholds)

    with RemotePoseEstimator(server.url) as remote:
        server.poses = wait_for_the_other
        try:
            threads = [threading.Thread(target=remote, args=(PICTURE, BOXES)) for _ in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            server.poses = poses
    assert not together.broken
    assert len(server.requests) == 2


def test_after_terminate_calls_end(server: V2Server) -> None:
    with RemotePoseEstimator(server.url) as remote:
        remote.terminate()
        with pytest.raises(ServerError, match=r"ended by terminate\(\) or close\(\)"):
            remote(PICTURE, BOXES)
        with pytest.raises(EstimateStopped):
            remote.estimate([Picture(PICTURE, Boxes.from_xyxy(BOXES))], stop=lambda: True)
    remote.close()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"timeout": 0}, "timeout: expected seconds above 0, got 0"),
        ({"tries": 0}, "tries: expected at least 1, or None for no limit, got 0"),
        ({"refine": "sometimes"}, "refine: expected one of auto, always, never"),
        ({"quality_threshold": float("nan")}, "quality_threshold: expected a number, got NaN"),
        ({"token": "two words"}, "server-token: expected printable ASCII"),
        ({"server": "rack:8000"}, "server: expected http://HOST:8000/sharpose"),
    ],
)
def test_arguments_that_are_refused(arguments: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        RemotePoseEstimator(**{"server": "http://127.0.0.1:1/sharpose", **arguments})


def test_deadlines_are_kept_by_local_engines(server: V2Server) -> None:
    with (
        RemotePoseEstimator(server.url) as remote,
        pytest.raises(InputError, match="a server keeps no deadlines"),
    ):
        remote.estimate([Picture(PICTURE, Boxes.from_xyxy(BOXES), deadline=1.0)])
