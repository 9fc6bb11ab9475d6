"""The doctor of a server: right poses, wrong ones, none."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from v2_server import Outputs, V2Server, served_by_engines, v2_server

from sharpose.cli import main as run_command
from sharpose.runtime.doctor import server as module
from sharpose.runtime.doctor.cli import command


@pytest.fixture(scope="module")
def engines(nano_bundle: Path) -> Iterator[V2Server]:
    with v2_server(**served_by_engines(nano_bundle)) as running:
        yield running


@pytest.fixture
def server(engines: V2Server) -> V2Server:
    engines.requests, engines.acts = [], []
    return engines


def doctor(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as failure:
        run_command(command, [str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert isinstance(failure.value.code, int)
    return failure.value.code, captured.out, captured.err


def test_right_poses(
    server: V2Server, nano_bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = doctor(capsys, "--server", server.url, "--bundle", nano_bundle)
    assert (code, err) == (0, "")
    first, second, _, last = out.splitlines()
    sha256 = server.model.bundle_sha256[:12]
    assert first == f" ok  server                 {server.url}: bundle {sha256}, coco17, crops 128x96, max batch 16"
    assert second.startswith(" ok  poses                  2 people, coarse and refined, in ")
    assert second.endswith("OKS with those of this machine's CPU 1.000")
    assert last == "--server: can run here"
    assert [count for count, _ in server.requests] == [4]
    monkeypatch.delattr(module, "PoseEstimator")  # the poses of this machine are kept
    assert doctor(capsys, "--server", server.url, "--bundle", nano_bundle)[0] == 0


def test_a_bundle_that_is_not_at_hand_is_not_compared(server: V2Server, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = doctor(capsys, "--server", server.url, "--json")
    said = json.loads(out)
    assert (code, said["can_run"], said["server"]) == (0, True, server.url)
    assert [item["found"] for item in said["findings"]] == [True, True]
    assert said["findings"][1]["text"].endswith("; not compared: --bundle DIR says with what")


def test_wrong_poses(server: V2Server, nano_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def moved(outputs: Outputs) -> Outputs:
        return {**outputs, "keypoints": (outputs["keypoints"] + np.float32(40)).astype(np.float32)}

    server.acts = [moved]
    code, out, _ = doctor(capsys, "--server", server.url, "--bundle", nano_bundle)
    assert code == 1
    assert " NO  poses " in out
    assert "expected at least 0.9: sharpose-export --verify" in out
    assert out.splitlines()[-1] == "--server: can't run here; in the way: poses"


def test_stages_that_do_not_run(server: V2Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.acts = [lambda outputs: {**outputs, "refined": np.zeros((4, 1), np.bool_)}]
    code, out, _ = doctor(capsys, "--server", server.url)
    assert code == 1
    assert "expected the second half to be refined, as asked, got [False, False, False, False]" in out


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (500, "answers 500: told to say 500"),
        ("empty", "got 0; the server's Python backend can't read arrays of numpy 2"),
        ("late", "no poses within 0.4 s"),
        (404, "answers 404: told to say 404"),
    ],
)
def test_no_poses(server: V2Server, capsys: pytest.CaptureFixture[str], act: int | str, reason: str) -> None:
    server.acts, server.late_seconds = [act], 2.0
    began = time.monotonic()
    code, out, _ = doctor(capsys, "--server", server.url, "--timeout", 0.4)
    assert code == 1
    assert time.monotonic() - began < 1.9
    assert reason in out
    assert out.splitlines()[-1] == "--server: can't run here; in the way: server"


def test_a_server_that_stays_busy(server: V2Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.acts = [503] * 1000
    code, out, _ = doctor(capsys, "--server", server.url, "--timeout", 0.4)
    assert code == 1
    assert "no poses within 0.4 s" in out


def test_nobody_listens(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = doctor(capsys, "--server", "http://127.0.0.1:1/sharpose")
    assert code == 1
    assert "http://127.0.0.1:1/sharpose: Connection refused" in out
    assert "a model whose process has died comes back with a restart of the server" in out


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (["--server", "rack:8000"], "server: expected http://HOST:8000/sharpose"),
        (["--server", "http://rack", "--device", "cpu"], "--device is for this machine, and --server looks at another"),
        (["--timeout", 3], "--timeout is for --server: leave it out"),
        (["--server", "http://rack", "--bundle", "missing"], "missing"),
    ],
)
def test_what_is_refused(capsys: pytest.CaptureFixture[str], given: list[object], reason: str) -> None:
    code, out, err = doctor(capsys, *given)
    assert (code, out) == (2, "")
    assert reason in err
