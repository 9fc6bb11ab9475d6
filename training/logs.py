"""The logs of a run: a progress bar, a JSON line for every stretch of steps and every evaluation, and TensorBoard."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sharpose.errors import ConfigError, SinkError, how_to_install
from sharpose.files import atomic_file


@contextlib.contextmanager
def training_progress(
    console: Console, steps: int, done: int, people_per_step: int, *, shown: bool
) -> Iterator[Callable[[int, float, float], None]]:
    """Show a bar while the block runs; yields a function to call after every step with its number, loss and rate.

    `done` of the run's `steps` were done before; `shown` is False for all processes but one.
    """
    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[numbers]}", markup=False),
        TimeRemainingColumn(),
    )
    started = time.monotonic()
    disabled = not (shown and console.is_terminal)
    with Progress(*columns, console=console, transient=True, disable=disabled) as progress:
        task = progress.add_task("training", total=steps, completed=done, numbers="")

        def on_step(step: int, loss: float, rate: float) -> None:
            speed = (step - done) * people_per_step / max(time.monotonic() - started, 1e-9)
            numbers = f"loss {loss:.5f}  rate {rate:.2e}  {speed:.0f} people/s"
            progress.update(task, completed=step, numbers=numbers)

        yield on_step


class JsonLinesLog:
    """One line for each record: `{"kind": "train", "step": 50, …}`, null for a value that is NaN or infinite.

    Raises `SinkError` where it can't be written.

    Appends to the file; drops its records after `after_step` first, as those steps are about to be done again.
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
        """See `RunLog.write`; the line is in the file when this returns. Raises `SinkError` where that fails."""
        record = {"kind": kind, "step": step} | {name: _rounded(value) for name, value in values.items()}
        try:
            self._file.write(json.dumps(record, allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise SinkError(f"{self.path}: can't be written ({error.strerror}); checkpoints are untouched") from error

    def close(self) -> None:
        """Close the file."""
        try:
            self._file.close()
        except OSError as error:
            raise SinkError(f"{self.path}: can't be written ({error.strerror})") from error


def check_tensorboard() -> None:
    """Raise `ConfigError` where TensorBoard is not installed."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError:
        raise ConfigError(
            f"tensorboard: true needs TensorBoard: {how_to_install('train')}, or --set tensorboard=false"
        ) from None


class TensorBoardLog:
    """Scalars under `kind/name`; drops records after `after_step`. Raises `ConfigError` without TensorBoard."""

    def __init__(self, folder: Path, after_step: int = 0) -> None:
        check_tensorboard()
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=after_step + 1 if after_step else None)

    def write(self, kind: str, step: int, values: dict[str, float]) -> None:
        """See `RunLog.write`."""
        for name, value in values.items():
            self._writer.add_scalar(f"{kind}/{name}", value, step)
        self._writer.flush()

    def close(self) -> None:
        """Close the files."""
        self._writer.close()


class RunLog:
    """The logs of a run as one; none on all processes but the first."""

    def __init__(self, logs: Sequence[JsonLinesLog | TensorBoardLog]) -> None:
        self._logs = logs

    def write(self, kind: str, step: int, values: dict[str, float]) -> None:
        """Record values by name, of `kind` `train` or `evaluation`, after `step` optimiser steps."""
        for log in self._logs:
            log.write(kind, step, values)

    def close(self) -> None:
        """Close all."""
        for log in self._logs:
            log.close()


def _step_of(line: str) -> float:
    """The step of a record; infinite for a line that a killed run left half written."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def _rounded(value: float) -> float | None:
    """Nine digits, which tell all float32 numbers apart; whole numbers stay whole; None for what JSON doesn't have."""
    if not math.isfinite(value):
        return None
    return value if isinstance(value, int) else float(f"{value:.9g}")
