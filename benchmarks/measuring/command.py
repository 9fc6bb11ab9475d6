"""What the benchmark commands share: options, the beginning of a report, and reports of several parts."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, TypeAlias

import click
from report import Machine, kept_when_interrupted, make_output_folder, this_machine, write_file

from measuring.page import cell, table
from sharpose.cli import EXIT_USER, Threads, interruptible, option, options
from sharpose.engines.precision import PRECISIONS
from sharpose.errors import InputError, require_packages

Row: TypeAlias = dict[str, Any]
"""A row of a part's table: cells by the names of their columns."""

_SHIPPED = "[default: the shipped bundle]"


def require(*modules: str) -> None:
    """Ends a benchmark that imports these with one line and exit code 2 where they aren't installed."""
    try:
        require_packages(f"benchmarks/{Path(sys.argv[0]).name}", modules, "cpu,export", InputError)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_USER)


def bundle_option(section: str, what: str = "Bundle folder, written by sharpose-export.") -> Callable[..., Any]:
    """`--bundle`, under a heading of the help."""
    return option(section, "--bundle", type=click.Path(path_type=Path), help=f"{what}  {_SHIPPED}")


def device_option(section: str, what: str = "Device, as sharpose-run takes it.") -> Callable[..., Any]:
    """`--device`, of one device."""
    return option(section, "--device", default="cpu", show_default=True, help=what)


def precision_option(section: str) -> Callable[..., Any]:
    """`--precision`, of one precision."""
    return option(
        section, "--precision", default="auto", show_default=True, type=click.Choice(PRECISIONS), help="Precision."
    )


def threads_option(section: str) -> Callable[..., Any]:
    """`--threads`."""
    return option(
        section, "--threads", type=Threads(), help="CPU threads of the engine.  [default: the engine's choice]"
    )


def report_options(files: str, finished: str) -> Callable[..., Any]:
    """`--output`, `--overwrite` and `--debug`, which end the help.

    Args:
        files: What the folder gets, in words.
        finished: What Ctrl-C keeps those of that are done, in the plural.
    """
    return options(
        option(
            "Report",
            "--output",
            type=click.Path(path_type=Path),
            required=True,
            help=f"Folder for {files}. Ctrl-C keeps the {finished} that are done.",
        ),
        option("Report", "--overwrite", is_flag=True, help="Replace an earlier report in the folder."),
        option("Help", "--debug", is_flag=True, help="Show the traceback of an error."),
    )


def begin(output: Path, *files: str, overwrite: bool) -> Machine:
    """Let signals end the command with what is done, make the report's folder, and look at the machine.

    Args:
        output: The folder.
        files: What will be written there.
        overwrite: Whether files of an earlier report may be replaced.

    Raises:
        click.UsageError: the folder can't be made, or holds one of the files.
    """
    interruptible()
    make_output_folder(output, *files, overwrite=overwrite)
    machine = this_machine()
    if machine.load_average > machine.cores / 4:
        click.echo(f"the machine is busy (load average {machine.load_average:.2f}): times will be too long")
    return machine


@dataclass
class PartsReport:
    """A report with a table for each part that is measured, written after each, as Markdown and as JSON.

    Attributes:
        name: Of the files, without their endings; capitalised, the title.
        output: Their folder.
        machine: Where it is measured.
        about: What is measured, a line before the tables.
        values: What the JSON holds before the parts, `command` among it.
        notes: Lines after a part's table, made from its rows.
        long_parts: Those of which only the last row is printed meanwhile.
        parts: The rows of what is done.
    """

    name: str
    output: Path
    machine: Machine
    about: str
    values: dict[str, Any]
    notes: Callable[[str, Sequence[Row]], list[str]] = lambda part, rows: []
    long_parts: Sequence[str] = ()
    parts: dict[str, list[Row]] = field(default_factory=dict)

    def measure(self, benchmark: object, parts: Sequence[str]) -> None:
        """Call the method of each part, which returns its rows and whose docstring says what they are.

        Args:
            benchmark: Has the methods.
            parts: Their names.

        Raises:
            PartialReportError: a signal or an error came, and some parts were finished, which are kept.
        """
        with kept_when_interrupted(self.parts, "part", self.output, lambda: self._write(benchmark)):
            for part in parts:
                self.parts[part] = rows = getattr(benchmark, part)()
                for row in rows[-1:] if part in self.long_parts else rows:
                    click.echo(f"{part}: " + ", ".join(f"{name} {cell(value)}" for name, value in row.items()))
                self._write(benchmark)  # after each part: whatever ends the run, what was measured stays
        click.echo(f"wrote {self._path('md')} and {self._path('json')}")

    def _path(self, ending: str) -> Path:
        return self.output / f"{self.name}.{ending}"

    def _write(self, benchmark: object) -> None:
        values = {"date": date.today().isoformat(), **self.values, "machine": asdict(self.machine), "parts": self.parts}
        write_file(self._path("json"), json.dumps(values, indent=1) + "\n")
        command = self.values["command"]
        lines = [f"# {self.name.capitalize()}", "", str(self.machine), "", f"`{command}`", "", self.about]
        for part, rows in self.parts.items():
            words = (getattr(benchmark, part).__doc__ or "").strip()
            cells = [[cell(value) for value in row.values()] for row in rows]
            lines += ["", f"## {part}", "", words, "", *table(list(rows[0]), cells), *self.notes(part, rows)]
        write_file(self._path("md"), "\n".join(lines) + "\n")
