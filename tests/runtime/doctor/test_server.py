"""The doctor of a server: right poses, wrong ones, none."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from v2_server import Outputs, V2Server, served_by_engines, v2_server

from sharpose.bundle import open_bundle
from sharpose.cli import main as run_command
from sharpose.errors import ServerError
from sharpose.runtime.doctor import poses
from sharpose.runtime.doctor import server as module
from sharpose.runtime.doctor.cli import command
from sharpose.runtime.pipeline import PoseEstimator
from sharpose.scene import Scene


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
    assert last == "--server: can be used"
    assert [count for count, _ in server.requests] == [4]
    monkeypatch.delattr(poses, "PoseEstimator")  # the poses of this machine are kept
    assert doctor(capsys, "--server", server.url, "--bundle", nano_bundle)[0] == 0


def test_kept_poses_are_those_of_this_version(nano_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, frame = open_bundle(nano_bundle), Scene(poses.PICTURE).frame(0)
    other = Scene(replace(poses.PICTURE, seed=3)).frame(0)  # as many people, drawn in another way
    assert len(other.boxes_xyxy) == len(frame.boxes_xyxy)
    with PoseEstimator(nano_bundle, precision="fp32", threads=1, batch=1) as estimator:
        for one in (frame, other):
            assert poses.least_oks(poses.both_poses(estimator, one).keypoints, bundle, one) == pytest.approx(1)
    monkeypatch.setattr(poses, "__version__", "0.2.0")
    monkeypatch.delattr(poses, "PoseEstimator")
    with pytest.raises(NameError):  # they are computed anew
        poses.least_oks(np.zeros((4, 17, 3), np.float32), bundle, frame)


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
    assert out.splitlines()[-1] == "--server: can't be used; in the way: poses"


def test_stages_that_do_not_run(server: V2Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.acts = [lambda outputs: {**outputs, "refined": np.zeros((4, 1), np.bool_)}]
    code, out, _ = doctor(capsys, "--server", server.url)
    assert code == 1
    assert "expected the second half to be refined, as asked, got [False, False, False, False]" in out


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (500, "answers 500: told to say 500"),
        ("empty", "install numpy<2 in the Python that runs the model"),
        (404, "answers 404: told to say 404"),
    ],
)
def test_no_poses(server: V2Server, capsys: pytest.CaptureFixture[str], act: int | str, reason: str) -> None:
    server.acts = [act]
    code, out, _ = doctor(capsys, "--server", server.url)
    assert code == 1
    assert reason in out
    assert out.splitlines()[-1] == "--server: can't be used; in the way: server"


@pytest.mark.parametrize(
    ("act", "found", "remedy"),
    [
        (401, "answers 401: told to say 401", "give --server-token, or $SHARPOSE_SERVER_TOKEN"),
        (403, "answers 403: told to say 403", "give the right --server-token"),
        (404, "answers 404: told to say 404", "give the address with the gateway's path"),
        (500, "answers 500: told to say 500", "see the server's log; a model whose process has died"),
        (400, "answers 400: told to say 400", None),
    ],
)
def test_each_failure_has_its_own_remedy(
    server: V2Server, capsys: pytest.CaptureFixture[str], act: int, found: str, remedy: str | None
) -> None:
    server.acts = [act]
    code, out, _ = doctor(capsys, "--server", server.url, "--json")
    (finding,) = json.loads(out)["findings"]
    assert code == 1
    assert finding["text"] == f"{server.url}: {found}"
    assert finding["mend"] is None if remedy is None else finding["mend"].startswith(remedy)


def test_an_address_where_nothing_comes_back(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/sharpose"
        code, out, _ = doctor(capsys, "--server", url, "--timeout", 0.2)
    assert code == 1
    assert f"{url}: no answer within 0.2 s\n" in out
    assert re.search("look at (host and port|the server's load)", out)


@pytest.mark.parametrize(("act", "others"), [(503, 7), ("late", 7), (503, 0), ("late", 0)])
def test_a_server_that_stays_busy(
    server: V2Server,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    act: int | str,
    others: int,
) -> None:
    """One that answers others is alive: restarted, it would get all of them at once."""

    def within(seconds: float, call: Callable[[], object]) -> object:
        def ask() -> None:
            with contextlib.suppress(ServerError):  # it is ended in the end
                call()

        threading.Thread(target=ask, daemon=True).start()
        while not server.requests:
            time.sleep(0.01)
        server.answered += others
        raise TimeoutError

    monkeypatch.setattr(module, "_within", within)
    server.acts, server.late_seconds = [act] * 1000, 60.0
    code, out, _ = doctor(capsys, "--server", server.url)
    assert code == (0 if others else 1)
    busy = "busy, no poses within 5 s, but it answered 7 requests of others; not compared"
    assert f"{server.url}: {busy if others else 'no poses within 5 s'}\n" in out


def test_nobody_listens(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = doctor(capsys, "--server", "http://127.0.0.1:1/sharpose")
    assert code == 1
    assert "http://127.0.0.1:1/sharpose: Connection refused\n" in out
    assert "start the server, or give its port: Triton's own are 8000 for HTTP and 8001 for gRPC" in out


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
