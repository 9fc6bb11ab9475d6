"""What all command-line tools share: one line for an error, exit codes, `--debug`, and options in sections."""

from __future__ import annotations

import contextlib
import errno
import io
import math
import os
import re
import reprlib
import signal
import stat
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from sharpose import __version__
from sharpose.errors import ReaderGoneError, SharposeError, one_line, reader_has_gone

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer
    from click.shell_completion import CompletionItem

EXIT_REFUSED = 1
"""A check failed."""
EXIT_USER = 2
"""A usage error, or unusable input."""
EXIT_FAILED = 3
"""Something failed during the run; partial results were kept."""
EXIT_HUNG_UP = 129
"""SIGHUP: the terminal was closed."""
EXIT_INTERRUPTED = 130
"""Ctrl-C."""
EXIT_TERMINATED = 143
"""SIGTERM; on Windows also Ctrl-Break and a closed console."""

EXIT_CODES: dict[int, int]
"""What a command that a signal ends exits with, by signal."""
if sys.platform == "win32":
    EXIT_CODES = {
        signal.SIGINT: EXIT_INTERRUPTED,
        signal.SIGTERM: EXIT_TERMINATED,
        signal.SIGBREAK: EXIT_TERMINATED,
    }
else:
    EXIT_CODES = {
        signal.SIGINT: EXIT_INTERRUPTED,
        signal.SIGTERM: EXIT_TERMINATED,
        signal.SIGHUP: EXIT_HUNG_UP,
    }

FOREVER = -1
"""As a number of attempts: no limit."""


_FULL = frozenset((errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EBADF))  # what writing to standard output may end on
_NO_MEMORY = re.compile("can't allocate memory|out of memory|bad allocation|failed to allocate", re.IGNORECASE)


class Terminated(BaseException):
    """SIGTERM or SIGHUP, as an exception, so that `finally` blocks run.

    Args:
        signum: The signal.
    """

    def __init__(self, signum: int = signal.SIGTERM) -> None:
        self.exit_code = EXIT_CODES[signum]
        super().__init__("hung up" if self.exit_code == EXIT_HUNG_UP else "terminated")


