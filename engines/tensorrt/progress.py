"""How far a build is: TensorRT's progress monitor as one fraction, and a bar of it on a terminal."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from sharpose.engines.base import Untyped
from sharpose.engines.tensorrt.library import TensorRtFlavour

__all__ = ["BuildProgress", "OnBuildProgress", "PhaseTree", "build_bar", "progress_monitor"]


@dataclass(frozen=True)
class BuildProgress:
    """Attributes:
    stage: `coarse` or `fine`.
    phase: What the builder is doing, in its words.
    fraction: 0 to 1, never falling.
    """

    stage: str
    phase: str
    fraction: float


OnBuildProgress = Callable[[BuildProgress], None]


@dataclass
class _Phase:
    name: str
    steps: int
    done: int = 0
    child: _Phase | None = None

    def fraction(self) -> float:
        if self.steps <= 0:
            return 0.0
        inner = self.child.fraction() if self.child is not None and self.done < self.steps else 0.0
        return min((self.done + inner) / self.steps, 1.0)


@dataclass
class PhaseTree:
    """Nested phases, each of some steps; a phase inside another fills the step that the other is at.

    Attributes:
        fraction: 0 to 1, never falling: builders start phases that nobody announced.
    """

    fraction: float = 0.0
    _phases: dict[str, _Phase] = field(default_factory=dict)
    _root: _Phase | None = None

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase begins."""
        phase = _Phase(name, steps)
        self._phases[name] = phase
        if parent is not None and parent in self._phases:
            self._phases[parent].child = phase
        elif self._root is None:
            self._root = phase
        self._update()

    def step(self, name: str, step: int) -> None:
        """Step number `step`, from 0, of a phase is complete."""
        phase = self._phases.get(name)
        if phase is not None:
            phase.done = max(phase.done, step + 1)
            phase.child = None  # it was of the step that is over
            self._update()

    def finish(self, name: str) -> None:
        """A phase ends, whether all its steps were told of or not."""
        phase = self._phases.pop(name, None)
        if phase is not None:
            phase.done = phase.steps
            self._update()

    def _update(self) -> None:
        if self._root is not None:
            self.fraction = max(self.fraction, self._root.fraction())


def progress_monitor(flavour: TensorRtFlavour, stage: str, on_progress: OnBuildProgress) -> Untyped:
    """TensorRT's `IProgressMonitor` that calls `on_progress`.

    An exception of the callback (Ctrl-C arrives there) can't pass through TensorRT: it stops the build and is kept as
    the monitor's `failure`, to be raised afterwards.
    """
    base: type[Untyped] = flavour.module.IProgressMonitor

    class _Monitor(base):  # type: ignore[misc]  # its base is known at run time only
        def __init__(self) -> None:
            base.__init__(self)
            self.failure: BaseException | None = None
            self._tree = PhaseTree()
            self._lock = threading.Lock()  # TensorRT may call from several threads

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._tell(phase_name, lambda: self._tree.start(phase_name, parent_phase, num_steps))

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._tell(phase_name, lambda: self._tree.step(phase_name, step))
            return self.failure is None

        def phase_finish(self, phase_name: str) -> None:
            self._tell(phase_name, lambda: self._tree.finish(phase_name))

        def _tell(self, phase: str, change: Callable[[], None]) -> None:
            try:
                with self._lock:
                    change()
                    if self.failure is None:
                        on_progress(BuildProgress(stage, phase, self._tree.fraction))
            except BaseException as failure:
                self.failure = self.failure or failure

    return _Monitor()


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
