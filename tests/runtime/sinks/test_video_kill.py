"""A video whose run is killed: what is left plays."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from video_reading import decoded, plain

from sharpose.runtime.options import VideoSettings
from sharpose.runtime.sinks import video as video_file
from sharpose.runtime.sinks.video import VideoSink


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_a_killed_run_leaves_a_video_that_plays(tmp_path, suffix):
    script = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import numpy as np
from conftest import make_record
from sharpose.runtime.sinks.video import VideoSink
sink = VideoSink({str(tmp_path / ("out" + suffix))!r})
for index in range(100):
    sink.write(make_record(index, image=np.random.default_rng(index).integers(0, 255, (48, 64, 3), dtype=np.uint8)))
os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 9
    images, times, _ = decoded(tmp_path / f"out{suffix}")
    assert len(images) == 99  # all but the last
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
    monkeypatch.setattr(video_file.os, "pwrite", in_pieces)
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
