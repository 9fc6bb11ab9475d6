"""What the benchmark commands share: how a report begins, and that Ctrl-C ends each with one line from the start."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import click
import pytest
from measuring import command
from measuring.command import PartsReport, begin
from report import this_machine

COMMANDS = [
    path
    for path in sorted((Path(__file__).resolve().parents[2] / "benchmarks").glob("*.py"))
    if "def main() -> NoReturn" in path.read_text("utf-8")
]


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.stem)
def test_a_signal_ends_a_command_with_one_line(path: Path) -> None:
    """While it imports modules, by `end_on_signals`, and once it runs, by an exception that its blocks may see."""
    text = path.read_text("utf-8")
    assert 0 < text.find("    end_on_signals()\n") < text.index("from report import")
    assert re.search(r"^    (interruptible\(\)|machine = begin\()", text, re.MULTILINE)


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.stem)
def test_a_command_that_imports_pytorch_says_first_where_it_is_missing(path: Path) -> None:
    text = path.read_text("utf-8")
    imports = re.search(r"^(import torch|from sharpose\.(model|export\.parity)\b)", text, re.MULTILINE)
    assert (imports is not None) == ('    require("torch"' in text)
    assert imports is None or text.index('    require("torch"') < imports.start()


def test_without_pytorch_there_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    command.require("torch")
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(sys, "argv", ["benchmarks/budgets.py", "--help"])
    with pytest.raises(SystemExit) as ended:
        command.require("torch")
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("error: benchmarks/budgets.py needs torch: ")
    assert "[cpu,export]" in err


def test_a_report_is_not_replaced_unasked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    idle = replace(this_machine(), cores=4, load_average=0.9)
    monkeypatch.setattr(command, "this_machine", lambda: idle)
    assert begin(tmp_path / "new", "a.json", overwrite=False) == idle
    assert capsys.readouterr().out == ""
    (tmp_path / "new" / "a.json").touch()
    with pytest.raises(click.UsageError, match=r"a.json already exists there; give another folder, or --overwrite"):
        begin(tmp_path / "new", "a.json", overwrite=False)
    monkeypatch.setattr(command, "this_machine", lambda: replace(idle, load_average=1.1))
    begin(tmp_path / "new", "a.json", overwrite=True)
    assert capsys.readouterr().out == "the machine is busy (load average 1.10): times will be too long\n"


class Parts:
    def first(self) -> list[command.Row]:
        """Halves."""
        return [{"number": 1, "half": 0.5}, {"number": 3, "half": 1.5}]

    def second(self) -> list[command.Row]:
        """Nothing new."""
        return [{"name": "a"}, {"name": "b"}]


def test_parts_are_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def notes(part: str, rows: object) -> list[str]:
        return ["", "A note."] if part == "first" else []

    values = {"device": "cpu", "command": "python a.py"}
    report = PartsReport("sums", tmp_path, this_machine(), "About it.", values, notes, long_parts=("second",))
    report.measure(Parts(), ["first", "second"])
    said = capsys.readouterr().out.splitlines()
    assert said[:3] == ["first: number 1, half 0.5", "first: number 3, half 1.5", "second: name b"]
    lines = (tmp_path / "sums.md").read_text().splitlines()
    assert lines[0] == "# Sums"
    assert lines[4:] == [
        "`python a.py`", "", "About it.", "", "## first", "", "Halves.", "", "| number | half |", "| --- | --- |",
        "| 1 | 0.5 |", "| 3 | 1.5 |", "", "A note.", "", "## second", "", "Nothing new.", "", "| name |", "| --- |",
        "| a |", "| b |",
    ]  # fmt: skip
