"""Sphinx settings: make docs."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import click
from sphinx.application import Sphinx

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT))

from sharpose import __version__  # noqa: E402

project = "SHaRPose"
author = "the SHaRPose toolkit's authors"
release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_click"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"SHaRPose {release}"
html_copy_source = False
highlight_language = "none"
smartquotes = False  # they would make one dash of two
default_role = "code"  # docstrings have `names` in single backticks
myst_heading_anchors = 4
napoleon_use_ivar = True  # attributes of dataclasses are not described twice
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True

# Files outside of docs/ that are pages here.
PAGES = {
    ROOT / "README.md": "index.md",
    ROOT / "CHANGELOG.md": "changelog.md",
    ROOT / "CONTRIBUTING.md": "contributing.md",
    ROOT / "sharpose/weights/sharpose_tiny_coco_256x192/MODEL_CARD.md": "model_card.md",
}


def site_text(text: str, folder: Path) -> str:
    """Markdown with files included (a page of the site is README.md, for example) and links as they are on the site.

    Args:
        text: The text of a file.
        folder: The folder of the file, from which its links count.
    """
    pieces = re.split(r"^```\{include\} (\S+)\n```$", text, flags=re.MULTILINE)
    for place, piece in enumerate(pieces):
        if place % 2:
            included = (folder / piece).resolve()
            pieces[place] = site_text(included.read_text("utf-8"), included.parent)
        else:
            pieces[place] = re.sub(r"\]\(([^)\s#]+)(#[^)\s]*)?\)", lambda match: _link(match, folder), piece)
    return "".join(pieces)


def _link(match: re.Match[str], folder: Path) -> str:
    path, heading = match[1], match[2] or ""
    if re.match(r"[a-z]+:", path):
        return match[0]
    target = (folder / path).resolve()
    return f"]({PAGES.get(target) or os.path.relpath(target, DOCS)}{heading})"


def _read(app: Sphinx, page: str, source: list[str]) -> None:
    source[0] = site_text(source[0], DOCS)
    for path, name in PAGES.items():
        if name == f"{page}.md":
            app.env.note_dependency(str(path))


def _examples(app: Sphinx, context: click.Context, lines: list[str]) -> None:
    """The command lines that end a command's help."""
    examples = getattr(context.command, "examples", ())
    lines.extend(["Examples:", "", "::", "", *(f"    {example}" for example in examples), ""])


def setup(app: Sphinx) -> None:
    """Connect the above."""
    app.connect("source-read", _read)
    app.connect("sphinx-click-process-epilog", _examples)
