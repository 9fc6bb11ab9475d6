"""What stands at an address instead of a server of poses, and TLS: what the client says, and what it tries again."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest
from v2_server import MODEL, V2Server, v2_server

from sharpose.errors import ServerError, ServerGoneError, ServerRefusedError
from sharpose.serving.client import client as module
from sharpose.serving.client.address import Credentials
from sharpose.serving.client.client import Patience, PoseClient

CROPS = np.full((2, 64, 32, 3), 20, np.uint8)
HALF = np.full((2, 1), 0.5, np.float32)
HTML = b"Content-Type: text/html\r\nContent-Length: 13\r\n\r\n<html></html>"


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_GONE_WAITS", (0.001, 0.002))


def ask(client: PoseClient) -> float:
    return float(client.infer(CROPS, HALF).keypoints[0, 0, 0])


@contextmanager
def answering(answer: bytes | None) -> Iterator[tuple[str, list[int]]]:
    """A port that answers whatever it is asked so, or with None closes at once; `HOST:PORT`, and its connections."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        seen: list[int] = []

        def serve() -> None:
            with suppress(OSError):  # it is closed at the end
                while True:
                    connection, (_, port) = listening.accept()
                    seen.append(port)
                    with connection, suppress(OSError):
                        if answer is not None:
                            connection.recv(65536)
                            connection.sendall(answer)
                            connection.shutdown(socket.SHUT_WR)
                            connection.recv(65536)

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{listening.getsockname()[1]}", seen
        listening.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    ("scheme", "answer", "reason"),
    [
        ("http", b"HTTP/1.1 200 OK\r\n" + HTML, "expected a model's configuration as JSON, got something else; give"),
        ("http", b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n", "expected an answer of at most"),
        ("http", b"HTTP/1.1 500 No\r\n" + HTML, "answers 500: Internal Server Error; give the address of a Triton"),
        ("http", b"SSH-2.0-OpenSSH_9.2\r\n", r"answers no HTTP \(BadStatusLine\); give the address of a Triton"),
        ("http", b"\x15\x03\x03\x00\x02\x02\x50", "speaks TLS there; give https://$"),
        (
            "http",
            b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n",
            "answers 400: Bad Request; give https://$",
        ),
        ("https", b"HTTP/1.1 400 Bad Request\r\n" + HTML, r"speaks no TLS there \(.*\); give http://"),
        ("https", b"\x00\x00\x12\x04\x00\x00\x00\x00\x00", r"speaks no TLS there \(.*\); give http://"),
        ("https", None, "closed the connection in the TLS handshake; give http://"),
    ],
)
def test_what_is_no_server_of_poses_is_refused_at_first_contact(scheme: str, answer: bytes | None, reason: str) -> None:
    with answering(answer) as (where, connections):
        with pytest.raises(ServerRefusedError, match=reason) as failure:
            PoseClient(f"{scheme}://{where}/sharpose").contact()
        assert len(connections) == 1
    assert failure.value.exit_code == 2


def refuse_name(*_: object, **__: object) -> None:
    raise socket.gaierror(-2, "Name or service not known")


def too_late(*_: object, **__: object) -> None:
    raise TimeoutError("timed out")


def no_route(*_: object, **__: object) -> None:
    raise OSError(113, "No route to host")


@pytest.mark.parametrize(
    ("connect", "found", "remedy"),
    [
        (refuse_name, "the host's name isn't known here (Name or service not known)", "give a name that this machine"),
        (too_late, "no connection within 10 s", "look at host and port"),
        (no_route, "No route to host", "look at host and port"),
    ],
)
def test_a_connection_that_cannot_be_made_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, connect: Callable[..., None], found: str, remedy: str
) -> None:
    monkeypatch.setattr(socket, "create_connection", connect)
    said: list[str] = []
    with pytest.raises(ServerGoneError) as failure:
        PoseClient("http://rack:8000/sharpose", say=said.append).contact(Patience(tries=2))
    assert failure.value.found == f"http://rack:8000/sharpose: {found} (2 tries)"
    assert failure.value.remedy.startswith(remedy)
    assert said == [f"http://rack:8000/sharpose: {found}; trying again"]


def test_a_gateway_without_a_server_is_tried_again() -> None:
    with answering(b"HTTP/1.1 502 Bad Gateway\r\n" + HTML) as (where, connections):
        with pytest.raises(ServerGoneError, match=r"answers 502: Bad Gateway \(3 tries\); start the server behind"):
            PoseClient(f"http://{where}/sharpose").contact(Patience(tries=3))
        assert len(connections) == 3


