"""Finding, building and loading engines, with stand-ins for the GPU, TensorRT and its builder."""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import sys
from types import ModuleType

import numpy as np
import pytest
from host_cuda import HostCuda

from sharpose.bundle import Bundle, open_bundle
from sharpose.engines.base import GraphError, specs
from sharpose.engines.device import parse_device
from sharpose.engines.gpu import Gpu, probe_gpus
from sharpose.engines.load import load_two_stage
from sharpose.engines.stages import open_stages
from sharpose.engines.tensorrt import load as tensorrt_load
from sharpose.engines.tensorrt.build import describe_gpu
from sharpose.engines.tensorrt.cache import Sidecar, write_engine
from sharpose.engines.tensorrt.library import BuildOptions, TensorRtFlavour
from sharpose.engines.tensorrt.load import TensorRtSettings, load_tensorrt_runner
from sharpose.errors import BundleError, EngineError

GPU = Gpu(0, "NVIDIA H100", "9.0", "CUDA 13.0", 132, False)


class Machine:
    """A machine with a GPU and a TensorRT whose plans are plain words."""

    def __init__(self, host_engine):
        self.flavour = TensorRtFlavour("tensorrt", "10.13.0", ModuleType("tensorrt"))
        self.host_engine = host_engine
        self.cudas: list[HostCuda] = []
        self.built: list[str] = []
        self.loaded: list[str] = []
        self.unloadable: set[bytes] = set()
        self.has_graphs, self.shares_memory = True, False

    def open_cuda_device(self, index, name):
        self.cudas.append(HostCuda(has_graphs=self.has_graphs, shares_memory=self.shares_memory))
        return self.cudas[-1]

    def build(self, bundle, stage, precision, options, on_progress, *, flavour, gpu, folder):
        self.built.append(stage)
        self.options = options
        plan = f"{stage} {len(self.built)}".encode()
        return plan, self.sidecar(bundle, stage, precision, options, plan)

    def sidecar(self, bundle, stage, precision, options, plan, gpu=GPU):
        return Sidecar(
            schema_version=2,
            sharpose_version="0",
            stage=stage,
            precision=precision,
            graph_sha256=bundle.graph_sha256(stage, precision),
            weights_sha256=bundle.manifest.files["weights.bin"],
            flavour=self.flavour.name,
            flavour_version=self.flavour.version,
            gpu=describe_gpu(gpu),
            options=tensorrt_load.describe_options(options, precision, self.flavour),
            profiles=[],
            tensors=[],
            layers={},
            engine_layers=None,
            build_seconds=0.0,
            plan_bytes=len(plan),
            plan_sha256=hashlib.sha256(plan).hexdigest(),
        )

    def engine(self, flavour, stored, entry, gpu, *, specialize):
        plan, what = stored.plan, str(stored.path)
        if plan in self.unloadable:
            raise EngineError(f"{what}: TensorRT can't load it")
        self.loaded.append(plan.decode())
        inputs, outputs = specs(entry)
        self.specialized = specialize

        def zeros(arrays):
            people = len(arrays["rows" if "rows" in arrays else "image"])
            return {
                name: np.zeros([people if isinstance(size, str) else size for size in spec.shape], spec.dtype)
                for name, spec in outputs.items()
            }

        return self.host_engine(what, self.cudas[-1], inputs, outputs, zeros, max_batch=16)


@pytest.fixture
def machine(monkeypatch, host_engine):
    machine = Machine(host_engine)
    monkeypatch.setattr(tensorrt_load, "probe_gpu", lambda index: dataclasses.replace(GPU, index=index))
    monkeypatch.setattr(tensorrt_load, "find_flavour", lambda name: machine.flavour)
    monkeypatch.setattr(tensorrt_load, "open_cuda_device", machine.open_cuda_device)
    monkeypatch.setattr(tensorrt_load, "build_engine", machine.build)
    monkeypatch.setattr(tensorrt_load, "TensorRtEngine", machine.engine)
    return machine


@pytest.fixture(scope="module")
def bundle(nano_bundle):
    return open_bundle(nano_bundle)


