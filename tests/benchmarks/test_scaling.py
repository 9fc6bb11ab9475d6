"""`python benchmarks/scaling.py`: every part in small, and what is made of its rows."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import av
import numpy as np
import pytest
import scaling
from measuring import turns
from scaling import Effort, Scaling, command, growth_mib, write_video

from sharpose.cli import main
from sharpose.errors import EngineError

SMALL = Effort((1, 3), (2,), ("480p",), 0.0, 2, 5, 3, 60, 0.3)


def test_every_part_has_its_rows(nano_bundle: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(scaling, "QUICK", SMALL)
    monkeypatch.setattr(turns, "_TURN_S", 0.0)
    with pytest.raises(SystemExit) as stopped:
        main(command, ["--bundle", str(nano_bundle), "--threads", "1", "--quick", "--output", str(tmp_path)])
    printed = capsys.readouterr()
    assert (stopped.value.code, printed.err) == (0, "")
    report = json.loads((tmp_path / "scaling.json").read_text("utf-8"))
    parts = report["parts"]
    assert list(parts) == ["memory", "people", "sizes", "streams", "rest"]
    for row, count in zip(parts["people"], (1, 3), strict=True):
        assert row["people"] == count
        assert row["people/s"] == pytest.approx(count * 1000 / row["mean ms"])
    (size,) = parts["sizes"]
    assert 0 < size["crop ms"] < size["mean ms"]
    assert size["decode ms"] > 0
    (streams,) = parts["streams"]
    assert (streams["streams"], streams["frames"]) == (2, 10)
    assert streams["frames/s each"] == pytest.approx(streams["frames/s"] / 2)
    assert streams["CPU ms/frame"] > 0
    assert streams["peak MiB"] > 30
    assert [row["frame"] for row in parts["memory"]] == [*range(60), 60]
    assert all(row["MiB"] > 30 for row in parts["memory"])
    assert [row["source"] for row in parts["rest"]] == ["no frames", "25 frames/s, nothing moves"]
    assert all(0 <= row["CPU"] < 2 for row in parts["rest"])
    page = (tmp_path / "scaling.md").read_text("utf-8")
    for part in parts:
        assert f"\n## {part}\n" in page
    assert "nano on cpu in fp32, half of the people refined." in page
    assert f"Growth after the first fifth: {growth_mib(parts['memory']):.1f} MiB." in page


def test_growth_is_counted_after_the_start() -> None:
    rows = [{"frame": frame, "MiB": 100.0 + min(frame, 10) + frame / 10} for frame in range(0, 101, 5)]
    assert growth_mib(rows) == pytest.approx(8.0)


def test_the_video_moves(tmp_path: Path) -> None:
    image = np.zeros((64, 96, 3), np.uint8)
    image[:, 20:40] = 255
    write_video(tmp_path / "video.mp4", image, 4)
    with av.open(str(tmp_path / "video.mp4")) as container:
        frames = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
    assert len(frames) == 4
    edges = [int(np.argmax(frame[32] > 128)) for frame in frames]
    assert edges == pytest.approx([20, 22, 24, 26], abs=1)


def test_a_run_that_fails_says_why(tmp_path: Path) -> None:
    words = ["-", "--stdin-size", "720x1280", "--detector", "motion", "--bundle", str(tmp_path / "none")]
    with pytest.raises(EngineError, match=r"ended with 2: error: .*none"):
        scaling._share_of_cpu(words, b"", 120)
    code, text, cpu_s, _ = scaling._run_to_end(words)
    assert code == 2
    assert text.startswith("error: ")
    assert cpu_s > 0


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--parts", "people,nothing"], "expected some of memory, people, sizes, streams, rest"),
        (["--people", "0"], "numbers from 1 to 1024"),
        (["--people", "x"], "such as 1,4"),
        (["--frames", "3"], "--frames"),
        (["--device", "gpu"], "device: expected cpu"),
        (["--precision", "int8"], "holds fp32 graphs, not int8"),
    ],
)
def test_bad_options_are_one_line(words: list[str], error: str, nano_bundle: Path, tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(command, ["--bundle", str(nano_bundle), "--output", str(tmp_path), *words])
    said = capsys.readouterr().err
    assert (stopped.value.code, said.count("\n")) == (2, 1)
    assert error in said


def test_a_signal_keeps_the_finished_parts(nano_bundle: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(scaling, "QUICK", SMALL)
    monkeypatch.setattr(turns, "_TURN_S", 0.0)
    monkeypatch.setattr(Scaling, "sizes", lambda self: signal.raise_signal(signal.SIGINT))
    words = ["--bundle", str(nano_bundle), "--threads", "1", "--quick", "--parts", "people,sizes"]
    with pytest.raises(SystemExit) as stopped:
        main(command, [*words, "--output", str(tmp_path)])
    said = capsys.readouterr().err.strip()
    assert (stopped.value.code, said) == (130, f"error: interrupted after 1 part; {tmp_path} holds it")
    assert list(json.loads((tmp_path / "scaling.json").read_text("utf-8"))["parts"]) == ["people"]
    assert "## people" in (tmp_path / "scaling.md").read_text("utf-8")
