"""`--start`, `--duration` and `--stride` on real videos and on the scene."""

from __future__ import annotations

import numpy as np
import pytest

from sharpose.errors import SourceError
from sharpose.runtime.sources import SourceOptions, open_source
from sharpose.runtime.sources.video import VideoSource

CONTAINERS = [
    ("a.mp4", "libx264", 3),
    ("a.mkv", "libx264", 3),
    ("a.ts", "libx264", 2),
    ("a.avi", "mpeg4", 2),
    ("a.avi", "mjpeg", 0),
    ("a.h264", "libx264", 0),  # no stamps, no way to seek
]


@pytest.mark.parametrize(("name", "codec", "b_frames"), CONTAINERS)
@pytest.mark.parametrize("first", [0, 1, 11, 12, 13, 29, 59, 118])
def test_start_is_exact_everywhere(tmp_path, make_video, shown, name, codec, b_frames, first):
    path = make_video(tmp_path / name, frames=120, codec=codec, b_frames=b_frames)
    source = VideoSource(str(path), SourceOptions(start=first / 25))
    frames = list(source)
    found = [index % 70 for index in range(first, 120)]
    assert shown(frames) == found
    assert [frame.index for frame in frames] == list(range(first, 120))
    np.testing.assert_allclose([frame.time for frame in frames], np.arange(first, 120) / 25, atol=2e-3)
    assert source.info.warnings == []
    source.close()


@pytest.mark.parametrize(("name", "codec", "b_frames"), CONTAINERS)
def test_duration_counts_from_the_start(tmp_path, make_video, name, codec, b_frames):
    path = make_video(tmp_path / name, frames=120, codec=codec, b_frames=b_frames)
    source = open_source(str(path), SourceOptions(start=1.0, duration=0.8))
    assert [frame.index for frame in source] == list(range(25, 45))
    assert (source.info.frame_count, source.info.warnings) == (None, [])


def test_start_between_two_pictures_begins_with_the_later_one(tmp_path, make_video):
    path = make_video(tmp_path / "vfr.mkv", frames=10, stamps=[0, 1, 2, 50, 51, 200, 201, 202, 203, 1000], b_frames=0)
    source = open_source(str(path), SourceOptions(start=1.0, duration=7.1))
    np.testing.assert_allclose([frame.time for frame in source], np.array([50, 51, 200, 201, 202]) / 25, atol=2e-3)


@pytest.mark.parametrize("b_frames", [0, 2])
def test_the_place_in_an_mp4_of_variable_rate(tmp_path, make_video, shown, b_frames):
    stamps = np.cumsum(np.random.default_rng(4).integers(1, 9, 69)).tolist()
    path = make_video(tmp_path / "vfr.mp4", frames=69, stamps=stamps, b_frames=b_frames)
    frames = list(open_source(str(path), SourceOptions(start=(stamps[50] - stamps[0]) / 25)))
    assert shown(frames) == [frame.index for frame in frames] == list(range(50, 69))


def test_a_stream_that_does_not_begin_at_zero(tmp_path, make_video, shown):
    path = make_video(tmp_path / "late.mkv", frames=60, stamps=range(2500, 2560), b_frames=0)
    frames = list(open_source(str(path), SourceOptions(start=1.6)))
    assert shown(frames) == list(range(40, 60))
    assert frames[0].time == pytest.approx(1.6, abs=2e-3)


def test_a_start_past_the_end(tmp_path, make_video):
    path = make_video(tmp_path / "a.mp4")
    with pytest.raises(SourceError, match=r"a\.mp4: ends before 99 s, where reading was to start"):
        list(open_source(str(path), SourceOptions(start=99.0)))


def test_stride_counts_from_the_first_frame_that_is_wanted(tmp_path, make_video, shown):
    path = make_video(tmp_path / "a.mp4", frames=60)
    source = open_source(str(path), SourceOptions(stride=7))
    assert (source.info.frame_count, source.info.frame_rate) == (9, pytest.approx(25 / 7))
    assert source.info.image_ids == frozenset(range(60))  # boxes of frames that are left out are no mistake
    frames = list(source)
    assert shown(frames) == [frame.index for frame in frames] == list(range(0, 60, 7))
    frames = list(open_source(str(path), SourceOptions(stride=10, start=0.2)))
    assert [frame.index for frame in frames] == [5, 15, 25, 35, 45, 55]


def test_stride_leaves_out_before_colours_are_made(tmp_path, make_video, monkeypatch):
    source = VideoSource(str(make_video(tmp_path / "a.mp4", frames=40)), SourceOptions(stride=8))
    converted = []
    upright = source._upright
    monkeypatch.setattr(source, "_upright", lambda picture: converted.append(1) or upright(picture))
    assert len(list(source)) == 5
    assert len(converted) == 5
    assert source.progress == 40


def test_an_early_end_is_still_said(tmp_path, indexed_mp4):
    (tmp_path / "cut.mp4").write_bytes(indexed_mp4[: int(len(indexed_mp4) * 0.6)])
    source = VideoSource(str(tmp_path / "cut.mp4"), SourceOptions(stride=3, start=0.2))
    last = list(source)[-1].index
    (warning,) = source.info.warnings
    assert "its header claims 40 frames, but it ends after" in warning
    assert last < int(warning.rpartition(" ")[2]) <= last + 3


def test_the_scene(tmp_path):
    spec = "scene:people=1,frames=100,size=64x64"
    whole = list(open_source(spec))
    rate = open_source(spec).info.frame_rate
    assert rate is not None
    source = open_source(spec, SourceOptions(start=10 / rate, duration=21 / rate, stride=5))
    frames = list(source)
    assert [frame.index for frame in frames] == [10, 15, 20, 25, 30]
    np.testing.assert_array_equal(frames[1].image, whole[15].image)
    assert frames[1].boxes is not None
    assert source.info.frame_rate == rate / 5


def test_pictures_take_a_stride(tmp_path):
    import cv2

    for index in range(7):
        cv2.imwrite(str(tmp_path / f"{index}.png"), np.full((4, 4, 3), index, np.uint8))
    source = open_source(str(tmp_path), SourceOptions(stride=3))
    assert source.info.frame_count == 3
    assert [frame.image_id for frame in source] == [0, 3, 6]


@pytest.mark.shared
def test_crowd_from_its_middle(shared_dir):
    path = str(shared_dir / "media" / "crowd.avi")
    wanted = {frame.index: frame.image for frame in open_source(path) if frame.index in (200, 219)}
    source = open_source(path, SourceOptions(start=8.0, duration=0.8))
    part = list(source)
    assert [frame.index for frame in part] == list(range(200, 220))
    np.testing.assert_array_equal(part[0].image, wanted[200])
    np.testing.assert_array_equal(part[-1].image, wanted[219])
    assert source.info.warnings == []
