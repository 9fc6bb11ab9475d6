"""Videos that can't be written: what is said, and what is left."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from video_reading import decoded

from sharpose.errors import InputError, SinkError
from sharpose.runtime.sinks import encoding as encoders
from sharpose.runtime.sinks.video import VideoSink


@pytest.mark.parametrize("name", ["out.avi", "out.webm", "out", "mp4"])
def test_other_containers_are_refused_at_once(tmp_path, name):
    with pytest.raises(InputError, match=r"expected a video file's name ending in \.mp4 \.mov \.mkv"):
        VideoSink(tmp_path / name)


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf")])
def test_rates_that_are_none(tmp_path, rate):
    with pytest.raises(InputError, match="positive frame rate"):
        VideoSink(tmp_path / "out.mp4", frame_rate=rate)


def test_no_encoder_is_said_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(encoders, "_why_unusable", lambda encoder, settings: "missing")
    with pytest.raises(SinkError, match=r"needs an H\.264 or H\.265 encoder"):
        VideoSink(tmp_path / "out.mp4")


def test_a_folder_where_the_file_should_be(tmp_path, record):
    (tmp_path / "out.mp4").mkdir()
    sink = VideoSink(tmp_path / "out.mp4")
    with pytest.raises(SinkError, match=r"out\.mp4: the video \(64x48\) can't be written: Is a directory"):
        sink.write(record())
    sink.close()
    assert sink.abandon() is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_can_not_be_written(tmp_path, record):
    tmp_path.chmod(0o500)
    with pytest.raises(SinkError, match="Permission denied"):
        VideoSink(tmp_path / "deep" / "out.mp4").write(record())


def test_a_full_disk_is_one_line(tmp_path, record, capfd):
    (tmp_path / "out.mp4").symlink_to("/dev/full")
    sink = VideoSink(tmp_path / "out.mp4")

    def write_on() -> None:
        for index in range(200):
            noise = np.random.default_rng(index).integers(0, 255, (48, 64, 3), dtype=np.uint8)
            sink.write(record(index, image=noise))

    with pytest.raises(SinkError, match=r"out\.mp4: the video \(64x48\) can't be written: No space left on device"):
        write_on()
    sink.abandon()
    sink.close()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_a_disk_that_fills_up(tmp_path, record, suffix):
    """The file ends with the last picture that had room, also after it was closed."""
    room = 40_000
    script = f"""
import resource, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import numpy as np
from conftest import make_record
from sharpose.errors import SinkError
from sharpose.runtime.sinks.video import VideoSink
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room}))
sink = VideoSink({str(tmp_path / ("out" + suffix))!r})
try:
    for index in range(200):
        noise = np.random.default_rng(index).integers(0, 255, (48, 64, 3), dtype=np.uint8)
        sink.write(make_record(index, image=noise))
except SinkError as error:
    print(index, error)
print(sink.abandon())
sink.close()
"""
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stderr == ""
    said, kept = done.stdout.splitlines()
    index = int(said.split()[0])
    assert said.endswith("the video (64x48) can't be written: File too large")
    assert kept == str(tmp_path / f"out.partial{suffix}")
    images, _, _ = decoded(Path(kept))
    assert len(images) == index - 1
    assert index > 5


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_folder_that_vanishes(tmp_path, record, suffix):
    now = 0.0
    sink = VideoSink(tmp_path / "deep" / f"out{suffix}", clock=lambda: now)
    sink.write(record(0))
    shutil.rmtree(tmp_path / "deep")
    now = 1.0
    with pytest.raises(SinkError, match=r"was removed while it was being written"):
        sink.write(record(1))
    with pytest.raises(SinkError, match="is closed"):
        sink.write(record(2))
    sink.close()
    assert sink.abandon() is None
    assert list(tmp_path.iterdir()) == []
