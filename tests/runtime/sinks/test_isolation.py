"""Each sink fails alone: one line, and what it had written can still be read."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import result_readers as readers

from sharpose.errors import SinkError
from sharpose.runtime.frames import Sink
from sharpose.runtime.sinks.outputs import Output, SinkSettings, make_sink
from sharpose.skeleton import COCO17

TARGETS = {
    "--output": "o.mp4",
    "--json": "o.jsonl",
    "--coco": "o.json",
    "--csv": "o.csv",
    "--openpose": "poses",
    "--mot": "o.txt",
    "--frames": "pictures",
}
STREAM = SinkSettings("walk", COCO17, frame_rate=25, tracked=True)


def count_frames(option: str, path: Path) -> int:
    read: dict[str, Callable[[Path], readers.Frames]] = {
        "--json": readers.read_json_lines,
        "--coco": readers.read_coco,
        "--csv": readers.read_csv,
        "--openpose": readers.read_openpose,
        "--mot": readers.read_mot,
    }
    if option == "--output":
        return len(readers.read_video(path))
    if option == "--frames":
        return sum(cv2.imread(str(file)) is not None for file in path.iterdir())
    return len(read[option](path).people)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of one MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=False, capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"needs root to mount a small disk: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def write_until_it_fails(sink: Sink, record: Callable[..., object], most: int = 3000) -> tuple[int, str]:
    """How many frames were written, and the line that ended it."""
    for index in range(most):
        noise = np.random.default_rng(index).integers(0, 255, (96, 128, 3), dtype=np.uint8)
        try:
            sink.write(record(index, people=3, ids=[1, 2, 3], image=noise))  # type: ignore[arg-type]
        except SinkError as error:
            return index, str(error)
    raise AssertionError("it never failed")


@pytest.mark.parametrize("option", TARGETS)
def test_a_full_disk(small_disk, record, option, capfd):
    if option == "--mot":  # short lines: fill the disk before
        (small_disk / "filler").write_bytes(b"x" * 1_000_000)
    sink = make_sink(Output(option, str(small_disk / TARGETS[option])), STREAM)
    written, said = write_until_it_fails(sink, record)
    assert said.endswith("can't be written: No space left on device")
    assert "\n" not in said
    assert written > 3
    kept = sink.abandon()
    sink.close()
    assert kept is not None
    assert ".partial" in kept.name
    assert capfd.readouterr() == ("", "")
    assert count_frames(option, kept) >= written - 1


@pytest.mark.parametrize("option", TARGETS)
def test_a_folder_that_vanishes(tmp_path, record, option):
    folder = tmp_path / "deep"
    sink = make_sink(Output(option, str(folder / TARGETS[option])), STREAM)
    sink.write(record(0, people=1, ids=[1]))
    sink.write(record(1, people=1, ids=[1]))
    shutil.rmtree(folder)
    time.sleep(1.05)  # looked at once a second
    with pytest.raises(SinkError, match="was removed while it was being written") as failed:
        sink.write(record(2, people=1, ids=[1]))
    assert "\n" not in str(failed.value)
    assert sink.abandon() is None
    sink.close()
    assert not folder.exists()


@pytest.mark.parametrize("option", TARGETS)
def test_a_place_where_nothing_can_be_made(tmp_path, record, option):
    (tmp_path / "file").write_text("")
    sink = make_sink(Output(option, str(tmp_path / "file" / TARGETS[option])), STREAM)
    with pytest.raises(SinkError, match=r"can't be written: (Not a directory|File exists)"):
        sink.write(record(0, people=1, ids=[1]))
    assert sink.abandon() is None
    sink.close()


@pytest.mark.parametrize("option", [option for option in TARGETS if option not in ("--openpose", "--frames")])
def test_a_limit_on_the_size_of_files(tmp_path, option):
    """As `ulimit -f` sets it: the system's signal for it is ignored by Python."""
    script = f"""
import resource, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import numpy as np
from conftest import make_record
from sharpose.errors import SinkError
from sharpose.runtime.sinks.outputs import Output, SinkSettings, make_sink
from sharpose.skeleton import COCO17
sink = make_sink(Output({option!r}, {str(tmp_path / TARGETS[option])!r}), SinkSettings("a", COCO17, tracked=True))
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
try:
    for index in range(3000):
        noise = np.random.default_rng(index).integers(0, 255, (96, 128, 3), dtype=np.uint8)
        sink.write(make_record(index, people=3, ids=[1, 2, 3], image=noise))
except SinkError as error:
    print(index, error)
print(sink.abandon())
"""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    assert signal.getsignal(signal.SIGXFSZ) is not signal.SIG_DFL or os.name != "posix"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    said, kept = done.stdout.splitlines()
    assert said.endswith("can't be written: File too large")
    written = int(said.split()[0])
    assert written >= 1
    assert count_frames(option, Path(kept)) >= written - 1
