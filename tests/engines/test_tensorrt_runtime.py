"""Loading engines, with a stand-in for TensorRT's module: profiles, validity, host code, and what RTX compiled."""

from __future__ import annotations

import dataclasses
import gc
import logging

import pytest
from cache_stand_ins import GPU, OPTIONS, REQUEST, sidecar_for
from fake_tensorrt import Diagnostics, FakeTensorRt, Validity
from host_cuda import HostCuda

from sharpose.bundle import open_bundle
from sharpose.engines.base import specs
from sharpose.engines.tensorrt.cache import write_engine
from sharpose.engines.tensorrt.library import TensorRtFlavour, collect_errors, tensorrt_logger
from sharpose.engines.tensorrt.runtime import TensorRtEngine
from sharpose.errors import EngineError

RANGES = ((1, 1), (2, 4), (5, 16))
PLAN = b"a plan"
KERNELS = "coarse-NVIDIA-GeForce-RTX-4090-8.9-128.kernels"


@pytest.fixture
def cuda():
    cuda = HostCuda()
    with cuda.active():
        yield cuda


@pytest.fixture
def make(nano_bundle, tmp_path):
    """Makes an engine of a stage as the flavour with this name would load it, and returns it with the module."""
    bundle = open_bundle(nano_bundle)

    def make(stage="coarse", name="tensorrt", *, module=None, specialize=False, folder=tmp_path, gpu=GPU, **options):
        entry = bundle.graph(stage)[1]
        if module is None:
            module = FakeTensorRt(*specs(entry), RANGES, {"N": 16} if stage == "fine" else None)
        request = dataclasses.replace(REQUEST, stage=stage, options=OPTIONS.model_copy(update=options))
        stored = write_engine(folder, stage, PLAN, sidecar_for(request, PLAN)) if folder == tmp_path else None
        stored = stored or make.stored
        make.stored = stored
        return TensorRtEngine(TensorRtFlavour(name, "1", module), stored, entry, gpu, specialize=specialize), module

    return make


def _run(engine, cuda, batch):
    """Run a batch in a new context."""
    stream = cuda.stream()
    context = engine.create_context(engine.profile(batch), stream)
    for name, spec in engine.inputs.items():
        context.set_input_shape(name, spec.shape_at(engine.sizes(batch)))
    context.execute(stream)
    return context


@pytest.mark.parametrize(("stage", "axis"), [("coarse", "N"), ("fine", "M")])
def test_the_profiles_are_read_from_the_engine(make, stage, axis):
    engine, _ = make(stage)
    assert (engine.batch_axis, engine.ranges, engine.min_batch, engine.max_batch) == (axis, RANGES, 1, 16)
    assert engine.sizes(3) == ({"N": 3} if stage == "coarse" else {"M": 3, "N": 16})
    assert [engine.profile(batch) for batch in (1, 3, 16)] == [0, 1, 2]
    assert engine.scratch_bytes == 1024


def test_a_context_gets_its_profile_before_its_shapes(make, cuda):
    engine, module = make("fine")
    contexts = [_run(engine, cuda, batch) for batch in (1, 3, 16)]
    assert [context.profile for context in module.contexts] == [0, 1, 2]
    assert [context.shapes["rows"] for context in module.contexts] == [(1,), (3,), (16,)]
    assert {context.shapes["region_order"] for context in module.contexts} == {(16, 12)}
    assert cuda.log.count("synchronize stream") == 2  # the first profile needs none
    with pytest.raises(EngineError, match=r"refuses the profile 3 \(Error in set optimization profile async"):
        engine.create_context(3, cuda.stream())
    assert len(contexts) == 3


def test_code_for_the_host_is_allowed_only_to_version_compatible_plans(make):
    engine, module = make(version_compatible=True)
    module.has_host_code = True
    engine, _ = make(module=module, version_compatible=True)
    assert module.runtimes[-1].engine_host_code_allowed
    assert engine.max_batch == 16
    with pytest.raises(EngineError, match=r"coarse\.plan: TensorRT 1 can't load it"):
        make(module=module)
    assert not module.runtimes[-1].engine_host_code_allowed


@pytest.mark.parametrize(
    ("diagnostics", "reason"),
    [
        (
            Diagnostics.UNSUPPORTED_CC,
            "it has no kernels for this GPU; use NVIDIA TensorRT, or the device cuda (--device cuda)",
        ),
        (Diagnostics.OLD_CUDA_DRIVER | Diagnostics.INSUFFICIENT_GPU_MEMORY, "the GPU driver is too old; update it"),
        (Diagnostics.VERSION_MISMATCH, "another version built it"),
    ],
)
def test_rtx_says_itself_whether_it_runs_on_this_gpu(make, diagnostics, reason):
    _, module = make(name="tensorrt_rtx")
    module.validity = (Validity.INVALID, int(diagnostics))
    with pytest.raises(EngineError) as caught:
        make(name="tensorrt_rtx", module=module)
    assert str(caught.value).endswith(
        f"coarse.plan: TensorRT-RTX 1 can't run it on NVIDIA GeForce RTX 4090 (compute capability 8.9): {reason}"
    )
    make(module=module)  # TensorRT proper isn't asked


@pytest.mark.parametrize("validity", [(Validity.INVALID, 0), (Validity.INVALID, 16), (Validity.SUBOPTIMAL, 2)])
def test_where_rtx_is_not_sure_the_loading_decides(make, validity):
    _, module = make(name="tensorrt_rtx")
    module.validity = validity
    assert make(name="tensorrt_rtx", module=module)[0].max_batch == 16


