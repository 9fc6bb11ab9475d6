"""What a step of a GPU day is given, what it finds, and its verdict: it runs in a process of its own."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from sharpose.files import replacing

AS_EXPECTED, NOT_AS_EXPECTED, COULD_NOT_RUN = "as expected", "not as expected", "could not run"
RUNNING = "running"

Outcome: TypeAlias = tuple[bool, str]
"""Whether what came out is as expected, and what came out in one line."""


class CouldNotRunError(Exception):
    """Something that a step needs isn't here; the message says what."""


@dataclass(frozen=True)
class Setup:
    """What all steps are given."""

    bundle: Path
    folder: Path  # of the results
    device: str = "tensorrt"
    detector: Path | None = None  # an ONNX file; the bundle's coarse graph plays it if None
    frames: int = 10_000  # of the long run
    openings: int = 50
    repeats: int = 100  # runs in each of two threads
    long_run_s: float = 150  # at most, for all frames
    seconds: float = 2.0  # measured per case of latency, at least
    rounds: int = 10  # of each case of latency, at least

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Setup:
        """What `as_dict` was made of."""
        paths = {name: Path(values[name]) for name in ("bundle", "folder", "detector") if values[name]}
        return cls(**{**values, **paths})


class Notes:
    """What a step has found so far, in a file that is complete after every note."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.values: dict[str, Any] = {}
        self.finish(RUNNING, "")

    def add(self, name: str, value: float | str) -> None:
        """Note a number or a line of text."""
        self.values[name] = value
        self.finish(RUNNING, "")

    def row(self, table: str, **cells: float | str | None) -> None:
        """Add a row to a table; all its rows have the same columns."""
        self.values.setdefault(table, []).append({name.replace("_", " "): cell for name, cell in cells.items()})
        self.finish(RUNNING, "")

    def finish(self, verdict: str, text: str) -> None:
        """Write the file."""
        with replacing(self._path, sync=False) as temporary:
            temporary.write_text(json.dumps({"verdict": verdict, "text": text, "values": self.values}), "utf-8")
