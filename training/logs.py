"""The log of a run: a JSON line for every stretch of steps and every evaluation, and TensorBoard where wanted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Protocol

from sharpose.errors import ConfigError, SinkError
from sharpose.files import atomic_file

__all__ = ["JsonLinesLog", "Log", "TensorBoardLog"]


class Log(Protocol):
    """Where numbers go."""

    def write(self, kind: str, step: int, values: dict[str, float]) -> None:
        """Note values.

        Args:
            kind: `train` or `evaluation`.
            step: Optimiser steps done.
            values: By name.
        """
        ...

    def close(self) -> None:
        """Finish."""
        ...


class JsonLinesLog:
    """One line a record: `{"kind": "train", "step": 50, …}`.

    Args:
        path: The file; made if missing, else added to.
        after_step: Records after this step are dropped first: the steps are about to be done again.

    Raises:
        SinkError: it can't be written.
    """

    def __init__(self, path: Path, after_step: int = 0) -> None:
        self.path = path
        try:
            if path.exists():
                kept = [line for line in path.read_text("utf-8").splitlines() if _step_of(line) <= after_step]
                with atomic_file(path) as temporary:
                    temporary.write_text("".join(f"{line}\n" for line in kept), "utf-8")
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise SinkError(f"{path}: can't be written ({error.strerror})") from error

    def write(self, kind: str, step: int, values: dict[str, float]) -> None:
        """See `Log`; the line is in the file when this returns.

        Raises:
            SinkError: it can't be written.
        """
        record = {"kind": kind, "step": step} | {name: _rounded(value) for name, value in values.items()}
        try:
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
        except OSError as error:
            raise SinkError(f"{self.path}: can't be written ({error.strerror}); checkpoints are untouched") from error

    def close(self) -> None:
        """See `Log`."""
        try:
            self._file.close()
        except OSError as error:
            raise SinkError(f"{self.path}: can't be written ({error.strerror})") from error


class TensorBoardLog:
    """Scalars under `kind/name`.

    Args:
        folder: Where the event files go.
        after_step: TensorBoard forgets what an earlier part of the run noted after this step.

    Raises:
        ConfigError: TensorBoard isn't installed.
    """

    def __init__(self, folder: Path, after_step: int = 0) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ConfigError(
                'tensorboard: true needs TensorBoard: pip install "sharpose[train]", or --set tensorboard=false'
            ) from None
        self._writer = SummaryWriter(str(folder), purge_step=after_step + 1 if after_step else None)

    def write(self, kind: str, step: int, values: dict[str, float]) -> None:
        """See `Log`."""
        for name, value in values.items():
            self._writer.add_scalar(f"{kind}/{name}", value, step)
        self._writer.flush()

    def close(self) -> None:
        """See `Log`."""
        self._writer.close()


def _step_of(line: str) -> float:
    """The step of a record; infinite for a line that a killed run left half written."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def _rounded(value: float) -> float:
    """Nine digits, which tell all float32 numbers apart; whole numbers stay whole."""
    return value if isinstance(value, int) else float(f"{value:.9g}")
