"""Reports compared: a planted slowdown is found, noise is not, and what can't be compared is said."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compare import SCHEMA, command, compare_turns

from sharpose.cli import main

MACHINE = {
    "processor": "a CPU",
    "cores": 4,
    "gpu": "",
    "instruction_sets": "avx2",
    "load_average": 0.1,
    "packages": {"numpy": "2.0"},
}


def _report(seed: int, slower: float = 1.0, rounds: int = 12) -> dict[str, Any]:
    """Two cases whose turns spread by 10 %, as on a machine that is not quite quiet."""
    rng = np.random.default_rng(seed)

    def times(mean: float) -> list[float]:
        return (mean * rng.normal(1, 0.1, rounds)).tolist()

    def contender(fine: float) -> dict[str, Any]:
        turns = {"crop": times(0.1), "coarse": times(20), "fine": times(fine), "end_to_end": times(20 + fine)}
        return {"rounds": rounds, "mean_ms": 20 + fine, "turn_means": turns}

    cases = [
        {
            "people": people,
            "refine_percent": 50,
            "contenders": {"cpu fp32": contender(30 * slower), "cpu int8": contender(15)},
        }
        for people in (1, 4)
    ]
    fixed = {"schema": SCHEMA, "bundle": "nano", "picture": [720, 1280], "threads": None, "alpha": 0.5}
    return {**fixed, "machine": copy.deepcopy(MACHINE), "cases": cases}


def _compare(
    folder: Path, capsys: pytest.CaptureFixture[str], old: dict[str, Any], new: dict[str, Any], *options: str
) -> tuple[int, str, str]:
    paths = [folder / "old.json", folder / "new.json"]
    for path, report in zip(paths, (old, new), strict=True):
        path.write_text(json.dumps(report))
    with pytest.raises(SystemExit) as stopped:
        main(command, [*map(str, paths), *options])
    printed = capsys.readouterr()
    assert isinstance(stopped.value.code, int)
    return stopped.value.code, printed.out, printed.err


def test_a_planted_slowdown_of_30_percent_is_found(tmp_path, capsys) -> None:
    code, said, _ = _compare(tmp_path, capsys, _report(1), _report(2, slower=1.3))
    assert code == 1
    assert "slower:" in said
    rows = [line for line in said.splitlines() if " fine " in line]
    assert [("1 person" in row, "4 people" in row, "cpu fp32" in row) for row in rows] == [
        (True, False, True),
        (False, True, True),
    ]
    assert "cpu int8" not in said
    code, said, _ = _compare(tmp_path, capsys, _report(2, slower=1.3), _report(1))
    assert code == 0
    assert "faster:" in said
    code, said, _ = _compare(tmp_path, capsys, _report(1), _report(2, slower=1.3), "--tolerance", "60")
    assert code == 0


@pytest.mark.parametrize("seed", range(2, 12))
def test_noise_is_none(seed: int, tmp_path, capsys) -> None:
    code, said, _ = _compare(tmp_path, capsys, _report(1), _report(seed))
    assert code == 0
    assert said.splitlines()[-1] == "0 slower, 0 faster, 12 the same within 5 %"  # crops are too short to count


def test_the_interval_of_equal_turns_is_their_ratio() -> None:
    assert compare_turns([2.0] * 8, [3.0] * 5) == pytest.approx((1.5, 1.5))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bundle": "small"}, "bundle: 'nano' and 'small'"),
        ({"threads": 1}, "threads: None and 1"),
        ({"alpha": 0.25}, "alpha: 0.5 and 0.25"),
        (
            {"machine": {**MACHINE, "processor": "another", "cores": 8}},
            "processor: 'a CPU' and 'another'; cores: 4 and 8",
        ),
    ],
)
def test_another_machine_or_bundle_is_refused(change: dict[str, Any], words: str, tmp_path, capsys) -> None:
    code, said, error = _compare(tmp_path, capsys, _report(1), _report(2) | change)
    assert (code, said, error.count("\n")) == (2, "", 1)
    assert words in error


def test_what_is_in_one_report_alone_is_said(tmp_path, capsys) -> None:
    old, new = _report(1), _report(2)
    new["cases"][1]["people"] = 8
    del new["cases"][0]["contenders"]["cpu int8"]
    new["machine"]["packages"] = {"numpy": "2.1", "onnxruntime": "1.32"}
    new["machine"]["load_average"] = 3.5
    code, said, _ = _compare(tmp_path, capsys, old, new)
    assert code == 2
    for line in (
        "numpy: 2.0 before, 2.1 now",
        "onnxruntime: not installed before, 1.32 now",
        "the machine was busy (load average 3.50)",
        "not compared: 1 person, 50 % refined, cpu int8: only in the old report",
        "not compared: 4 people, 50 % refined: only in the old report",
        "not compared: 8 people, 50 % refined: only in the new report",
        "0 slower, 0 faster, 3 the same within 5 %",
    ):
        assert line in said
    slow = _report(2, slower=1.4)
    slow["cases"].pop()
    assert _compare(tmp_path, capsys, old, slow)[0] == 1  # what is slower counts more


def test_a_stage_that_was_short_and_is_long_now_counts(tmp_path, capsys) -> None:
    old, new = _report(1), _report(1)
    turns = new["cases"][0]["contenders"]["cpu fp32"]["turn_means"]
    turns["crop"] = [20 * time for time in turns["crop"]]
    code, said, _ = _compare(tmp_path, capsys, old, new)
    assert code == 1
    assert "1 slower, 0 faster, 12 the same within 5 %" in said


def test_too_few_rounds_say_nothing(tmp_path, capsys) -> None:
    code, said, _ = _compare(tmp_path, capsys, _report(1), _report(2, slower=1.3, rounds=4))
    assert code == 2
    assert "1 person, 50 % refined, cpu fp32: expected at least 5 rounds, found 12 and 4" in said


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": "sharpose-latency/1"}'])
def test_another_file_is_refused(text: str, tmp_path, capsys) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(SystemExit) as stopped:
        main(command, [str(path), str(path)])
    error = capsys.readouterr().err
    assert (stopped.value.code, error.count("\n")) == (2, 1)
    assert "expected the latency.json of benchmarks/latency.py" in error


def test_folders_of_reports_are_compared(tmp_path, capsys) -> None:
    for name, report in (("before", _report(1)), ("after", _report(2, slower=1.3))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "latency.json").write_text(json.dumps(report))
    with pytest.raises(SystemExit) as stopped:
        main(command, [str(tmp_path / "before"), str(tmp_path / "after")])
    assert stopped.value.code == 1
    assert "slower:" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        main(command, [str(tmp_path / "before"), str(tmp_path)])
    assert stopped.value.code == 2
    assert f"{tmp_path / 'latency.json'}: " in capsys.readouterr().err
