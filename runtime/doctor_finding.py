"""What `sharpose-doctor` finds: one line a thing, and the command that mends it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

__all__ = ["ALL_DEVICES", "Check", "Finding", "findings_of"]

ALL_DEVICES = frozenset({"cpu", "cuda", "tensorrt", "ort-tensorrt"})


@dataclass(frozen=True)
class Finding:
    """One thing that this machine has, or doesn't.

    Attributes:
        name: What was looked for.
        found: Whether it is there and works.
        text: Version, or what is wrong, in one line.
        mend: The command or step that mends it, if it isn't found.
        needed_by: Kinds of device that can't run without it.
    """

    name: str
    found: bool
    text: str
    mend: str | None = None
    needed_by: frozenset[str] = frozenset()


Check = Callable[[], Iterable[Finding]]


def findings_of(name: str, check: Check, needed_by: frozenset[str] = frozenset()) -> Iterator[Finding]:
    """Run a check. One that fails is itself a finding, so that one broken package doesn't hide all the others.

    Args:
        name: What to call a check that fails.
        check: Gives findings.
        needed_by: Kinds of device that can't run if it fails.
    """
    try:
        yield from check()
    except Exception as error:  # whatever a half-installed package raises when it is asked
        reason = " ".join(str(error).split()) or type(error).__name__
        yield Finding(
            name,
            False,
            f"{name} couldn't be looked at: {reason}",
            f"reinstall {name}, then run sharpose-doctor again",
            needed_by,
        )
