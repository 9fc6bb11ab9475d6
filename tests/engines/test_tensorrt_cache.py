"""The cache of engines: what is found, built and believed, by one process or several, and where one is killed."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import cache_stand_ins
import pytest
from cache_stand_ins import GPU, OPTIONS, REQUEST, Builder

from sharpose.engines.tensorrt.cache import EngineCache
from sharpose.errors import EngineError


@pytest.fixture
def cache(tmp_path):
    lines: list[str] = []
    cache = EngineCache(tmp_path / "cache", lines.append)
    cache.lines = lines
    return cache


def test_an_engine_is_built_once_and_found_from_then_on(cache):
    build = Builder()
    first = cache.obtain(REQUEST, build)
    second = cache.obtain(REQUEST, build)
    assert build.count == 1
    assert first.plan == second.plan == b"plan 1 " * 1000
    assert second.sidecar.build_seconds == 1.5
    assert cache.lines == [
        f"coarse engine: building it for NVIDIA GeForce RTX 4090 (8.9, 128 SMs), into {cache.folder}",
    ]
    assert sorted(path.suffix for path in cache.folder.iterdir()) == [".json", ".lock", ".plan"]


@pytest.mark.parametrize(
    "change",
    [
        {"stage": "fine"},
        {"precision": "fp32"},
        {"graph_sha256": "c" * 64},
        {"weights_sha256": "c" * 64},
        {"flavour": "tensorrt_rtx"},
        {"flavour_version": "10.13.0"},
        {"gpu": dataclasses.replace(GPU, name="NVIDIA A10", compute_capability="8.6")},
        {"gpu": dataclasses.replace(GPU, multiprocessors=64)},
        {"options": OPTIONS.model_copy(update={"tf32": True})},
        {"options": OPTIONS.model_copy(update={"opt_batch": [8]})},
        {"options": OPTIONS.model_copy(update={"workspace_mib": 256})},
    ],
    ids=str,
)
def test_a_stale_key_is_rebuilt_beside_the_other(cache, change):
    cache.obtain(REQUEST, Builder())
    other = dataclasses.replace(REQUEST, **change)
    assert cache.obtain(other, Builder(other)).sidecar == Builder(other)()[1]
    assert cache.find(REQUEST) is not None


def test_another_driver_or_gpu_number_is_the_same_engine(cache):
    build = Builder()
    cache.obtain(REQUEST, build)
    cache.obtain(dataclasses.replace(REQUEST, gpu=dataclasses.replace(GPU, index=1, driver="CUDA 13.1")), build)
    assert build.count == 1


@pytest.mark.parametrize("damage", ["truncated", "changed", "empty", "missing"])
def test_a_damaged_plan_is_rebuilt(cache, damage):
    build = Builder()
    path = cache.obtain(REQUEST, build).path
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"truncated": data[:-1], "changed": b"x" + data[1:], "empty": b""}[damage])
    assert cache.obtain(REQUEST, build).plan == b"plan 2 " * 1000
    assert any("skipping" in line for line in cache.lines)
    assert cache.find(REQUEST) is not None


@pytest.mark.parametrize("text", ["", "[]", "{", '{"schema_version": 2}', '{"schema_version": 1}'])
def test_a_sidecar_that_says_nothing_useful_is_rebuilt(cache, text):
    build = Builder()
    engine = cache.obtain(REQUEST, build)
    engine.path.with_suffix(".json").write_text(text)
    assert cache.obtain(REQUEST, build).plan == b"plan 2 " * 1000


def test_an_unknown_key_in_a_sidecar_is_not_believed(cache):
    build = Builder()
    sidecar = cache.obtain(REQUEST, build).path.with_suffix(".json")
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | {"extra": 1}))
    cache.obtain(REQUEST, build)
    assert build.count == 2


def test_a_foreign_engine_under_the_right_name_is_rebuilt(cache):
    foreign = dataclasses.replace(REQUEST, gpu=dataclasses.replace(GPU, name="NVIDIA A10", compute_capability="8.6"))
    engine = cache.obtain(foreign, Builder(foreign))
    for path in (engine.path, engine.path.with_suffix(".json")):
        path.rename(path.with_stem(REQUEST.name))
    build = Builder()
    assert cache.obtain(REQUEST, build).sidecar.gpu.name == GPU.name
    assert build.count == 1
    assert "built for GPU NVIDIA A10 (8.6, 128 SMs), not NVIDIA GeForce RTX 4090 (8.9, 128 SMs)" in "\n".join(
        cache.lines
    )


def _own_folder(tmp_path, request) -> Path:
    """A bundle's engines, written as `build_bundle_engines` does."""
    from sharpose.engines.tensorrt.cache import write_engine

    write_engine(tmp_path / "engines", request.stage, *Builder(request)())
    return tmp_path / "engines"


