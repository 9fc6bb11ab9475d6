"""Addresses of servers, and what is shown to them."""

from __future__ import annotations

from pathlib import Path

import pytest

from sharpose.errors import InputError
from sharpose.serving.client.address import Credentials, ServerAddress


@pytest.mark.parametrize(
    ("url", "parsed", "text"),
    [
        ("http://rack:8000/sharpose", ("http", "rack", 8000, "", "sharpose"), "http://rack:8000/sharpose"),
        ("http://rack", ("http", "rack", 80, "", "sharpose"), "http://rack:80/sharpose"),
        ("https://gate/poses/v3/sharpose/", ("https", "gate", 443, "/poses/v3", "sharpose"), None),
        ("http://[::1]:8000/other", ("http", "::1", 8000, "", "other"), "http://[::1]:8000/other"),
        ("grpc://10.0.0.7", ("grpc", "10.0.0.7", 8001, "", "sharpose"), "grpc://10.0.0.7:8001/sharpose"),
        ("grpcs://rack:443/m", ("grpcs", "rack", 443, "", "m"), None),
        ("HTTP://Rack:8000", ("http", "rack", 8000, "", "sharpose"), None),
    ],
)
def test_addresses(url: str, parsed: tuple[object, ...], text: str | None) -> None:
    address = ServerAddress.parse(url)
    assert (address.scheme, address.host, address.port, address.prefix, address.model) == parsed
    assert text is None or str(address) == text
    assert address.secure == url.lower().startswith(("https", "grpcs"))


@pytest.mark.parametrize(
    "url",
    [
        "rack:8000",
        "ftp://rack/sharpose",
        "http://",
        "http://rack:port/",
        "http://rack/a b",
        "http://rack/?x=1",
        "",
        "/sharpose",
    ],
)
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(InputError, match=r"expected http://HOST:8000/sharpose"):
        ServerAddress.parse(url)


def test_a_login_is_not_repeated() -> None:
    with pytest.raises(InputError, match="a token goes into --server-token") as failure:
        ServerAddress.parse("http://me:secret@rack/sharpose")
    assert "secret" not in str(failure.value)


def test_grpc_has_no_paths() -> None:
    with pytest.raises(InputError, match="gRPC has no paths"):
        ServerAddress.parse("grpc://rack/a/sharpose")


@pytest.mark.parametrize("token", ["two words", "", "zwölf", "a\nb"])
def test_tokens_that_no_header_can_hold(token: str) -> None:
    with pytest.raises(InputError, match="server-token: expected printable ASCII"):
        Credentials(token=token)


def test_certificates(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--server-ca .*: expected a file of certificates"):
        Credentials(ca=tmp_path / "missing.pem")
    (tmp_path / "empty.pem").write_text("")
    given = Credentials(ca=tmp_path / "empty.pem")
    with pytest.raises(InputError, match="--server-ca is for https and grpcs, got http://rack:80/sharpose"):
        given.check(ServerAddress.parse("http://rack"))
    given.check(ServerAddress.parse("https://rack"))
    with pytest.raises(InputError, match=r"--server-ca .*: expected certificates \(PEM\)"):
        given.tls_context()
    with pytest.raises(InputError, match=r"--server-cert .*: expected a certificate and its key"):
        Credentials(certificate=tmp_path / "empty.pem").tls_context()