def test_a_page_instead_of_a_known_server_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a gateway shows one while the server behind it restarts."""
    with v2_server() as server:
        client, config, pages = PoseClient(server.url), server.config, [["a page"]] * 2
        client.contact()
        server.cut()
        monkeypatch.setattr(server, "config", lambda: pages.pop() if pages else config())
        assert ask(client) == 20
        client.close()
        assert server.configs == 4


def test_a_server_that_keeps_no_connection_is_checked_before_each_request(monkeypatch: pytest.MonkeyPatch) -> None:
    with v2_server() as server:
        monkeypatch.setattr(server.handler, "protocol_version", "HTTP/1.0")
        client = PoseClient(server.url)
        assert [ask(client), ask(client)] == [20, 20]
        server.serve_another(bundle_sha256="6" * 64)
        with pytest.raises(ServerRefusedError, match="as before, got 666666666666"):
            ask(client)
        client.close()
    assert len(server.requests) == 2


def test_a_gateway_that_refuses_a_large_request_before_it_has_read_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handler: BaseHTTPRequestHandler) -> None:
        handler.send_error(413)
        handler.close_connection = True

    with v2_server(model=replace(MODEL, crop_size=(1024, 1024), regions=1024)) as server:
        monkeypatch.setattr(server.handler, "do_POST", refuse)
        client = PoseClient(server.url)
        crops = np.zeros((4, 1024, 1024, 3), np.uint8)  # more than sockets hold
        with pytest.raises(ServerRefusedError, match=r"answers 413: .*; raise the gateway's limit"):
            client.infer(crops, np.zeros((4, 1), np.float32))
        client.close()


def test_a_connection_whose_other_end_says_close_is_checked_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over HTTP/1.1 too, the next request goes over another one, and so maybe to another server."""
    with v2_server() as server:
        end_headers = server.handler.end_headers

        def say_close(handler: BaseHTTPRequestHandler) -> None:
            handler.send_header("Connection", "close")
            end_headers(handler)

        monkeypatch.setattr(server.handler, "end_headers", say_close)
        client = PoseClient(server.url)
        assert [ask(client), ask(client)] == [20, 20]
        assert server.configs == 2
        server.model = replace(server.model, bundle_sha256="6" * 64)
        with pytest.raises(ServerRefusedError, match="as before, got 666666666666"):
            ask(client)
        client.close()
    assert len(server.requests) == 2


def test_how_many_requests_were_answered() -> None:
    with v2_server() as server:
        client = PoseClient(server.url)
        server.acts = ["poses", 500, "poses"]
        assert [ask(client), ask(client)] == [20, 20]
        assert (client.answered(5), len(server.requests)) == (2, 3)
        client.close()
    assert client.answered(5) is None


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PEM file with a self-signed certificate for `localhost` and its key."""
    if (openssl := shutil.which("openssl")) is None:
        pytest.skip("openssl, which makes the certificate, isn't installed")
    folder = tmp_path_factory.mktemp("tls")
    made = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"]
    made += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    made += ["-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem")]
    subprocess.run(made, check=True, capture_output=True)
    both = folder / "both.pem"
    both.write_text((folder / "certificate.pem").read_text() + (folder / "key.pem").read_text())
    return both


@contextmanager
def tls_server(certificate: Path, *, mutual: bool = False) -> Iterator[tuple[V2Server, str]]:
    """A server with TLS, and its address by name; `mutual`: it takes only clients with that certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificate if mutual else None)
    context.load_cert_chain(certificate)
    context.verify_mode = ssl.CERT_REQUIRED if mutual else ssl.CERT_NONE
    with v2_server(tls=context) as server:
        yield server, server.url.replace("127.0.0.1", "localhost")


def test_tls_with_a_certificate_that_is_trusted(certificate: Path) -> None:
    with tls_server(certificate) as (server, url):
        client = PoseClient(url, Credentials(token="s3cret", ca=certificate))
        assert [ask(client), ask(client)] == [20, 20]
        client.close()
        assert server.headers["Authorization"] == "Bearer s3cret"
        assert (server.configs, len(server.requests)) == (1, 2)


@pytest.mark.parametrize(
    ("name", "trusted", "reason"),
    [
        ("localhost", False, "its certificate isn't trusted: self-signed certificate; give --server-ca FILE$"),
        ("127.0.0.1", True, r"isn't trusted: IP address mismatch.*; give the host by a name that its certificate has$"),
    ],
)
def test_tls_with_a_certificate_that_is_not_trusted(certificate: Path, name: str, trusted: bool, reason: str) -> None:
    with tls_server(certificate) as (server, url):
        client = PoseClient(
            url.replace("localhost", name), Credentials(token="s3cret", ca=certificate if trusted else None)
        )
        with pytest.raises(ServerRefusedError, match=reason):
            client.contact()
        assert server.headers == {}  # the token was sent to nobody


def test_mutual_tls(certificate: Path) -> None:
    with tls_server(certificate, mutual=True) as (server, url):
        refused = "(doesn't take the client's certificate.*|closed the connection after the TLS handshake)"
        with pytest.raises(ServerRefusedError, match=f"{refused}; give --server-cert"):  # whether its alert came first
            PoseClient(url, Credentials(ca=certificate)).contact()
        assert server.configs == 0
        client = PoseClient(url, Credentials(ca=certificate, certificate=certificate))
        assert ask(client) == 20
        client.close()


def test_plain_http_to_a_port_with_tls(certificate: Path) -> None:
    with tls_server(certificate) as (_, url), pytest.raises(ServerError, match="give https://"):
        PoseClient(url.replace("https:", "http:")).contact(Patience(tries=1))