def test_the_bundles_own_engine_is_taken_first(cache, tmp_path):
    own = _own_folder(tmp_path, REQUEST)
    build = Builder()
    assert cache.obtain(REQUEST, build, own).path == own / "coarse.plan"
    assert build.count == 0
    assert not cache.folder.exists()


def test_the_bundles_own_engine_is_skipped_where_it_does_not_fit(cache, tmp_path):
    own = _own_folder(tmp_path, dataclasses.replace(REQUEST, flavour_version="10.1.0"))
    build = Builder()
    assert cache.obtain(REQUEST, build, own).path.parent == cache.folder
    assert build.count == 1
    assert "built for TensorRT tensorrt 10.1.0, not tensorrt 10.3.0" in cache.lines[0]


def test_engines_of_other_options_are_taken_only_where_any_will_do(cache, tmp_path):
    own = _own_folder(tmp_path, dataclasses.replace(REQUEST, options=OPTIONS.model_copy(update={"max_batch": 8})))
    assert cache.find(REQUEST, own) is None
    assert cache.find(dataclasses.replace(REQUEST, any_options=True), own) is not None


@pytest.mark.parametrize(("wanted", "taken"), [(None, True), (True, True), (False, False)])
def test_an_engine_in_tf32_is_taken_unless_that_is_ruled_out(cache, tmp_path, wanted, taken):
    options = OPTIONS.model_copy(update={"tf32": True})
    own = _own_folder(tmp_path, dataclasses.replace(REQUEST, options=options))
    found = cache.find(dataclasses.replace(REQUEST, any_options=True, tf32=wanted), own)
    assert (found is not None) == taken
    assert taken or "built for TF32 True, not False" in cache.lines[0]


def test_an_engine_built_without_a_gpu_is_taken_only_where_it_is_portable(cache, tmp_path):
    own = _own_folder(tmp_path, dataclasses.replace(REQUEST, gpu=None))
    assert cache.find(REQUEST, own) is None
    assert cache.find(dataclasses.replace(REQUEST, portable=True), own) is not None


def _built_as(tmp_path, options, **changes) -> Path:
    """A bundle's engine, built with TensorRT 10.3 on an RTX 4090 (8.9) unless changed."""
    options = OPTIONS.model_copy(update=options)
    return _own_folder(tmp_path, dataclasses.replace(REQUEST, options=options, **changes))


ANY = dataclasses.replace(REQUEST, any_options=True)
LAPTOP = dataclasses.replace(GPU, name="NVIDIA GeForce RTX 4070 Laptop GPU", multiprocessors=36)
ADA, AMPERE, TURING, ORIN = (
    dataclasses.replace(LAPTOP, name=name, compute_capability=capability, integrated=name == "Orin")
    for name, capability in (("NVIDIA L4", "8.9"), ("NVIDIA A10", "8.6"), ("NVIDIA T4", "7.5"), ("Orin", "8.7"))
)


@pytest.mark.parametrize(
    ("version", "taken"),
    [("10.3.0", True), ("10.3.1", True), ("10.13.3.9", True), ("10.1.0", False), ("11.0.0", False), ("unknown", False)],
)
def test_a_version_compatible_engine_runs_with_later_versions_of_its_major_one(cache, tmp_path, version, taken):
    own = _built_as(tmp_path, {"version_compatible": True})
    request = dataclasses.replace(ANY, flavour_version=version)
    assert (cache.find(request, own) is not None) == taken
    assert cache.find(dataclasses.replace(request, flavour="tensorrt_rtx"), own) is None


