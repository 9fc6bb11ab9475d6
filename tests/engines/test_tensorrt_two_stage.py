from __future__ import annotations

import numpy as np
import pytest
from host_cuda import HostCuda

from sharpose.engines.tensorrt.two_stage import TensorRtTwoStage
from sharpose.errors import EngineError, InputError


def _fill(stages, people, seed=0):
    rng = np.random.default_rng(seed)
    stages.crops[:people] = rng.integers(0, 256, stages.crops[:people].shape, dtype=np.uint8)
    return stages.crops[:people].astype(np.float32).sum(axis=(1, 2, 3))


def _make(small_engines, *, use_graphs, max_batch=8, min_batch=1, **cuda_options):
    cuda = HostCuda(**cuda_options)
    coarse, fine = small_engines(cuda, max_batch=max_batch, min_batch=min_batch)
    return TensorRtTwoStage(coarse, fine, cuda, "tensorrt:0", "fp32", use_graphs=use_graphs), cuda, coarse, fine


@pytest.mark.parametrize("use_graphs", [False, True])
@pytest.mark.parametrize("people", [1, 5, 8])
def test_both_stages_compute_from_the_pinned_arrays(small_engines, use_graphs, people):
    stages, *_ = _make(small_engines, use_graphs=use_graphs)
    for seed in range(3):  # direct run, capture, launches
        totals = _fill(stages, people, seed)
        out = stages.run_coarse(people)
        np.testing.assert_array_equal(out.keypoints[:, 0, 0], totals)
        np.testing.assert_array_equal(out.quality, stages.crops[:people, 0, 0, 0].astype(np.float32) / 255)
        np.testing.assert_array_equal(out.region_order[:, 0], totals.astype(int) % 4)
        rows = np.arange(people - 1, -1, -1, dtype=np.int32)
        stages.patches[:people] = np.arange(people, dtype=np.uint8)[:, None, None]
        refined = stages.run_fine(rows)
        expected = 5 * totals[rows] + 48 * np.arange(people) + totals[rows].astype(int) % 4
        np.testing.assert_array_equal(refined[:, 1, 2], expected)
    stages.close()


def test_a_frame_without_graphs_does_these_things_in_this_order(small_engines):
    stages, cuda, *_ = _make(small_engines, use_graphs=False)
    _fill(stages, 3)
    cuda.log.clear()
    stages.run_coarse(3)
    assert cuda.log == [
        "shape image 3",
        "upload 36",  # three crops of 12 bytes
        "coarse N=3",
        "download 72",  # keypoints
        "download 12",  # quality
        "download 48",  # region order; neither features nor heatmaps
        "record event",
        "wait for event",
        "run upload 36",
        "run coarse N=3",
        "run download 72",
        "run download 12",
        "run download 48",
    ]
    cuda.log.clear()
    stages.run_fine(np.array([2], np.int32))
    assert [line for line in cuda.log if not line.startswith("shape")][:6] == [
        "upload 4",
        "upload 48",
        "fine M=1 N=8",
        "download 24",
        "record event",
        "wait for event",
    ]
    stages.close()


def test_nothing_is_launched_where_nobody_is_refined(small_engines):
    stages, cuda, *_ = _make(small_engines, use_graphs=True)
    _fill(stages, 2)
    stages.run_coarse(2)
    cuda.log.clear()
    stages.run_coarse(2)
    assert cuda.log[:3] == ["launch graph", "record event", "wait for event"]
    assert not any("fine" in line for line in cuda.log)
    stages.close()


def test_shapes_are_set_only_when_they_change(small_engines):
    stages, cuda, *_ = _make(small_engines, use_graphs=False)
    for people in (2, 2, 3):
        stages.run_coarse(people)
    assert [line for line in cuda.log if line.startswith("shape")] == ["shape image 2", "shape image 3"]
    stages.close()


@pytest.mark.parametrize("use_graphs", [False, True])
def test_shapes_that_were_refused_are_set_again(small_engines, use_graphs):
    stages, _, coarse, _ = _make(small_engines, use_graphs=use_graphs)
    totals = _fill(stages, 3)
    coarse.refuse_shapes = True
    with pytest.raises(EngineError, match="the shape was refused"):
        stages.run_coarse(3)
    coarse.refuse_shapes = False
    np.testing.assert_array_equal(stages.run_coarse(3).keypoints[:, 0, 0], totals)
    stages.close()


