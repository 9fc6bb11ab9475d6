"""Options of the files for biomechanics, for `sharpose-run` and `sharpose-archive`. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sharpose.cli import Number, Whole, option, options
from sharpose.errors import InputError
from sharpose.files import STDOUT

if TYPE_CHECKING:
    from sharpose.angles import Facing

DEFAULT_ORDER = 4
"""Of the Butterworth filter, both passes together; Sports2D's."""
HIGHEST_ORDER = 16

_SECTION = "Biomechanics"


@dataclass(frozen=True)
class BiomechanicsOptions:
    """What is done with keypoints before they are written to `--trc` and `--angles`, and in which units.

    Attributes:
        facing: Where people face, for the signs of flexions and segments; see `sharpose.angles.facing_of`.
        fill_gaps: Seconds from the frame before a gap to the one after it, up to which it is filled; 0 for none.
        butterworth: Cut-off in Hz of a zero-phase low-pass filter; None for no filter.
        butterworth_order: Its order, both passes together: an even number.
        metres_per_pixel: Scale of `--trc`, metres that a pixel is high; None for pixels.
        height_m: Height in metres of the person who is seen in the most frames, from which the scale is taken.

    Raises:
        InputError: the order isn't an even number.
    """

    facing: Facing = "auto"
    fill_gaps: float = 0.0
    butterworth: float | None = None
    butterworth_order: int = DEFAULT_ORDER
    metres_per_pixel: float | None = None
    height_m: float | None = None

    def __post_init__(self) -> None:
        if self.butterworth_order % 2 or not 2 <= self.butterworth_order <= HIGHEST_ORDER:
            raise InputError(
                f"butterworth-order: expected an even number from 2 to {HIGHEST_ORDER}, as the filter runs forwards "
                f"and backwards with half of it, got {self.butterworth_order}"
            )

    @property
    def looks_ahead(self) -> str | None:
        """The option that makes the keypoints of a frame depend on later ones, if one is given."""
        if self.butterworth is not None:
            return "--butterworth"
        return "--fill-gaps" if self.fill_gaps > 0 else None

    def check(self, outputs: Mapping[str, str], *, tracked: bool, smoothed: bool) -> None:
        """Refuse what does nothing, or not what it seems to.

        Args:
            outputs: Targets by option.
            tracked: Whether people have ids.
            smoothed: Whether their keypoints are smoothed as the run goes.

        Raises:
            click.UsageError: it has to be refused.
        """
        trc, angles = "--trc" in outputs, "--angles" in outputs
        for name, is_given, needed, is_there in (
            ("--facing", self.facing != "auto", "--angles", angles),
            ("--fill-gaps", self.fill_gaps > 0, "--trc or --angles", trc or angles),
            ("--butterworth", self.butterworth is not None, "--trc or --angles", trc or angles),
            ("--butterworth-order", self.butterworth_order != DEFAULT_ORDER, "--butterworth", bool(self.butterworth)),
            ("--metres-per-pixel", self.metres_per_pixel is not None, "--trc", trc),
            ("--height-m", self.height_m is not None, "--trc", trc),
        ):
            if is_given and not is_there:
                raise click.UsageError(f"{name} is for {needed}, which isn't given")
        for name, other, both in (
            ("--metres-per-pixel", "--height-m", None not in (self.metres_per_pixel, self.height_m)),
            ("--smooth", "--butterworth", smoothed and self.butterworth is not None),
        ):
            if both:
                raise click.UsageError(f"{name} and {other} exclude each other: give one")
        for name, ending in (("--trc", ".trc"), ("--angles", ".mot")):
            if tracked and Path(outputs.get(name, "")).suffix.lower() == ending:
                raise click.UsageError(
                    f"{name} {outputs[name]}: a {ending} file holds one person; with --track give a folder, a name "
                    "without an ending, for a file per person, or leave out --track"
                )


def is_people_folder(name: str, target: str) -> bool:
    """Whether the target of an option is a folder with a file per person: a name without an ending.

    Args:
        name: The option's, such as `--trc`.
        target: What it was given.
    """
    path = Path(target)
    if name not in ("--trc", "--angles") or target == STDOUT or path.suffix:
        return False
    return not path.exists() or path.is_dir() or path.is_file()  # no pipe, no device


biomechanics_options = options(
    option(
        _SECTION,
        "--trc",
        "to_trc",
        metavar="FILE.trc|FOLDER",
        help="Keypoints as OpenSim's marker file, y up: of one person, or in a folder a file for each person of "
        "--track.",
    ),
    option(
        _SECTION,
        "--metres-per-pixel",
        type=Number(0, min_open=True),
        metavar="M",
        help="Scale of --trc: metres that a pixel is high (its width may differ); default: pixels are written.",
    ),
    option(
        _SECTION,
        "--height-m",
        type=Number(0, 3, min_open=True),
        metavar="M",
        help="Metres that the person who is seen most is tall, from which the scale of --trc is taken.",
    ),
    option(
        _SECTION,
        "--facing",
        type=click.Choice(["auto", "right", "left"]),
        default="auto",
        help="Where people face in the picture, for the signs of --angles; auto: as their feet say, right where the "
        "skeleton has none.",
    ),
    option(
        _SECTION,
        "--fill-gaps",
        type=Number(0),
        metavar="S",
        default=0.0,
        help="Longest gap to fill with a straight line in --trc and --angles, in seconds from the frame before it to "
        "the one after it; 0: all are left empty.",
    ),
    option(
        _SECTION,
        "--butterworth",
        type=Number(0, min_open=True),
        metavar="HZ",
        help="Cut-off of a zero-phase low-pass filter of the keypoints in --trc and --angles, such as 6; not for live "
        "sources, which have no end (--smooth is). Needs the extra [biomechanics].",
    ),
    option(
        _SECTION,
        "--butterworth-order",
        type=Whole(2, HIGHEST_ORDER),
        default=DEFAULT_ORDER,
        help="Order of that filter, forwards and backwards together: an even number.",
    ),
)
"""Declares `--trc` and the fields of `BiomechanicsOptions` as options of a command."""
