"""What actors take of a Ray cluster, and what no machine of it has; Ray itself isn't needed."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from sharpose.archive.on_ray import RayWorkers, Share, _words
from sharpose.errors import EngineError
from sharpose.runtime.options import RunOptions
from sharpose.runtime.remote.options import ServerOptions

NODES = [{"CPU": 16.0, "GPU": 2.0}, {"CPU": 8.0}, {"memory": 1e9}]
CPUS = NODES[1:]


def options(**changes: Any) -> RunOptions:
    return RunOptions(("v",), **changes)


@pytest.mark.parametrize(
    ("given", "workers", "nodes", "share", "lack"),
    [
        ({}, None, NODES, Share(12, 2, 0), ""),
        ({}, 2, NODES, Share(2, 8, 0), ""),  # as many cores as fit on each machine
        ({"threads": 16}, None, NODES, Share(1, 16, 0), ""),
        ({"device": "auto"}, None, NODES, Share(2, 1, 1), ""),
        ({"device": "auto"}, None, CPUS, Share(4, 1, 0), ""),
        ({"device": "auto", "remote": ServerOptions(server="http://rack/sharpose")}, 3, NODES, Share(3, 1, 0), ""),
        (
            {"threads": 64},
            None,
            NODES,
            Share(1, 64, 0),
            "--threads 64: expected a machine with 64 cores in the Ray cluster; the most that one has is 16",
        ),
        (
            {"device": "cuda:1"},
            2,
            CPUS,
            Share(2, 1, 1),
            "--device cuda:1: expected a machine with a GPU in the Ray cluster, found none",
        ),
        (
            {"device": "tensorrt"},
            None,
            [{"GPU": 1.0}],
            Share(1, 1, 1),
            "--engine ray: expected a machine with 1 core beside a GPU in the Ray cluster; the most that one has is 0",
        ),
    ],
)
def test_the_share_of_an_actor(
    given: dict[str, Any], workers: int | None, nodes: list[dict[str, float]], share: Share, lack: str
) -> None:
    assert Share.of(options(**given), workers, nodes) == share
    assert share.lacking(options(**given), nodes) == lack


@pytest.mark.parametrize("own", [True, False])
def test_what_no_machine_has_is_not_waited_for_in_silence(own: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster of the run's own never grows; another one may."""
    ended: list[bool] = []
    ray = SimpleNamespace(
        init=lambda **_: None,
        nodes=lambda: [{"Alive": True, "Resources": CPUS[0]}, {"Alive": False, "Resources": NODES[0]}],
        remote=lambda **_: lambda actor: actor,
        shutdown=lambda: ended.append(True),
    )
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr("sharpose.archive.on_ray.require_packages", lambda *_: None)
    monkeypatch.setattr("sharpose.archive.on_ray._check_address", lambda address: None)
    monkeypatch.setattr("sharpose.archive.on_ray._keep_to_itself", lambda: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    lack, said = "--device cuda: expected a machine with a GPU in the Ray cluster, found none", list[str]()
    if own:
        with pytest.raises(EngineError, match=f"^{lack}$"):
            RayWorkers(options(device="cuda"), None, said.append)
        assert (said, ended) == ([], [True])
    else:
        monkeypatch.setenv("RAY_ADDRESS", "head:6379")
        assert RayWorkers(options(device="cuda"), None, said.append).count == 1
        assert said == [f"{lack}; waiting for one, as a cluster that grows may have it later"]


def test_why_an_actor_ended_in_a_line() -> None:
    assert _words(RuntimeError("The actor died.\n  Its cause: out of memory.\n")) == "Its cause: out of memory."
    assert _words(RuntimeError("\n The actor died.\n 7 at work")) == "The actor died."
    assert _words(TimeoutError()) == "TimeoutError"
