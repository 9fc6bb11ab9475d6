"""Mutated inputs, and forked children with limits that a command is tried on them in."""

from __future__ import annotations

import copy
import json
import os
import re
import resource
import select
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

SECONDS = 10  # of processor time: the machine may be busy
_HANGS = 90.0  # seconds of the clock, after which it is taken to hang
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
    2**53 + 1,
    10**400,
    0.5,
    1e308,
    -1e308,
    5e-324,
    -0.0,
    float("nan"),
    float("inf"),
    "",
    "0",
    "x",
    "a\x00b",
    "../../etc/passwd",
    "é" * 500,
    "\ud800",
    "\u202e\ufeff\U0001f600",
    "1e9",
    "nan",
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
        code: Exit code; negative for a signal; None where it was killed as it hung.
        err: What it wrote to stderr.
        seconds: How long it ran, by the clock.
        peak_mib: Most memory that it held beyond the parent's.
    """

    code: int | None
    err: str
    seconds: float
    peak_mib: float


def child(work: Callable[[], object], *, seconds: int = SECONDS, memory_mib: int = MEMORY_MIB) -> Outcome:
    """Run `work` in a fork of this process, which has imported what it needs but started no threads of engines.

    Args:
        work: Ends by `SystemExit`, or returns for 0.
        seconds: It is killed after so many of processor time.
        memory_mib: It can't have more than three times this beyond the parent's address space.
    """
    before = _resident_mib(os.getpid())
    with tempfile.TemporaryFile() as err:
        began = time.monotonic()
        pid = os.fork()
        if pid == 0:
            _be_the_child(work, err.fileno(), seconds, memory_mib)
        status, peak = _wait(pid, began + _HANGS, before)
        err.seek(0)
        code = None if status is None else os.waitstatus_to_exitcode(status)
        return Outcome(code, err.read().decode("utf-8", "replace"), time.monotonic() - began, peak)


def broken_rule(outcome: Outcome, *, codes: tuple[int, ...] = (0, 2, 3), memory_mib: int = MEMORY_MIB) -> str | None:
    """What is wrong with how a command ended on hostile input; None if nothing is.

    Right is: done with right results, or one line that says what is wrong with the input, in time and in little memory.
    """
    if outcome.code is None:
        return f"hung for {outcome.seconds:.0f} s: {outcome.err[-500:]}"
    if outcome.code == -signal.SIGXCPU:
        return f"ran longer than {SECONDS} seconds"
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
        if what < 0.15:
            del holder[key]
        elif what < 0.3:
            holder[key] = _of_another_type(holder[key], rng)
        elif what < 0.35:
            other, other_key = places[int(rng.integers(len(places)))]
            if other_key in (range(len(other)) if isinstance(other, list) else other):
                holder[key], other[other_key] = copy.deepcopy((other[other_key], holder[key]))
        elif what < 0.4 and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
        elif what < 0.45 and isinstance(holder[key], str) and holder[key]:
            holder[key] = holder[key][: int(rng.integers(len(holder[key])))]
        elif what < 0.55 and type(holder[key]) in (int, float) and abs(holder[key]) < 1e300:
            holder[key] = holder[key] * float(rng.choice([-1, 1e-9, 1e9]))
        else:
            holder[key] = HOSTILE[int(rng.integers(len(HOSTILE)))]
    text = json.dumps(document)
    what = rng.random()
    if what < 0.05:
        return text[: int(rng.integers(len(text)))]
    depth = int(rng.choice([100, 100_000]))
    if what < 0.07:
        return "[" * depth + text + "]" * depth
    places = [match.start() + 1 for match in re.finditer(r"\{", text)]
    if what < 0.2 and places:
        at = places[int(rng.integers(len(places)))]
        again = re.compile(r'\s*"[^"]*": ').match(text, at)
        if what < 0.1:  # deep inside
            return f'{text[:at]}"x": {"[" * depth}{"]" * depth}, {text[at:]}'
        if again is not None:  # the first key twice
            return f"{text[:at]}{again.group()}{json.dumps(HOSTILE[int(rng.integers(len(HOSTILE)))])}, {text[at:]}"
    return text


def _of_another_type(value: object, rng: np.random.Generator) -> object:
    others: list[object] = [[value], {"value": value}, str(value), None, [value, value]]
    if isinstance(value, str):
        others += [
            float(len(value)),
            list(value[:50]),
            value.encode("utf-8", "replace")[:20].hex(),
            value.upper(),
            f" {value}",
        ]
    elif isinstance(value, bool | int | float):
        others += [float(value) if abs(value) < 1e300 else 0.5, int(value) if abs(value) < 1e18 else 7, bool(value)]
    elif isinstance(value, dict):
        others += [list(value.items()), list(value.values())]
    elif isinstance(value, list):
        others += [dict(enumerate(value)), value[::-1], value[:-1], [*value, 0.0]]
    return others[int(rng.integers(len(others)))]


def mutated_graph(model: onnx.ModelProto, rng: np.random.Generator) -> bytes:
    """A graph with a few fields of other values: dimensions, dtypes, where weights lie, nodes, attributes, names."""
    import onnx

    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    numbers = [0, 1, -1, 2, 3, 7, 2**31 - 1, 2**40, 2**63 - 1, -(2**63)]

    def one_of(items: Any) -> Any:
        return items[int(rng.integers(len(items)))]

    for _ in range(int(rng.choice([1, 1, 2]))):
        tensor, node, value = one_of(graph.initializer), one_of(graph.node), one_of([*graph.input, *graph.output])
        what = int(rng.integers(12))
        if what == 0 and tensor.dims:
            tensor.dims[int(rng.integers(len(tensor.dims)))] = one_of(numbers)
        elif what == 1:
            tensor.data_type = int(rng.integers(0, 25))
        elif what == 2:
            tensor.dims.append(one_of(numbers))
        elif what in (3, 4):
            far = [entry for other in graph.initializer for entry in other.external_data]
            if far:
                one_of(far).value = one_of(
                    ["", "-1", "0", str(2**63), str(2**40), "x", "../weights.bin", "/etc/passwd"]
                )
        elif what == 5:
            graph.node.remove(node)
        elif what == 6:
            graph.node.append(node)
        elif what == 7:
            node.op_type = one_of(["Identity", "Softmax", "Loop", "Nothing", "", "Concat", "Expand", "Range", "Tile"])
        elif what == 8 and node.input:
            node.input[int(rng.integers(len(node.input)))] = one_of(["", "nothing", one_of(graph.initializer).name])
        elif what == 9 and node.attribute:
            attribute = one_of(node.attribute)
            attribute.i = one_of(numbers)
            if attribute.ints:
                attribute.ints[int(rng.integers(len(attribute.ints)))] = one_of(numbers)
        elif what == 10:
            axis = one_of(value.type.tensor_type.shape.dim)
            axis.dim_value = one_of(numbers)
        else:
            value.type.tensor_type.elem_type = int(rng.integers(0, 25))
    return changed.SerializeToString()


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


def _be_the_child(work: Callable[[], object], err: int, seconds: int, memory_mib: int) -> None:
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
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
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
