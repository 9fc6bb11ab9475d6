"""The progress bars of a run, one a stream: on a terminal only, so that logs stay readable."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sharpose.runtime.frames import Frame, Source

__all__ = ["run_progress"]


@contextlib.contextmanager
def run_progress(
    sources: Sequence[Source], console: Console, *, shown: bool | None = None
) -> Iterator[Callable[[int, Frame], None]]:
    """Show bars while the block runs; yields what to call with a source's place and every frame of it that is done.

    Args:
        sources: What is read.
        console: Where to draw.
        shown: Whether to; None for where `console` is a terminal.
    """
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    hidden = not console.is_terminal if shown is None else not shown
    with Progress(*columns, console=console, transient=True, disable=hidden) as progress:
        tasks = [progress.add_task(source.name, total=source.frame_count) for source in sources]
        yield lambda stream, frame: progress.update(tasks[stream], advance=1)
