"""`python benchmarks/latency.py`: its report and its error messages."""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from latency import STAGES, command, picture_with

from sharpose.cli import main

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "latency.py"


@pytest.fixture(scope="module")
def report(nano_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str, str]:
    """The JSON, the Markdown and the printed text."""
    folder = tmp_path_factory.mktemp("reports") / "of" / "today"
    arguments = [*("--bundle", nano_bundle), *("--people", "1,3"), *("--refine", "0,50,100"), *("--output", folder)]
    arguments += ["--seconds", 0, "--iterations", 2, "--warm-up", 1, "--threads", 1]
    call = [sys.executable, str(SCRIPT), *map(str, arguments)]
    done = subprocess.run(call, capture_output=True, text=True, check=False, timeout=300, cwd=SCRIPT.parent)
    assert (done.returncode, done.stderr) == (0, "")
    text = (folder / "latency.md").read_text("utf-8")
    return json.loads((folder / "latency.json").read_text("utf-8")), text, done.stdout


def test_cases_are_what_was_asked_for(report: tuple[dict[str, Any], str, str]) -> None:
    cases = report[0]["cases"]
    # Half of one person is nobody or everybody: not a case of its own.
    assert [(case["people"], case["refined"]) for case in cases] == [(1, 0), (1, 1), (3, 0), (3, 2), (3, 3)]
    assert {case["iterations"] for case in cases} == {2}


def test_percentiles_are_in_order_and_add_up(report: tuple[dict[str, Any], str, str]) -> None:
    for case in report[0]["cases"]:
        percentiles = case["percentiles"]
        assert list(percentiles) == list(STAGES)
        for p50, p95, p99 in percentiles.values():
            assert 0 <= p50 <= p95 <= p99
        assert percentiles["coarse"][0] > 0
        assert (percentiles["fine"][0] > 0) == (percentiles["gather"][0] > 0) == (case["refined"] > 0)
        # Two samples: p50 is their mean, so that the stages' p50 add up.
        parts = sum(percentiles[stage][0] for stage in STAGES[:-1])
        assert parts <= percentiles["end_to_end"][0]
        assert case["people_per_second"] == pytest.approx(case["people"] * 1000 / percentiles["end_to_end"][0])
        own = sum(percentiles[stage][0] for stage in ("crop", "gate", "gather", "map_back"))
        assert case["own_share"] == pytest.approx(own / percentiles["end_to_end"][0])
        assert case["warm_up_ms"] > 0


def test_machine_weights_and_command_are_named(report: tuple[dict[str, Any], str, str], nano_bundle: Path) -> None:
    values, text, _ = report
    machine = values["machine"]
    assert machine["cores"] >= 1
    assert machine["memory_gib"] > 0
    assert machine["processor"]
    assert machine["python"] == platform.python_version()
    assert machine["packages"]["numpy"] == metadata.version("numpy")
    assert platform.machine() in machine["system"]
    assert values["bundle"] == "nano"
    assert (values["device"], values["precision"]) == ("cpu", "fp32")
    assert values["weights"] == json.loads((nano_bundle / "bundle.json").read_text())["source"]
    for piece in (machine["processor"], machine["system"], f"numpy {machine['packages']['numpy']}", values["command"]):
        assert piece in text
    for option in ("--people 1,3", "--refine 0,50,100", "--iterations 2", "--warm-up 1", "--threads 1"):
        assert option in values["command"]
    assert text.startswith("# Latency of nano (fp32) on cpu")


def test_the_page_has_the_numbers_of_the_json(report: tuple[dict[str, Any], str, str]) -> None:
    values, text, printed = report
    header, _, *rows = [line for line in text.splitlines() if line.startswith("|")]
    names = [cell.strip() for cell in header.strip("|").split("|")]
    assert names == [
        *("people", "refined", "crop", "coarse", "gate", "gather", "fine", "map back", "end to end"),
        *("people/s", "own", "warm-up"),
    ]
    assert len(rows) == len(values["cases"])
    for row, case in zip(rows, values["cases"], strict=True):
        cells = dict(zip(names, (cell.strip() for cell in row.strip("|").split("|")), strict=True))
        assert (int(cells["people"]), int(cells["refined"])) == (case["people"], case["refined"])
        for stage in STAGES:
            expected = " / ".join(f"{value:.2f}" for value in case["percentiles"][stage])
            assert cells[stage.replace("_", " ")] == expected
        assert cells["people/s"] == f"{case['people_per_second']:.1f}"
        assert cells["own"] == f"{case['own_share']:.1%}"
    said = re.findall(r"^(\d+) people, (\d+) refined: [\d.]+ ms", printed, re.MULTILINE)
    assert [(int(people), int(refined)) for people, refined in said] == [
        (case["people"], case["refined"]) for case in values["cases"]
    ]
    assert "latency.md" in printed.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--people", "0"], "numbers from 1 to 1024"),
        (["--people", "many"], "expected numbers separated by commas"),
        (["--people", "1,,2"], "expected numbers separated by commas"),
        (["--people", "-1"], "numbers from 1 to 1024"),
        (["--refine", "101"], "numbers from 0 to 100"),
        (["--refine", "-1"], "numbers from 0 to 100"),
        (["--refine", "0.5"], "expected numbers separated by commas"),
        (["--iterations", "0"], "--iterations"),
        (["--seconds", "-1"], "--seconds"),
        (["--seconds", "inf"], "--seconds"),
        (["--warm-up", "-1"], "--warm-up"),
        (["--device", "gpu"], "device: expected cpu"),
        (["--precision", "int8"], "holds fp32 graphs, not int8"),
        (["--precision", "half"], "'half' is not one of 'auto', 'fp32', 'fp16', 'bf16', 'int8'"),
    ],
)
def test_bad_options_are_one_line(
    nano_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    message = _refused(nano_bundle, tmp_path / "report", capsys, *arguments)
    assert message.startswith("error: ")
    assert words in message
    assert not (tmp_path / "report" / "latency.json").exists()


def test_a_report_that_cannot_be_written_is_refused_before_measuring(
    nano_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "report").write_text("a file")
    assert "--output" in _refused(nano_bundle, tmp_path / "report", capsys)  # would take a minute


def _refused(bundle: Path, output: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main(command, ["--bundle", str(bundle), "--output", str(output), *arguments])
    printed = capsys.readouterr()
    assert (caught.value.code, printed.out, printed.err.count("\n")) == (2, "", 1)
    return printed.err


@pytest.mark.parametrize("people", [1, 2, 5, 16, 20])
def test_the_picture_shows_as_many_people_as_asked_for(people: int) -> None:
    image, boxes = picture_with(people)
    assert image.shape == (720, 1280, 3)
    assert len(boxes) == people
    assert (boxes.xyxy[:, 2:] > boxes.xyxy[:, :2]).all()
    assert len(np.unique(boxes.xyxy[:16], axis=0)) == min(people, 16)