def test_one_configuration_and_one_cache_live_as_long_as_the_engine(make, cuda):
    engine, module = make(name="tensorrt_rtx", specialize=True)
    assert engine.compiles_shapes
    contexts = [engine.create_context(0, cuda.stream()) for _ in range(2)]
    gc.collect()
    for context in contexts:
        context.set_input_shape("image", (1, 128, 96, 3))
        context.execute(cuda.stream())
    assert module.configurations == 1
    assert module.compiled == [(1, 128, 96, 3)]  # by the first of them, for both
    assert not make()[0].compiles_shapes


def test_what_was_compiled_is_kept_beside_the_engine(make, cuda, tmp_path):
    engine, module = make(name="tensorrt_rtx")
    contexts = [_run(engine, cuda, batch) for batch in (1, 4)]
    engine.save_kernels()
    file = tmp_path / KERNELS
    first = file.read_bytes()
    engine.save_kernels()
    contexts.append(_run(engine, cuda, 8))
    engine.close()  # and what came since
    assert len(file.read_bytes()) > len(first)
    assert [path.name for path in tmp_path.glob("*unfinished*")] == []
    engine, _ = make(name="tensorrt_rtx", module=module, folder=None)
    module.compiled.clear()
    contexts += [_run(engine, cuda, batch) for batch in (1, 4, 8)]
    assert module.compiled == []
    contexts.append(_run(engine, cuda, 2))
    assert module.compiled == [(2, 128, 96, 3)]


@pytest.mark.parametrize("damage", ["truncated", "changed", "another plan's", "another driver's", "empty"])
def test_kernels_that_do_not_fit_are_compiled_again_and_replaced(make, cuda, tmp_path, damage):
    engine, module = make(name="tensorrt_rtx")
    contexts = [_run(engine, cuda, batch) for batch in (1, 2, 3, 4)]
    engine.close()
    file = tmp_path / KERNELS
    good = file.read_bytes()
    if damage == "another driver's":
        module.driver = b"driver 590;"
    else:
        spoilt = {
            "truncated": good[:-3],
            "changed": good[:-3] + b"9)]",
            "empty": b"",
            "another plan's": b"x" + good[1:],
        }
        file.write_bytes(spoilt[damage])
    module.compiled.clear()
    engine, _ = make(name="tensorrt_rtx", module=module, folder=None)
    contexts.append(_run(engine, cuda, 1))
    assert module.compiled == [(1, 128, 96, 3)]
    engine.close()
    module.compiled.clear()
    engine, _ = make(name="tensorrt_rtx", module=module, folder=None)
    contexts.append(_run(engine, cuda, 1))
    assert module.compiled == []


def test_another_process_that_compiled_more_is_not_undone(make, cuda, tmp_path):
    one, module = make(name="tensorrt_rtx")
    other, _ = make(name="tensorrt_rtx", module=module, folder=None)
    contexts = [_run(one, cuda, 1), *(_run(other, cuda, batch) for batch in (1, 2, 4))]
    other.close()
    more = (tmp_path / KERNELS).read_bytes()
    assert b"(4, 128, 96, 3)" in more
    one.close()
    assert (tmp_path / KERNELS).read_bytes() == more
    assert len(contexts) == 4


def test_every_gpu_has_its_own_kernels_of_a_portable_plan(make, cuda, tmp_path):
    engine, module = make(name="tensorrt_rtx")
    contexts = [_run(engine, cuda, 1)]
    engine.close()
    other, _ = make(name="tensorrt_rtx", module=module, folder=None, gpu=dataclasses.replace(GPU, multiprocessors=76))
    contexts.append(_run(other, cuda, 2))
    other.close()
    assert module.compiled == [(1, 128, 96, 3), (2, 128, 96, 3)]
    assert sorted(path.name for path in tmp_path.glob("*.kernels")) == [KERNELS, KERNELS.replace("128", "76")]
    again, _ = make(name="tensorrt_rtx", module=module, folder=None)
    contexts.append(_run(again, cuda, 1))
    assert len(module.compiled) == 2


def test_a_new_plan_starts_without_the_old_ones_kernels(make, cuda, tmp_path):
    engine, module = make(name="tensorrt_rtx")
    context = _run(engine, cuda, 1)
    engine.close()
    assert (tmp_path / KERNELS).exists()
    make(name="tensorrt_rtx", module=module)
    assert not (tmp_path / KERNELS).exists()
    assert context


def test_a_folder_that_can_not_be_written_costs_a_warning(make, cuda, tmp_path, caplog):
    engine, _ = make(name="tensorrt_rtx")
    context = _run(engine, cuda, 1)
    (tmp_path / f".{KERNELS}.lock").mkdir()
    with caplog.at_level(logging.WARNING):
        engine.save_kernels()
        engine.close()
    (record,) = caplog.records
    assert f"{KERNELS}: compiled kernels can't be kept, so every start compiles them" in record.getMessage()
    assert context


def test_an_error_that_a_run_logs_is_not_lost_though_the_run_says_that_it_succeeded(make, cuda, caplog):
    engine, module = make()
    context = engine.create_context(0, cuda.stream())
    logger, error = tensorrt_logger(TensorRtFlavour("tensorrt", "1", module)), "Cuda Runtime (an illegal access)"
    succeeds = True

    def execute(stream):
        logger.log(1, error)
        return succeeds

    module.contexts[-1].execute_async_v3 = execute
    context.execute(cuda.stream())
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [("ERROR", error)]
    with collect_errors() as messages:  # as a capture does, which then isn't used
        context.execute(cuda.stream())
    succeeds = False
    with pytest.raises(EngineError, match=r"TensorRT 1 refuses the run \(Cuda Runtime \(an illegal access\)\)"):
        context.execute(cuda.stream())
    assert (messages, len(caplog.records)) == ([error], 1)