@pytest.fixture
def settings(tmp_path):
    lines: list[str] = []
    settings = TensorRtSettings(engine_cache=tmp_path / "cache", say=lines.append)
    object.__setattr__(settings, "lines", lines)
    return settings


def _load(bundle, settings, device="tensorrt:0", precision="auto"):
    stages = load_two_stage(bundle, device, precision=precision, tensorrt=settings)
    stages.close()
    return stages


def test_engines_are_built_once(machine, bundle, settings):
    stages = _load(bundle, settings, "tensorrt")
    assert (stages.device, stages.max_batch) == ("tensorrt:0", 16)
    assert machine.built == ["coarse", "fine"]
    _load(bundle, settings)
    assert machine.built == ["coarse", "fine"]
    assert machine.loaded == ["coarse 1", "fine 2"] * 2
    assert settings.lines[0] == "TensorRT 10.13.0, fp32 graphs, NVIDIA H100, host, CUDA graphs on"
    assert all(cuda.closed and not +cuda.live for cuda in machine.cudas)


def test_another_threshold_rebuilds_nothing(machine, bundle, settings):
    _load(bundle, settings)
    gate = bundle.manifest.gate.model_copy(update={"quality_threshold": 0.1})
    _load(Bundle(bundle.path, bundle.manifest.model_copy(update={"gate": gate})), settings)
    assert machine.built == ["coarse", "fine"]


def test_another_weight_or_option_or_version_rebuilds(machine, bundle, settings):
    _load(bundle, settings)
    files = bundle.manifest.files | {"weights.bin": "0" * 64}
    _load(Bundle(bundle.path, bundle.manifest.model_copy(update={"files": files})), settings)
    assert len(machine.built) == 4
    _load(bundle, dataclasses.replace(settings, options=BuildOptions(max_batch=16, opt_batch=(1,))))
    assert len(machine.built) == 6
    machine.flavour = dataclasses.replace(machine.flavour, version="10.14.0")
    _load(bundle, settings)
    assert len(machine.built) == 8


def test_an_engine_that_does_not_load_is_rebuilt_once(machine, bundle, settings):
    _load(bundle, settings)
    machine.unloadable = {b"coarse 1"}
    _load(bundle, settings)
    assert machine.built == ["coarse", "fine", "coarse"]
    assert machine.loaded[-2:] == ["coarse 3", "fine 2"]
    assert any("trying another" in line for line in settings.lines)
    machine.unloadable = {b"coarse 3", b"coarse 4"}
    with pytest.raises(EngineError, match="TensorRT can't load it"):
        _load(bundle, settings)
    assert machine.cudas[-1].closed


def _own(machine, bundle, tmp_path, gpu=GPU):
    copy = Bundle(tmp_path / "copy", bundle.manifest)
    for stage in ("coarse", "fine"):
        plan = f"own {stage}".encode()
        options = BuildOptions(max_batch=8, opt_batch=(8,))
        write_engine(copy.path / "engines", stage, plan, machine.sidecar(bundle, stage, "fp32", options, plan, gpu))
    return copy


def test_the_bundles_own_engines_are_used_whatever_their_options(machine, bundle, settings, tmp_path):
    _load(_own(machine, bundle, tmp_path), settings)
    assert (machine.built, machine.loaded) == ([], ["own coarse", "own fine"])


def test_the_bundles_own_engines_are_skipped_where_options_were_asked_for(machine, bundle, settings, tmp_path):
    _load(_own(machine, bundle, tmp_path), dataclasses.replace(settings, options=BuildOptions(max_batch=16)))
    assert machine.built == ["coarse", "fine"]


def test_the_bundles_own_engines_are_skipped_where_they_use_tf32_and_should_not(machine, bundle, settings, tmp_path):
    copy = _own(machine, bundle, tmp_path)  # without TF32
    _load(copy, dataclasses.replace(settings, tf32=False))
    assert machine.built == []
    _load(copy, dataclasses.replace(settings, tf32=True))
    assert machine.built == ["coarse", "fine"]
    assert machine.options.tf32


