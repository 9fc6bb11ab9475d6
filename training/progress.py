"""The progress bar of a training run: on a terminal only, so that logs stay readable."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["training_progress"]


@contextlib.contextmanager
def training_progress(
    console: Console, steps: int, done: int, people_per_step: int, *, shown: bool
) -> Iterator[Callable[[int, float, float], None]]:
    """Show a bar while the block runs; yields what to call after every step with its number, loss and rate.

    Args:
        console: Where to.
        steps: Of the whole run.
        done: Before this part of it.
        people_per_step: For the speed.
        shown: False for all processes but one.
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
