"""`sharpose-run --server`: the poses of a local run, what is refused, and how a run ends whose server fails."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_files import Run, lines_of
from v2_server import Outputs, V2Server

from sharpose.bundle import shipped_bundle

SCENE = "scene:seed=1,frames=5,size=240x320,people=2"


def people(path: Path) -> list[object]:
    return [line["people"] for line in lines_of(path)]


def test_a_run_gives_the_poses_of_a_local_one(server: V2Server, sharpose_run: Run, tmp_path: Path) -> None:
    done = sharpose_run(SCENE, "--server", server.url, "--json", "remote.jsonl", "--track", "--timings", bundle=None)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    here = sharpose_run(SCENE, "--json", "local.jsonl", "--track", "--batch", 8)
    assert here.returncode == 0, here.stderr
    assert people(tmp_path / "remote.jsonl") == people(tmp_path / "local.jsonl")
    assert [count for count, _ in server.requests] == [1, 2, 2, 2, 2, 2]  # the first to warm up
    assert "server: 6 requests (" in done.stdout
    table = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("│")]
    assert table == ["read", "boxes", "crop", "server", "map", "track", "write"]
    assert "server" not in here.stdout


def test_several_streams_have_a_request_each(
    server: V2Server, sharpose_run: Run, tmp_path: Path, nano_bundle: Path
) -> None:
    scenes = [SCENE, SCENE.replace("seed=1", "seed=2")]
    both = threading.Barrier(2)

    def meet(outputs: Outputs) -> Outputs:
        both.wait(60)
        return outputs

    server.acts = [lambda outputs: outputs, meet, meet]  # the first is to warm up
    done = sharpose_run(
        *scenes,
        "--server",
        server.url,
        "--json",
        "out/{source}.jsonl",
        "--json-logs",
        "--bundle",
        nano_bundle,
        bundle=None,
    )
    assert done.returncode == 0, done.stderr
    for scene, path in zip(scenes, sorted((tmp_path / "out").glob("*.jsonl")), strict=True):
        here = sharpose_run(scene, "--json", "local.jsonl", "--overwrite", "--batch", 8)
        assert here.returncode == 0, here.stderr
        assert people(path) == people(tmp_path / "local.jsonl")
    assert sorted(count for count, _ in server.requests) == [1] + [2] * 10
    assert len({port for _, port in server.requests}) == 2
    said = {entry["message"]: entry for entry in map(json.loads, done.stderr.splitlines())}
    numbers = said["server"]
    assert list(said["run done"]["stages"]) == ["read", "boxes", "crop", "server", "map_back", "track", "write"]
    assert (numbers["requests"], numbers["failed"], numbers["dropped"]) == (11, 0, 0)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (["--device", "cpu"], "--device is for engines on this machine, and --server runs the model: leave it out"),
        (["--precision", "auto"], "--precision is for engines on this machine"),
        (["--threads", 1], "--threads is for engines on this machine"),
        (["--batch", "auto"], "--batch is for engines on this machine"),
        (["--alpha", 0.3], "--alpha is for engines on this machine"),
        (["--deadline", 40], "--deadline is for engines on this machine"),
        (["--server-ca", "missing.pem"], "--server-ca missing.pem: expected a file of certificates"),
        (["--server-tries", "0"], "'--server-tries': expected a number of tries from 1, or `forever`, got '0'"),
    ],
)
def test_what_is_refused_beside_a_server(refused: Callable[..., str], given: list[object], reason: str) -> None:
    assert reason in refused(SCENE, "--server", "http://127.0.0.1:1/sharpose", *given, bundle=None)


@pytest.mark.parametrize(
    "given",
    [["--server-token", "abc"], ["--server-timeout", 3], ["--server-tries", "forever"], ["--server-ca", "a.pem"]],
)
def test_what_is_for_a_server(refused: Callable[..., str], given: list[object]) -> None:
    assert f"{given[0]} is for --server, which isn't given" in refused(SCENE, *given, bundle=None)


def test_another_bundle_than_the_servers(server: V2Server, refused: Callable[..., str]) -> None:
    said = refused(SCENE, "--server", server.url, "--bundle", shipped_bundle(), bundle=None)
    assert f"{server.url}: expected it to serve the bundle " in said
    assert server.requests == []


def test_a_token_of_the_environment(server: V2Server, sharpose_run: Run) -> None:
    done = sharpose_run(
        SCENE, "--server", server.url, "--json", "a.jsonl", bundle=None, SHARPOSE_SERVER_TOKEN="of-the-environment"
    )
    assert done.returncode == 0, done.stderr
    assert server.headers["Authorization"] == "Bearer of-the-environment"
    assert sharpose_run(SCENE, SHARPOSE_SERVER_TOKEN="for others").returncode == 0


def test_a_server_that_goes_leaves_partial_results(server: V2Server, sharpose_run: Run, tmp_path: Path) -> None:
    server.acts = ["poses"] * 3 + [500] * 100
    done = sharpose_run(SCENE, "--server", server.url, "--server-tries", 2, "--json", "a.jsonl", bundle=None)
    assert done.returncode == 3, done.stderr
    warning, error = done.stderr.splitlines()
    assert warning == f"warning: {server.url}: answers 500: told to say 500; trying again"
    assert error == (
        f"error: {server.url}: answers 500: told to say 500 (2 tries); the 2 frames before it are kept in "
        "a.partial.jsonl"
    )
    assert len(people(tmp_path / "a.partial.jsonl")) == 2
    assert "server: 3 requests (" in done.stdout
    assert ", 2 tries failed" in done.stdout


def test_a_server_that_is_not_there(sharpose_run: Run, tmp_path: Path) -> None:
    done = sharpose_run(
        SCENE, "--server", "http://127.0.0.1:1/sharpose", "--server-tries", 1, "--json", "a.jsonl", bundle=None
    )
    assert done.returncode == 3
    remedy = "start the server, or give its port: Triton's own are 8000 for HTTP and 8001 for gRPC"
    assert done.stderr == f"error: http://127.0.0.1:1/sharpose: Connection refused; {remedy}\n"
    assert not (tmp_path / "a.jsonl").exists()


def test_a_refusal_on_the_way(server: V2Server, sharpose_run: Run) -> None:
    server.acts = ["poses"] * 3 + [404]
    done = sharpose_run(SCENE, "--server", server.url, "--json", "a.jsonl", bundle=None)
    assert done.returncode == 2
    assert "answers 404: told to say 404; give the address with the gateway's path" in done.stderr
    assert "the 2 frames before it are kept in a.partial.jsonl" in done.stderr


def test_files_wait_for_a_busy_server(server: V2Server, sharpose_run: Run, tmp_path: Path) -> None:
    server.acts = ["poses"] * 3 + [503] * 4
    done = sharpose_run(
        SCENE, "--server", server.url, "--server-tries", 1, "--json", "a.jsonl", "--json-logs", bundle=None
    )
    assert done.returncode == 0, done.stderr
    assert len(people(tmp_path / "a.jsonl")) == 5
    (numbers,) = [entry for entry in map(json.loads, done.stderr.splitlines()) if entry["message"] == "server"]
    assert (numbers["requests"], numbers["failed"], numbers["dropped"]) == (6, 4, 0)
