"""The CPU time of a run is taken apart, and the report says how much more it is than its engines and FFmpeg."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import overhead
import pytest
from cli_files import write_boxes, write_video
from overhead import Overhead, Setup, command, make_video

from sharpose.cli import main
from sharpose.runtime.sources.video import VideoSource


def test_more_is_what_remains_beside_engines_and_ffmpeg() -> None:
    found = Overhead(10, 2.0, 1.0, 9.0, 15.0, 6.0, 2.0, 4.0, {"crops": 0.5, "JSON": 0.25})
    assert found.necessary == 12.0
    assert found.more == pytest.approx(0.25)


def test_a_video_is_taken_apart(nano_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = write_video(tmp_path / "video.mp4")
    boxes = write_boxes(tmp_path / "b.json", [(index, (1, 2, 50, 60), 0.5) for index in range(3)])
    options = ["--boxes", str(boxes), "--bundle", str(nano_bundle), "--refine", "always", "--threads", "1"]
    with pytest.raises(SystemExit) as ended:
        main(command, [str(video), *options, "--frames", "3", "--output", str(tmp_path / "out")])
    assert ended.value.code == 0
    page = (tmp_path / "out" / "overhead.md").read_text()
    assert page in capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "overhead.json").read_text())
    assert (report["frames"], report["people"], report["refined"]) == (3, 1.0, 1.0)
    assert min(report["engines"], report["decode"], report["encode"]) > 0
    necessary = report["engines"] + report["decode"] + report["encode"]
    assert report["more"] == pytest.approx(report["whole"] / necessary - 1)
    assert list(report["parts"]) == ["to BGR", "crops", "patches", "map back", "drawing", "to YUV", "JSON"]
    rows = dict(re.findall(r"^\| \**([^|*]+?)\** \| (-?[0-9.]+) \|$", page, re.MULTILINE))
    rest = [float(rows[f"the rest: {name}"]) for name in (*report["parts"], "other")]
    assert sum(rest) + necessary == pytest.approx(report["whole"], abs=0.1)


def test_a_signal_keeps_what_is_measured(
    nano_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_once(setup: Setup, frames: int, annotated: Path, lines: Path) -> tuple[float, float]:
        people = [{"refined": True}, {"refined": False}]
        lines.write_text("".join(json.dumps({"people": people}) + "\n" for _ in range(frames)))
        return 0.1 * frames, 0.2 * frames

    monkeypatch.setattr(overhead, "run_once", run_once)
    monkeypatch.setattr(overhead, "engines_alone", lambda setup, counts: 0.15)
    monkeypatch.setattr(overhead, "decode_alone", lambda video, frames: signal.raise_signal(signal.SIGINT))
    words = ["v.mp4", "--boxes", "b.json", "--bundle", str(nano_bundle), "--frames", "3", "--output", str(tmp_path)]
    with pytest.raises(SystemExit) as ended:
        main(command, words)
    said, error = capsys.readouterr()
    assert ended.value.code == 130
    assert error == f"error: interrupted after 2 measurements; {tmp_path} holds them\n"
    report = json.loads((tmp_path / "overhead.json").read_text())
    kept = {name: report[name] for name in ("frames", "people", "refined", "engines", "decode", "encode", "more")}
    assert kept == {
        "frames": 3, "people": 2.0, "refined": 1.0, "engines": 150.0, "decode": None, "encode": None, "more": None
    }  # fmt: skip
    assert (report["whole"], report["elapsed"]) == (pytest.approx(200), pytest.approx(100))
    page = (tmp_path / "overhead.md").read_text()
    assert page in said
    assert "It was ended before everything was measured." in page
    rows = [line for line in page.splitlines() if line.startswith("| ")][2:]
    assert rows == ["| **whole run** | 200.00 |", "| engines | 150.00 |"]


def test_video_and_boxes_go_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(command, ["v.mp4", "--output", str(tmp_path)])
    assert ended.value.code == 2
    assert "VIDEO and --boxes go together: give both, or neither" in capsys.readouterr().err


def test_the_scene_is_one_person_at_1080p(tmp_path: Path) -> None:
    video, boxes = make_video(tmp_path, 2)
    source = VideoSource(str(video))
    assert [frame.image.shape for frame in source] == [(1080, 1920, 3)] * 2
    source.close()
    assert {entry["image_id"] for entry in json.loads(boxes.read_text())} <= {0, 1}
