"""Ctrl-C and SIGTERM end `sharpose-run` soon, with whole files."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from cli_files import PROGRAM, frames_of, lines_of, outputs, table_of, write_boxes


def test_a_signal_is_answered_in_a_frame_of_thousands(
    environment: dict[str, str], nano_bundle: Path, tmp_path: Path
) -> None:
    picture = tmp_path / "0.png"
    cv2.imwrite(str(picture), np.full((90, 120, 3), 90, np.uint8))
    boxes = write_boxes(tmp_path / "b.json", [(0, (1, 2, 50, 60), 0.5)] * 20_000)
    arguments = [str(picture), "--boxes", str(boxes), "--bundle", str(nano_bundle), "--json", str(tmp_path / "o.jsonl")]
    process = subprocess.Popen([PROGRAM, *arguments], env=environment, stderr=subprocess.PIPE, text=True)
    try:
        time.sleep(4)  # by now it estimates, which takes minutes
        asked = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert time.monotonic() - asked < 15  # a second on an idle machine; the frame takes minutes
    finally:
        process.kill()
    assert process.returncode == 130
    assert not (tmp_path / "o.jsonl").exists() or lines_of(tmp_path / "o.jsonl") == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_run_cleanly(
    environment: dict[str, str], nano_bundle: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    source = "scene:frames=100000,size=128x128,people=1"
    arguments = ["--bundle", nano_bundle, "--threads", "1", "--refine", "never", *outputs(tmp_path)]
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
    frames = len(lines_of(lines))
    written = ", ".join(str(tmp_path / name) for name in ("o.mp4", "o.jsonl", "o.json"))
    assert (process.returncode, stderr) == (code, f"warning: interrupted after {frames} frames; {written} hold those\n")
    assert "wrote" not in stdout
    assert 3 <= frames < 100_000
    assert stdout.startswith(f"frames {frames}, people ")
    assert not table_of(stdout)
    assert frames_of(tmp_path / "o.mp4") == frames
    assert isinstance(json.loads((tmp_path / "o.json").read_text()), list)
    assert not list(tmp_path.glob("*.partial.*"))
