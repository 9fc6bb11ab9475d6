from __future__ import annotations

import av
import numpy as np
import pytest
from video_reading import decoded, plain

from sharpose.errors import SinkError
from sharpose.runtime.options import VideoSettings
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
