"""Every error this toolkit raises on purpose, and what pydantic found wrong in our words.

A message says what was expected, what was found and what to do about it, in one line. The command-line tools print
that line and exit with `exit_code`; `--debug` shows the traceback as well.
"""

from __future__ import annotations

import errno
import re
import reprlib
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError


class SharposeError(Exception):
    """Base of the hierarchy; `exit_code` is what a command exits with when it ends on this error."""

    exit_code: int = 2


class ConfigError(SharposeError):
    """A model configuration is missing, malformed, or asks for something that is not supported."""


class CheckpointError(SharposeError):
    """A checkpoint can't be read, or its tensors are not those of the configured model."""


class BundleError(SharposeError):
    """A bundle is missing, malformed, damaged, or was written by another schema version."""


class ExportError(SharposeError):
    """The export could not start or finish; nothing was left behind."""


class ParityError(SharposeError):
    """The exported graphs do not reproduce the PyTorch model: a check failed."""

    exit_code = 1


class EngineError(SharposeError):
    """An engine can't be made or run on the device that was asked for."""


class InputError(SharposeError):
    """An argument has the wrong type, dtype, shape or value."""


class BoxesError(SharposeError):
    """A boxes file can't be read or holds boxes that can't be used."""


class DetectorError(SharposeError):
    """A detector graph is not one whose outputs are understood."""


class SourceError(SharposeError):
    """A source of frames can't be opened or decoded."""


class SinkError(SharposeError):
    """A result can't be written; what was written before stays readable."""

    exit_code = 3


class OutputRemovedError(SinkError):
    """An output was removed while it was being written."""


class ReceiverLostError(SinkError):
    """The receiver of a stream went away, and wasn't back when the stream ended."""


class OutputTakenError(SinkError):
    """Another run is writing the output; nothing was written over."""

    exit_code = 2


class ReaderGoneError(SinkError):
    """The reader of the results on standard output has gone (`| head -1`); a command ends on it without a word."""

    exit_code = 141


class ServerError(SharposeError):
    """A server of poses failed: it is gone, late, or answers nonsense; what was written before is kept.

    Args:
        found: What was found, in a clause.
        remedy: What to do about it, in a clause; empty where only the server's own log can say.
    """

    exit_code = 3

    def __init__(self, found: str, remedy: str = "") -> None:
        super().__init__(f"{found}; {remedy}" if remedy else found)
        self.found, self.remedy = found, remedy


class ServerGoneError(ServerError):
    """A server of poses didn't answer, not in time, or with an error of its own: another try may succeed."""


class ServerBusyError(ServerError):
    """A server of poses has no room for a request now."""


class ServerRefusedError(ServerError):
    """A server of poses takes no such request, or serves another model than was expected."""

    exit_code = 2


class TrainingError(SharposeError):
    """Training can't go on (a loss that isn't a number); the last checkpoint is untouched."""

    exit_code = 3


_PLURALS = {"person": "people", "box": "boxes", "entry": "entries", "process": "processes", "try": "tries"}


def counted(number: int, noun: str) -> str:
    """`1 frame`, `3 frames`, for messages; `noun` in the singular."""
    return f"{number} {noun if number == 1 else _PLURALS.get(noun, f'{noun}s')}"


def how_to_install(extras: str) -> str:
    """The command that installs this package with `extras` (`cpu,train`) from its checkout, by name where it is known.

    Never from an index: none has this package.
    """
    checkout = Path(__file__).resolve().parent.parent
    if not _is_checkout(checkout):
        import json  # slow to import, and rarely needed
        from importlib.metadata import PackageNotFoundError, distribution
        from urllib.parse import urlsplit
        from urllib.request import url2pathname

        try:
            url = json.loads(distribution("sharpose").read_text("direct_url.json") or "{}").get("url", "")
        except PackageNotFoundError:
            url = ""
        checkout = Path(url2pathname(urlsplit(url).path)) if url.startswith("file:") else Path()
    if _is_checkout(checkout):
        return f'pip install "{checkout}[{extras}]"'
    return f'in a checkout of SHaRPose, pip install ".[{extras}]"'


