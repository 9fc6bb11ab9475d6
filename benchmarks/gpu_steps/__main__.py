"""A step in a process of its own, begun by `gpu_day.py`: `python -m gpu_steps NAME SETUP NOTES`."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from gpu_steps import endurance, engines, speed
from gpu_steps.notes import AS_EXPECTED, COULD_NOT_RUN, NOT_AS_EXPECTED, CouldNotRunError, Notes, Outcome, Setup
from sharpose.cli import EXIT_USER
from sharpose.errors import one_line

CHECKS: dict[str, Callable[[Setup, Notes], Outcome]] = {
    name.removeprefix("check_"): check
    for module in (engines, speed, endurance)
    for name, check in vars(module).items()
    if name.startswith("check_")
}
"""By the names of their steps."""


def main() -> None:
    """Run a check, whose name, setup as JSON and file of notes are this process's arguments."""
    if len(sys.argv) != 4 or sys.argv[1] not in CHECKS:
        print("error: expected a step, its setup and a file, as `python benchmarks/gpu_day.py` gives", file=sys.stderr)
        sys.exit(EXIT_USER)
    name, setup, path = sys.argv[1:]
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    notes = Notes(Path(path))
    try:
        good, text = CHECKS[name](Setup.from_dict(json.loads(setup)), notes)
        notes.finish(AS_EXPECTED if good else NOT_AS_EXPECTED, text)
    except CouldNotRunError as error:
        notes.finish(COULD_NOT_RUN, str(error))
    except Exception as error:
        traceback.print_exc()
        notes.finish(NOT_AS_EXPECTED, f"{type(error).__name__}: {one_line(error)}")


if __name__ == "__main__":
    main()
