"""Numbers from reports into pages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tables
from tables import ROOT, Results, command, fill, fill_models

from sharpose.cli import main
from sharpose.errors import InputError

COMMITTED = [ROOT / "benchmarks" / "results" / name for name in ("amd-epyc-2-cores", "intel-xeon-2-cores")]
MACHINE = {"processor": "a CPU", "cores": 2, "memory_gib": 4.0, "gpu": "", "system": "Linux", "python": "3"}


def _values(mean: float) -> dict[str, Any]:
    return {
        "mean_ms": mean,
        "means": {"coarse": mean * 0.4, "fine": mean * 0.5},
        "share_of_peak": {"coarse": 0.5, "fine": 0.6},
        "outside_engines": 0.1,
    }


def _latency(**people_to_means: float) -> dict[str, Any]:
    """Cases of one person: `cpu fp32` takes what is given at none and all, twice that in PyTorch and dense."""
    cases = []
    for percent, mean in ((0, people_to_means["none"]), (50, 50.0), (100, people_to_means["everybody"])):
        names = {"cpu fp32": mean, "torch-eager cpu fp32": 2 * mean, "dense cpu fp32": 3 * mean}
        ratios = [
            {"first": "cpu fp32", "second": name, "median": value / mean, "low": value / mean - 0.1, "high": 4.0}
            for name, value in list(names.items())[1:]
        ]
        contenders = {name: _values(value) for name, value in names.items()}
        cases.append({"people": 1, "refine_percent": percent, "contenders": contenders, "ratios": ratios})
    start = {
        "people": 16,
        "seconds": 1.5,
        "imports_s": 0.5,
        "load_s": 0.9,
        "first_frame_s": 0.1,
        "host_peak_mib": 200.0,
    }
    peak = {"precision": "fp32", "multiply_adds_per_s": 1e11, "library": "numpy 2", "size": 512, "hardware": "cpu"}
    return {
        "date": "2026-01-02",
        "machine": MACHINE | {"packages": {"numpy": "2"}},
        "command": "python benchmarks/latency.py --output DIR",
        "cold_starts": {"cpu fp32": start | {"error": ""}, "broken": start | {"error": "no such device"}},
        "peaks": [peak],
        "cases": cases,
    }


@pytest.fixture
def results(tmp_path: Path) -> Results:
    scaling = {
        "date": "2026-01-03",
        "machine": MACHINE | {"cores": 8, "packages": {"numpy": "2"}},
        "bundle": "tiny",
        "device": "cpu",
        "precision": "fp32",
        "command": "python benchmarks/scaling.py --output DIR",
        "parts": {
            "people": [{"people": 1, "mean ms": 12.345}, {"people": 100, "mean ms": 1420.5}],
            "memory": [{"frame": frame, "MiB": 100.0 + frame / 1000} for frame in range(0, 10_001, 1000)],
        },
    }
    names = ("small", "baselines", "base", "starts_tiny", "starts_small")
    reports = {name: _latency(none=20.0, everybody=60.0) for name in names}
    for name, report in {**reports, "tiny": _latency(none=5.0, everybody=15.04), "scaling": scaling}.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / ("scaling.json" if name == "scaling" else "latency.json")).write_text(json.dumps(report))
    return Results(tmp_path)


@pytest.mark.parametrize(
    ("block", "lines"),
    [
        (
            "machine",
            [
                "* **Machine**, 2026-01-02: a CPU, 2 cores, 4 GiB;",
                "      python benchmarks/latency.py --output OUT/base",
            ],
        ),
        (
            "targets",
            ["| fp32 against torch-eager | 1 person, 50 % refined | 1.6 | cpu fp32: 2.00 (1.90 to 4.00) | yes |"],
        ),
        ("targets", ["| int8 against torch-eager | 1 person, 50 % refined | 2.5 | not compared | no |"]),
        ("latency", ["| model | people |  | 0 % refined | 50 % refined | 100 % refined |"]),
        (
            "latency",
            [
                "| tiny 256×192 | 1 | cpu fp32 | 5.0 | 50.0 | 15.0 |",
                "| small 256×192 | 1 | cpu fp32 | 20.0 | 50.0 | 60.0 |",
            ],
        ),
        (
            "stages",
            [
                "| 1 | cpu fp32 | 24.0 | 30.0 | 50% | 60% | 6.00 | 10.0% |",
                "* Peak of fp32: 100 billion multiply-adds a second, numpy 2.",
            ],
        ),
        ("dense", ["| base 384×288 | 1 | 100 % | cpu fp32 | 60.0 | 180.0 | 3.00 (2.90 to 4.00) |"]),
        ("starts", ["| tiny 256×192 | cpu fp32 | 16 | 1.50 | 0.50 | 0.90 | 0.10 | 200 |"]),
        ("starts", ["| small 256×192 | broken | 16 | no such device |  |  |  |  |"]),
        ("starts", ["* **Machine**, 2026-01-02:", "      python benchmarks/latency.py --output OUT/starts_small"]),
        (
            "scaling",
            ["| 1 | 12.3 |", "| 100 | 1420 |", "Memory over 10,000 frames: 110 MiB, +8.0 MiB after the first fifth."],
        ),
        (
            "scaling",
            [
                "* **Machine**, 2026-01-03: a CPU, 8 cores, 4 GiB;",
                "* **Command**: `python benchmarks/scaling.py --output OUT/scaling`",
            ],
        ),
    ],
)
def test_a_block_has_the_numbers(block: str, lines: list[str], results: Results) -> None:
    page = f"before\n\n<!-- numbers: {block} -->\n\nold\n\n<!-- end -->\n\nafter\n"
    filled = fill(page, results)
    assert filled.startswith(f"before\n\n<!-- numbers: {block} -->\n\n")
    assert filled.endswith("\n\n<!-- end -->\n\nafter\n")
    assert "old" not in filled
    for line in lines:
        assert any(found.startswith(line) for found in filled.splitlines()), line
    assert fill(filled, results) == filled


def test_the_readmes_rows_have_none_and_all_of_one_person(results: Results) -> None:
    text = (
        "| tiny | 256×192 | 4.7 M | 0.5 | 0.3 | 0.9 | [model card](a) | 1 / 2 ms | |\n"
        "| small | 256×192 | 28.5 M | 0.5 | 1.6 | 4.8 | 74.2 | | |\n"
        "| small MPII | 256×256 | 32.4 M | 0.5 | 2.0 | 6.2 | | | |\n"
    )
    tiny, small, other = fill_models(text, results).splitlines()
    assert tiny == "| tiny | 256×192 | 4.7 M | 0.5 | 0.3 | 0.9 | [model card](a) | 5.0 / 15.0 ms | |"
    assert small == "| small | 256×192 | 28.5 M | 0.5 | 1.6 | 4.8 | 74.2 | 20.0 / 60.0 ms | |"
    assert other == text.splitlines()[2]
    with pytest.raises(InputError, match="expected one row of tiny in the table of models, found 0"):
        fill_models("", results)


def test_what_is_missing_is_named(results: Results, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="block other: expected one of machine, targets"):
        fill("<!-- numbers: other -->\n\n<!-- end -->", results)
    (tmp_path / "base" / "latency.json").unlink()
    with pytest.raises(InputError, match=r"base/latency.json: .*; run benchmarks/latency.py"):
        fill("<!-- numbers: dense -->\n\n<!-- end -->", results)


def test_pages_are_written_or_checked(results: Results, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(tables, "ROOT", tmp_path / "root")
    (tmp_path / "root" / "docs").mkdir(parents=True)
    page, readme = tmp_path / "root" / "docs" / "performance.md", tmp_path / "root" / "README.md"
    page.write_text("<!-- numbers: dense -->\n\n<!-- end -->\n", "utf-8")
    readme.write_text((ROOT / "README.md").read_text("utf-8"), "utf-8")

    def run(*words: str) -> tuple[object, str]:
        with pytest.raises(SystemExit) as stopped:
            main(command, [str(tmp_path), *words])
        return stopped.value.code, capsys.readouterr().out

    assert run("--check") == (1, "docs/performance.md: has other numbers\nREADME.md: has other numbers\n")
    assert run() == (0, "docs/performance.md: written\nREADME.md: written\n")
    assert "| base 384×288 | 1 |" in page.read_text("utf-8")
    assert run("--check") == (0, "")


def test_the_first_folder_that_has_a_run_counts(results: Results, tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "scaling").mkdir(parents=True)
    (other / "scaling" / "scaling.json").write_text(json.dumps({"precision": "int8"}))
    assert Results(other, tmp_path)["scaling"] == {"precision": "int8"}
    assert Results(tmp_path, other)["scaling"]["precision"] == "fp32"
    assert Results(other, tmp_path)["tiny"] == results["tiny"]


def test_the_pages_have_the_committed_numbers() -> None:
    results = Results(*COMMITTED)
    for path, change in ((ROOT / "docs" / "performance.md", fill), (ROOT / "README.md", fill_models)):
        text = path.read_text("utf-8")
        assert change(text, results) == text, (
            f"run python benchmarks/tables.py {' '.join(str(path.relative_to(ROOT)) for path in COMMITTED)}"
        )