def _is_checkout(folder: Path) -> bool:
    return folder != Path() and (folder / "setup.cfg").is_file() and (folder / "sharpose").is_dir()


def require_packages(what: str, modules: Iterable[str], extras: str, error: type[SharposeError]) -> None:
    """Raises `error` where modules that `what` needs are missing; it names all of them, and how to install them."""
    missing = []
    for module in modules:
        try:
            __import__(module)
        except ImportError:
            missing.append(module.partition(".")[0])
    if missing:
        *others, last = missing
        named = f"{', '.join(others)} and {last}" if others else last
        raise error(f"{what} needs {named}: {how_to_install(extras)}")


def reader_has_gone(error: OSError) -> bool:
    """Whether writing to a pipe failed since nobody reads it any more; Windows calls that an invalid argument."""
    return isinstance(error, BrokenPipeError) or (sys.platform == "win32" and error.errno == errno.EINVAL)


def one_line(error: BaseException) -> str:
    """What an error of the system or of a library says, in one line: no file name (an `OSError`'s `str` has it)."""
    words = str(getattr(error, "strerror", None) or error)
    return next(iter(words.splitlines()), "") or type(error).__name__


_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "string": "text",
    "bool": "true or false",
    "list": "a list",
    "tuple": "a list",
    "dict": "a mapping of keys to values",
    "model": "a mapping of keys to values",
    "model_attributes": "a mapping of keys to values",
    "dataclass": "a mapping of keys to values",
}
_LIMITS = {"gt": "more than", "ge": "at least", "lt": "less than", "le": "at most"}


def describe_problem(problem: Mapping[str, Any]) -> str:
    """One of a pydantic error's problems, from its `errors()`: the key, what was expected and what was found."""
    kind, context = str(problem["type"]), problem.get("ctx", {})
    place = ".".join(str(part) for part in problem["loc"] if not re.match("constrained-|function-|tagged-", str(part)))
    found = f", got {reprlib.repr(problem['input'])}"
    name = kind.removesuffix("_type").removesuffix("_parsing").removesuffix("_parsing_size")
    key = str(context.get("discriminator")).strip("'")  # which of a union's models it is
    limit = next((limit for limit in _LIMITS if limit in context), None)
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        message = "unknown key"
    elif kind == "missing":
        message = "missing key"
    elif kind == "value_error":
        message = str(context["error"])
        message += "" if ", got" in message or isinstance(problem["input"], dict) else found
    elif kind in ("too_long", "too_short"):
        most = kind == "too_long"
        actual = context["actual_length"]
        limit_of = counted(context["max_length" if most else "min_length"], "entry")
        message = f"expected at {'most' if most else 'least'} {limit_of}"
        message += f", got {'more' if actual is None else actual}"
    elif kind in ("string_too_long", "string_too_short"):
        most = kind == "string_too_long"
        limit_of = counted(context["max_length" if most else "min_length"], "character")
        message = f"expected text of at {'most' if most else 'least'} {limit_of}{found}"
    elif kind == "union_tag_invalid":
        message = f"{key}: expected one of {context['expected_tags']}, got {context['tag']!r}"
    elif kind == "union_tag_not_found":
        message = f"{key}: missing key"
    elif limit is not None:
        number = context[limit]
        message = f"expected {_LIMITS[limit]} {f'{number:g}' if isinstance(number, float) else number}{found}"
    elif kind in ("literal_error", "enum"):
        message = f"expected {context['expected']}{found}"
    elif kind == "string_pattern_mismatch":
        message = f"expected text that matches {context['pattern']}{found}"
    elif kind == "finite_number":
        message = f"expected a finite number{found}"
    elif name in _KINDS or kind == "int_from_float":
        message = f"expected {_KINDS.get(name, _KINDS['int'])}{found}"
    else:
        message = f"{str(problem['msg']).removeprefix('Value error, ').replace('Input should be', 'expected')}{found}"
    return f"{place[:300]}: {message}" if place else message


def describe_validation_error(error: ValidationError) -> str:
    """The first problem of a pydantic error and how many follow, in one line."""
    problems = error.errors(include_url=False)
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{describe_problem(problems[0])}{more}"
