"""Options of the files for biomechanics: what does nothing, or not what it seems to, is refused."""

from __future__ import annotations

import click
import pytest

from sharpose.errors import InputError
from sharpose.runtime.biomechanics.options import BiomechanicsOptions
from sharpose.runtime.cli import command, options_from
from sharpose.runtime.options import RunOptions


def parsed(*given: str) -> RunOptions:
    context = command.make_context("sharpose-run", ["a.mp4", *given])
    return options_from({name: value for name, value in context.params.items() if name != "version"})


def test_options_arrive_as_they_were_given() -> None:
    everything = "--trc out --angles a.csv --track --facing left --fill-gaps 0.5 --butterworth 6 --butterworth-order 2"
    options = parsed(*everything.split(), "--height-m", "1.8")
    assert options.biomechanics == BiomechanicsOptions("left", 0.5, 6.0, 2, None, 1.8)
    assert options.outputs == (("--angles", "a.csv"), ("--trc", "out"))
    assert parsed().biomechanics == BiomechanicsOptions()
    assert options.biomechanics.looks_ahead == "--butterworth"
    assert parsed("--trc", "a.trc", "--fill-gaps", "1").biomechanics.looks_ahead == "--fill-gaps"
    assert parsed("--trc", "a.trc", "--metres-per-pixel", "0.01").biomechanics.looks_ahead is None


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("--facing left --trc a.trc", "--facing is for --angles, which isn't given"),
        ("--fill-gaps 1 --json a", "--fill-gaps is for --trc or --angles, which isn't given"),
        ("--butterworth 6", "--butterworth is for --trc or --angles, which isn't given"),
        ("--butterworth-order 2 --trc a.trc", "--butterworth-order is for --butterworth, which isn't given"),
        ("--metres-per-pixel 1 --angles a.csv", "--metres-per-pixel is for --trc, which isn't given"),
        ("--height-m 1.8 --angles a.csv", "--height-m is for --trc, which isn't given"),
        ("--height-m 1.8 --metres-per-pixel 1 --trc a.trc", "--metres-per-pixel and --height-m exclude each other"),
        ("--track --smooth --butterworth 6 --angles a.csv", "--smooth and --butterworth exclude each other: give one"),
        ("--track --trc a.TRC", "--trc a.TRC: a .trc file holds one person; with --track give a folder"),
        ("--track --angles a.mot", "--angles a.mot: a .mot file holds one person"),
        (
            "--kpt-thr 0.5 --json a",
            "--kpt-thr is for annotated pictures (--output, --frames, --show or --serve), --angles or",
        ),
    ],
)
def test_what_does_nothing_is_refused(given: str, words: str) -> None:
    with pytest.raises(click.UsageError) as raised:
        parsed(*given.split())
    assert raised.value.message.startswith(words)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("--facing up", "'up'"),
        ("--fill-gaps -1", "-1"),
        ("--butterworth 0", "'0'"),
        ("--height-m 178", "expected above 0 to 3"),
        ("--butterworth-order 20", "expected 2 to 16, got '20'"),
    ],
)
def test_values_out_of_range(given: str, words: str) -> None:
    with pytest.raises(click.BadParameter) as raised:
        parsed(*given.split())
    assert words in raised.value.message


def test_the_order_is_even() -> None:
    with pytest.raises(InputError, match="expected an even number from 2 to 16, as the filter runs forwards"):
        parsed("--trc", "a.trc", "--butterworth", "6", "--butterworth-order", "5")
