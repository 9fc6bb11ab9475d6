"""Where a server of poses is, and how to prove who is who."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from sharpose.errors import InputError
from sharpose.serving.contract import MODEL_NAME

Scheme = Literal["http", "https", "grpc", "grpcs"]
_PORTS: dict[Scheme, int] = {"http": 80, "https": 443, "grpc": 8001, "grpcs": 8001}
_EXPECTED = f"http://HOST:8000/{MODEL_NAME} (or https, grpc://HOST:8001, grpcs)"


@dataclass(frozen=True)
class ServerAddress:
    """Where a model is served.

    Attributes:
        scheme: `http` or `grpc`; with TLS `https` or `grpcs`.
        host: A name or an address; IPv6 without brackets.
        port: Without one in the URL: 80, 443 for https, 8001 for gRPC.
        prefix: Of all paths, as a gateway wants it: empty, or from `/` on.
        model: The served model's name.
    """

    scheme: Scheme
    host: str
    port: int
    prefix: str = ""
    model: str = MODEL_NAME

    @classmethod
    def parse(cls, url: str) -> ServerAddress:
        """The address that `SCHEME://HOST[:PORT][/PREFIX][/MODEL]` means; the model is `sharpose` unless it is named.

        Raises:
            InputError: `url` is none.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except (ValueError, AttributeError, TypeError):
            raise InputError(f"server: expected {_EXPECTED}, got {url!r}") from None
        if parts.username is not None or parts.password is not None:
            raise InputError("server: expected no login in the address; a token goes into --server-token")
        if parts.scheme not in _PORTS or not parts.hostname or parts.query or parts.fragment:
            raise InputError(f"server: expected {_EXPECTED}, got {url!r}")
        scheme = parts.scheme
        prefix, _, model = parts.path.rstrip("/").rpartition("/")
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", model or MODEL_NAME) or not re.fullmatch(r"[!-~]*", prefix):
            raise InputError(f"server: expected {_EXPECTED}, got {url!r}")
        if prefix and scheme.startswith("grpc"):
            raise InputError(f"server: gRPC has no paths: expected grpc://HOST:8001/{MODEL_NAME}, got {url!r}")
        return cls(scheme, parts.hostname, _PORTS[scheme] if port is None else port, prefix, model or MODEL_NAME)

    @property
    def secure(self) -> bool:
        """Whether TLS is used."""
        return self.scheme in ("https", "grpcs")

    @property
    def netloc(self) -> str:
        """`HOST:PORT`, IPv6 in brackets."""
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.netloc}{self.prefix}/{self.model}"


@dataclass(frozen=True)
class Credentials:
    """What client and server show each other.

    Attributes:
        token: Sent as `Authorization: Bearer TOKEN`, for a gateway in front of the server; None for none.
        ca: A file of certificates (PEM) to trust instead of the system's; None for the system's.
        certificate: A file (PEM) with the client's own certificate and its key, for mutual TLS; None for none.

    Raises:
        InputError: the token holds other than printable ASCII, or a file can't be read.
    """

    token: str | None = field(default=None, repr=False)
    ca: Path | None = None
    certificate: Path | None = None

    def __post_init__(self) -> None:
        if self.token is not None and not re.fullmatch("[!-~]+", self.token):
            raise InputError("server-token: expected printable ASCII without spaces")
        for option, file in (("--server-ca", self.ca), ("--server-cert", self.certificate)):
            if file is not None and not file.is_file():
                raise InputError(f"{option} {file}: expected a file of certificates (PEM), found none")

    def check(self, address: ServerAddress) -> None:
        """Refuse what does nothing without TLS; raises `InputError`."""
        for option, file in (("--server-ca", self.ca), ("--server-cert", self.certificate)):
            if file is not None and not address.secure:
                raise InputError(f"{option} is for https and grpcs, got {address}")

    def tls_context(self) -> ssl.SSLContext:
        """For HTTPS. Raises `InputError` where a file holds no certificate, or no key for it."""
        try:
            context = ssl.create_default_context(cafile=self.ca)
        except (ssl.SSLError, OSError) as error:
            raise InputError(f"--server-ca {self.ca}: expected certificates (PEM): {_reason(error)}") from None
        if self.certificate is not None:
            try:
                context.load_cert_chain(self.certificate)
            except (ssl.SSLError, OSError) as error:
                raise InputError(
                    f"--server-cert {self.certificate}: expected a certificate and its key (PEM): {_reason(error)}"
                ) from None
        return context


def _reason(error: OSError) -> str:
    return getattr(error, "reason", None) or error.strerror or "it can't be read"
