"""Options of a command line in named sections, so that a long `--help` can be read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

__all__ = ["SectionedCommand", "option"]

_LAST = "Help"
_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])


class _SectionedOption(click.Option):
    def __init__(self, *args: Any, section: str, **kwargs: Any) -> None:  # noqa: ANN401 (click's own)
        super().__init__(*args, **kwargs)
        self.section = section


def option(section: str, *names: str, **settings: Any) -> Callable[[_Decorated], _Decorated]:  # noqa: ANN401
    """`click.option` that stands under a heading; click refuses settings that it doesn't know."""
    return click.option(*names, cls=_SectionedOption, section=section, **settings)


class SectionedCommand(click.Command):
    """A command whose help lists its options under their headings, in the order they are declared."""

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
