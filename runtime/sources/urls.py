"""Addresses of streams: what counts as one, FFmpeg's options for it, and how to show it without its secrets."""

from __future__ import annotations

import base64
import re
import socket
import urllib.request
from collections.abc import Callable
from http import HTTPStatus
from http.client import HTTPException
from urllib.parse import unquote, urlsplit

from sharpose.runtime.options import SourceOptions

_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://")
# `password=…` in a query, and in the paths of cameras that take their login there (`user=admin_password=…`).
_PARAMETER = re.compile(r"(?<![A-Za-z0-9_.-])([A-Za-z0-9_.-]+)=")
_SECRET_NAME = re.compile(
    r"pass|pwd|psw|token|secret|auth|key|sig|credential|session|user|login|streamid$", re.IGNORECASE
)
_VALUE = re.compile(r"[^&;/?#\s]*")
_STREAM_ID = re.compile(r"[^&\s]*")  # SRT's, in which servers expect user and key
# Of RTMP: server and application. What follows is the stream key, the whole login of most services.
_RTMP_SERVER = re.compile(r"[^/?#\s]*(?:/[^/?#\s]*(?=/[^/?#\s]))*/?")
# In a pipeline a value ends at a blank unless it is quoted; then it may hold anything. No scheme is as long as 31
# characters: of a longer word the end will do, and a text that is one word isn't tried from each letter to its end.
_PIPELINE_URL = re.compile(
    r"""(?<=")[A-Za-z][A-Za-z0-9+.-]*://(?:\\.|[^"\\])*|[A-Za-z][A-Za-z0-9+.-]{0,30}://[^\s"]+"""
)
_PROPERTY = re.compile(r"(?<![A-Za-z0-9_-])([A-Za-z0-9_-]+)\s*=\s*")
_SECRET_PROPERTY = re.compile(r"pass|pwd|pw|token|secret|credential|user|login|stream-?key", re.IGNORECASE)
_PROPERTY_VALUE = re.compile(r""""(?:\\.|[^"\\])*"|'[^']*'|[^\s"'!]\S*""")

_KNOWN_SCHEME = r"(?:https?|rtsps?|rtmp[a-z]*|srt|udp|tcp|rtp|mms|ftps?)"
# What was meant as an address: `http:/…`, `http:…`, `rtsp;//…`, and with a login `rtsp/…`, `//…`, `\\…`.
_MISTYPED = re.compile(
    rf"(?<![\w/\\:.+-])(?![a-z][a-z0-9+.-]*://)"
    rf"({_KNOWN_SCHEME}[:;][/\\]*|(?:{_KNOWN_SCHEME}[/\\]|(?:[a-z][a-z0-9+.-]*[:;]?)?(?://|\\\\))[/\\]*(?=[^\s@]*:\S*@))"
    r"(\S+)",
    re.IGNORECASE,
)
_BARE_LOGIN = re.compile(r"(?![A-Za-z]:[/\\])[/\\]*[^\s/\\:@]+:.*@", re.DOTALL)  # no drive's letter


def is_url(spec: str) -> bool:
    """Whether `spec` is written as `scheme://…`."""
    return _SCHEME.match(spec) is not None


def redact_url(spec: str) -> str:
    """`spec` with its login, its secret parameters and the stream key of RTMP, the last piece of its path and what
    follows, replaced by `***`, also where it is mistyped (`http:/…`, `//user:…@…`); anything else stays as it is.

    Passwords often hold characters that a URL should have escaped (`@ / ? #`), so everything up to the last `@` is
    replaced where there is a login: better to hide a piece of the path than to show a piece of a password. In a
    GStreamer pipeline every URL and every property with a secret's name is treated like this.
    """
    if spec.startswith("gst:") or " ! " in spec:
        return redact_text(spec)
    blank = spec[: len(spec) - len(spec.lstrip())]
    address = spec[len(blank) :]
    mistyped = _MISTYPED.match(address)
    if mistyped is not None:  # in one piece, for a password may hold blanks
        return blank + mistyped[1] + _redact_rest(mistyped[1], address[mistyped.end(1) :])
    return blank + (
        _redact(address) if is_url(address) or not _BARE_LOGIN.match(address) else _redact_rest("", address)
    )


def redact_text(text: str) -> str:
    """`text` (a pipeline, a message of a library) with what is secret in its URLs and `name=value` pairs as `***`."""

    def value(found: re.Match[str], text: str) -> re.Match[str] | None:
        return _PROPERTY_VALUE.match(text, found.end()) if _SECRET_PROPERTY.search(found[1]) else None

    return _redact_values(redact_urls(text), _PROPERTY, value)


def redact_urls(text: str) -> str:
    """`text` with what is secret in its URLs as `***`, and nothing else changed."""

    def redact(found: re.Match[str]) -> str:
        url = found.group().rstrip(":;,.')")
        return _redact(url) + found.group()[len(url) :]  # the sentence's own

    def redact_mistyped(found: re.Match[str]) -> str:
        rest = found[2].rstrip(":;,.')")
        return found[1] + _redact_rest(found[1], rest) + found[2][len(rest) :]

    return _MISTYPED.sub(redact_mistyped, _PIPELINE_URL.sub(redact, text))