def test_the_batches_are_run_before_the_first_frame(machine, bundle, settings):
    stages = load_two_stage(bundle, "tensorrt", tensorrt=settings)
    cuda = machine.cudas[-1]
    assert cuda.log.count("capture") == 16  # 1, 2, 3, 4, 6, 8, 12 and 16 people, for either stage
    cuda.log.clear()
    stages.run_coarse(5)
    stages.run_fine(np.array([4], np.int32))
    assert "capture" not in cuda.log
    assert not any(line.startswith("shape") for line in cuda.log)
    stages.close()
    stages = load_two_stage(bundle, "tensorrt", tensorrt=dataclasses.replace(settings, warm_up=False))
    assert machine.cudas[-1].log == []
    stages.close()


@pytest.mark.parametrize(
    ("shares_memory", "setting", "mapped"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_an_integrated_gpu_maps_memory_unless_told_not_to(machine, bundle, settings, shares_memory, setting, mapped):
    machine.shares_memory = shares_memory
    stages = load_two_stage(bundle, "tensorrt", tensorrt=dataclasses.replace(settings, mapped_memory=setting))
    assert any(line.startswith("upload") for line in machine.cudas[-1].log if "run" not in line) or mapped
    assert machine.cudas[-1].live["HostBuffer"] == (4 if mapped else 10)
    stages.close()


def test_a_run_that_fails_while_warming_up_frees_everything(machine, bundle, settings, monkeypatch, live):
    monkeypatch.setattr(tensorrt_load.TensorRtTwoStage, "run_fine", lambda self, rows: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        load_two_stage(bundle, "tensorrt", tensorrt=settings)
    assert machine.cudas[-1].closed
    assert not +machine.cudas[-1].live


def test_a_foreign_gpus_engines_are_skipped(machine, bundle, settings, tmp_path):
    _load(_own(machine, bundle, tmp_path, Gpu(0, "NVIDIA A10", "8.6", "", 72, False)), settings)
    assert machine.built == ["coarse", "fine"]
    assert any(
        "built for GPU NVIDIA A10 (8.6, 72 SMs), not NVIDIA H100 (9.0, 132 SMs)" in line for line in settings.lines
    )


def test_a_bundles_engine_that_does_not_load_stays_and_the_cache_builds_another(machine, bundle, settings, tmp_path):
    machine.unloadable = {b"own coarse"}
    copy = _own(machine, bundle, tmp_path)
    _load(copy, settings)
    assert (machine.built, machine.loaded) == (["coarse"], ["coarse 1", "own fine"])
    assert (copy.path / "engines" / "coarse.json").exists()


def test_half_graphs_are_preferred_where_the_bundle_has_them(machine, bundle, settings):
    graphs, parity = (values | {"fp16": values["fp32"]} for values in (bundle.manifest.graphs, bundle.manifest.parity))
    both = Bundle(bundle.path, bundle.manifest.model_copy(update={"graphs": graphs, "parity": parity}))
    assert _load(both, settings).precision == "fp16"
    assert _load(both, settings, precision="fp32").precision == "fp32"
    said = [line.split(", ")[1] for line in settings.lines if "graphs, NVIDIA" in line]
    assert said == ["fp16 graphs", "fp32 graphs"]
    with pytest.raises(BundleError, match="holds fp32 graphs, not fp16"):
        _load(bundle, settings, precision="fp16")


def test_what_cannot_be_built_says_which_precisions_are_left(machine, bundle, settings, monkeypatch):
    def refuse(*arguments, **options):
        raise GraphError("coarse.int8.onnx: TensorRT can't build the engine")

    monkeypatch.setattr(tensorrt_load, "build_engine", refuse)
    graphs = dict.fromkeys(("fp32", "fp16", "int8"), bundle.manifest.graphs["fp32"])
    several = Bundle(bundle.path, bundle.manifest.model_copy(update={"graphs": graphs}))
    with pytest.raises(GraphError, match=r"can't build the engine; try --precision fp32 or fp16$"):
        _load(several, settings, precision="int8")
    with pytest.raises(GraphError, match=r"can't build the engine$"):
        _load(bundle, settings)


def test_cuda_graphs_are_used_where_the_bindings_have_them(machine, bundle, settings):
    _load(bundle, settings)
    assert machine.specialized
    _load(bundle, dataclasses.replace(settings, cuda_graphs=False))
    assert not machine.specialized
    machine.has_graphs = False
    _load(bundle, settings)
    assert [line.split()[-1] for line in settings.lines if ", host, CUDA graphs " in line] == ["on", "off", "off"]
    with pytest.raises(EngineError, match="--cuda-graphs: host has none; use --cuda-bindings cuda-python"):
        _load(bundle, dataclasses.replace(settings, cuda_graphs=True))
    assert machine.cudas[-1].closed


def test_one_stage_is_an_engine(machine, bundle, settings):
    engine = load_tensorrt_runner(bundle, "coarse", parse_device("tensorrt"), "fp32", settings)
    outputs = engine.run({"image": np.ones((3, 128, 96, 3), np.uint8)}, ["quality", "heatmaps"])
    assert outputs["quality"].shape == (3,)
    assert outputs["heatmaps"].shape == (3, 17, 32, 24)
    engine.close()
    assert machine.cudas[-1].closed


@pytest.mark.parametrize("load", [load_two_stage, open_stages])
def test_the_coarse_engine_is_freed_where_the_fine_one_can_not_be_loaded(machine, bundle, settings, monkeypatch, load):
    made = []

    def engine(flavour, stored, entry, gpu, *, specialize):
        made.append(machine.engine(flavour, stored, entry, gpu, specialize=specialize))
        return made[-1]

    monkeypatch.setattr(tensorrt_load, "TensorRtEngine", engine)
    monkeypatch.setenv("XDG_CACHE_HOME", str(settings.engine_cache))
    machine.unloadable = {b"fine 2", b"fine 3"}
    with pytest.raises(EngineError, match="TensorRT can't load it"):
        load(bundle, "tensorrt")
    assert [item.closed for item in made] == [1]
    assert machine.loaded == ["coarse 1"]
    assert all(cuda.closed for cuda in machine.cudas)


def test_no_driver_is_the_first_thing_said(bundle, monkeypatch):
    def missing(index):
        raise EngineError("no GPU driver (libcuda.so.1 can't be loaded)")

    monkeypatch.setattr(tensorrt_load, "probe_gpu", missing)
    monkeypatch.setattr(tensorrt_load, "find_flavour", lambda name: pytest.fail("asked for TensorRT"))
    with pytest.raises(EngineError, match=r"^no GPU driver"):
        load_two_stage(bundle, "tensorrt")


def test_a_gpu_without_tensorrt_says_how_to_get_it(bundle, monkeypatch):
    monkeypatch.setattr(tensorrt_load, "probe_gpu", lambda index: GPU)
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)  # importing it fails
    with pytest.raises(EngineError, match=r"TensorRT can't be used .*\[tensorrt-rtx-cu13\]"):
        load_two_stage(bundle, "tensorrt")


def _has_gpu() -> bool:
    try:
        return bool(probe_gpus())
    except EngineError:
        return False


@pytest.mark.skipif(_has_gpu(), reason="there is a GPU")
def test_the_command_says_in_one_line_that_there_is_no_driver(nano_bundle):
    command = "from sharpose.runtime.cli import main; main()"
    arguments = ["scene", "--bundle", str(nano_bundle), "--device", "tensorrt"]
    result = subprocess.run([sys.executable, "-c", command, *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: no GPU driver (libcuda.so.1 can't be loaded)")


def test_tensorrts_options_want_its_device(nano_bundle):
    import click
    from click.testing import CliRunner

    from sharpose.runtime.cli import command

    for option in (["--engine-cache", "x"], ["--cuda-bindings", "pycuda"], ["--no-cuda-graphs"]):
        result = CliRunner().invoke(command, ["scene", "--bundle", str(nano_bundle), *option], standalone_mode=False)
        assert isinstance(result.exception, click.UsageError)
        wanted = "tensorrt or ort-tensorrt" if option[0] == "--engine-cache" else "tensorrt"
        assert f"is for --device {wanted}, got --device cpu" in str(result.exception)