def main(command: click.Command, arguments: list[str] | None = None) -> NoReturn:
    """Run a click command and exit with its code: what it returns, or that of the error it ends on.

    Args:
        command: Its callback returns an exit code, or None for 0.
        arguments: The command line; the process's own if None.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if (
        signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    ):  # else the entry point ends at once while modules are imported
        interruptible()
    _prepare_standard_streams()
    try:
        if nul := next((argument for argument in arguments if "\0" in argument), None):
            raise click.UsageError(f"argument {nul[:80]!r}: NUL can't stand in a name")
        _check_current_folder()
        name = Path(sys.argv[0]).name
        # click itself names a module that `python -m` runs.
        program = None if name.endswith("cli.py") else name
        code = command.main(args=arguments, prog_name=program, standalone_mode=False)
        sys.stdout.flush()
    except (KeyboardInterrupt, click.Abort):
        _say("interrupted")
        sys.exit(EXIT_INTERRUPTED)
    except Terminated as end:
        _say(str(end))
        sys.exit(end.exit_code)
    except (SharposeError, click.ClickException) as error:
        if "--debug" in arguments:
            traceback.print_exc()
        if not isinstance(error, ReaderGoneError):
            _say(_words(error))
        sys.exit(error.exit_code)
    except Exception as error:
        if isinstance(error, OSError) and error.filename is None and error.errno in _FULL:
            _drop_output()
            _say(f"standard output can't be written: {error.strerror}")
            sys.exit(EXIT_FAILED)
        if "--debug" in arguments:
            traceback.print_exc()
        if isinstance(error, OSError) and error.filename is not None:  # no fault of ours: a name too long, a full disk
            _say(f"{os.fsdecode(error.filename)[:300]}: {error.strerror}")
            sys.exit(EXIT_FAILED if error.errno in _FULL else EXIT_USER)
        if isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)):
            _say(f"out of memory: {one_line(error)[:200]}; give a smaller input, batch or model, or free some memory")
            sys.exit(EXIT_FAILED)
        _say(f"unexpected {type(error).__name__}: {error} (a defect in this program; --debug shows where)")
        sys.exit(EXIT_FAILED)
    sys.exit(code if isinstance(code, int) else 0)


def _words(error: SharposeError | click.ClickException) -> str:
    if isinstance(error, click.MissingParameter) and error.param is not None:
        named = error.param.opts[-1] if isinstance(error.param, click.Option) else error.param.human_readable_name
        return f"expected {named.removesuffix('...')}, got none; --help ends with examples"
    return error.format_message() if isinstance(error, click.ClickException) else str(error)


def _check_current_folder() -> None:
    try:
        Path.cwd()
    except FileNotFoundError:
        raise click.UsageError("the current folder was removed: change to another one (cd)") from None


def interruptible() -> None:
    """Let Ctrl-C, SIGTERM and SIGHUP raise from now on, so that `finally` blocks run; nohup's SIGHUP stays ignored.

    Called by commands once their imports are done: an exception in the middle of an import may be swallowed there.
    """
    for number, code in EXIT_CODES.items():
        if code != EXIT_HUNG_UP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if code == EXIT_INTERRUPTED else _terminate)


CLOSED: set[int] = set()
"""Which of the descriptors 0, 1 and 2 the caller of the command had closed."""


def _prepare_standard_streams() -> None:
    """Keep closed descriptors from becoming files, and let commands go on when nobody reads what they say."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:  # the next file that is opened must not become standard output
            CLOSED.add(descriptor)
            os.open(os.devnull, os.O_RDWR)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is not None and not (type(stream) is io.TextIOWrapper and stream.fileno() == descriptor):
            continue  # a test's own
        errors = "backslashreplace"  # a file's name may hold what the terminal can't show
        if sys.platform == "win32" and stream is not None and stream.isatty():
            stream.reconfigure(errors=errors)  # Python writes Unicode to a console, whatever its code page is
            continue
        text = io.TextIOWrapper(
            io.BufferedWriter(_StandardStream(descriptor, "w", closefd=False)),
            encoding=None if stream is None else stream.encoding,
            errors=errors,
            line_buffering=descriptor == 2 or (stream is not None and stream.line_buffering),
        )
        setattr(sys, name, text)


class _StandardStream(io.FileIO):
    """Standard output or error that takes everything once its reader has gone (`| head -1`, a closed terminal)."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            # A full disk is said of standard output; of standard error there is nowhere to say it.
            hung_up = error.errno == errno.EIO and stat.S_ISCHR(os.fstat(self.fileno()).st_mode)
            if reader_has_gone(error) or hung_up or self.fileno() == 2:
                return memoryview(data).nbytes
            raise


def _drop_output() -> None:
    """Send standard output to nowhere, else Python tries once more to write what is left, at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(message: str) -> None:
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    print(f"error: {' '.join(message.split())}", file=sys.stderr, flush=True)


def warn(*messages: str) -> None:
    """Print warnings that must not be missed to standard error, in bold on a terminal."""
    for message in messages:
        click.secho(f"warning: {message}", fg="yellow", bold=True, err=True)


def _terminate(signum: int, frame: FrameType | None) -> None:
    if EXIT_CODES[signum] == EXIT_HUNG_UP:
        signal.signal(signum, signal.SIG_IGN)  # a closing terminal sends it, and then its shell
    raise Terminated(signum)


_LAST = "Help"
_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])


FILE = click.Path(path_type=Path, readable=False)
"""A file or folder; what reads it says why it can't, click only that it can't."""


_NO_LIMIT = 10**9
"""A bound from here on is against nonsense alone: the help is silent about it."""


