"""`sharpose-archive`: the poses of many videos, in steps that can be resumed. Shares the options of `sharpose-run`."""

from __future__ import annotations

import copy
import re
import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NoReturn

import click

from sharpose.archive.options import ArchiveOptions, Shard
from sharpose.cli import FILE, SectionedCommand, Whole, complete_files, option
from sharpose.cli import main as run_command
from sharpose.runtime.cli import command as sharpose_run
from sharpose.runtime.cli import options_from

# Options of sharpose-run that would do nothing here, or the wrong thing, and why.
_LIVE = "is for live video"
_REFUSED = {
    "buffer": _LIVE,
    "reconnect": _LIVE,
    "timeout": _LIVE,
    "rtsp_transport": _LIVE,
    "deadline": "is for a run that somebody waits for",
    "stdin_size": "is for frames on standard input",
    "stdin_rate": "is for frames on standard input",
    "show": "is for a run that somebody watches",
    "serve": "is for a run that somebody watches",
    "serve_token": "is for a run that somebody watches",
    "overwrite": "does nothing here: what exists is done, what you remove is made anew",
    "timings": "is for a single run of sharpose-run",
}
_ARCHIVE = "Archive"


class _Shard(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on
    name = "i/n"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Shard:  # noqa: ANN401
        """See `click.ParamType.convert`."""
        if isinstance(value, Shard):
            return value
        numbers = re.fullmatch("([0-9]{1,9})/([0-9]{1,9})", value)
        index, count = map(int, numbers.groups()) if numbers else (0, 0)
        if index >= count:
            expected = "expected i/n with i from 0 to n-1, such as 0/3, 1/3 and 2/3"
            self.fail(f"{expected}, got {reprlib.repr(value)}", param, ctx)
        return Shard(index, count)


class _Command(SectionedCommand):
    """Takes the options of `sharpose-run`, and refuses those that are for other runs."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See `click.Command.parse_args`."""
        words = [word.partition("=")[0] for word in args]
        rest = super().parse_args(ctx, args)
        for parameter in self.params:
            name = parameter.name or ""
            if name not in _REFUSED or ctx.resilient_parsing:
                continue
            if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
                said = next((word for word in words if word in parameter.secondary_opts), parameter.opts[0])
                raise click.UsageError(f"{said} {_REFUSED[name]}; leave it out", ctx)
        return rest


def _shared() -> Iterator[click.Parameter]:
    """The options of `sharpose-run`, without those that every command has; those that are refused are hidden."""
    for parameter in sharpose_run.params:
        if isinstance(parameter, click.Option) and parameter.expose_value:
            if parameter.name in _REFUSED:
                parameter = copy.copy(parameter)
                parameter.hidden, parameter.envvar = True, None
            yield parameter


@click.command(
    cls=_Command,
    context_settings=sharpose_run.context_settings,
    examples=[
        "sharpose-archive videos/ --json 'out/{source}.jsonl'",
        "sharpose-archive 'videos/**/*.mp4' --track --json 'out/{folder}/{source}.jsonl'",
        "sharpose-archive @list.txt --csv 'out/{source}.csv' --shard 0/8 --report report-0.json",
    ],
)
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True, shell_complete=complete_files)
@option(
    _ARCHIVE,
    "--shard",
    type=_Shard(),
    metavar="i/n",
    help="Part i of n, counted from 0: every n-th video from the i-th on; default: all.",
)
@option(
    _ARCHIVE,
    "--workers",
    type=Whole(1, 1024),
    help="Videos at the same time, each in a process of its own with --threads; default: one for two cores, or one "
    "alone where --device isn't the CPU. With ray, actors.",
)
@option(
    _ARCHIVE,
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    help="Where workers run: processes here, or actors of the Ray cluster that RAY_ADDRESS names, else of one that is "
    "started here.",
)
@option(
    _ARCHIVE,
    "--retries",
    type=Whole(0, 1000),
    default=2,
    help="Times that a video is tried again whose worker died, whose engine failed or whose server was gone.",
)
@option(_ARCHIVE, "--report", type=FILE, metavar="FILE", help="JSON of what became of each video, at the end.")
def command(
    shard: Shard | None,
    workers: int | None,
    engine: Literal["local", "ray"],
    retries: int,
    report: Path | None,
    **values: Any,  # noqa: ANN401 (those of sharpose-run)
) -> int:
    """Find human poses in many videos, one by one, and go on where an earlier run ended: a video is done once all its
    results are there under their names, which are given to whole results only.

    A SOURCE is a video, a folder or glob of videos, or @FILE, a list of those, a line each. `{source}` in an output's
    name stands for the video's name, `{folder}` for the path of its folder.

    Options that aren't listed under Archive are those of sharpose-run. The exit code is 3 where videos failed: a later
    run tries them again.
    """
    options = ArchiveOptions(options_from(values), shard or Shard(), workers, engine, retries, report)
    from sharpose.archive.run import archive

    return archive(options)


command.params[-1:-1] = _shared()


def main() -> NoReturn:
    """Entry point."""
    run_command(command)


if __name__ == "__main__":
    main()
