"""The options of an archive. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sharpose.runtime.options import RunOptions


@dataclass(frozen=True)
class Shard:
    """One of `count` parts of an archive; `index` counts from 0."""

    index: int = 0
    count: int = 1

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


@dataclass(frozen=True)
class ArchiveOptions:
    """The command line of `sharpose-archive`; its help says what each option is.

    Attributes:
        run: What it shares with `sharpose-run`; `sources` also holds lists (`@FILE`).
        workers: None for a number that fits the machine.
    """

    run: RunOptions
    shard: Shard = Shard()
    workers: int | None = None
    engine: Literal["local", "ray"] = "local"
    retries: int = 2
    report: Path | None = None


def divides_cores(options: RunOptions) -> bool:
    """Whether workers compute on CPU cores, which `--threads` divides among them."""
    return options.remote.server is None and options.device in ("cpu", "openvino", "openvino:CPU")
