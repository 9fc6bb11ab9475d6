"""Video files: what comes back from them; what is said, and what is left, where they can't be written."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from video_files import decoded, plain

from sharpose.errors import InputError, SinkError
from sharpose.runtime.options import VideoSettings
from sharpose.runtime.sinks import encoding
from sharpose.runtime.sinks.video import VideoSink


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov", ".MP4"])
def test_every_frame_comes_back_at_its_time(tmp_path, record, suffix):
    sink = VideoSink(tmp_path / "deep" / f"out{suffix}", frame_rate=25)
    assert not (tmp_path / "deep").exists()
    for index in range(70):
        sink.write(record(index, image=plain(20 + 3 * index)))
    sink.close()
    sink.close()
    images, times, header = decoded(sink.path)
    np.testing.assert_allclose(times, np.arange(70) / 25, atol=1e-3)
    np.testing.assert_allclose([image.mean() for image in images], 20 + 3 * np.arange(70), atol=3)
    assert header.codec == "h264"
    assert header.pixel_format == "yuv420p"
    if suffix != ".mkv":
        assert header.frames == 70
        assert header.seconds == pytest.approx(70 / 25, abs=1e-3)
        assert header.rate == pytest.approx(25, abs=0.01)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
@pytest.mark.parametrize("encoder", ["h264", "h265"])
def test_the_shape_of_pixels_is_kept(tmp_path, record, suffix, encoder):
    sink = VideoSink(tmp_path / f"out{suffix}", settings=VideoSettings(encoder=encoder))
    for index in range(3):
        given = record(index, image=plain(100, 72, 90))
        sink.write(replace(given, frame=replace(given.frame, sample_aspect_ratio=Fraction(64, 45))))
    sink.close()
    with av.open(str(sink.path)) as container:
        stream = container.streams.video[0]
        assert stream.sample_aspect_ratio == Fraction(64, 45)  # of the container, where that has one
        assert (stream.width, stream.height) == (90, 72)
        next(container.decode(stream))
        assert stream.codec_context.sample_aspect_ratio == Fraction(64, 45)


def test_colours_survive(tmp_path, record):
    sink = VideoSink(tmp_path / "out.mp4")
    image = plain(0)
    image[:] = (220, 60, 10)
    sink.write(record(image=image))
    sink.close()
    (picture,), _, _ = decoded(sink.path)
    np.testing.assert_allclose(picture[24, 32], (220, 60, 10), atol=6)


def test_variable_times_are_kept(tmp_path, record):
    times = [0.0, 0.013, 0.5, 0.501, 4.0, 4.04, 9.0]
    sink = VideoSink(tmp_path / "out.mp4")
    for index, time in enumerate(times):
        sink.write(record(index, time=time))
    sink.close()
    _, found, header = decoded(sink.path)
    np.testing.assert_allclose(found, times, atol=1e-4)
    # Without a rate the last picture stands as long as the one before it.
    assert header.seconds == pytest.approx(9.0 + 4.96, abs=1e-3)


def test_times_that_stand_still_or_go_back_still_increase(tmp_path, record):
    sink = VideoSink(tmp_path / "out.mkv")
    for index, time in enumerate([0.0, 0.0, 0.0, 0.04, 0.02, 0.08, 0.08]):
        sink.write(record(index, time=time))
    sink.close()
    _, times, _ = decoded(sink.path)
    assert len(times) == 7
    assert (np.diff(times) > 0).all()
    np.testing.assert_allclose(times, [0, 0, 0, 0.04, 0.04, 0.08, 0.08], atol=0.0031)


def test_the_first_picture_is_at_zero_whenever_it_comes(tmp_path, record):
    sink = VideoSink(tmp_path / "out.mp4")
    for index in range(3):
        sink.write(record(index, time=100 + index))
    sink.close()
    assert decoded(sink.path)[1] == pytest.approx([0, 1, 2])


@pytest.mark.parametrize(("frame_rate", "seconds"), [(None, 1.0), (25.0, 0.04)])
def test_a_single_picture(tmp_path, record, frame_rate, seconds):
    sink = VideoSink(tmp_path / "out.mp4", frame_rate=frame_rate)
    sink.write(record())
    sink.close()
    images, _, header = decoded(sink.path)
    assert len(images) == header.frames == 1
    assert header.seconds == pytest.approx(seconds, abs=1e-3)


@pytest.mark.parametrize(("size", "expected"), [((47, 63), (48, 64)), ((1, 1), (2, 2)), ((48, 64), (48, 64))])
def test_sizes_are_made_even(tmp_path, record, size, expected):
    sink = VideoSink(tmp_path / "out.mp4")
    for index in range(3):
        sink.write(record(index, image=plain(200, *size)))
    sink.close()
    images, _, _ = decoded(sink.path)
    assert [image.shape for image in images] == [(*expected, 3)] * 3
    assert all((image > 190).all() for image in images)


def test_other_sizes_are_letterboxed(tmp_path, record):
    sink = VideoSink(tmp_path / "out.mp4")
    for index, size in enumerate([(48, 64), (96, 96), (20, 80), (47, 63), (300, 400)]):
        sink.write(record(index, time=index, image=plain(200, *size)))
    sink.close()
    images, _, _ = decoded(sink.path)
    assert {image.shape for image in images} == {(48, 64, 3)}
    bright = [image > 100 for image in images]
    assert [int(picture[24].any(axis=1).sum()) for picture in bright] == [64, 48, 64, 64, 64]
    assert [int(picture[:, 32].any(axis=1).sum()) for picture in bright] == [48, 48, 16, 48, 48]


def test_it_is_the_annotated_picture_that_is_written(tmp_path, record):
    given = record(image=plain(0))
    object.__setattr__(given, "draw", lambda image, poses: np.full_like(image, 10 * len(poses) + 180))
    sink = VideoSink(tmp_path / "out.mp4")
    sink.write(given)
    sink.close()
    assert decoded(sink.path)[0][0].mean() == pytest.approx(200, abs=3)


def test_there_is_a_key_frame_every_second(tmp_path, record):
    sink = VideoSink(tmp_path / "out.mp4")
    for index in range(100):
        sink.write(record(index))
    sink.close()
    with av.open(str(sink.path)) as container:
        keys = [float(packet.pts * packet.time_base) for packet in container.demux(video=0) if packet.is_keyframe]
    assert keys == pytest.approx([0, 1, 2, 3])


@pytest.mark.parametrize(("encoder", "codec"), [("h265", "hevc"), ("libx265", "hevc"), ("libx264", "h264")])
def test_the_encoder_that_was_asked_for(tmp_path, record, encoder, codec, capfd):
    sink = VideoSink(tmp_path / "out.mp4", settings=VideoSettings(encoder=encoder))
    for index in range(30):
        sink.write(record(index, image=plain(100)))
    sink.close()
    images, _, header = decoded(sink.path)
    assert header.codec == codec
    assert len(images) == header.frames == 30
    assert images[-1].mean() == pytest.approx(100, abs=3)
    assert capfd.readouterr() == ("", "")


def test_quality_and_bitrate_reach_the_encoder(tmp_path, record):
    sizes = {}
    for name, settings in {
        "good": VideoSettings(crf=10),
        "bad": VideoSettings(crf=45),
        "thin": VideoSettings(bitrate=20_000),
    }.items():
        sink = VideoSink(tmp_path / f"{name}.mp4", settings=settings)
        for index in range(50):
            noise = np.random.default_rng(index).integers(0, 255, (48, 64, 3), dtype=np.uint8)
            sink.write(record(index, image=noise))
        sink.close()
        sizes[name] = sink.path.stat().st_size
    assert sizes["good"] > 2 * sizes["bad"]
    assert sizes["good"] > 2 * sizes["thin"]


def test_without_records_there_is_no_file(tmp_path):
    sink = VideoSink(tmp_path / "out.mp4")
    sink.close()
    assert sink.abandon() is None
    assert list(tmp_path.iterdir()) == []


def test_abandoned_videos_are_marked_and_play(tmp_path, record):
    sink = VideoSink(tmp_path / "out.mp4")
    for index in range(5):
        sink.write(record(index))
    assert sink.abandon() == tmp_path / "out.partial.mp4"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.partial.mp4"]
    assert len(decoded(tmp_path / "out.partial.mp4")[0]) == 5


def test_a_closed_video_takes_no_more(tmp_path, record):
    sink = VideoSink(tmp_path / "out.mp4")
    sink.write(record())
    sink.close()
    with pytest.raises(SinkError, match=r"out\.mp4: is closed"):
        sink.write(record(1))
    assert len(decoded(sink.path)[0]) == 1


@pytest.mark.parametrize("rate", [1e-4, 29.97, 1e6])
def test_extreme_rates(tmp_path, record, rate):
    sink = VideoSink(tmp_path / "out.mp4", frame_rate=rate)
    for index in range(3):
        sink.write(record(index))
    sink.close()
    assert decoded(sink.path)[1] == pytest.approx([0, 0.04, 0.08], abs=1e-4)


@pytest.mark.shared
def test_the_crowd_goes_through(tmp_path, shared_dir, record):
    from sharpose.runtime.sources import open_source

    source = open_source(str(shared_dir / "media" / "street.mp4"))
    sink = VideoSink(tmp_path / "out.mp4")
    given = []
    for frame in source:
        given.append(frame)
        sink.write(record(frame.index, image=frame.image, time=frame.time))
    sink.close()
    images, times, _ = decoded(sink.path)
    np.testing.assert_allclose(times, [frame.time for frame in given], atol=1e-4)
    for image, frame in zip(images, given, strict=True):
        assert np.abs(image.astype(int) - frame.image).mean() < 5


@pytest.mark.parametrize("name", ["out.avi", "out.webm", "out", "mp4"])
def test_other_containers_are_refused_at_once(tmp_path, name):
    with pytest.raises(InputError, match=r"expected a video file's name ending in \.mp4 \.mov \.mkv"):
        VideoSink(tmp_path / name)


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf")])
def test_rates_that_are_none(tmp_path, rate):
    with pytest.raises(InputError, match="positive frame rate"):
        VideoSink(tmp_path / "out.mp4", frame_rate=rate)


def test_no_encoder_is_said_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(encoding, "_why_unusable", lambda encoder, settings: "missing")
    with pytest.raises(SinkError, match=r"needs an H\.264 or H\.265 encoder"):
        VideoSink(tmp_path / "out.mp4")


@pytest.mark.parametrize("encoder", ["libsvtav1", "libx265"])
def test_no_file_stays_of_a_size_that_the_encoder_refuses(tmp_path, record, capfd, encoder):
    (tmp_path / "out.mp4").write_text("of an earlier run")
    sink = VideoSink(tmp_path / "out.mp4", settings=VideoSettings(encoder=encoder))
    why = rf"out\.mp4: the video \(8x14\) can't be written: {encoder} doesn't open for this size \(Invalid argument\), "
    with pytest.raises(SinkError, match=f"{why}though it did for another; give another --encoder, such as libx264$"):
        sink.write(record(image=np.zeros((14, 7, 3), np.uint8)))
    assert sink.abandon() is None
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


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
    assert sink.abandon() is None
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
@pytest.mark.parametrize(("room", "written"), [(300, 0), (5_000, 1)])  # bytes; the header has 562 and more
def test_no_file_stays_where_not_one_picture_has_room(tmp_path, record, suffix, room, written):
    noise = np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8)
    sink = VideoSink(tmp_path / f"out{suffix}")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        for index in range(written):  # a picture reaches the file with the next one
            sink.write(record(index, image=noise))
        with pytest.raises(SinkError, match=r"the video \(128x96\) can't be written: File too large"):
            sink.write(record(written, image=noise))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sink.abandon() is None
    assert list(tmp_path.iterdir()) == []


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
