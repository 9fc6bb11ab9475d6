"""A folder of short videos, and `sharpose-archive` as a process."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest
from cli_files import write_video

Archive: TypeAlias = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="session")
def twelve_videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """v00.mp4 to v11.mp4; the first one takes many times as long as the others."""
    folder = tmp_path_factory.mktemp("twelve")
    long = write_video(folder / "v00.mp4", 200)
    short = write_video(folder / "v01.mp4", 4)
    for number in range(2, 12):
        shutil.copy(short, folder / f"v{number:02d}.mp4")
    assert long.stat().st_size > short.stat().st_size
    return folder


@pytest.fixture
def start_archive(environment: dict[str, str], nano_bundle: Path, tmp_path: Path) -> Archive:
    """Starts `sharpose-archive` with --full-frame in `tmp_path`."""

    def start(*arguments: object, **variables: str) -> subprocess.Popen[str]:
        given = [*map(str, arguments), "--full-frame", "--bundle", str(nano_bundle), "--batch", "1", "--threads", "1"]
        return subprocess.Popen(
            [sys.executable, "-m", "sharpose", "archive", *given],
            env=environment | variables,
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    return start


@pytest.fixture
def sharpose_archive(start_archive: Archive) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `sharpose-archive` to its end."""

    def run(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
        process = start_archive(*arguments, **variables)
        try:
            said, errors = process.communicate(timeout=240)
        finally:
            process.kill()
        return subprocess.CompletedProcess(process.args, process.returncode, said, errors)

    return run
