"""`python benchmarks/deadline.py`: what its report says, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "deadline.py"


def deadline(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=500, cwd=SCRIPT.parent)


@pytest.fixture(scope="module")
def report(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """The JSON and what was printed."""
    folder = tmp_path_factory.mktemp("reports") / "of" / "today"
    options: list[object] = ["--threads", 1, "--clock", "processor", "--frames", 3, "--scenes", 1]
    done = deadline("--bundle", tiny_bundle, "--people", "1,3", "--time", "0,1000", *options, "--output", folder)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads((folder / "deadline.json").read_text("utf-8")), done.stdout


def test_cases_are_what_was_asked_for(report: tuple[dict[str, Any], str]) -> None:
    values, printed = report
    assert [(case["people"], case["share"]) for case in values["cases"]] == [(1, 0), (1, 1000), (3, 0), (3, 1000)]
    assert set(values["without_deadline"]) == {"1", "3"}
    assert values["machine"]["processor"] in printed
    assert "--people 1,3 --time 0,1000 --frames 3 --scenes 1 --threads 1 --device cpu" in values["command"]


def test_counts_add_up(report: tuple[dict[str, Any], str]) -> None:
    for case in report[0]["cases"]:
        assert case["frames"] == 3
        assert case["deadline_ms"] > 0
        for policy in case["policies"].values():
            assert policy["done"] + policy["carried"] + policy["deferred"] == policy["wanted"] <= 3 * case["people"]
            assert 0 <= policy["met"] <= 1
            assert policy["oks"]["low"] <= policy["oks"]["mean"] <= policy["oks"]["high"]
            assert 0 < policy["p50_ms"] <= policy["p95_ms"] <= policy["p99_ms"]


def test_with_ten_times_the_time_all_are_refined(report: tuple[dict[str, Any], str]) -> None:
    values, _ = report
    for case in values["cases"]:
        if case["share"] == 1000:
            gate = values["without_deadline"][str(case["people"])]["gate"]
            assert case["policies"].pop("nobody")["wanted"] == 0
            for policy in case["policies"].values():
                assert (policy["done"], policy["deferred"]) == (gate["wanted"], 0)
                assert policy["oks"]["mean"] == pytest.approx(gate["oks"]["mean"], abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--people", "0"], "numbers from 1 to 64"),
        (["--time", "-1"], "numbers from 0 to 1000"),
        (["--clock", "processor"], "--threads 1"),
        (["--device", "gpu"], "device: expected cpu"),
    ],
)
def test_bad_options_are_one_line(tiny_bundle: Path, tmp_path: Path, arguments: list[str], words: str) -> None:
    done = deadline("--bundle", tiny_bundle, "--output", tmp_path, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert words in done.stderr
