"""Who is let in by the server of --serve: host names, tokens, guesses at tokens, and connections."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import ipaddress
import re
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import Message

from sharpose.errors import InputError

_YEAR = 365 * 24 * 3600
_LEAST_TOKEN = 16  # characters, where others can reach the server


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


class Access:
    """Decides who is let in.

    A browser that came with the token once gets a cookie: a hash of the token, so that it outlives a restart.

    Args:
        token: What a client must know; None lets everybody in.
        host: Where the server listens.
        port: Its port; cookies don't keep ports apart, so their names must.

    Attributes:
        open: Whether everybody is let in.
        guesses: Slows down those who send wrong tokens.

    Raises:
        InputError: the token is empty, holds what can't be sent in a header, or is shorter than 16 characters where
            other machines can reach `host`.
    """

    def __init__(self, token: str | None, *, host: str, port: int) -> None:
        if token is not None and not (token and all("!" <= character <= "~" for character in token)):
            raise InputError(
                "--serve-token: expected printable ASCII characters without spaces, got "
                + ("others" if token else "an empty token")
            )
        self.open = token is None
        self._host = host.lower()
        self._only_loopback = is_loopback(self._host)
        if token is not None and len(token) < _LEAST_TOKEN and not self._only_loopback:
            raise InputError(
                f"--serve-token: expected {_LEAST_TOKEN} characters or more where other machines can reach the page, "
                "got fewer; make one with `openssl rand -hex 16`, or listen on 127.0.0.1 only"
            )
        self._token = token or ""
        self._cookie_name = f"sharpose_{port}"
        self._cookie = hmac.new(self._token.encode(), b"sharpose --serve", hashlib.sha256).hexdigest()
        self.guesses = Guesses()

    def right_host(self, host_header: str | None) -> bool:
        """Whether the `Host` header can come from somebody who meant this server.

        A web page elsewhere can let its own name point to 127.0.0.1 (DNS rebinding); the name gives it away.
        """
        if not host_header:
            return False
        host = split_host(host_header)
        return not self._only_loopback or is_loopback(host) or host == self._host

    def may(self, headers: Message, token: str | None, address: str) -> bool | None:
        """Whether a request with these headers, and this token in its URL, is let in.

        Args:
            headers: The request's.
            token: Of the URL's query, if any.
            address: The client's; it waits here after many wrong tokens.

        Returns:
            None where it isn't looked at, as another one from the address is waiting.
        """
        if self.open:
            return True
        scheme, _, bearer = headers.get("Authorization", "").partition(" ")
        tokens = [one for one in (token, bearer.strip() if scheme.lower() == "bearer" else None) if one]
        # By hand: http.cookies gives up at the first cookie it doesn't like, and other programs on this host set some.
        pairs = (pair.strip().partition("=") for pair in headers.get("Cookie", "").split(";"))
        cookies = [value for name, _, value in pairs if name == self._cookie_name][:1]  # more would be free guesses
        if not tokens and not cookies:
            return False  # no guess
        return self.guesses.check(
            address,
            repr((tokens, cookies)),
            lambda: any(_same(one, self._token) for one in tokens) or any(_same(one, self._cookie) for one in cookies),
        )

    def set_cookie(self) -> str:
        """The `Set-Cookie` header that lets a browser in from now on.

        Lax, since a strict one would not be sent after a click on a link in a chat; nothing here changes anything.
        """
        return f"{self._cookie_name}={self._cookie}; Path=/; Max-Age={_YEAR}; HttpOnly; SameSite=Lax"


def _same(given: str, right: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), right.encode())


class Guesses:
    """Slows down the addresses that send wrong tokens. Thread-safe.

    After ten wrong tokens from an address (of IPv6 a network of 64 bits, since a client has that many) each further
    answer to it waits, one at a time. A right token ends this until the next wrong one. An address that waits is
    forgotten after ten minutes without wrong tokens, or when 1024 others have sent some since. What an address repeats
    is refused at once, and counts once: a page left open from before the token was changed asks again and again.

    Args:
        clock: Seconds, monotonic.
        pause: Waits so many seconds; until `close`, if None.
    """

    _FREE = 10
    _FIRST, _LONGEST = 1.0, 8.0  # seconds, doubled by each wrong token
    _FORGET = 600.0  # seconds
    _MOST = 1024  # addresses
    _MOST_KNOWN = 32  # wrong tokens of an address
    _MOST_WAITING = 8  # requests: each has a connection

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, pause: Callable[[float], object] | None = None
    ) -> None:
        self._closed = threading.Event()
        self._clock, self._pause = clock, pause or self._closed.wait
        self._lock = threading.Lock()
        self._guessing: dict[str, _Guessing] = {}  # the last to guess at the end

    def __len__(self) -> int:
        return len(self._guessing)

    def close(self) -> None:
        """End all waiting."""
        self._closed.set()

    def check(self, address: str, sent: str, right: Callable[[], bool]) -> bool | None:
        """Whether a request is `right`, found out after the wait that its address has earned.

        Args:
            address: The client's.
            sent: The tokens in the request.
            right: Compares them.

        Returns:
            None, without a comparison, where another request from that address (or eight from others) wait already.
        """
        key, digest = _network(address), hashlib.sha256(sent.encode("utf-8", "backslashreplace")).digest()
        with self._lock:
            one = self._guessing.get(key)
            if one is not None and self._clock() - one.last > self._FORGET:
                del self._guessing[key]
                one = None
            if one is not None and digest in one.known:
                return False
            waits = one if one is not None and one.wrong >= self._FREE else None
            if waits is not None:
                if waits.waiting or sum(other.waiting for other in self._guessing.values()) >= self._MOST_WAITING:
                    return None
                waits.waiting = True
        try:
            if waits is not None:
                self._pause(min(self._FIRST * 2.0 ** min(waits.wrong - self._FREE, 10), self._LONGEST))
            found = right()
        finally:
            if waits is not None:
                waits.waiting = False
        with self._lock:
            one = self._guessing.get(key)
            if not found:
                one = self._guessing.pop(key, None) or _Guessing()
                one.wrong, one.last = one.wrong + 1, self._clock()
                one.known.append(digest)
                self._guessing[key] = one
                if len(self._guessing) > self._MOST:
                    del self._guessing[next(iter(self._guessing))]
            elif one is not None:
                one.wrong = min(one.wrong, self._FREE - 1)
        return found


@dataclass
class _Guessing:
    """The wrong tokens of an address, when the last one came, whether a request of it waits, and the newest ones'
    hashes.
    """

    wrong: int = 0
    last: float = 0.0
    waiting: bool = False
    known: deque[bytes] = field(default_factory=lambda: deque(maxlen=Guesses._MOST_KNOWN))


def _network(address: str) -> str:
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv6Address):
        return str(ip.ipv4_mapped or ipaddress.ip_network((ip, 64), strict=False))
    return str(ip)


class Connections:
    """The open connections of a server, and until when each has time. Thread-safe.

    Those beyond `most` are kept for `/healthz` alone, so that clients who hold all others can't make a healthy run look
    dead; where those are too many as well, the oldest of them makes room.

    Args:
        most: Connections at a time that are served everything.
        seconds: For a request to come in whole, however its bytes trickle, and for each piece of an answer to be taken.
    """

    making_seconds = 60.0
    """For an answer to be made: the next picture is waited for."""
    _SPARE = 8

    def __init__(self, most: int, seconds: float) -> None:
        self.seconds = seconds
        self._most = most
        self._lock = threading.Condition()
        self._deadlines: dict[socket.socket, float] = {}
        self._spare: dict[socket.socket, None] = {}

    def __len__(self) -> int:
        return len(self._deadlines)

    def add(self, connection: socket.socket) -> None:
        """Take a new connection in."""
        with self._lock:
            if len(self._deadlines) - len(self._spare) >= self._most:
                for oldest in list(self._spare)[: len(self._spare) - self._SPARE + 1]:
                    self._forget(oldest)
                    _hang_up(oldest)
                self._spare[connection] = None
            self._deadlines[connection] = time.monotonic() + self.seconds

    def remove(self, connection: socket.socket) -> None:
        """Forget a connection that ends."""
        with self._lock:
            self._forget(connection)

    def may_ask_for_all(self, connection: socket.socket) -> bool:
        """Whether a connection is served more than `/healthz`; from now on, if others have made room."""
        with self._lock:
            if len(self._deadlines) - len(self._spare) < self._most:
                self._spare.pop(connection, None)
            return connection not in self._spare

    def extend(self, connection: socket.socket, seconds: float | None = None) -> None:
        """Give a connection so many seconds from now on; `self.seconds` if None."""
        with self._lock:
            if connection in self._deadlines:
                self._deadlines[connection] = time.monotonic() + (self.seconds if seconds is None else seconds)

    def cut(self, *, all_of_them: bool = False) -> None:
        """End those whose time is over, or all, under the feet of the threads that serve them."""
        now = time.monotonic()
        with self._lock:
            over = [one for one, deadline in self._deadlines.items() if all_of_them or deadline < now]
        for connection in over:
            _hang_up(connection)

    def wait(self, seconds: float) -> bool:
        """Wait for the threads that serve connections; whether all have ended in time."""
        with self._lock:
            return self._lock.wait_for(lambda: not self._deadlines, seconds)

    def _forget(self, connection: socket.socket) -> None:
        self._deadlines.pop(connection, None)
        self._spare.pop(connection, None)
        if not self._deadlines:
            self._lock.notify_all()


def _hang_up(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
