"""Contexts for each profile and batch, and CUDA graphs that can't be captured or give something else."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from host_cuda import HostCuda

from sharpose.engines.tensorrt.contexts import _agree
from sharpose.engines.tensorrt.two_stage import TensorRtTwoStage
from sharpose.errors import EngineError


@pytest.fixture
def make(small_engines):
    def make(*, use_graphs=True, fault=None, max_batch=8):
        cuda = HostCuda(fault=fault)
        coarse, fine = small_engines(cuda, max_batch=max_batch)
        return TensorRtTwoStage(coarse, fine, cuda, "tensorrt:0", "fp32", use_graphs=use_graphs), cuda, coarse, fine

    return make


def _check_frame(stages, people, seed):
    """Both stages on new crops and patches, with the sums that must come out."""
    rng = np.random.default_rng(seed)
    stages.crops[:people] = rng.integers(0, 256, stages.crops[:people].shape, dtype=np.uint8)
    stages.patches[:people] = rng.integers(0, 5, stages.patches[:people].shape, dtype=np.uint8)
    totals = stages.crops[:people].astype(np.float32).sum(axis=(1, 2, 3))
    out = stages.run_coarse(people)
    np.testing.assert_array_equal(out.keypoints[:, 0, 0], totals)
    np.testing.assert_array_equal(out.region_order[:, 0], totals.astype(int) % 4)
    rows = rng.permutation(people).astype(np.int32)
    patches = stages.patches[:people].astype(np.float32).sum(axis=(1, 2))
    expected = 5 * totals[rows] + patches + totals[rows].astype(int) % 4
    np.testing.assert_array_equal(stages.run_fine(rows)[:, 0, 0], expected)


def _warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_graphs_that_give_what_the_run_gave_are_used_from_then_on(make, caplog):
    stages, cuda, *_ = make()
    for seed in range(3):
        _check_frame(stages, 3, seed)
    cuda.log.clear()
    _check_frame(stages, 3, 9)
    assert [line for line in cuda.log if not line.startswith("run ")] == [
        "launch graph",
        "record event",
        "wait for event",
    ] * 2
    assert _warnings(caplog) == []
    stages.close()


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("error", "CUDA cuStreamEndCapture failed: CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"),
        ("", "gives another keypoints, quality, region_order, region_features, region_embeddings, heatmaps than"),
        ("coarse N=3", "gives another keypoints, quality, region_order, region_features, region_embeddings, heatmaps"),
        ("upload 36", "the captured graph gives another keypoints, "),  # the crops of a later frame would be missing
        ("download 72", "the captured graph gives another keypoints than"),  # or its keypoints
    ],
    ids=["fails as it ends", "empty", "without the run", "without its input", "without an output"],
)
def test_a_graph_that_fails_or_gives_something_else_is_not_used(make, caplog, live, fault, reason):
    stages, cuda, *_ = make(fault=fault)
    for seed in range(3):
        _check_frame(stages, 3, seed)
    warned = [line for line in _warnings(caplog) if line.startswith("coarse: ")]
    assert len(warned) == 1
    assert warned[0].startswith("coarse: runs without CUDA graphs: for a batch of 3, ")
    assert reason in warned[0]
    cuda.log.clear()
    for people in (3, 1, 8):
        _check_frame(stages, people, people)
    assert not any(line in ("capture", "launch graph") for line in cuda.log if fault in ("", "error"))
    assert len([line for line in _warnings(caplog) if line.startswith("coarse: ")]) == 1
    stages.close()
    assert live(cuda) == {}


def test_a_run_that_fails_while_it_is_captured_costs_the_graphs_alone(make, caplog):
    stages, cuda, coarse, _ = make()
    coarse.fail_in_capture = True
    for seed in range(3):
        _check_frame(stages, 3, seed)
    assert _warnings(caplog) == [
        "coarse: runs without CUDA graphs: for a batch of 3, coarse: operation not permitted when stream is capturing"
    ]
    assert cuda.log.count("capture") == 2  # the fine stage's succeeded
    assert cuda.log.count("launch graph") == 3
    stages.close()


def test_an_error_that_is_only_logged_while_capturing_counts(make, caplog):
    stages, _, coarse, _ = make()
    coarse.logged_in_capture = "IExecutionContext::enqueueV3: Error Code 1:\nMyelin (... failed (400))"
    _check_frame(stages, 2, 0)
    _check_frame(stages, 2, 1)
    assert _warnings(caplog) == [
        "coarse: runs without CUDA graphs: for a batch of 2, IExecutionContext::enqueueV3: Error Code 1: "
        "Myelin (... failed (400))"
    ]
    stages.close()


def test_the_call_after_a_failed_capture_may_report_it_once_more(make, caplog):
    stages, _, coarse, _ = make(fault="error")
    run = coarse.compute
    pending = ["an error of the capture"]

    def compute(*arguments):
        if coarse.cuda.log.count("capture") and pending:
            raise EngineError(pending.pop())
        run(*arguments)

    coarse.compute = compute
    _check_frame(stages, 2, 0)
    assert pending == []
    assert len(_warnings(caplog)) == 2  # of each stage
    stages.close()


def test_a_device_that_fails_for_good_is_an_error(make):
    stages, cuda, coarse, _ = make(fault="error")
    run = coarse.compute

    def compute(*arguments):
        if cuda.log.count("capture"):
            raise EngineError("an illegal address")
        run(*arguments)

    coarse.compute = compute
    with pytest.raises(EngineError, match="an illegal address"):
        stages.run_coarse(2)
    stages.close()


def test_without_graphs_every_profile_has_one_context(make):
    stages, _, coarse, fine = make(use_graphs=False)
    assert coarse.ranges == fine.ranges == ((1, 1), (2, 4), (5, 8))
    for people in (1, 2, 3, 4, 5, 8, 2, 1):
        _check_frame(stages, people, people)
    assert [context.profile for context in coarse.made] == [0, 1, 2]
    assert [context.profile for context in fine.made] == [0, 1, 2]
    stages.close()


def test_with_graphs_every_batch_has_a_context_for_its_profile(make):
    stages, _, coarse, fine = make()
    for people in (8, 1, 2, 3, 8):
        _check_frame(stages, people, people)
    assert [(context.sizes["N"], context.profile) for context in coarse.made] == [(8, 2), (1, 0), (2, 1), (3, 1)]
    assert [(context.sizes["M"], context.profile) for context in fine.made] == [(8, 2), (1, 0), (2, 1), (3, 1)]
    assert {context.sizes["N"] for context in fine.made} == {8}  # the fine stage always sees all of the coarse outputs
    assert len({context.scratch for context in coarse.made + fine.made}) == 1
    stages.close()


def test_a_context_that_tensorrt_can_not_capture_is_run_directly(make, caplog):
    stages, cuda, coarse, _ = make()
    coarse.capturable = False
    for seed in range(2):
        _check_frame(stages, 3, seed)
    assert cuda.log.count("coarse N=3") == 2
    assert _warnings(caplog) == [
        "coarse: runs without CUDA graphs: for a batch of 3, TensorRT says that it can't be captured"
    ]
    stages.close()


@pytest.mark.parametrize(
    ("found", "same"),
    [
        ([1.0, 2.0, np.nan], True),
        ([1.0, 2.01, np.nan], True),  # within a hundredth of the largest
        ([1.0, 2.1, np.nan], False),
        ([np.nan, 2.0, np.nan], False),
    ],
)
def test_outputs_agree_apart_from_rounding(found, same):
    expected = np.array([1.0, 2.0, np.nan], np.float16)
    assert _agree(expected, np.array(found, np.float16)) == same


def test_a_few_regions_may_change_places():
    order = np.arange(48, dtype=np.int32)[None]
    swapped = order.copy()
    swapped[0, [3, 4]] = swapped[0, [4, 3]]
    assert _agree(order, swapped)
    assert not _agree(order, order[:, ::-1])
    assert not _agree(order, np.full_like(order, np.iinfo(np.int32).max))