def _range_in_words(low: float | None, high: float | None, *, low_is_open: bool, whole: bool = False) -> str:
    """`1 to 16`, `at least 1`, `above 0`; nothing where everything is taken. `whole`: also bounds against nonsense."""
    low = None if low is None or (low <= -_NO_LIMIT and not whole) else low
    high = None if high is None or (high >= _NO_LIMIT and not whole) else high
    if low is None:
        return "" if high is None else f"at most {high}"
    if high is None:
        return f"{'above' if low_is_open else 'at least'} {low}"
    return f"{'above ' if low_is_open else ''}{low} to {high}"


class Whole(click.IntRange):
    """A whole number in a range, in ASCII digits; click itself also takes `1_000` and digits of other scripts."""

    name = "n"

    def _describe_range(self) -> str:
        return _range_in_words(self.min, self.max, low_is_open=self.min_open)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401
        """See `click.ParamType.convert`."""
        if isinstance(value, str) and not re.fullmatch("[+-]?[0-9]{1,30}", value):
            self.fail(f"expected a whole number, got {reprlib.repr(value)}", param, ctx)
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            expected = _range_in_words(self.min, self.max, low_is_open=self.min_open, whole=True)
            self.fail(f"expected {expected}, got {reprlib.repr(value)}", param, ctx)


class Threads(Whole):
    """A number of CPU threads: at most four for each core of this machine; thousands take minutes to start."""

    def __init__(self) -> None:
        super().__init__(1)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401
        """See `click.ParamType.convert`."""
        threads, cores = super().convert(value, param, ctx), os.cpu_count() or 1
        if threads > 4 * cores:
            self.fail(f"expected at most {4 * cores} on this machine of {cores} cores, got {threads}", param, ctx)
        return threads


def attempts(text: str) -> int:
    """A number of attempts, or `FOREVER`; the type of an option."""
    if text != "forever" and not re.fullmatch("[0-9]{1,9}", text):
        raise click.BadParameter(f"expected a number of attempts or `forever`, got {reprlib.repr(text)}")
    return FOREVER if text == "forever" else int(text)


class Number(click.FloatRange):
    """A finite number in a range, in ASCII digits."""

    name = "number"

    def _describe_range(self) -> str:
        return _range_in_words(self.min, self.max, low_is_open=self.min_open)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401
        """See `click.ParamType.convert`."""
        if isinstance(value, str):
            plain = re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", value)
            if plain is None or math.isinf(float(value)):
                self.fail(f"expected a finite number, got {reprlib.repr(value)}", param, ctx)
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            expected = _range_in_words(self.min, self.max, low_is_open=self.min_open, whole=True)
            self.fail(f"expected {expected}, got {reprlib.repr(value)}", param, ctx)


