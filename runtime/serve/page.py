"""The page, and the policy that lets a browser run nothing but what stands in it."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from importlib import resources

__all__ = ["Page", "load_page"]


@dataclass(frozen=True)
class Page:
    """The page as it is sent.

    Attributes:
        html: UTF-8.
        policy: Its `Content-Security-Policy`: only its own style and script, pictures and numbers from this server.
    """

    html: bytes
    policy: str


def load_page() -> Page:
    """Read the page from the package."""
    html = resources.files("sharpose.runtime.serve").joinpath("page.html").read_bytes()
    styles, scripts = (_hashes(html, element) for element in (b"style", b"script"))
    policy = (
        f"default-src 'none'; script-src {scripts}; style-src {styles}; img-src 'self' blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return Page(html, policy)


def _hashes(html: bytes, element: bytes) -> str:
    bodies = re.findall(b"<%s>(.*?)</%s>" % (element, element), html, re.DOTALL)
    return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(body).digest()).decode()}'" for body in bodies)
