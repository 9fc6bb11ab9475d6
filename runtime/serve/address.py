"""Where to listen: `HOST:PORT`, on this machine alone unless the user says otherwise."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from sharpose.errors import InputError

__all__ = ["LOOPBACK", "Address", "is_loopback", "parse_address", "split_host"]

LOOPBACK = "127.0.0.1"

_HOST_AND_PORT = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]*)):([0-9]{1,5})")


@dataclass(frozen=True)
class Address:
    """Where to listen.

    Attributes:
        host: A name or an address; IPv6 without brackets.
        port: 0 takes one that is free.
    """

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_address(text: str) -> Address:
    """The address that `HOST:PORT`, `[IPv6]:PORT`, `:PORT` or `PORT` means; without a host, 127.0.0.1.

    Raises:
        InputError: `text` is none of these.
    """
    match = _HOST_AND_PORT.fullmatch(f":{text}" if text.isdecimal() else text)
    port = int(match.group(3)) if match else -1
    if match is None or not 0 <= port <= 65535:
        raise InputError(
            f"--serve {text!r}: expected HOST:PORT or PORT with a port from 0 to 65535, such as 8080 (this machine "
            "only) or 0.0.0.0:8080 (everybody who can reach it)"
        )
    return Address(match.group(1) or match.group(2) or LOOPBACK, port)


def split_host(host_header: str) -> str:
    """The host of a `Host` header, in lower case, without port and brackets."""
    host = re.sub(r":[0-9]*$", "", host_header.strip().lower())
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host.rstrip(".")


def is_loopback(host: str) -> bool:
    """Whether `host` can only mean this machine: an address of it, `localhost`, or a name below `.localhost`."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
