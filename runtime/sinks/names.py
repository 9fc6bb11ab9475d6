"""File-safe names for sources, and the `{source}` that outputs of many streams are named with."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePath

from sharpose.runtime.sources.urls import is_url, redact_url

__all__ = ["PLACEHOLDER", "fill", "source_names"]

PLACEHOLDER = "{source}"

_LONGEST = 80  # characters, which leaves room for a folder's numbers and endings
_UNSAFE = re.compile(r"[^\w.-]+", re.ASCII)


def source_names(sources: Sequence[str]) -> list[str]:
    """A short name for each source: letters, digits, `. _ -`; no password in it; no two alike, whatever their case.

    `walk.mp4` is `walk`, camera `0` is `camera0`, `rtsp://user:secret@cam1:554/live` is `cam1_554_live`. A name that
    is taken gets `-2`, `-3`, … behind it.
    """
    names: list[str] = []
    taken: set[str] = set()
    for source in sources:
        base = _name(source)
        name, number = base, 1
        while name.casefold() in taken:
            number += 1
            name = f"{base}-{number}"
        taken.add(name.casefold())
        names.append(name)
    return names


def fill(target: str, name: str) -> str:
    """`target` with `{source}` replaced by `name`."""
    return target.replace(PLACEHOLDER, name)


def _name(source: str) -> str:
    if source.isdigit():
        text = f"camera{source}"
    elif source.lower().startswith("file://"):
        text = PurePath(source[len("file://") :]).stem
    elif is_url(source):
        text = redact_url(source).split("://", 1)[1].rpartition("@")[2]
        text = re.split(r"[?#]", text, maxsplit=1)[0]  # a query holds secrets more often than names
        text = re.sub(r"[^/;&]*=\*\*\*", "", text)
    elif source.partition(":")[0] == "scene":
        text = source
    else:
        text = PurePath(source).stem
    return _UNSAFE.sub("_", text).strip("._-")[:_LONGEST] or "source"
