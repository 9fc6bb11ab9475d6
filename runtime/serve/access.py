"""Who may ask: the right host name where only this machine listens, and the token where there is one."""

from __future__ import annotations

import hashlib
import hmac
from email.message import Message

from sharpose.errors import InputError
from sharpose.runtime.serve.address import is_loopback, split_host

__all__ = ["Access"]

_YEAR = 365 * 24 * 3600


class Access:
    """Decides on requests.

    A browser that came with the token once gets a cookie. It holds no token, only what can be made of it, so that it
    outlives a restart with the same token.

    Args:
        token: What a client must know; None lets everybody in.
        host: Where the server listens.
        port: Its port; cookies don't keep ports apart, so their names must.

    Raises:
        InputError: the token is empty or holds what can't be sent in a header.
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
        self._token = (token or "").encode()
        self._cookie_name = f"sharpose_{port}"
        self._cookie = hmac.new(self._token, b"sharpose --serve", hashlib.sha256).hexdigest()

    def right_host(self, host_header: str | None) -> bool:
        """Whether the `Host` header can come from somebody who meant this server.

        A web page elsewhere can let its own name point to 127.0.0.1 (DNS rebinding); the name gives it away.
        """
        if not host_header:
            return False
        host = split_host(host_header)
        return not self._only_loopback or is_loopback(host) or host == self._host

    def right_token(self, token: str | None) -> bool:
        """Whether a token that was given in the address is right."""
        return token is not None and hmac.compare_digest(token.encode("utf-8", "replace"), self._token)

    def may(self, headers: Message, token: str | None) -> bool:
        """Whether a request with these headers, and this token in its address, is let in."""
        if self.open or self.right_token(token):
            return True
        scheme, _, bearer = headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self.right_token(bearer.strip()):
            return True
        # By hand: http.cookies gives up at the first cookie it doesn't like, and other programs on this host set some.
        pairs = (pair.strip().partition("=") for pair in headers.get("Cookie", "").split(";"))
        return any(
            name == self._cookie_name and hmac.compare_digest(value.encode("utf-8", "replace"), self._cookie.encode())
            for name, _, value in pairs
        )

    def set_cookie(self) -> str:
        """The `Set-Cookie` header that lets a browser in from now on.

        Lax, since a strict one would not be sent after a click on a link in a chat; nothing here changes anything.
        """
        return f"{self._cookie_name}={self._cookie}; Path=/; Max-Age={_YEAR}; HttpOnly; SameSite=Lax"
