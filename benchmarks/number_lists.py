"""Options of the benchmarks that take several whole numbers with commas between."""

from __future__ import annotations

from collections.abc import Callable

import click

__all__ = ["number_list"]


def number_list(low: int, high: int) -> Callable[[click.Context, click.Parameter, str], list[int]]:
    """A click callback that reads `1,4,16`, every number from `low` to `high`; a `click.BadParameter` otherwise."""

    def read(context: click.Context, parameter: click.Parameter, text: str) -> list[int]:
        try:
            numbers = [int(part) for part in text.split(",")]
        except ValueError:
            raise click.BadParameter(
                f"expected numbers with commas between, as {parameter.default}, got {text!r}"
            ) from None
        if not all(low <= number <= high for number in numbers):
            raise click.BadParameter(f"expected numbers from {low} to {high}, got {text!r}")
        return numbers

    return read
