"""The gateway's configuration in a real nginx, where that is installed: what it lets through, and for whom."""

from __future__ import annotations

import http.client
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import yaml
from v2_server import V2Server

from sharpose.errors import ServerError
from sharpose.runtime import RemotePoseEstimator

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes"
TOKEN = "0123abcd" * 8


class _Triton(BaseHTTPRequestHandler):
    """Answers with what it was asked."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        said = f"{self.command} {self.path} {len(body)} {self.headers.get('Inference-Header-Content-Length')} "
        answer = (said + str(self.headers.get("Authorization"))).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


def _configuration() -> str:
    (found,) = [
        item for item in yaml.safe_load_all((FOLDER / "gateway.yaml").read_text("utf-8")) if item["kind"] == "ConfigMap"
    ]
    text: str = found["data"]["default.conf.template"]
    return text


def test_the_token_and_the_paths_are_in_the_configuration() -> None:
    text = _configuration()
    assert '"~^Bearer ${SHARPOSE_SERVER_TOKEN}$" 1;' in text
    assert "location ~ ^/v2/models/sharpose/(config|infer|ready)$" in text
    assert text.count("proxy_pass") == 1


@contextmanager
def _gateway_to(upstream: int, folder: Path) -> Iterator[int]:
    """The port of an nginx with the configuration, in front of a server at the port `upstream`."""
    if (nginx := shutil.which("nginx")) is None or shutil.which("openssl") is None:
        pytest.skip("nginx or openssl isn't installed")
    certificate = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    certificate += ["-addext", "subjectAltName=DNS:localhost"]
    certificate += ["-keyout", str(folder / "tls.key"), "-out", str(folder / "tls.crt")]
    subprocess.run(certificate, check=True, capture_output=True)
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    text = _configuration()
    for written, here in (
        ("listen 8443", f"listen 127.0.0.1:{port}"),
        ("${SHARPOSE_SERVER_TOKEN}", TOKEN),
        ("/tls/", f"{folder}/"),
        ("http://sharpose-triton:8000", f"http://127.0.0.1:{upstream}"),
    ):
        assert written in text
        text = text.replace(written, here)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    places = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    main = f"pid {folder}/pid; daemon off; error_log {folder}/error.log; events {{}}\n"
    (folder / "nginx.conf").write_text(main + f"http {{ access_log off; {places}\n{text} }}\n", "utf-8")
    process = subprocess.Popen([nginx, "-p", str(folder), "-c", str(folder / "nginx.conf")])
    try:
        for _ in range(100):
            assert process.poll() is None, (folder / "error.log").read_text("utf-8")
            with closing(socket.socket()) as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a gateway to a server that answers with what it was asked."""
    triton = ThreadingHTTPServer(("127.0.0.1", 0), _Triton)
    Thread(target=triton.serve_forever, args=(0.02,), daemon=True).start()
    with _gateway_to(triton.server_port, tmp_path_factory.mktemp("nginx")) as port:
        yield port
    triton.shutdown()
    triton.server_close()


def test_a_client_with_the_token_gets_poses(tmp_path: Path) -> None:
    image, boxes = np.zeros((64, 32, 3), np.uint8), [[0, 0, 32, 64]]
    with V2Server() as server, _gateway_to(server.port, tmp_path) as port:
        url, ca = f"https://localhost:{port}/sharpose", tmp_path / "tls.crt"
        with RemotePoseEstimator(url, token=TOKEN, ca=ca, tries=1) as estimator:
            assert estimator(image, boxes).keypoints.shape == (1, 17, 3)
        with pytest.raises(ServerError, match="401"):
            RemotePoseEstimator(url, token="other", ca=ca, tries=1)


def _ask(
    port: int, path: str, token: str | None = TOKEN, method: str = "GET", body: bytes | None = None
) -> tuple[int, str]:
    """Status and body of an answer."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with closing(http.client.HTTPSConnection("127.0.0.1", port, context=context)) as connection:
        headers = {"Inference-Header-Content-Length": "12"} | ({"Authorization": f"Bearer {token}"} if token else {})
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def test_requests_with_the_token_pass_without_it(gateway: int) -> None:
    assert _ask(gateway, "/v2/models/sharpose/config") == (200, "GET /v2/models/sharpose/config 0 12 None")
    crops = bytes(64 * 147_456)
    path = "/v2/models/sharpose/infer"
    assert _ask(gateway, path, method="POST", body=crops) == (200, f"POST {path} {len(crops)} 12 None")


@pytest.mark.parametrize("token", [None, "x", TOKEN.upper(), TOKEN[:-1], TOKEN + "0"])
def test_without_the_right_token_nothing_passes(gateway: int, token: str | None) -> None:
    assert _ask(gateway, "/v2/models/sharpose/config", token)[0] == 401


@pytest.mark.parametrize(
    "path",
    [
        "/v2/repository/models/sharpose/load",
        "/v2/models/sharpose/trace/setting",
        "/v2/logging",
        "/v2/systemsharedmemory/status",
        "/v2/models/other/infer",
        "/v2/models/sharpose/config/..%2f..%2ftrace",
    ],
)
def test_other_paths_do_not_pass(gateway: int, path: str) -> None:
    assert _ask(gateway, path)[0] == 404
