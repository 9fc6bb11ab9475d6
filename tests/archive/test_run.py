"""`sharpose-archive` as processes: kills, Ctrl-C, failures, and the bytes of `sharpose-run`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest
from cli_files import write_video
from forked_commands import CommandServer
from video_files import with_garbage

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def report_of(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def states(report: dict[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry["state"] for entry in report["results"]}


def owner_of(hidden: Path, *, other_than: Collection[int] = (), seconds: float = 60) -> int:
    """Process id of the worker that writes there, once there is one."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        words = (hidden / "owner").read_text().split() if (hidden / "owner").exists() else []
        if len(words) == 4 and int(words[2]) not in other_than:
            return int(words[2])
        time.sleep(0.01)
    raise AssertionError(f"nobody wrote into {hidden}")


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.glob("v*")}


def hidden(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.startswith(".")]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", "ray"])
def test_killed_workers_and_a_killed_run(
    engine: str,
    start_archive: Callable[..., subprocess.Popen[str]],
    sharpose_archive: Run,
    command_server: CommandServer,
    nano_bundle: Path,
    twelve_videos: Path,
    tmp_path: Path,
) -> None:
    """Every result is whole, none is made twice, and the bytes are those of `sharpose-run`."""
    if engine == "ray":
        pytest.importorskip("ray")
    outputs = ["--json", "out/{source}.jsonl", "--csv", "out/{source}.csv"]
    engines = ["--engine", engine, "--workers", 2]
    out, home = tmp_path / "out", tmp_path / "home"
    home.mkdir()
    process = start_archive(twelve_videos, *outputs, *engines, HOME=str(home))
    try:
        first = owner_of(out / ".v00.jsonl.unfinished")
        os.kill(first, signal.SIGKILL)
        second = owner_of(out / ".v00.jsonl.unfinished", other_than=(first, process.pid))  # which sweeps there
        wait_until(lambda: len(list(out.glob("v*.csv"))) >= 5)  # v00 is tried again after the others
        process.send_signal(signal.SIGKILL)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    how = "its process was ended by SIGKILL" if engine == "local" else "its actor ended: "
    assert f"warning: {twelve_videos}/v00.mp4: {how}" in errors
    wait_until(lambda: not is_alive(second))  # workers end with their run
    before = stamps(out)
    unfinished = (out / ".v00.jsonl.unfinished").is_dir()
    assert unfinished == ("v00.jsonl" not in before)
    assert unfinished or engine == "ray"  # whose actors take a moment to miss their driver

    done = sharpose_archive(twelve_videos, *outputs, *engines, "--report", "report.json", HOME=str(home))
    assert done.returncode == 0, done.stderr
    assert ("removed what killed runs left unfinished" in done.stderr) == unfinished
    report = report_of(tmp_path / "report.json")
    assert (report["videos"], report["failed"]) == (12, 0)
    assert report["skipped"] == sum(f"v{number:02d}.csv" in before for number in range(12)) >= 5
    assert report["done"] == 12 - report["skipped"] >= unfinished
    assert {name: stamp for name, stamp in stamps(out).items() if name in before} == before
    assert not hidden(out)
    assert not (home / ".ray").exists()

    arguments = [*outputs, "--full-frame", "--bundle", nano_bundle, "--batch", 1, "--threads", 1]
    arguments = [str(one).replace("out/", "one/") for one in arguments]
    alone = command_server.run("run", [twelve_videos, *arguments], tmp_path)
    assert alone.returncode == 0, alone.stderr
    results = {path.name: path.read_bytes() for path in out.iterdir()}
    assert len(results) == 24
    assert results == {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_nothing_unfinished(
    start_archive: Callable[..., subprocess.Popen[str]],
    twelve_videos: Path,
    tmp_path: Path,
    number: signal.Signals,
    code: int,
) -> None:
    out = tmp_path / "out"
    process = start_archive(
        twelve_videos / "v00.mp4", twelve_videos / "v01.mp4", "--json", "out/{source}.jsonl", "--report", "report.json"
    )
    try:
        worker = owner_of(out / ".v00.jsonl.unfinished")
        os.killpg(process.pid, number)  # to the workers as well, as a terminal and Slurm do
        said, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, errors) == (
        code,
        "warning: interrupted; the same command goes on where this run ended\n",
    )
    assert said.startswith("2 videos: 0 done, 0 done before, 0 failed, 2 not done; ")
    assert not is_alive(worker)
    assert list(out.iterdir()) == []
    assert states(report_of(tmp_path / "report.json")) == {"v00": "not done", "v01": "not done"}


def test_what_fails_is_said_and_others_go_on(sharpose_archive: Run, tmp_path: Path) -> None:
    """Damaged, empty, no video, gone; a full disk; what was done before; results of which one was there."""
    videos, out = tmp_path / "videos", tmp_path / "out"
    videos.mkdir()
    out.mkdir()
    whole = write_video(videos / "good.mp4")
    (videos / "empty.mp4").touch()
    (videos / "text.mp4").write_text("hello")
    (videos / "damaged.mp4").write_bytes(with_garbage(whole.read_bytes(), 0.5, 3000))
    for name in ("half", "before"):
        shutil.copy(whole, videos / f"{name}.mp4")
    for name in ("half.csv", "before.csv", "before.jsonl"):
        (out / name).write_text("of an earlier run")
    (out / "damaged.partial.csv").write_text("of an earlier run")
    (out / "good.partial.csv").write_text("of an earlier run")
    (tmp_path / "list.txt").write_text("# all of them\nvideos\n\ngone.mp4\n")
    outputs = ["--json", "out/{source}.jsonl", "--csv", "out/{source}.csv"]

    done = sharpose_archive("@list.txt", *outputs, "--workers", 1, "--report", "reports/0.json")
    assert done.returncode == 3, done.stderr
    assert done.stdout.startswith("7 videos: 2 done, 1 done before, 4 failed; ")
    report = report_of(tmp_path / "reports" / "0.json")
    failed = {entry["name"]: entry for entry in report["results"] if entry["state"] == "failed"}
    assert states(report) == dict.fromkeys(failed, "failed") | {"half": "done", "good": "done", "before": "skipped"}
    reasons = {name: entry["reason"].partition(";")[0] for name, entry in failed.items()}
    assert reasons == {
        "empty": "expected a video, found an empty file",
        "text": "expected a video file, but it can't be opened as one: it is no video, or was cut off before the index "
        "that it ends with",
        "gone": "there is no such file",
        "damaged": "skipped damage once, near frame 3 (part of a picture is missing)",
    }
    last = done.stderr.splitlines()[-4:]
    assert [line.partition(":")[0] for line in last] == ["error"] * 4
    assert "error: videos/empty.mp4: expected a video, found an empty file" in last
    assert failed["damaged"]["partial"] == ["out/damaged.partial.jsonl", "out/damaged.partial.csv"]
    assert failed["damaged"]["tries"] == 1
    assert (out / "damaged.partial.csv").read_text() != "of an earlier run"
    assert sorted(path.name for path in out.iterdir()) == [
        "before.csv", "before.jsonl", "damaged.partial.csv", "damaged.partial.jsonl", "good.csv", "good.jsonl",
        "half.csv", "half.jsonl",
    ]  # fmt: skip
    assert (out / "half.csv").read_text() == (out / "before.csv").read_text() == "of an earlier run"
    assert (out / "half.jsonl").read_bytes() == (out / "good.jsonl").read_bytes()
