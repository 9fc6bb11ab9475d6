"""The progress bar of a run: on a terminal only, so that logs stay readable."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sharpose.runtime.frames import Frame, Source

__all__ = ["run_progress"]


@contextlib.contextmanager
def run_progress(source: Source, console: Console) -> Iterator[Callable[[Frame], None]]:
    """Show a bar while the block runs; yields what to call with every frame that is done."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(source.name, total=source.frame_count)
        yield lambda frame: progress.update(task, advance=1)
