"""What became slower between two runs of latency.py: `python benchmarks/compare.py OLD NEW`, the reports' folders.

The exit code is 1 if anything became slower, 2 if something can't be compared, which is said, else 0.
"""

from __future__ import annotations

if __name__ == "__main__":  # Ctrl-C while modules are imported
    from sharpose.__main__ import end_on_signals

    end_on_signals()

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import click
import numpy as np
from report import benchmark_command
from rich.console import Console
from rich.table import Table

from sharpose.cli import Number, interruptible, option
from sharpose.cli import main as run_command
from sharpose.errors import InputError, counted
from sharpose.files import read_json

SCHEMA = "sharpose-latency/2"
MIN_ROUNDS = 5
"""Fewer turns of a contender say nothing about its spread."""
_MIN_SHARE = 0.02  # of a frame; the noise of shorter stages is larger than they are
_BOOTSTRAPS = 4000
_CONFIDENCE = (0.5, 99.5)  # percentiles: 99 %, as there are many comparisons
_MACHINE = ("processor", "cores", "gpu", "instruction_sets")

Report = Mapping[str, Any]


@dataclass(frozen=True)
class Change:
    """How a stage's time changed: new divided by old, medians over turns, with a 99 % interval."""

    case: str
    contender: str
    stage: str
    old_ms: float
    new_ms: float
    low: float
    high: float

    @property
    def ratio(self) -> float:
        """Above 1 is slower."""
        return self.new_ms / self.old_ms


def compare_turns(old: Sequence[float], new: Sequence[float]) -> tuple[float, float]:
    """The 99 % interval of the ratio of medians, new to old, under resampling of the turns of both."""
    rng = np.random.default_rng(0)
    medians = []
    for turns in (np.asarray(old, np.float64), np.asarray(new, np.float64)):
        drawn = rng.integers(len(turns), size=(_BOOTSTRAPS, len(turns)))
        medians.append(np.median(turns[drawn], axis=1))
    low, high = np.percentile(medians[1] / medians[0], _CONFIDENCE)
    return float(low), float(high)


def read_report(path: Path) -> Report:
    """What `latency.py` wrote: a folder, or its `latency.json`; raises `InputError` for anything else."""
    path = path / "latency.json" if path.is_dir() else path

    def failure(reason: str) -> InputError:
        return InputError(f"{path}: {reason}; expected the latency.json of benchmarks/latency.py")

    content = read_json(path, failure)
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        found = content.get("schema", "no schema") if isinstance(content, dict) else type(content).__name__
        raise failure(f"expected schema {SCHEMA}, found {found}")
    return content


def differences(old: Report, new: Report) -> list[str]:
    """Why two reports can't be compared at all; empty if they can."""
    found = [
        f"{name.replace('_', ' ')}: {old['machine'][name]!r} and {new['machine'][name]!r}"
        for name in _MACHINE
        if old["machine"][name] != new["machine"][name]
    ]
    return found + [
        f"{name}: {old.get(name)!r} and {new.get(name)!r}"
        for name in ("bundle", "picture", "threads", "alpha")
        if old.get(name) != new.get(name)
    ]


def changes(old: Report, new: Report) -> Iterator[Change | str]:
    """Each stage of each contender in each case of both reports; a line of text for what can't be compared."""
    ours, theirs = ({_case_name(case): case for case in report["cases"]} for report in (old, new))
    for name, case in ours.items():
        if name not in theirs:
            yield f"{name}: only in the old report"
            continue
        for contender, before in case["contenders"].items():
            after = theirs[name]["contenders"].get(contender)
            if after is None:
                yield f"{name}, {contender}: only in the old report"
            elif min(before["rounds"], after["rounds"]) < MIN_ROUNDS:
                rounds = f"{before['rounds']} and {after['rounds']}"
                yield f"{name}, {contender}: expected at least {MIN_ROUNDS} rounds, found {rounds}"
            else:
                yield from _stages(name, contender, before, after)
        extra = [contender for contender in theirs[name]["contenders"] if contender not in case["contenders"]]
        yield from (f"{name}, {contender}: only in the new report" for contender in extra)
    yield from (f"{name}: only in the new report" for name in theirs if name not in ours)


def _case_name(case: Report) -> str:
    return f"{counted(case['people'], 'person')}, {case['refine_percent']} % refined"


def _stages(case: str, contender: str, old: Report, new: Report) -> Iterator[Change]:
    for stage, turns in old["turn_means"].items():
        later = new["turn_means"][stage]
        shares = np.median(turns) / old["mean_ms"], np.median(later) / new["mean_ms"]
        if max(shares) < _MIN_SHARE or not (np.median(turns) and np.median(later)):
            continue
        interval = compare_turns(turns, later)
        yield Change(case, contender, stage, float(np.median(turns)), float(np.median(later)), *interval)


def table_of(found: Sequence[Change]) -> Table:
    """A row for each change."""
    table = Table("case", "contender", "stage", "old ms", "new ms", "new / old", "99 % interval")
    for column in table.columns[3:]:
        column.justify = "right"
    for item in found:
        times = [f"{item.old_ms:.2f}", f"{item.new_ms:.2f}", f"{item.ratio:.2f}"]
        row = [item.case, item.contender, item.stage.replace("_", " "), *times]
        table.add_row(*row, f"{item.low:.2f} to {item.high:.2f}")
    return table


@benchmark_command(
    "python benchmarks/compare.py before after",
    "python benchmarks/compare.py before/latency.json after/latency.json --tolerance 10",
)
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@option(
    "Comparison",
    "--tolerance",
    default=5.0,
    show_default=True,
    type=Number(0, 1000),
    help="Percent that a stage may change: counted only if the whole 99 % interval lies beyond it.",
)
@option("Help", "--debug", is_flag=True, help="Show the traceback of an error.")
def command(old: Path, new: Path, tolerance: float, debug: bool) -> int:
    """Say what became slower or faster between two reports of latency.py on one machine.

    OLD and NEW are folders that latency.py wrote, or their latency.json. The exit code is 1 if anything became slower.
    """
    interruptible()
    before, after = read_report(old), read_report(new)
    if reasons := differences(before, after):
        raise InputError(f"can't compare {old} with {new}: they differ in {'; '.join(reasons)}")
    for name, version in after["machine"]["packages"].items():
        if (known := before["machine"]["packages"].get(name)) != version:
            click.echo(f"{name}: {known or 'not installed'} before, {version} now")
    for path, report in ((old, before), (new, after)):
        if report["machine"]["load_average"] > report["machine"]["cores"] / 4:
            click.echo(f"{path}: the machine was busy (load average {report['machine']['load_average']:.2f})")
    found = list(changes(before, after))
    measured = [item for item in found if isinstance(item, Change)]
    slower = [item for item in measured if item.low > 1 + tolerance / 100]
    faster = [item for item in measured if item.high < 1 / (1 + tolerance / 100)]
    console = Console(width=150)
    for word, items in (("slower", slower), ("faster", faster)):
        if items:
            console.print(f"{word}:")
            console.print(table_of(items))
    missing = [item for item in found if isinstance(item, str)]
    for line in missing:
        click.echo(f"not compared: {line}")
    same = len(measured) - len(slower) - len(faster)
    click.echo(f"{len(slower)} slower, {len(faster)} faster, {same} the same within {tolerance:g} %")
    return 1 if slower else 2 if missing or not measured else 0


def main() -> NoReturn:
    """Entry point."""
    run_command(command)


if __name__ == "__main__":
    main()
