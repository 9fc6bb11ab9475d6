"""What `--serve` may be given."""

from __future__ import annotations

import pytest

from sharpose.errors import InputError
from sharpose.runtime.serve.handler import is_loopback, split_host
from sharpose.runtime.serve.server import Address, parse_address


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("8080", "127.0.0.1", 8080),
        (":8080", "127.0.0.1", 8080),
        ("0", "127.0.0.1", 0),
        ("0.0.0.0:8080", "0.0.0.0", 8080),
        ("[::1]:65535", "::1", 65535),
        ("camera-3.local:80", "camera-3.local", 80),
    ],
)
def test_addresses(text: str, host: str, port: int) -> None:
    assert parse_address(text) == Address(host, port)
    assert parse_address(str(parse_address(text))) == Address(host, port)


@pytest.mark.parametrize(
    "text",
    ["", ":", "65536", ":-1", "host", "host:", "::1", "http://localhost:80", "a b:80", "host:80/x", "[x]:80", "٣:80\n"],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(InputError, match="expected HOST:PORT or PORT with a port from 0 to 65535"):
        parse_address(text)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.9.10", "::1", "a.localhost"])
def test_what_means_this_machine(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "localhost.evil.example", "127.0.0.1.nip.io", ""])
def test_what_does_not(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("header", "host"),
    [("LocalHost:80", "localhost"), ("[::1]:8080", "::1"), ("[::1]", "::1"), ("localhost.", "localhost"), ("a", "a")],
)
def test_host_of_a_header(header: str, host: str) -> None:
    assert split_host(header) == host
