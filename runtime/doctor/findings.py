"""What the doctor finds: one thing each that is there, or isn't, and who needs it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sharpose.engines.device import Device

ALL_DEVICES = frozenset({"cpu", "cuda", "tensorrt", "ort-tensorrt", "openvino", "coreml", "directml"})
ON_OPENVINO = frozenset({"openvino"})
ON_ORT = ALL_DEVICES - {"tensorrt"} - ON_OPENVINO
ON_GPU = frozenset({"cuda", "tensorrt", "ort-tensorrt"})  # NVIDIA's
ON_TENSORRT = frozenset({"tensorrt"})


@dataclass(frozen=True)
class Finding:
    """One thing that this machine has, or doesn't."""

    name: str  # what was looked for
    found: bool  # whether it is there and works
    text: str  # version, or what is wrong, in one line
    mend: str | None = None  # the command or step that mends it, if it isn't found
    needed_by: frozenset[str] = frozenset()  # devices, or kinds of them, that can't run without it


def findings_of(
    name: str, check: Callable[[], Iterable[Finding]], needed_by: frozenset[str] = frozenset()
) -> Iterator[Finding]:
    """Run a check. One that fails is itself a finding, so that one broken package doesn't hide all the others."""
    try:
        yield from check()
    except Exception as error:  # whatever a half-installed package raises when it is asked
        text = f"{name} couldn't be looked at: {words(error)}"
        yield Finding(name, False, text, f"reinstall {name}, then run sharpose-doctor again", needed_by)


def obstacles(findings: Sequence[Finding], device: Device) -> list[Finding]:
    """The findings that keep `device` from running."""
    names = {device.kind, str(device)}
    return [finding for finding in findings if not finding.found and not names.isdisjoint(finding.needed_by)]


def installed(package: str) -> str | None:
    """A distribution's version, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def import_problem(name: str, load: Callable[[str], object] = import_module) -> str | None:
    """Why a module can't be imported, or None."""
    try:
        load(name)
    except Exception as error:  # a broken package raises what it likes
        if isinstance(error, ModuleNotFoundError) and error.name == name:
            return "not installed"
        return f"doesn't load ({words(error)})"
    return None


def words(error: Exception) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__