@pytest.mark.parametrize(
    ("level", "gpu", "taken"),
    [
        ("ampere-plus", LAPTOP, True),
        ("ampere-plus", AMPERE, True),
        ("ampere-plus", TURING, False),
        ("ampere-plus", ORIN, False),
        ("same-compute-capability", LAPTOP, True),
        ("same-compute-capability", ADA, True),
        ("same-compute-capability", AMPERE, False),
        (None, LAPTOP, False),
        (None, dataclasses.replace(GPU, multiprocessors=127), False),
        ("ampere-plus", None, False),
    ],
)
def test_a_hardware_compatible_engine_runs_on_the_gpus_of_its_level(cache, tmp_path, level, gpu, taken):
    own = _built_as(tmp_path, {"hardware_compatible": level})
    assert (cache.find(dataclasses.replace(ANY, gpu=gpu), own) is not None) == taken
    assert cache.find(dataclasses.replace(ANY, gpu=gpu, flavour_version="10.4.0"), own) is None


def test_discarding_forgets_the_caches_engines_and_no_others(cache, tmp_path):
    own = _own_folder(tmp_path, REQUEST)
    assert not cache.discard(cache.obtain(REQUEST, Builder(), own))
    assert cache.find(REQUEST, own) is not None
    assert cache.discard(cache.obtain(REQUEST, Builder()))
    assert cache.find(REQUEST) is None


def test_a_build_that_fails_leaves_nothing_and_frees_the_lock(cache):
    def fail():
        raise EngineError("no kernel for this")

    with pytest.raises(EngineError, match="no kernel"):
        cache.obtain(REQUEST, fail)
    assert [path.suffix for path in cache.folder.iterdir()] == [".lock"]
    assert cache.obtain(REQUEST, Builder()).plan


def test_a_cache_that_can_not_be_made_says_so(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(EngineError, match="give a writable --engine-cache"):
        EngineCache(file / "cache").obtain(REQUEST, Builder())


SCRIPT = """
import importlib.util, os, signal, sys
from pathlib import Path
from sharpose.engines.tensorrt.cache import EngineCache
spec = importlib.util.spec_from_file_location("helpers", sys.argv[1])
helpers = importlib.util.module_from_spec(spec)
sys.modules["helpers"] = helpers
spec.loader.exec_module(helpers)
say = lambda line: print(line, flush=True)
cache = EngineCache(Path(sys.argv[2]), say)
mode = sys.argv[3]
builder = helpers.Builder()

def build():
    say("BUILD")
    if mode == "wait":
        sys.stdin.readline()
    if mode == "die in build":
        signal.raise_signal(signal.SIGKILL)
    return builder()

if mode.startswith("die at sync"):
    syncs, real = [], os.fsync
    def fsync(file):
        syncs.append(file)
        if len(syncs) == int(mode.split()[-1]):
            signal.raise_signal(signal.SIGKILL)
        real(file)
    os.fsync = fsync

say("GOT " + cache.obtain(helpers.REQUEST, build).path.name)
"""


def _process(folder: Path, mode: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, cache_stand_ins.__file__, str(folder), mode],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_two_processes_at_once_build_once(tmp_path):
    first = _process(tmp_path, "wait")
    assert "building it" in first.stdout.readline()
    assert first.stdout.readline() == "BUILD\n"
    second = _process(tmp_path, "wait")
    assert second.stdout.readline() == "coarse engine: another process is building it; waiting\n"
    first_said, _ = first.communicate("go\n")
    second_said, _ = second.communicate("go\n")
    assert first_said.strip() == f"GOT {REQUEST.name}.plan"
    assert second_said.strip() == f"GOT {REQUEST.name}.plan"  # and no BUILD
    assert (first.returncode, second.returncode) == (0, 0)


@pytest.mark.parametrize(
    ("mode", "left"),
    [("die in build", set()), ("die at sync 1", {".unfinished"}), ("die at sync 3", {".plan", ".unfinished"})],
)
def test_a_killed_build_leaves_nothing_that_is_believed(tmp_path, mode, left):
    process = _process(tmp_path, mode)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert {path.suffix for path in tmp_path.iterdir()} == left | {".lock"}
    cache, build = EngineCache(tmp_path), Builder()
    assert cache.find(REQUEST) is None
    assert cache.obtain(REQUEST, build).plan == b"plan 1 " * 1000
    assert build.count == 1
    assert {path.suffix for path in tmp_path.iterdir()} == {".lock", ".plan", ".json"}


def test_who_waits_for_a_killed_build_builds_itself(tmp_path):
    first = _process(tmp_path, "wait")
    while first.stdout.readline() != "BUILD\n":
        pass
    second = _process(tmp_path, "build")
    assert "waiting" in second.stdout.readline()
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    said, _ = second.communicate()
    assert "BUILD" in said
    assert f"GOT {REQUEST.name}.plan" in said
