"""Runs of `sharpose-run` that end before their source should: broken, cut short, or stopped by a signal."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest
from cli_files import PROGRAM, STAGES, Run, frames_of, lines_of, outputs, table_of, write_video


def test_a_video_that_breaks_in_the_middle(sharpose_run: Run, tmp_path: Path) -> None:
    data = bytearray(write_video(tmp_path / "broken.mp4", 60, faststart=True).read_bytes())
    middle = len(data) // 2
    data[middle : middle + 6000] = bytes(6000)
    (tmp_path / "broken.mp4").write_bytes(data)
    done = sharpose_run("broken.mp4", "--full-frame", "--refine", "never", *outputs(tmp_path / "results"))
    assert done.returncode == 2, done.stderr
    (error,) = [line for line in done.stderr.splitlines() if not line.startswith("warning: ")]
    assert error.startswith("error: broken.mp4: broken near frame ")
    assert {path.name for path in (tmp_path / "results").iterdir()} == {
        "o.partial.mp4",
        "o.partial.jsonl",
        "o.partial.json",
    }
    lines = lines_of(tmp_path / "results" / "o.partial.jsonl")
    assert 0 < len(lines) < 60
    assert frames_of(tmp_path / "results" / "o.partial.mp4") == len(lines)
    assert f"the {len(lines)} frames before it are kept in " in error
    assert "o.partial.mp4" in error
    assert f"frames {len(lines)}, people {len(lines)}" in done.stdout
    assert "wrote" not in done.stdout


def test_a_video_that_ends_early_is_a_warning(sharpose_run: Run, tmp_path: Path) -> None:
    data = write_video(tmp_path / "whole.mp4", 40, faststart=True).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 6 // 10])
    done = sharpose_run("cut.mp4", "--full-frame", "--refine", "never", *outputs(tmp_path))
    assert done.returncode == 0, done.stderr
    (warning,) = done.stderr.splitlines()
    frames = len(lines_of(tmp_path / "o.jsonl"))
    assert 10 < frames < 40
    assert warning == f"warning: cut.mp4: its header claims 40 frames, but it ends after {frames}"
    assert frames_of(tmp_path / "o.mp4") == frames


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_run_cleanly(
    environment: dict[str, str], tiny_bundle: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    source = "scene:frames=100000,size=128x128,people=1"
    arguments = ["--bundle", tiny_bundle, "--threads", "1", "--refine", "never", *outputs(tmp_path)]
    process = subprocess.Popen(
        [PROGRAM, source, *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        lines = tmp_path / "o.jsonl"
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not (lines.exists() and lines.read_bytes().count(b"\n") >= 3):
            time.sleep(0.05)
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, stderr) == (code, "")
    frames = len(lines_of(lines))
    assert 3 <= frames < 100_000
    assert stdout.startswith(f"frames {frames}, people ")
    assert list(table_of(stdout)) == STAGES
    assert frames_of(tmp_path / "o.mp4") == frames
    assert isinstance(json.loads((tmp_path / "o.json").read_text()), list)
    assert not list(tmp_path.glob("*.partial.*"))
