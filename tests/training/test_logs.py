"""The logs of a run."""

import json
import re
import sys
from pathlib import Path

import pytest

from sharpose.errors import ConfigError, SinkError, how_to_install
from sharpose.training.logs import JsonLinesLog, TensorBoardLog


def test_records_after_the_resumed_step_are_dropped_and_half_lines_too(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    log = JsonLinesLog(path)
    for step in (10, 20, 30):
        log.write("train", step, {"loss": 1 / 3, "epoch": step // 10})
    log.close()
    with path.open("a") as file:
        file.write('{"kind": "train", "st')
    log = JsonLinesLog(path, after_step=20)
    log.write("train", 30, {"loss": 0.25})
    log.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(10, 0.333333333), (20, 0.333333333), (30, 0.25)]
    assert lines[0]["epoch"] == 1


def test_numbers_that_json_does_not_have_are_null(tmp_path: Path) -> None:
    log = JsonLinesLog(tmp_path / "train.jsonl")
    log.write("train", 1, {"loss": 0.5, "norm": float("nan"), "other": float("-inf")})
    log.close()
    line = (tmp_path / "train.jsonl").read_text()
    assert line == '{"kind": "train", "step": 1, "loss": 0.5, "norm": null, "other": null}\n'


def test_a_log_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match="can't be written"):
        JsonLinesLog(tmp_path / "missing" / "train.jsonl")


def test_tensorboard_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match=re.escape(how_to_install("train"))):
        TensorBoardLog(tmp_path)
