"""The package's description: README.md with links that work outside of the repository. The rest is in setup.cfg."""

from __future__ import annotations

import os
import re
from pathlib import Path

from setuptools import setup

SOURCE = "SHARPOSE_SOURCE_URL"
"""Where the repository's files can be read: `https://HOST/OWNER/NAME/blob/TAG`. Without it, their links become text."""


def describe(text: str, source: str | None) -> str:
    """The text of README.md for an index of packages."""

    def link(match: re.Match[str]) -> str:
        image, words, target = match[1], match[2], match[3]
        if "://" in target:
            return match[0]
        if source is None:
            return "" if image else words
        base = source.replace("/blob/", "/raw/", 1) if image else source
        return f"{image}[{words}]({base}/{'README.md' if target.startswith('#') else ''}{target})"

    return re.sub(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)", link, text)


readme = Path(__file__).resolve().parent / "README.md"
address = os.environ.get(SOURCE)
setup(
    long_description=describe(readme.read_text("utf-8"), address),
    project_urls={"Source": address.partition("/blob/")[0]} if address else {},
)