class _Size(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on
    name = "HxW"
    _LARGEST = 1 << 15

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401
        from sharpose.geometry import parse_size  # it imports OpenCV

        if not isinstance(value, str):
            return value
        try:
            size = parse_size(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if not all(1 <= side <= self._LARGEST for side in size):
            self.fail(f"expected 1 to {self._LARGEST} pixels a side, got {value!r}", param, ctx)
        return size


SIZE = _Size()
"""A height and a width in pixels, `720x1280`."""


def complete_words(find: Callable[[], Sequence[str]]) -> Callable[..., list[CompletionItem]]:
    """For a shell's completion: those of the words that `find` gives which begin as what was typed."""

    def complete(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        return [CompletionItem(word) for word in find() if word.startswith(incomplete)]

    return complete


def _configurations() -> list[str]:
    from sharpose.config import list_configs

    return list_configs()


complete_configurations = complete_words(_configurations)
"""Names of the model configurations that come with the package."""
complete_devices = complete_words(
    lambda: ("auto", "cpu", "cuda", "tensorrt", "ort-tensorrt", "openvino", "coreml", "directml")
)
"""Devices of engines."""


class _Device(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on
    name = "device"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ANN401
        gpus = "(cuda|tensorrt|ort-tensorrt|directml)(:[0-9]{1,3})?"
        openvino = r"openvino(:(CPU|GPU(\.[0-9]{1,3})?|NPU))?"
        if not re.fullmatch(f"auto|cpu|coreml|{gpus}|{openvino}", value):
            expected = "auto, cpu, cuda[:i], tensorrt[:i], ort-tensorrt[:i], openvino[:CPU|GPU[.i]|NPU], coreml"
            self.fail(f"expected {expected} or directml[:i], got {reprlib.repr(value)}", param, ctx)
        return str(value)


DEVICE = _Device()
"""The name of an engine's device, or `auto`."""


def complete_files(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """For a shell's completion: the shell's own file names."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]


class _SectionedOption(click.Option):
    def __init__(self, *args: Any, section: str, **kwargs: Any) -> None:  # noqa: ANN401 (click's own)
        super().__init__(*args, **kwargs)
        self.section = section

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:  # noqa: ANN401
        """See `click.Parameter.type_cast_value`; no option means anything by an empty text."""
        if value == "" or (isinstance(value, tuple | list) and "" in value):
            raise click.BadParameter("expected a value, got an empty one", ctx, self)
        return super().type_cast_value(ctx, value)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """See `click.Parameter.shell_complete`; a text that names a file, as the help says, is completed as one."""
        found = super().shell_complete(ctx, incomplete)
        names_file = re.search("FILE|FOLDER|DIR", self.metavar or "")
        return found if found or not names_file else complete_files(ctx, self, incomplete)


def option(section: str, *names: str, **settings: Any) -> Callable[[_Decorated], _Decorated]:  # noqa: ANN401
    """`click.option` under a heading of the help; click refuses settings that it doesn't know."""
    return click.option(*names, cls=_SectionedOption, section=section, **settings)


def options(*declared: Callable[[_Decorated], _Decorated]) -> Callable[[_Decorated], _Decorated]:
    """Several `option`s as one decorator, in the order of the help."""

    def decorate(function: _Decorated) -> _Decorated:
        for one in reversed(declared):
            function = one(function)
        return function

    return decorate


class SectionedCommand(click.Command):
    """A command with `--version`, whose help lists its options under their headings, in the order they are declared.

    Args:
        examples: Command lines that end the help.
    """

    def __init__(self, *args: Any, examples: Sequence[str], **kwargs: Any) -> None:  # noqa: ANN401 (click's own)
        super().__init__(*args, **kwargs)
        self.examples = examples
        version = _SectionedOption(
            ["--version"],
            section=_LAST,
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_print_version,
            help="Print the version and exit.",
        )
        self.params.append(version)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See `click.Command.parse_args`; an option whose second value would hide its first is refused."""
        given = list(args)
        rest = super().parse_args(ctx, args)
        _, _, order = self.make_parser(ctx).parse_args(given)
        for parameter in self.params:
            times = order.count(parameter)
            if not isinstance(parameter, click.Option) or parameter.multiple:
                continue
            if times > 1 and (parameter.secondary_opts or not parameter.is_flag):
                names = "/".join([*parameter.opts[-1:], *parameter.secondary_opts])
                raise click.UsageError(f"{names}: given {times} times; give it once", ctx)
        return rest

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """See `click.Command.format_options`."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                sections.setdefault(getattr(parameter, "section", _LAST), []).append(record)
        for name, records in sorted(sections.items(), key=lambda item: item[0] == _LAST):
            with formatter.section(name):
                formatter.write_dl(records, col_max=28)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """See `click.Command.format_epilog`; a line that is copied must not be broken."""
        with formatter.section("Examples"):
            for example in self.examples:
                formatter.write(f"{'':{formatter.current_indent}}{example}\n")


def _print_version(ctx: click.Context, parameter: click.Parameter, asked: bool) -> None:
    if asked and not ctx.resilient_parsing:
        click.echo(f"sharpose {__version__}")
        ctx.exit()