@pytest.mark.parametrize("use_graphs", [False, True])
def test_a_steady_state_frame_allocates_nothing(small_engines, use_graphs):
    stages, cuda, coarse, fine = _make(small_engines, use_graphs=use_graphs)

    def frame(people, rows):
        out = stages.run_coarse(people)
        return out, stages.run_fine(np.arange(rows, dtype=np.int32))

    plan = [(people, rows) for people in range(1, 9) for rows in range(1, people + 1)]
    for people, rows in plan:
        frame(people, rows)
    before = (cuda.allocations, coarse.contexts_made, fine.contexts_made, dict(cuda.live))
    first, _ = frame(8, 8)
    for people, rows in plan:
        frame(people, rows)
    again, _ = frame(8, 8)
    assert (cuda.allocations, coarse.contexts_made, fine.contexts_made, dict(cuda.live)) == before
    assert np.shares_memory(first.keypoints, again.keypoints)  # results are views of the same pinned memory
    stages.close()


def test_every_bucket_is_captured_once_and_padded(small_engines):
    stages, cuda, coarse, fine = _make(small_engines, use_graphs=True)
    for people in (5, 6, 5):
        totals = _fill(stages, people, people)
        np.testing.assert_array_equal(stages.run_coarse(people).keypoints[:, 0, 0], totals)
    assert cuda.log.count("capture") == 1
    assert cuda.log.count("launch graph") == 3  # the first to compare it with the run that was captured
    assert [line for line in cuda.log if line.startswith("shape image")] == ["shape image 6"]
    assert coarse.contexts == 1
    stages.run_coarse(8)
    assert coarse.contexts == 2  # a captured graph keeps its context
    assert len({context.scratch for context in coarse.made + fine.made}) == 1  # and all share scratch memory
    stages.close()


def test_batches_below_the_engines_smallest_are_padded(small_engines):
    stages, cuda, *_ = _make(small_engines, use_graphs=False, min_batch=4)
    totals = _fill(stages, 2)
    np.testing.assert_array_equal(stages.run_coarse(2).keypoints[:, 0, 0], totals)
    assert stages.run_fine(np.array([1], np.int32)).shape == (1, 2, 3)
    assert "coarse N=4" in cuda.log
    assert "fine M=4 N=8" in cuda.log
    stages.close()


@pytest.mark.parametrize("use_graphs", [False, True])
def test_after_warming_up_nothing_is_captured_or_made_in_a_frame(small_engines, use_graphs):
    stages, cuda, coarse, fine = _make(small_engines, use_graphs=use_graphs)
    stages.warm_up()
    runs = {line for line in cuda.log if line.startswith(("run coarse", "run fine"))}
    sizes = (1, 2, 3, 4, 6, 8) if use_graphs else range(1, 9)
    assert runs == {f"run coarse N={size}" for size in sizes} | {f"run fine M={size} N=8" for size in sizes}
    assert cuda.log.count("capture") == (12 if use_graphs else 0)
    assert (coarse.saved, fine.saved) == (1, 1)
    assert not stages.crops.any()
    assert not stages.patches.any()
    with pytest.raises(EngineError, match="expected a coarse batch before it"):
        stages.run_fine(np.array([0], np.int32))
    before = (cuda.allocations, coarse.contexts_made, fine.contexts_made)
    for people in range(1, 9):
        totals = _fill(stages, people, people)
        np.testing.assert_array_equal(stages.run_coarse(people).keypoints[:, 0, 0], totals)
        stages.run_fine(np.arange(people, dtype=np.int32))
    assert (cuda.allocations, coarse.contexts_made, fine.contexts_made) == before
    stages.close()


def test_batches_are_padded_where_every_size_costs_a_compilation(small_engines):
    cuda = HostCuda()
    coarse, fine = small_engines(cuda)
    coarse.compiles_shapes = fine.compiles_shapes = True
    stages = TensorRtTwoStage(coarse, fine, cuda, "tensorrt:0", "fp32", use_graphs=False)
    assert stages.coarse_buckets.sizes == stages.fine_buckets.sizes == (1, 2, 3, 4, 6, 8)
    stages.close()


