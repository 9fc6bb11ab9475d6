"""The cache of engines where several processes use it, and where one is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import cache_stand_ins
import pytest
from cache_stand_ins import REQUEST, Builder

from sharpose.engines.tensorrt.cache import EngineCache

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
        os.kill(os.getpid(), signal.SIGKILL)
    return builder()

if mode.startswith("die at sync"):
    syncs, real = [], os.fsync
    def fsync(file):
        syncs.append(file)
        if len(syncs) == int(mode.split()[-1]):
            os.kill(os.getpid(), signal.SIGKILL)
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
