"""`python benchmarks/quantisation.py`: its kinds of layers, its rows and its page."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import quantisation
from quantisation import ALL, KINDS, VARIANTS, command, difference, is_of
from torch import nn

from sharpose.cli import main
from sharpose.config import ModelConfig
from sharpose.export.folding import folded_model
from sharpose.export.parity import StageRuns, run_stages
from sharpose.model import random_model, save_checkpoint


@pytest.fixture
def checkpoint(nano_config: ModelConfig, tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "nano.pth", random_model(nano_config).model)
    return tmp_path / "nano.pth"


def _run(checkpoint: Path, output: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stopped:
        main(command, ["--bundle", str(checkpoint), "--output", str(output)])
    return int(stopped.value.code or 0), capsys.readouterr().err


def test_every_linear_layer_is_of_one_kind(nano_config: ModelConfig) -> None:
    model = folded_model(random_model(nano_config).model)
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    assert {kind: sum(is_of(kind, name) for name in names) for kind in KINDS} == {
        "query, key and value": nano_config.depth,
        "output of attention": nano_config.depth,
        "first layer of MLPs": nano_config.depth,
        "second layer of MLPs": nano_config.depth,
        "head": 1,
        "reuse MLP": 2,
        "patch embedding, fine stage": 1,
        "quality head": 3,
    }
    assert all(sum(is_of(kind, name) for kind in KINDS) == 1 for name in names)


def test_rows_say_what_each_kind_changes(checkpoint: Path, tmp_path: Path, capsys) -> None:
    assert _run(checkpoint, tmp_path, capsys) == (0, "")
    report = json.loads((tmp_path / "quantisation.json").read_text("utf-8"))
    rows = {row["layers"]: row for row in report["rows"]}
    assert list(rows) == [*KINDS, ALL, *VARIANTS]
    assert (report["compared"], report["calibrated"], report["pictures"]) == (32, 32, "the built-in scene")
    assert rows["quality head"]["quality"] > 0
    assert rows["quality head"]["regions"] == 1
    assert rows["quality head"]["median_px"] < 1e-3  # nothing but rounding of float32
    assert rows["head"]["quality"] < 1e-6
    assert rows["head"]["p90_px"] > 0
    assert rows["first layer of MLPs"]["p90_px"] > rows["quality head"]["p90_px"]
    assert len({row["p90_px"] for row in (rows[ALL], *(rows[name] for name in VARIANTS))}) == 4
    page = (tmp_path / "quantisation.md").read_text("utf-8")
    assert (
        f"| {ALL} | {rows[ALL]['regions']:.1%} | {rows[ALL]['quality']:.4f} | {rows[ALL]['median_px']:.2f} px" in page
    )


def test_differences_are_counted(nano_config: ModelConfig) -> None:
    order = np.array([[0, 1, 2, 3, 4, 5, *range(6, 12)], [5, 4, 3, 2, 1, 0, *range(6, 12)]], np.int32)
    quality = np.array([0.5, 0.75], np.float32)
    keypoints = np.zeros((2, 17, 3), np.float32)
    swapped = order.copy()
    swapped[0, [0, 11]] = swapped[0, [11, 0]]  # one of six of the first person
    moved = keypoints.copy()
    moved[0, :, :2] = 3, 4
    runs = [
        StageRuns({"region_order": regions, "quality": values}, {}, {"keypoints": points})
        for regions, values, points in ((order, quality, keypoints), (swapped, quality + 0.25, moved))
    ]
    found = difference(runs[0], runs[1], nano_config)
    assert found == pytest.approx({"regions": 11 / 12, "quality": 0.25, "median_px": 2.5, "p90_px": 5.0})


def test_a_signal_keeps_the_finished_rows(checkpoint: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    real, calls = run_stages, iter(range(9))
    monkeypatch.setattr(
        quantisation,
        "run_stages",
        lambda *given: signal.raise_signal(signal.SIGINT) if next(calls) == 2 else real(*given),
    )
    assert _run(checkpoint, tmp_path, capsys) == (130, f"error: interrupted after 1 row; {tmp_path} holds it\n")
    (row,) = json.loads((tmp_path / "quantisation.json").read_text("utf-8"))["rows"]
    assert row["layers"] == next(iter(KINDS))