@pytest.mark.parametrize("use_graphs", [False, True])
def test_an_integrated_gpu_reads_and_writes_the_hosts_arrays(small_engines, use_graphs, live):
    cuda = HostCuda(shares_memory=True)
    coarse, fine = small_engines(cuda)
    stages = TensorRtTwoStage(coarse, fine, cuda, "tensorrt:0", "fp32", use_graphs=use_graphs, mapped=True)
    # Features, embeddings, both stages' heatmaps in one, and scratch memory are all that is left.
    assert cuda.live["HostBuffer"] == 4
    stages.warm_up()
    for people in (1, 5, 8):
        cuda.log.clear()
        totals = _fill(stages, people, people)
        out = stages.run_coarse(people)
        np.testing.assert_array_equal(out.keypoints[:, 0, 0], totals)
        rows = np.arange(people - 1, -1, -1, dtype=np.int32)
        stages.patches[:people] = np.arange(people, dtype=np.uint8)[:, None, None]
        expected = 5 * totals[rows] + 48 * np.arange(people) + totals[rows].astype(int) % 4
        np.testing.assert_array_equal(stages.run_fine(rows)[:, 1, 2], expected)
        np.testing.assert_array_equal(out.keypoints[:, 0, 0], totals)  # the fine stage has others
        assert not any("load" in line for line in cuda.log)  # neither up nor down
    del out
    stages.close()
    assert live(cuda) == {}


def test_engines_of_different_sizes_run_for_the_smaller_one(small_engines):
    cuda = HostCuda(shares_memory=True)
    coarse, _ = small_engines(cuda, max_batch=4)
    _, fine = small_engines(cuda, max_batch=8)
    stages = TensorRtTwoStage(coarse, fine, cuda, "tensorrt:0", "fp32", use_graphs=False, mapped=True)
    assert stages.max_batch == len(stages.crops) == len(stages.patches) == 4
    totals = _fill(stages, 4)
    stages.run_coarse(4)
    refined = stages.run_fine(np.array([3], np.int32))
    np.testing.assert_array_equal(refined[:, 0, 0], 5 * totals[3:] + totals[3:].astype(int) % 4)
    assert "fine M=1 N=8" in cuda.log
    stages.close()


@pytest.mark.parametrize("mapped", [False, True])
def test_page_locked_arrays_are_freed_while_the_context_is_active(small_engines, mapped, live):
    cuda = HostCuda(shares_memory=mapped)
    coarse, fine = small_engines(cuda)
    stages = TensorRtTwoStage(coarse, fine, cuda, "tensorrt:0", "fp32", use_graphs=True, mapped=mapped)
    assert cuda.live["pinned"] == 7
    stages.run_coarse(2)
    stages.close()
    assert (cuda.live["pinned"], cuda.freed_outside) == (0, 0)


def test_results_survive_in_the_coarse_arrays_when_the_fine_stage_writes_its_own(small_engines):
    stages, *_ = _make(small_engines, use_graphs=False)
    totals = _fill(stages, 2)
    out = stages.run_coarse(2)
    stages.run_fine(np.array([0, 1], np.int32))
    np.testing.assert_array_equal(out.keypoints[:, 0, 0], totals)
    stages.close()


@pytest.mark.parametrize("people", [0, 9, -1])
def test_too_few_or_too_many_people_are_refused(small_engines, people):
    stages, *_ = _make(small_engines, use_graphs=False)
    with pytest.raises(InputError, match=f"expected 1 to 8 people, got {people}"):
        stages.run_coarse(people)
    stages.close()


@pytest.mark.parametrize("rows", [[3], [-1], [0, 7], []])
def test_rows_outside_the_batch_are_refused_before_the_device_sees_them(small_engines, rows):
    stages, cuda, *_ = _make(small_engines, use_graphs=False)
    stages.run_coarse(3)
    cuda.log.clear()
    with pytest.raises(InputError, match="run_fine: expected"):
        stages.run_fine(np.array(rows, np.int32))
    assert cuda.log == []
    stages.close()


