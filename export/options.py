"""What `sharpose-export` takes on its command line, beyond plain values."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, get_args

import click

from sharpose.manifest import Precision

__all__ = ["BuildChoices", "parse_precisions", "parse_size", "refuse_given", "tensorrt_options"]

_Command = TypeVar("_Command", bound=Callable[..., object])


def parse_size(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[int, int] | None:
    """`HEIGHTxWIDTH` to two numbers, as a click callback."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None:
        raise click.BadParameter(f"expected HEIGHTxWIDTH, as 256x192, got {text!r}")
    return int(match[1]), int(match[2])


def parse_precisions(
    context: click.Context, parameter: click.Parameter, text: str | None
) -> tuple[Precision, ...] | None:
    """`fp32,fp16` to a tuple in the toolkit's own order, whatever order was typed; as a click callback."""
    if text is None:
        return None
    asked = [part.strip() for part in text.split(",")]
    known: tuple[Precision, ...] = get_args(Precision)
    unknown = [part for part in asked if part not in known]
    if unknown or len(set(asked)) != len(asked):
        raise click.BadParameter(f"expected one or more of {', '.join(known)}, with commas between, got {text!r}")
    return tuple(precision for precision in known if precision in asked)


@dataclass
class BuildChoices:
    """What was asked of TensorRT's builder; None where nothing was said."""

    tensorrt: bool = False
    min_batch: int | None = None
    opt_batch: int | None = None
    workspace: int | None = None
    optimization_level: int | None = None
    timing_cache: Path | None = None
    hardware_compatible: bool = False
    version_compatible: bool = False

    def check(self) -> None:
        """Raise `UsageError` where a builder's option comes without `--tensorrt`."""
        if self.tensorrt:
            return
        for name, value in vars(self).items():
            if value not in (None, False):
                raise click.UsageError(f"--{name.replace('_', '-')} needs --tensorrt")


def _store(context: click.Context, parameter: click.Parameter, value: object) -> None:
    assert parameter.name is not None
    setattr(context.ensure_object(BuildChoices), parameter.name, value)


def tensorrt_options(command: _Command) -> _Command:
    """The builder's options; their values come as the context's `BuildChoices`."""
    options = [
        click.option(
            "--tensorrt",
            is_flag=True,
            expose_value=False,
            callback=_store,
            help="Build TensorRT engines into the bundle's folder engines/ (fp16 if it holds fp16).",
        ),
        click.option(
            "--min-batch", type=click.IntRange(1), expose_value=False, callback=_store, help="Engines: smallest batch."
        ),
        click.option(
            "--opt-batch",
            type=click.IntRange(1),
            expose_value=False,
            callback=_store,
            help="Engines: the batch to be fastest at.",
        ),
        click.option(
            "--workspace",
            type=click.IntRange(1),
            metavar="MIB",
            expose_value=False,
            callback=_store,
            help="Engines: most scratch memory that a layer may use.",
        ),
        click.option(
            "--optimization-level",
            type=click.IntRange(0, 5),
            expose_value=False,
            callback=_store,
            help="Engines: 0 builds fastest, 5 runs fastest.",
        ),
        click.option(
            "--timing-cache",
            type=click.Path(path_type=Path),
            expose_value=False,
            callback=_store,
            help="Engines: file of kernel timings to read and write back.",
        ),
        click.option(
            "--hardware-compatible",
            is_flag=True,
            expose_value=False,
            callback=_store,
            help="Engines for other GPUs, too.",
        ),
        click.option(
            "--version-compatible",
            is_flag=True,
            expose_value=False,
            callback=_store,
            help="Engines for later TensorRT, too.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def refuse_given(context: click.Context, names: Sequence[str], why: str) -> None:
    """Raise `UsageError` for the first of the parameters that the user gave a value for."""
    for name in names:
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            option = next(item for item in context.command.params if item.name == name).opts[0]
            raise click.UsageError(f"{option} and --bundle exclude each other: {why}")
