"""The client against a small server: values, what is tried again, and what is said."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from v2_server import MODEL, Outputs, V2Server, v2_server

from sharpose.errors import ServerBusyError, ServerError, ServerGoneError, ServerRefusedError
from sharpose.serving.client import client as module
from sharpose.serving.client.address import Credentials
from sharpose.serving.client.client import Exchange, Patience, PoseClient, RequestStoppedError
from sharpose.skeleton import MPII16

CROPS = np.zeros((2, 64, 32, 3), np.uint8)
CROPS[0, 0, 0] = 10, 20, 30
CROPS[1, 0, 0] = 5, 6, 90
HALF = np.full((2, 1), 0.5, np.float32)


@pytest.fixture
def server() -> Iterator[V2Server]:
    with v2_server() as running:
        yield running


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_GONE_WAITS", (0.001, 0.002))
    monkeypatch.setattr(module, "_BUSY_WAITS", (0.001, 0.002))


def ask(client: PoseClient, patience: Patience | None = None) -> list[list[float]]:
    client.contact(patience)
    found = client.infer(CROPS, HALF, patience=patience)
    return found.keypoints[:, 0].tolist()


RIGHT = [[10, 20, 0.75], [5, 6, 0.75]]


def test_poses_of_crops(server: V2Server) -> None:
    with_regions = PoseClient(server.url)
    assert with_regions.contact() == MODEL
    found = with_regions.infer(CROPS, HALF, regions=True)
    assert found.keypoints.shape == (2, 17, 3)
    assert found.keypoints[:, 16].tolist() == RIGHT
    assert found.quality.tolist() == [np.float32(0.3), np.float32(0.9)]
    assert found.refined.tolist() == [True, False]
    assert found.region_order is not None
    assert found.region_order.tolist() == [[1, 0], [1, 0]]
    assert with_regions.infer(CROPS, HALF).region_order is None
    limits = np.array([[-np.inf], [np.inf]], np.float32)
    assert with_regions.infer(CROPS, limits).refined.tolist() == [False, True]
    with_regions.close()
    ports = {port for _, port in server.requests}
    assert len(server.requests) == 3
    assert len(ports) == 1
    assert server.configs == 1


def test_requests_at_a_time_have_connections_of_their_own(server: V2Server) -> None:
    client = PoseClient(server.url)
    client.contact()
    together = threading.Barrier(3)

    def poses(crops: npt.NDArray[np.uint8], thresholds: npt.NDArray[np.float32]) -> Outputs:
        together.wait(5)
        return simple(crops, thresholds)

    simple, server.poses = server.poses, poses
    found: list[list[list[float]]] = []
    threads = [threading.Thread(target=lambda: found.append(ask(client))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    client.close()
    assert found == [RIGHT] * 3
    assert len({port for _, port in server.requests}) == 3


def test_a_token_goes_with_every_request(server: V2Server) -> None:
    client = PoseClient(server.url, Credentials(token="s3cret"))
    client.contact()
    assert server.headers["Authorization"] == "Bearer s3cret"
    server.headers = {}
    assert ask(client) == RIGHT
    assert server.headers["Authorization"] == "Bearer s3cret"
    assert "s3cret" not in repr(Credentials(token="s3cret"))
    client.close()


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (500, "answers 500: told to say 500"),
        (502, "answers 502: told to say 502"),
        ("nothing", "closed the connection"),
        ("half", "broke off after "),
        ("late", "no answer within 1 s"),
    ],
)
def test_failures_are_tried_again_and_said_once(server: V2Server, act: int | str, reason: str) -> None:
    said: list[str] = []
    exchanges: list[Exchange] = []
    client = PoseClient(server.url, timeout=1, say=said.append, note=exchanges.append)
    assert ask(client) == RIGHT
    exchanges.clear()
    server.acts, server.late_seconds = [act, act], 1.5
    assert ask(client) == RIGHT
    client.close()
    assert said[0].startswith(f"{server.url}: {reason}")
    assert said[0].endswith("; trying again")
    assert len(said) == 2
    assert "answers again, after" in said[1]
    assert [isinstance(one.error, ServerGoneError) for one in exchanges] == [True, True, False]
    assert exchanges[-1].seconds < 1


def test_after_all_tries_the_server_counts_as_gone(server: V2Server) -> None:
    client = PoseClient(server.url)
    client.contact()
    server.acts = [500] * 3
    with pytest.raises(ServerGoneError, match=r"answers 500: told to say 500 \(3 tries\)$") as failure:
        ask(client, Patience(tries=3))
    assert failure.value.exit_code == 3
    assert len(server.requests) == 3
    client.close()


def test_nobody_listens() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        client = PoseClient(f"http://127.0.0.1:{unused.getsockname()[1]}/sharpose")
        with pytest.raises(ServerGoneError, match=r"1:[0-9]+/sharpose: Connection refused \(2 tries\); start"):
            client.contact(Patience(tries=2))


def test_each_try_that_finds_no_server_is_noted() -> None:
    exchanges: list[Exchange] = []
    with v2_server() as server:
        client = PoseClient(server.url, note=exchanges.append)
        assert ask(client) == RIGHT
    server.cut()
    with pytest.raises(ServerGoneError):
        ask(client, Patience(tries=4))
    tries = len(exchanges) - 1
    assert tries in (4, 5)  # the kept connection, where it was closed, is one more
    for _ in range(3):
        with pytest.raises(ServerGoneError):
            ask(client, Patience(drop=True))
    client.close()
    assert [one.error is None for one in exchanges] == [True] + [False] * (tries + 3)


def test_tries_of_first_contact_are_noted() -> None:
    exchanges: list[Exchange] = []
    with pytest.raises(ServerGoneError):
        PoseClient("http://127.0.0.1:1/sharpose", note=exchanges.append).contact(Patience(tries=3))
    assert [type(one.error) for one in exchanges] == [ServerGoneError] * 3


def test_a_busy_server_is_waited_for(server: V2Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BUSY_SAID_AFTER", 0.0)
    said: list[str] = []
    exchanges: list[Exchange] = []
    client = PoseClient(server.url, say=said.append, note=exchanges.append)
    client.contact()
    server.acts = [503] * 20
    assert ask(client, Patience(tries=1)) == RIGHT
    client.close()
    assert len(server.requests) == 21
    assert sum(one.error is not None for one in exchanges) == 20
    assert len(said) == 2
    assert "busy for 0 s (answers 503: told to say 503); waiting" in said[0]


@pytest.mark.parametrize(("act", "error"), [(503, ServerBusyError), (429, ServerBusyError), (500, ServerGoneError)])
def test_a_live_frame_has_one_try(server: V2Server, act: int, error: type[ServerError]) -> None:
    client = PoseClient(server.url)
    client.contact()
    server.acts = [act]
    with pytest.raises(error, match=f"told to say {act}"):
        ask(client, Patience(drop=True))
    assert ask(client, Patience(drop=True)) == RIGHT
    client.close()


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (400, "answers 400: told to say 400$"),
        (401, "answers 401: told to say 401; give --server-token"),
        (404, "answers 404: told to say 404; give the address with the gateway's path"),
        (413, "answers 413: told to say 413; raise the gateway's limit"),
        (301, "answers 301: told to say 301; give the address that it leads to"),
    ],
)
def test_refusals_are_final(server: V2Server, act: int, reason: str) -> None:
    client = PoseClient(server.url)
    client.contact()
    server.acts = [act]
    with pytest.raises(ServerRefusedError, match=reason) as failure:
        ask(client)
    assert failure.value.exit_code == 2
    assert len(server.requests) == 1
    client.close()


def test_an_unknown_model_is_refused_at_first_contact(server: V2Server) -> None:
    with pytest.raises(ServerRefusedError, match="answers 404: Request for unknown model"):
        PoseClient(server.url.replace("sharpose", "other")).contact()


def test_outputs_of_zero_bytes_name_what_mends_them(server: V2Server) -> None:
    client = PoseClient(server.url)
    client.contact()
    server.acts = ["empty"]
    with pytest.raises(ServerError, match=r"keypoints: expected 408 bytes, got 0; .*numpy<2") as failure:
        ask(client)
    assert failure.value.exit_code == 3
    assert not isinstance(failure.value, ServerGoneError)
    client.close()


def changed(name: str, value: npt.NDArray[Any] | None) -> Callable[[Outputs], Outputs]:
    def act(outputs: Outputs) -> Outputs:
        return {key: array for key, array in {**outputs, name: value}.items() if array is not None}

    return act


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (
            changed("keypoints", np.zeros((2, 16, 3), np.float32)),
            r"keypoints: expected FP32 \[2, 17, 3\], got FP32 \[2, 16",
        ),
        (changed("keypoints", np.zeros((1, 17, 3), np.float32)), r"expected FP32 \[2, 17, 3\], got FP32 \[1, 17, 3\]"),
        (changed("quality", np.zeros((2, 1))), r"quality: expected FP32 \[2, 1\], got FP64 \[2, 1\]"),
        (changed("quality", np.array([[np.nan], [0]], np.float32)), "quality: expected finite numbers, got NaN"),
        (changed("keypoints", np.full((2, 17, 3), np.inf, np.float32)), "keypoints: expected finite numbers"),
        (changed("refined", None), "refined: expected this output, got keypoints, quality"),
        (changed("region_order", np.full((2, 2), 7, np.int32)), "region_order: expected 0 to 1, got 7 to 7"),
    ],
)
def test_answers_that_are_no_poses(server: V2Server, act: Callable[[Outputs], Outputs], reason: str) -> None:
    client = PoseClient(server.url)
    client.contact()
    server.acts = [act]
    with pytest.raises(ServerError, match=reason):
        client.infer(CROPS, HALF, regions=True)
    assert len(server.requests) == 1
    client.close()


def test_a_restarted_server_with_the_same_bundle_counts_for_nothing(server: V2Server) -> None:
    said: list[str] = []
    exchanges: list[Exchange] = []
    client = PoseClient(server.url, say=said.append, note=exchanges.append)
    assert ask(client) == RIGHT
    server.cut()
    assert ask(client, Patience(tries=1)) == RIGHT
    client.close()
    assert server.configs == 2
    assert said == []
    assert [one.error is None for one in exchanges] == [True, False, True]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"bundle_sha256": "6" * 64}, "expected it to serve the bundle 555555555555, as before, got 666666666666"),
        ({"skeleton": MPII16}, "expected the skeleton coco17 as before, got mpii16"),
    ],
)
def test_a_restarted_server_with_another_model_is_refused(
    server: V2Server, changes: dict[str, Any], reason: str
) -> None:
    client = PoseClient(server.url)
    assert ask(client) == RIGHT
    server.serve_another(**changes)
    with pytest.raises(ServerRefusedError, match=reason) as failure:
        ask(client)
    assert failure.value.exit_code == 2
    assert len(server.requests) == 1
    client.close()


def test_another_bundle_than_the_callers_is_refused(server: V2Server) -> None:
    with pytest.raises(ServerRefusedError, match="serve the bundle 777777777777, yours, got 555555555555"):
        PoseClient(server.url, expected="7" * 64).contact()
    assert PoseClient(server.url, expected="5" * 64).contact() == MODEL


def test_a_larger_batch_after_a_restart_is_taken(server: V2Server) -> None:
    client = PoseClient(server.url)
    assert ask(client) == RIGHT
    server.serve_another(max_batch=8)
    assert ask(client) == RIGHT
    assert client.contact() == replace(MODEL, max_batch=8)
    client.close()


def test_what_is_no_triton_server(monkeypatch: pytest.MonkeyPatch) -> None:
    with v2_server() as server:
        monkeypatch.setattr(server, "config", lambda: ["a page"])
        with pytest.raises(ServerError, match="expected a model's configuration as JSON"):
            PoseClient(server.url).contact()
        monkeypatch.setattr(server, "config", lambda: {"name": "resnet", "max_batch_size": 8})
        with pytest.raises(ServerRefusedError, match="model 'resnet': expected the parameter contract to be 2"):
            PoseClient(server.url).contact()


def test_https_to_a_server_without_tls(server: V2Server) -> None:
    with pytest.raises(ServerRefusedError, match=r"speaks no TLS there \(.*\); give http://"):
        PoseClient(server.url.replace("http:", "https:")).contact()


def test_requests_under_way_are_ended(server: V2Server) -> None:
    client = PoseClient(server.url)
    client.contact()
    server.acts, server.late_seconds = ["late"], 2.0
    began = time.monotonic()
    threading.Timer(0.1, client.terminate).start()
    with pytest.raises(RequestStoppedError):
        ask(client)
    assert time.monotonic() - began < 1.5
    with pytest.raises(RequestStoppedError):
        ask(client)


def test_a_caller_may_stop_between_tries(server: V2Server) -> None:
    client = PoseClient(server.url)
    client.contact()
    server.acts = [503] * 100
    answers = iter([False, False, False, True])
    with pytest.raises(RequestStoppedError):
        client.infer(CROPS, HALF, stop=lambda: next(answers))
    assert 1 <= len(server.requests) <= 4
    client.close()