def test_the_fine_stage_wants_a_coarse_batch_that_succeeded(small_engines):
    stages, _, coarse, _ = _make(small_engines, use_graphs=False)
    with pytest.raises(EngineError, match="expected a coarse batch before it"):
        stages.run_fine(np.array([0], np.int32))
    stages.run_coarse(1)
    coarse.fail = True
    with pytest.raises(EngineError, match="the run failed"):
        stages.run_coarse(2)
    with pytest.raises(EngineError, match="expected a coarse batch before it"):
        stages.run_fine(np.array([0], np.int32))
    coarse.fail = False
    totals = _fill(stages, 2)
    np.testing.assert_array_equal(stages.run_coarse(2).keypoints[:, 0, 0], totals)
    stages.close()


@pytest.mark.parametrize("use_graphs", [False, True])
def test_close_frees_everything_and_may_be_called_twice(small_engines, use_graphs, live):
    stages, cuda, coarse, fine = _make(small_engines, use_graphs=use_graphs)
    stages.run_coarse(3)
    stages.run_fine(np.array([0, 2], np.int32))
    stages.close()
    stages.close()
    assert (coarse.closed, fine.closed, cuda.closed) == (1, 1, True)
    assert live(cuda) == {}
    with pytest.raises(EngineError, match="closed"):
        stages.run_coarse(1)
    with pytest.raises(EngineError, match="closed"):
        stages.run_fine(np.array([0], np.int32))


def test_arrays_that_were_handed_out_outlive_the_engines(small_engines):
    stages, cuda, *_ = _make(small_engines, use_graphs=False)
    totals = _fill(stages, 2)
    crops, keypoints = stages.crops, stages.run_coarse(2).keypoints
    stages.close()
    np.testing.assert_array_equal(keypoints[:, 0, 0], totals)
    assert crops[0].any()
    assert cuda.live["pinned"] > 0


@pytest.mark.parametrize("fail_after", range(19))
def test_an_allocation_that_fails_leaves_nothing_behind(small_engines, fail_after, live):
    cuda = HostCuda(fail_after=fail_after)
    coarse, fine = small_engines(cuda)
    with pytest.raises(EngineError, match="out of memory"):
        TensorRtTwoStage(coarse, fine, cuda, "tensorrt:0", "fp32", use_graphs=False)
    assert (coarse.closed, fine.closed, cuda.closed) == (1, 1, True)
    assert live(cuda) == {}


def test_stages_that_do_not_fit_each_other_are_refused(small_engines, live):
    cuda = HostCuda()
    coarse, fine = small_engines(cuda)
    half = coarse.outputs["region_features"]
    coarse.outputs["region_features"] = type(half)(half.name, np.dtype("float16"), half.shape)
    with pytest.raises(EngineError, match="coarse gives region_features float16"):
        TensorRtTwoStage(coarse, fine, cuda, "tensorrt:0", "fp32", use_graphs=False)
    assert live(cuda) == {}


@pytest.mark.parametrize("use_graphs", [False, True])
def test_the_pipeline_finds_the_same_poses_as_through_onnx_runtime(nano_bundle, bundle_engines, use_graphs):
    from sharpose.bundle import open_bundle
    from sharpose.engines.load import load_two_stage
    from sharpose.runtime.pipeline import PoseEstimator

    bundle = open_bundle(nano_bundle)
    cuda = HostCuda()
    coarse, fine = bundle_engines(nano_bundle, cuda)
    image = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    boxes = np.array([[10, 5, 60, 110], [40, 20, 150, 118], [0, 0, 159, 119]], np.float32)
    stages = TensorRtTwoStage(coarse, fine, cuda, "tensorrt:0", "fp32", use_graphs=use_graphs)
    with (
        PoseEstimator.from_stages(bundle, load_two_stage(bundle, threads=1)) as expected,
        PoseEstimator.from_stages(bundle, stages) as estimator,
    ):
        want = expected(image, boxes, rows=[2, 0])
        for _ in range(2):
            found = estimator(image, boxes, rows=[2, 0])
            np.testing.assert_allclose(found.keypoints, want.keypoints, atol=1e-3)
            np.testing.assert_allclose(found.quality, want.quality, atol=1e-5)
            np.testing.assert_array_equal(found.refined, [True, False, True])