def _redact_rest(scheme: str, rest: str) -> str:
    """What follows the scheme of a mistyped address, redacted as if it were none."""
    begin = f"{re.sub('[^A-Za-z0-9]', '', scheme) or 'x'}://"
    return _redact(begin + rest)[len(begin) :]


def _redact(url: str) -> str:
    scheme = _SCHEME.match(url)
    if scheme is None:
        return url
    begin, rest = scheme.group(), url[scheme.end() :]
    if rest.startswith("@"):  # `udp://@:1234` listens; there is no login
        begin, rest = begin + "@", rest[1:]
    if scheme_of(url) != "file":  # nobody's host is empty
        host = rest.lstrip("/\\")
        begin, rest = begin + rest[: len(rest) - len(host)], host
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" in authority or (":" in authority and "@" in rest):
        rest = "***@" + rest.rpartition("@")[2]
    else:
        port = authority.rpartition("]")[2].partition(":")[2]
        if port and not (port.isdecimal() and int(port) <= 65535):  # `user:password` without a host
            return begin + authority.removesuffix(port) + "***"
    if "rtmp" in scheme_of(url):
        server = _RTMP_SERVER.match(rest)
        assert server is not None  # it may be empty
        key = rest[server.end() :]
        return begin + server.group() + (key if key.startswith("***") or not key else "***")
    return begin + _redact_parameters(rest)


def _redact_parameters(text: str) -> str:
    def value(found: re.Match[str], text: str) -> re.Match[str] | None:
        name = found[1].rpartition("_")[2]  # `token_type` is none
        if not _SECRET_NAME.search(name):
            return None
        return (_STREAM_ID if name.lower().endswith("streamid") else _VALUE).match(text, found.end())

    return _redact_values(text, _PARAMETER, value)


def _redact_values(
    text: str, names: re.Pattern[str], value: Callable[[re.Match[str], str], re.Match[str] | None]
) -> str:
    """In time that grows as the text does: a single expression for it would try each part of a long name.

    `value` gives what a name in the text stands for, None where it is no secret.
    """
    pieces, end = [], 0
    for found in names.finditer(text):
        if found.start() < end or (secret := value(found, text)) is None:
            continue
        pieces += [text[end : found.end()], "***"]
        end = secret.end()
    return "".join([*pieces, text[end:]])


# FFmpeg probes this much of a stream before it hands out the first packet. It keeps what it has probed, so this costs
# time at the start and no lag later. (`nobuffer` would drop it, and the first key frame with it.)
_PROBE = {"analyzeduration": "1000000", "probesize": "1000000"}
_UDP_REORDER = {"max_delay": "200000"}  # µs that a late datagram is waited for
RTSP = ("rtsp", "rtsps")
"""Schemes of RTSP."""


def scheme_of(url: str) -> str:
    """The part before `://`, in lower case."""
    return url.partition("://")[0].lower()


def lower_scheme(url: str) -> str:
    """`url` with its scheme in lower case, the only one that FFmpeg knows."""
    scheme, colon, rest = url.partition("://")
    return scheme.lower() + colon + rest


def password_hint(url: str) -> str | None:
    """How to write a password, where that of `url` seems to hold what ends it too early: `#`, `/` or `?`; else None."""
    authority, *rest = re.split(r"[/?#]", url.partition("://")[2], maxsplit=1)
    if "@" in authority or ":" not in authority.rpartition("]")[2] or "@" not in "".join(rest):
        return None
    return "a login ends at the first #, / or ?; in a password write # as %23, / as %2F and ? as %3F"


def resolution_failure(url: str) -> str | None:
    """Why the host of an address has no number, or None where it has one."""
    try:
        parts = urlsplit(url)
        socket.getaddrinfo(parts.hostname, parts.port)
    except socket.gaierror as error:
        return error.strerror
    except ValueError:  # no address, or a name that can't be one
        pass
    return None


def sends_ranges(url: str, timeout: float) -> bool:
    """Whether a server (`http`, `https`) sends pieces of a file; True where it does not answer in `timeout` seconds."""
    try:
        parts = urlsplit(url)
        login, _, host = parts.netloc.rpartition("@")
        request = urllib.request.Request(
            parts._replace(netloc=host, fragment="").geturl(), headers={"Range": "bytes=1-1"}
        )
        if login:
            request.add_header("Authorization", f"Basic {base64.b64encode(unquote(login).encode()).decode()}")
        with urllib.request.urlopen(request, timeout=timeout) as response:
            return int(response.status) == HTTPStatus.PARTIAL_CONTENT
    except (OSError, ValueError, HTTPException):
        return True


def ffmpeg_options(url: str, options: SourceOptions) -> dict[str, str]:
    """FFmpeg's options for an address, chosen for a quick start and little lag."""
    scheme = scheme_of(url)
    if scheme in RTSP:
        transport = options.rtsp_transport or "tcp"
        return _PROBE | {"rtsp_transport": transport} | (_UDP_REORDER if transport == "udp" else {})
    if scheme in ("udp", "rtp", "srt"):
        # A full buffer loses datagrams, which a live stream survives.
        return _PROBE | _UDP_REORDER | {"overrun_nonfatal": "1"}
    if scheme.startswith("rtmp"):
        return _PROBE | {"rtmp_live": "live"}
    return {}
