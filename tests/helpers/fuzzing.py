"""Mutated inputs, and forked children with limits that a command is tried on them in."""

from __future__ import annotations

import copy
import json
import os
import resource
import select
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["Outcome", "broken_rule", "child", "mutated_bytes", "mutated_json"]

SECONDS = 10.0
MEMORY_MIB = 1024  # beyond what the parent holds already

HOSTILE: tuple[object, ...] = (
    None,
    True,
    0,
    -1,
    1,
    3,
    10**7,
    2**31,
    2**63,
    10**400,
    0.5,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "0",
    "x",
    "a\x00b",
    "../../etc/passwd",
    "é" * 500,
    [],
    {},
    [[]],
    [None],
    [1, 2, 3],
    {"id": 1},
)


@dataclass(frozen=True)
class Outcome:
    """How a child ended.

    Attributes:
        code: Exit code; negative for a signal; None where it was killed after `SECONDS`.
        err: What it wrote to stderr.
        seconds: How long it ran.
        peak_mib: Most memory that it held beyond the parent's.
    """

    code: int | None
    err: str
    seconds: float
    peak_mib: float


def child(work: Callable[[], object], *, seconds: float = SECONDS, memory_mib: int = MEMORY_MIB) -> Outcome:
    """Run `work` in a fork of this process, which has imported what it needs but started no threads of engines.

    Args:
        work: Ends by `SystemExit`, or returns for 0.
        seconds: It is killed after so many.
        memory_mib: It can't have more than three times this beyond the parent's address space.
    """
    before = _resident_mib(os.getpid())
    with tempfile.TemporaryFile() as err:
        began = time.monotonic()
        pid = os.fork()
        if pid == 0:
            _be_the_child(work, err.fileno(), memory_mib)
        status, peak = _wait(pid, began + seconds, before)
        err.seek(0)
        code = None if status is None else os.waitstatus_to_exitcode(status)
        return Outcome(code, err.read().decode("utf-8", "replace"), time.monotonic() - began, peak)


def broken_rule(outcome: Outcome, *, codes: tuple[int, ...] = (0, 2, 3), memory_mib: int = MEMORY_MIB) -> str | None:
    """What is wrong with how a command ended on hostile input; None if nothing is.

    Right is: done with right results, or one line that says what is wrong with the input, in time and in little memory.
    """
    if outcome.code is None:
        return f"ran longer than {SECONDS:g} seconds"
    if "Traceback" in outcome.err:
        return f"a traceback: {outcome.err[-1500:]}"
    if "a defect in this program" in outcome.err:
        return f"an input's fault is called a defect: {outcome.err[-500:]}"
    if outcome.code not in codes:
        return f"exit code {outcome.code}: {outcome.err[-500:]}"
    errors = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    if outcome.code != 0 and len(errors) != 1:
        return f"expected one line that begins with error, got {len(errors)}: {outcome.err[-500:]}"
    if outcome.peak_mib > memory_mib:
        return f"took {outcome.peak_mib:.0f} MiB"
    return None


def mutated_json(document: object, rng: np.random.Generator, changes: int | None = None) -> str:
    """The text of a document with a few hostile values in random places."""
    document = copy.deepcopy(document)
    for _ in range(changes if changes is not None else int(rng.choice([1, 1, 1, 2, 4]))):
        places = list(_places(document))
        if not places:
            break
        holder, key = places[int(rng.integers(len(places)))]
        what = rng.random()
        if what < 0.2:
            del holder[key]
        elif what < 0.3 and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
        elif what < 0.4 and isinstance(holder[key], str) and holder[key]:
            holder[key] = holder[key][: int(rng.integers(len(holder[key])))]
        elif what < 0.5 and type(holder[key]) in (int, float):
            holder[key] = holder[key] * float(rng.choice([-1, 1e-9, 1e9]))
        else:
            holder[key] = HOSTILE[int(rng.integers(len(HOSTILE)))]
    text = json.dumps(document)
    what = rng.random()
    if what < 0.05:
        return text[: int(rng.integers(len(text)))]
    if what < 0.08:
        depth = int(rng.choice([100, 100_000]))
        return "[" * depth + text + "]" * depth
    return text


def mutated_bytes(content: bytes, rng: np.random.Generator, *, sparing: int = 0) -> bytes:
    """A file with flipped, cut, repeated or strange bytes.

    Args:
        content: The sound file.
        rng: Decides.
        sparing: So many bytes at the beginning stay, so that the damage lies behind the first checks.
    """
    data = bytearray(content)
    first = min(sparing, max(len(data) - 1, 0))
    for _ in range(int(rng.choice([1, 1, 2, 8]))):
        if len(data) <= first + 1:
            break
        place = int(rng.integers(first, len(data)))
        length = int(rng.integers(1, min(64, len(data) - place) + 1))
        what = int(rng.integers(6))
        if what == 0:
            data[place] ^= 1 << int(rng.integers(8))
        elif what == 1:
            data[place : place + length] = rng.bytes(length)
        elif what == 2:
            del data[place : place + length]
        elif what == 3:
            data[place:place] = data[place : place + length] * int(rng.integers(1, 9))
        elif what == 4:
            data[place : place + 4] = rng.choice([b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\x7f\xff\xff\xff"])
        else:
            del data[place:]
    return bytes(data)


def _places(node: object) -> Any:
    if isinstance(node, dict):
        for key, value in list(node.items()):
            yield node, key
            yield from _places(value)
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield node, index
            if index < 40:  # long lists of numbers would take all the places
                yield from _places(value)


def _be_the_child(work: Callable[[], object], err: int, memory_mib: int) -> None:
    code = 70
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDWR), 0)
        os.dup2(0, 1)
        os.dup2(err, 2)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 (pytest's stand-ins would swallow both)
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        limit = size + 3 * memory_mib * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        try:
            work()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        except BaseException:
            import traceback

            traceback.print_exc()
            code = 71
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _wait(pid: int, deadline: float, before: float) -> tuple[int | None, float]:
    """The wait status, None where it was killed; and the most memory beyond `before` that was seen, in MiB."""
    peak = 0.0
    descriptor = os.pidfd_open(pid)
    try:
        while True:
            ready, _, _ = select.select([descriptor], [], [], 0.02)
            if ready:
                return os.waitpid(pid, 0)[1], peak
            peak = max(peak, _resident_mib(pid) - before)
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return None, peak
    finally:
        os.close(descriptor)


def _resident_mib(pid: int) -> float:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
    except (OSError, IndexError):
        return 0.0
