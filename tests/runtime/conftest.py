"""For the tests of the runtime: `sharpose-run` in a process that can't import torch, and a live stream."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from cli_files import Run
    from forked_commands import CommandServer
    from rtsp_server import RtspServer


@pytest.fixture
def sharpose_run(command_server: CommandServer, nano_bundle: Path, tmp_path: Path) -> Run:
    """Runs the program in a folder of its own; `bundle` stands for the nano bundle's folder."""

    def run(
        *arguments: object, bundle: Path | None = nano_bundle, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        given = [] if bundle is None else ["--bundle", bundle, "--threads", 1]
        return command_server.run("run", [*arguments, *given], tmp_path, variables)

    return run


@pytest.fixture
def refused(sharpose_run: Run, nano_bundle: Path, tmp_path: Path) -> Callable[..., str]:
    """Runs what must be refused: one line, exit code 2, and nothing that could be taken for a result."""
    from cli_files import outputs

    def run(*arguments: object, bundle: Path | None = nano_bundle, to: Sequence[object] | None = None) -> str:
        folder = tmp_path / "results"
        done = sharpose_run(*arguments, *(outputs(folder) if to is None else to), bundle=bundle)
        assert done.returncode == 2, done.stdout + done.stderr
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
        assert done.stderr.endswith("\n")
        assert "Traceback" not in done.stderr
        assert not [path for path in folder.glob("*") if ".partial." not in path.name]
        return done.stderr

    return run


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """`video.mp4` of six frames of noise."""
    from cli_files import write_video

    return write_video(tmp_path / "video.mp4")


@pytest.fixture
def rtsp() -> Iterator[RtspServer]:
    """A server that isn't started yet; skips the test where there is none on this machine."""
    from rtsp_server import RtspServer

    why = RtspServer.missing()
    if why is not None:
        pytest.skip(why)
    server = RtspServer()
    yield server
    server.kill()
