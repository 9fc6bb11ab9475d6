"""The bar of an engine's build: on a terminal only, and only once something is built."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from sharpose.engines.tensorrt_progress import BuildProgress, OnBuildProgress

__all__ = ["build_bar"]


@contextlib.contextmanager
def build_bar(console: Console | None = None) -> Iterator[OnBuildProgress]:
    """Show builds while the block runs; yields what to call with their progress.

    Args:
        console: Where; stderr if None.
    """
    console = console or Console(stderr=True)
    columns = (
        TextColumn("building {task.description} engine"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} % {task.fields[phase]}", markup=False),
        TimeElapsedColumn(),
    )
    progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    tasks: dict[str, TaskID] = {}

    def update(event: BuildProgress) -> None:
        if event.stage not in tasks:
            progress.start()
            tasks[event.stage] = progress.add_task(event.stage, total=1.0, phase="")
        progress.update(tasks[event.stage], completed=event.fraction, phase=event.phase)

    try:
        yield update
    finally:
        progress.stop()
