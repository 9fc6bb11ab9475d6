"""The Slurm array's script and the Kubernetes Job's arguments, run as these would run them, on two short videos."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from cli_files import write_video
from forked_commands import CommandServer

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
SCRIPT = DEPLOY / "slurm" / "archive.sh"


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a.mp4 and b.mp4, of two frames each."""
    folder = tmp_path_factory.mktemp("videos")
    shutil.copy(write_video(folder / "a.mp4", 2), folder / "b.mp4")
    return folder


def _lines(folder: Path) -> dict[str, int]:
    """How many lines each result has, by its name."""
    return {path.name: len(path.read_text("utf-8").splitlines()) for path in sorted(folder.glob("*.jsonl"))}


def test_a_task_of_the_slurm_array_does_its_videos(
    videos: Path, on_path: dict[str, str], nano_bundle: Path, tmp_path: Path
) -> None:
    options = ["--full-frame", "--bundle", str(nano_bundle), "--batch", "1"]
    done = subprocess.run(
        ["bash", str(SCRIPT), str(videos), str(tmp_path / "results"), *options],
        env=on_path | {"SLURM_ARRAY_TASK_ID": "1", "SLURM_CPUS_PER_TASK": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert _lines(tmp_path / "results") == {"b.jsonl": 2}


@pytest.mark.parametrize(
    ("given", "run"),
    [
        ([], ["--workers", "1", "--threads", "3"]),
        (["--workers", "2"], ["--workers", "2"]),
        (["--threads=1"], ["--threads=1"]),
        (["--server", "http://triton:8000/sharpose"], ["--server", "http://triton:8000/sharpose"]),
    ],
)
def test_options_of_ones_own_take_the_place_of_the_scripts(given: list[str], run: list[str], tmp_path: Path) -> None:
    program = tmp_path / "sharpose-archive"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_ARRAY_TASK_ID": "1", "SLURM_CPUS_PER_TASK": "3"}
    done = subprocess.run(
        ["bash", str(SCRIPT), "in", "out", *given], env=environment, capture_output=True, text=True, check=True
    )
    words = done.stdout.splitlines()
    assert words[:5] == ["in", "--json", "out/{source}.jsonl", "--shard", "1/20"]
    assert sorted(words[5:]) == sorted([*run, "--json-logs"])


def test_a_pod_of_the_job_does_its_videos(
    videos: Path, command_server: CommandServer, nano_bundle: Path, tmp_path: Path
) -> None:
    (job,) = yaml.safe_load_all((DEPLOY / "kubernetes" / "archive.yaml").read_text("utf-8"))
    (container,) = job["spec"]["template"]["spec"]["containers"]
    words = [*container["command"], *container["args"]]
    mounted = {"/videos": str(videos), "/results": str(tmp_path / "results")}
    assert mounted.keys() < {mount["mountPath"] for mount in container["volumeMounts"]}
    words[words.index("--detector") : words.index("--detector") + 2] = ["--full-frame"]
    words = [word.replace("$(JOB_COMPLETION_INDEX)", "0") for word in words]
    for inside, here in mounted.items():
        words = [here + word.removeprefix(inside) if word.startswith(inside) else word for word in words]
    words += ["--bundle", str(nano_bundle), "--batch", "1"]
    assert words[0] == "sharpose-archive"
    done = command_server.run("archive", words[1:], tmp_path)
    assert done.returncode == 0, done.stderr
    assert _lines(tmp_path / "results") == {"a.jsonl": 2}


def test_the_array_has_as_many_tasks_as_shards() -> None:
    text = SCRIPT.read_text("utf-8")
    (first, last) = re.findall(r"^#SBATCH --array=(\d+)-(\d+)$", text, re.MULTILINE)[0]
    (shards,) = re.findall(r"^shards=(\d+)$", text, re.MULTILINE)
    assert (int(first), int(last) + 1) == (0, int(shards))
    options = [line for line in text.splitlines() if line.startswith("#SBATCH")]
    assert text.index(options[-1]) < text.index("set -euo")  # sbatch reads no further than the first command


@pytest.mark.parametrize(
    ("words", "said"),
    [([], "expected the folder of videos"), (["in"], "folder of results"), (["in", "out"], "to be run by sbatch")],
)
def test_a_wrong_call_says_how_it_is_called(words: list[str], said: str, on_path: dict[str, str]) -> None:
    done = subprocess.run(["bash", str(SCRIPT), *words], env=on_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert said in done.stderr
