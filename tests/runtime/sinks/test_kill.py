"""A run that is killed at any moment: every file opens and holds all frames up to at most the last second."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import result_readers as readers
from video_files import decoded, plain

from sharpose.runtime.options import VideoSettings
from sharpose.runtime.sinks import video
from sharpose.runtime.sinks.video import VideoSink

FRAME_RATE = 20
START = 60.0  # seconds that a busy machine may take to begin

# Says how many frames are done, after each.
WRITER = """
import sys
import time
from pathlib import Path
folder, here, live = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "live"
sys.path.insert(0, here)
import numpy as np
from conftest import make_record
from sharpose.runtime.sinks.outputs import Output, SinkSettings, make_sink
from sharpose.skeleton import COCO17
targets = {"--json": "o.jsonl", "--coco": "o.json", "--csv": "o.csv", "--angles": "angles.csv", "--openpose": "poses",
           "--mot": "o.txt", "--frames": "pictures"}
outputs = [Output(option, str(folder / name)) for option, name in targets.items()]
outputs += [Output("--output", str(folder / f"o.{suffix}")) for suffix in ("mp4", "mov", "mkv")]
sinks = [make_sink(output, SinkSettings("walk", COCO17, frame_rate=20, live=live, tracked=True)) for output in outputs]
pace = float(sys.argv[4])
for index in range(100_000):
    noise = np.random.default_rng(index).integers(0, 255, (96, 128, 3), dtype=np.uint8)
    record = make_record(index, people=12, ids=range(1, 13), time=index / 20, image=noise)
    for sink in sinks:
        sink.write(record)
    print(index + 1, flush=True)
    time.sleep(pace)
"""


def killed_run(folder: Path, seed: int, *, live: bool) -> int:
    """Lets a run write and kills it at a random moment; how many frames it had done."""
    chance = random.Random(seed)
    # Half of them run as fast as they can, so that the kill falls inside a write.
    pace = chance.choice([0.0, 0.02])
    arguments = [str(folder), str(Path(__file__).parent), "live" if live else "file", str(pace)]
    with (folder / "progress").open("wb") as progress:
        process = subprocess.Popen([sys.executable, "-c", WRITER, *arguments], stdout=progress)
    try:
        until = time.monotonic() + START
        while not (folder / "progress").stat().st_size and process.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(chance.uniform(0.2, 1.5))
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL
    lines = readers.whole_lines(folder / "progress")
    return int(lines[-1]) if lines else 0


def check_files(folder: Path, done: int, *, live: bool) -> None:
    """`done` frames were written; one more may have been in part."""
    counts = {
        "json": len(readers.read_json_lines(folder / "o.jsonl").people),
        "coco": len(readers.read_coco(folder / "o.json").people),
        "csv": len(readers.read_csv(folder / "o.csv").people),
        "angles": len(readers.read_angles(folder / "angles.csv").people),
        "mot": len(readers.read_mot(folder / "o.txt").people),
        "openpose": len(readers.read_openpose(folder / "poses").people),
    }
    pictures = [path for path in sorted((folder / "pictures").iterdir()) if not path.name.startswith(".")]
    assert all(cv2.imread(str(path)) is not None for path in pictures)
    counts["pictures"] = len(pictures)
    assert all(done <= count <= done + 1 for count in counts.values()), (done, counts)
    for suffix in ("mp4", "mov", "mkv"):
        times = readers.read_video(folder / f"o.{suffix}")
        assert times == pytest.approx([index / FRAME_RATE for index in range(len(times))], abs=1e-3)
        lost = done - len(times)
        assert -1 <= lost <= (FRAME_RATE if live else 1), (suffix, done, len(times))


@pytest.mark.parametrize("seed", range(2))
def test_a_killed_run(tmp_path, seed):
    live = seed % 2 == 1
    check_files(tmp_path, killed_run(tmp_path, seed, live=live), live=live)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(2, 22))
def test_twenty_killed_runs(tmp_path, seed):
    live = seed % 2 == 1
    check_files(tmp_path, killed_run(tmp_path, seed, live=live), live=live)


def test_a_killed_run_leaves_videos_that_play(tmp_path):
    script = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import numpy as np
from conftest import make_record
from sharpose.runtime.sinks.video import VideoSink
sinks = [VideoSink({str(tmp_path / "out")!r} + suffix) for suffix in (".mp4", ".mov", ".mkv")]
for index in range(50):
    image = np.random.default_rng(index).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    for sink in sinks:
        sink.write(make_record(index, image=image))
os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 9
    for suffix in (".mp4", ".mov", ".mkv"):
        images, times, _ = decoded(tmp_path / f"out{suffix}")
        assert len(images) == 49  # all but the last
        np.testing.assert_allclose(times, np.arange(len(images)) / 25, atol=1e-3)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("encoder", ["h264", "h265"])
def test_however_slow_the_run_all_but_the_last_picture_is_there(tmp_path, record, suffix, encoder):
    sink = VideoSink(tmp_path / f"out{suffix}", settings=VideoSettings(encoder=encoder))
    for index in range(8):
        sink.write(record(index, time=10.0 * index, image=plain(30 * index)))
        if index:
            shutil.copy(sink.path, tmp_path / f"copy{suffix}")
            assert len(decoded(tmp_path / f"copy{suffix}")[0]) == index
    sink.close()
    assert len(decoded(sink.path)[0]) == 8


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_a_kill_inside_a_write_or_while_closing(tmp_path, record, suffix, monkeypatch):
    """Every state that the file ever has can be read to its end, and never holds less than the state before."""
    sink = VideoSink(tmp_path / f"out{suffix}")
    copy = tmp_path / f"copy{suffix}"
    counts: list[int] = []

    def in_pieces(descriptor: int, data: bytes, position: int) -> int:
        size = len(data) if len(data) <= 8 else max(1, len(data) // 3)
        written = pwrite(descriptor, bytes(data[:size]), position)
        if len(counts) < 200 and watched:
            shutil.copy(sink.path, copy)
            counts.append(len(decoded(copy)[0]))
        return written

    pwrite, watched = os.pwrite, False
    monkeypatch.setattr(video.os, "pwrite", in_pieces)
    for index in range(6):
        watched = index > 3
        noise = np.random.default_rng(index).integers(0, 255, (48, 64, 3), dtype=np.uint8)
        sink.write(record(index, image=noise))
    sink.close()
    assert len(counts) > 20
    assert counts[0] >= 2
    assert counts == sorted(counts)
    assert counts[-1] == len(decoded(sink.path)[0]) == 6


def test_a_live_video_loses_half_a_second_and_has_no_index(tmp_path, record):
    for suffix in (".mp4", ".mkv"):
        sink = VideoSink(tmp_path / f"out{suffix}", frame_rate=20, live=True)
        for index in range(60):
            sink.write(record(index, time=index / 20))
        shutil.copy(sink.path, tmp_path / f"copy{suffix}")
        sink.close()
        assert 49 <= len(decoded(tmp_path / f"copy{suffix}")[0]) < 60
        images, times, _ = decoded(sink.path)
        assert len(images) == 60
        np.testing.assert_allclose(times, np.arange(60) / 20, atol=1e-3)
