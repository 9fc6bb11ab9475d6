"""Addresses of streams: what counts as one, and how to name it without giving its password away."""

from __future__ import annotations

import re

__all__ = ["is_url", "redact_url"]

_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://")
# `password=…` in a query, and in the paths of cameras that take their login there.
_SECRET_PARAMETER = re.compile(
    r"([A-Za-z0-9_.-]*(?:pass|pwd|psw|token|secret|auth|key|sig|credential|session|user|login)[A-Za-z0-9.-]*=)"
    r"[^&;/?#\s]*",
    re.IGNORECASE,
)


def is_url(spec: str) -> bool:
    """Whether `spec` is written as `scheme://…`."""
    return _SCHEME.match(spec) is not None


def redact_url(spec: str) -> str:
    """`spec` with its login and its secret parameters replaced by `***`; anything that is no URL stays as it is.

    Passwords often hold characters that a URL should have escaped (`@ / ? #`), so everything up to the last `@` goes
    when a login is there: better to hide a piece of the path than to show a piece of a password.
    """
    scheme = _SCHEME.match(spec)
    if scheme is None:
        return spec
    rest = spec[scheme.end() :]
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" in authority or (":" in authority and "@" in rest):
        rest = "***@" + rest.rpartition("@")[2]
    return scheme.group() + _SECRET_PARAMETER.sub(r"\1***", rest)
