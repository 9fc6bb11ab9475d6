"""Clients of the page over bare sockets: requests as they are, and those that read or say nothing."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sharpose.runtime.serve import ServeServer
    from sharpose.runtime.serve.server import Address

ASK = b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n"


def raw(address: Address, request: bytes) -> bytes:
    """What the server answers until it closes the connection."""
    with socket.create_connection((address.host, address.port), timeout=30) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while data := connection.recv(65536):
            answer += data
    return answer


def connect(server: ServeServer) -> socket.socket:
    """A connection that can hold little that nobody reads."""
    connection = socket.create_connection((server.address.host, server.address.port), timeout=30)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    return connection


def until(holds: Callable[[], object], seconds: float = 30) -> None:
    """Wait for something that another thread does."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)
