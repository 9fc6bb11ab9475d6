"""The client over gRPC: the same poses, and what its statuses mean."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from sharpose.errors import InputError, ServerBusyError, ServerError, ServerGoneError, ServerRefusedError
from sharpose.serving.client import client as module
from sharpose.serving.client.address import Credentials
from sharpose.serving.client.client import Patience, PoseClient

grpc = pytest.importorskip("grpc")

if TYPE_CHECKING:
    from grpc_server import GrpcServer

CROPS = np.full((2, 64, 32, 3), 20, np.uint8)
HALF = np.full((2, 1), 0.5, np.float32)


@pytest.fixture
def types(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    from grpc_server import install_messages

    monkeypatch.setattr(module, "_GONE_WAITS", (0.05, 0.2))
    monkeypatch.setattr(module, "_BUSY_WAITS", (0.001, 0.002))
    return install_messages(monkeypatch)


@pytest.fixture
def server(types: dict[str, Any]) -> Iterator[GrpcServer]:
    from grpc_server import GrpcServer

    running = GrpcServer(types)
    yield running
    running.stop()


@pytest.fixture
def client(server: GrpcServer) -> Iterator[PoseClient]:
    made = PoseClient(server.url, Credentials(token="s3cret"))
    made.contact()
    yield made
    made.close()


def test_how_many_requests_were_answered(server: GrpcServer, client: PoseClient) -> None:
    server.acts = [None, (grpc.StatusCode.RESOURCE_EXHAUSTED, "full"), None]
    client.infer(CROPS, HALF)
    client.infer(CROPS, HALF)
    assert (client.answered(5), server.requests) == (2, 3)
    server.stop()
    assert client.answered(5) is None


def test_poses_and_a_token(server: GrpcServer, client: PoseClient) -> None:
    assert client.contact() == server.model
    found = client.infer(CROPS, HALF, regions=True)
    assert found.keypoints[:, 3].tolist() == [[20, 20, 0.75]] * 2
    assert found.quality.tolist() == [np.float32(0.2)] * 2
    assert found.refined.tolist() == [True, True]
    assert found.region_order is not None
    assert found.region_order.tolist() == [[1, 0], [1, 0]]
    assert server.metadata["authorization"] == "Bearer s3cret"


def test_a_full_queue_is_busy(server: GrpcServer, client: PoseClient) -> None:
    full = (grpc.StatusCode.UNAVAILABLE, "[request id: <id_unknown>] Exceeds maximum queue size")
    server.acts = [full] * 3
    assert len(client.infer(CROPS, HALF, patience=Patience(tries=1)).quality) == 2
    assert server.requests == 4
    server.acts = [full]
    with pytest.raises(ServerBusyError, match=r"answers UNAVAILABLE: .*Exceeds maximum queue size"):
        client.infer(CROPS, HALF, patience=Patience(drop=True))


@pytest.mark.parametrize(
    ("status", "error"),
    [
        ("INTERNAL", ServerGoneError),
        ("UNAVAILABLE", ServerGoneError),
        ("NOT_FOUND", ServerRefusedError),
        ("INVALID_ARGUMENT", ServerRefusedError),
        ("UNAUTHENTICATED", ServerRefusedError),
    ],
)
def test_statuses(server: GrpcServer, client: PoseClient, status: str, error: type[ServerError]) -> None:
    server.acts = [(getattr(grpc.StatusCode, status), "as told")] * 2
    with pytest.raises(error, match=f"{server.url}: answers {status}: as told"):
        client.infer(CROPS, HALF, patience=Patience(tries=2))
    assert server.requests == (2 if error is ServerGoneError else 1)


def test_the_configuration_is_asked_for_once(server: GrpcServer, client: PoseClient) -> None:
    for _ in range(3):
        client.infer(CROPS, HALF)
    assert (server.requests, server.configs) == (3, 1)


def test_another_bundle_is_noticed_in_the_answer(server: GrpcServer, client: PoseClient) -> None:
    """As where a gateway has led the channel to another server, and no call has failed."""
    client.infer(CROPS, HALF)
    server.model = replace(server.model, max_batch=2)
    client.infer(CROPS, HALF)
    server.model = replace(server.model, bundle_sha256="6" * 64)
    with pytest.raises(ServerRefusedError, match="the bundle 555555555555, as before, got 666666666666"):
        client.infer(CROPS, HALF)


def test_a_repository_whose_version_is_not_its_bundles(server: GrpcServer, client: PoseClient) -> None:
    server.version = "1"
    with pytest.raises(ServerRefusedError, match=r"version 93824992236885, as its .* got 1; write the repository"):
        client.infer(CROPS, HALF)


UNREACHABLE = "failed to connect to all addresses; last error: UNKNOWN: ipv4:10.0.0.1:8001: "


@pytest.mark.parametrize(
    ("details", "error", "words"),
    [
        (
            f"{UNREACHABLE}Failed to connect to remote host: Connection refused",
            ServerGoneError,
            "no connection: Failed to connect to remote host: Connection refused; start the server, or give its port",
        ),
        ("errors resolving rack:8001: [field:hostname lookup error:no such]", ServerGoneError, "; give a name that"),
        ("DNS resolution failed for rack:8001", ServerGoneError, "no connection: DNS resolution .*; give a name that"),
        (
            f"{UNREACHABLE}Tls handshake failed (TSI_PROTOCOL_FAILURE): SSL_ERROR_SSL: WRONG_VERSION_NUMBER",
            ServerRefusedError,
            "; give grpc:// for a port without TLS",
        ),
        (f"{UNREACHABLE}Tls handshake failed: CERTIFICATE_VERIFY_FAILED", ServerRefusedError, "; give --server-ca"),
        (f"{UNREACHABLE}Failed parsing HTTP/2 (got frame type 79)", ServerRefusedError, "; give the port of a Triton"),
        (f"{UNREACHABLE}Socket closed", ServerGoneError, "; give grpcs:// for a port with TLS"),
        (f"{UNREACHABLE}No route to host", ServerGoneError, "; look at host and port"),
    ],
)
def test_connections_that_cannot_be_made(
    types: dict[str, Any], details: str, error: type[ServerError], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the words of grpcio 1.85."""
    over_grpc = import_module("sharpose.serving.client.over_grpc")
    meaning = over_grpc._error_of(grpc.StatusCode.UNAVAILABLE, details, 1.0)

    def fail(*_: object) -> None:
        raise meaning

    monkeypatch.setattr(over_grpc.GrpcConnection, "config", fail)
    with pytest.raises(error, match=words):
        PoseClient("grpc://10.0.0.1:8001/sharpose").contact(Patience(tries=1))


def test_nobody_listens(types: dict[str, Any]) -> None:
    with pytest.raises(ServerGoneError, match=r"no connection: .*Connection refused; start the server"):
        PoseClient("grpc://127.0.0.1:1/sharpose").contact(Patience(tries=1))


@pytest.mark.parametrize("same", [True, False])
def test_a_restarted_server(server: GrpcServer, client: PoseClient, types: dict[str, Any], same: bool) -> None:
    from grpc_server import GrpcServer

    client.infer(CROPS, HALF)
    server.stop()
    again = GrpcServer(types, server.port)
    try:
        if same:
            assert len(client.infer(CROPS, HALF).quality) == 2
        else:
            again.model = replace(again.model, bundle_sha256="6" * 64)
            with pytest.raises(ServerRefusedError, match="the bundle 555555555555, as before, got 666666666666"):
                client.infer(CROPS, HALF)
    finally:
        again.stop()


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "sharpose.serving.client.over_grpc", raising=False)
    monkeypatch.setitem(sys.modules, "tritonclient", None)
    with pytest.raises(InputError, match=r"gRPC needs tritonclient .*triton-grpc.* -c constraints-grpc\.txt"):
        PoseClient("grpc://127.0.0.1:1/sharpose")
