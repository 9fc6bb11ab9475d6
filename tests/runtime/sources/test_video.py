"""Videos: every frame in order, upright and at its time; `--start`, `--duration` and `--stride`."""

from __future__ import annotations

import re
import weakref
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from video_files import saved

from sharpose.errors import SourceError
from sharpose.runtime.frames import FrameRecord
from sharpose.runtime.options import SourceOptions
from sharpose.runtime.result import Boxes, PoseResult
from sharpose.runtime.sources import open_source
from sharpose.runtime.sources.decoding import upright
from sharpose.runtime.sources.video import VideoSource

ONE = 1 << 16  # in a display matrix
NOBODY = PoseResult(Boxes.empty(), np.zeros((0, 17, 3), np.float32), np.zeros(0, np.float32), np.zeros(0, np.bool_))


def with_display_matrix(data: bytes, values: tuple[int, ...]) -> bytes:
    """The mp4 with another matrix (its first six numbers) in its track header."""
    at = data.index(b"tkhd") + 4 + 40
    matrix = b"".join(value.to_bytes(4, "big", signed=True) for value in values)
    return data[:at] + matrix + data[at + len(matrix) :]


@pytest.mark.parametrize(
    ("name", "codec", "b_frames"),
    [
        ("a.mp4", "libx264", 3),
        ("a.mkv", "libx264", 3),
        ("a.avi", "libx264", 2),
        ("a.ts", "libx264", 0),
        ("a.avi", "mpeg4", 2),
        ("a.avi", "mjpeg", 0),
    ],
)
def test_all_frames_in_the_order_they_are_shown(tmp_path, make_video, shown, name, codec, b_frames):
    source = VideoSource(str(make_video(tmp_path / name, codec=codec, b_frames=b_frames)))
    frames = list(source)
    assert shown(frames) == list(range(40))
    assert [frame.index for frame in frames] == [frame.image_id for frame in frames] == list(range(40))
    np.testing.assert_allclose([frame.time for frame in frames], np.arange(40) / 25, atol=2e-3)
    assert {(frame.image.shape, frame.image.dtype.name) for frame in frames} == {((48, 64, 3), "uint8")}
    assert source.info.warnings == []
    assert source.info.frame_count in (40, None)
    assert source.info.image_ids is None
    source.close()
    source.close()


def test_colours_are_bgr(tmp_path):
    path = tmp_path / "blue.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        image = np.zeros((48, 64, 3), np.uint8)
        image[:] = (220, 60, 10)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
        container.mux(stream.encode(None))
    (frame,) = VideoSource(str(path))
    np.testing.assert_allclose(frame.image[24, 32], (220, 60, 10), atol=8)


@pytest.mark.parametrize(("name", "codec", "pixels"), [("a.mp4", "libx264", "yuv420p"), ("a.flv", "flashsv", "bgr24")])
def test_drawing_on_frames_that_are_owned_changes_no_other_frame(tmp_path, name, codec, pixels):
    path = tmp_path / name
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, pixels
        for index in range(4):  # but for a square that moves, each is like the one before: FlashSV copies that
            image = np.full((48, 64, 3), 60, np.uint8)
            image[16:32, 16 * index : 16 * index + 16] = 180
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
        container.mux(stream.encode(None))
    bare = [frame.image.copy() for frame in VideoSource(str(path))]
    assert all(image[24, 8 + 16 * index, 0] > 150 for index, image in enumerate(bare))
    found = []
    for frame in VideoSource(str(path)):
        found.append(frame.image.copy())
        record = FrameRecord(frame, NOBODY, lambda image, poses: np.copyto(image, 255) or image)
        assert (record.picture == 255).all()
    np.testing.assert_array_equal(found, bare)
    assert frame.owned is (codec == "libx264")


def test_variable_frame_rate_keeps_its_times(tmp_path, make_video):
    stamps = [0, 1, 2, 50, 51, 200, 201, 202, 203, 1000]
    source = VideoSource(str(make_video(tmp_path / "vfr.mkv", frames=10, stamps=stamps, b_frames=0)))
    np.testing.assert_allclose([frame.time for frame in source], np.array(stamps) / 25, atol=2e-3)


def test_a_stream_that_does_not_begin_at_zero_begins_at_zero(tmp_path, make_video):
    source = VideoSource(str(make_video(tmp_path / "late.mkv", frames=5, stamps=range(2500, 2505), b_frames=0)))
    np.testing.assert_allclose([frame.time for frame in source], np.arange(5) / 25, atol=2e-3)


def test_pictures_that_stand_on_their_side_are_turned(tmp_path, make_video):
    stored = make_video(tmp_path / "stored.mp4", frames=3)
    turned = saved(tmp_path / "turned.mp4", with_display_matrix(stored.read_bytes(), (0, ONE, 0, -ONE, 0, 0)))
    for before, frame in zip(VideoSource(str(stored)), VideoSource(turned), strict=True):
        np.testing.assert_array_equal(frame.image, np.rot90(before.image, -1))
        assert (frame.height, frame.width) == (64, 48)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
@pytest.mark.parametrize("ratio", [Fraction(1), Fraction(64, 45), Fraction(8, 9)])
def test_the_shape_of_pixels(tmp_path, make_video, name, ratio):
    made = make_video(tmp_path / name, frames=3, sample_aspect_ratio=ratio)
    source = VideoSource(str(made))
    for frame in source:
        assert float(frame.sample_aspect_ratio) == pytest.approx(float(ratio), rel=0.02)  # Matroska rounds
        assert frame.image.shape == (48, 64, 3)
    if name == "a.mp4":
        turned = saved(tmp_path / "turned.mp4", with_display_matrix(made.read_bytes(), (0, ONE, 0, -ONE, 0, 0)))
        assert [frame.sample_aspect_ratio for frame in VideoSource(turned)] == [1 / ratio] * 3


def test_pixels_of_an_unbelievable_shape_are_square(tmp_path, make_video):
    (frame, *_) = VideoSource(str(make_video(tmp_path / "a.mp4", frames=3, sample_aspect_ratio=Fraction(1, 200))))
    assert frame.sample_aspect_ratio == 1


def test_frames_know_their_stamps(tmp_path, make_video):
    source = VideoSource(str(make_video(tmp_path / "a.ts", frames=5, stamps=range(250, 255), b_frames=0)))
    frames = list(source)
    with av.open(str(tmp_path / "a.ts")) as container:
        stamps = [float(picture.time) for picture in container.decode(video=0)]
    assert [frame.stamp for frame in frames] == pytest.approx(stamps)
    assert stamps[0] > 9
    assert source.info.sound is None


def test_a_change_of_size_inside_the_stream(tmp_path, make_video):
    parts = [
        make_video(tmp_path / f"{index}.h264", frames=5, size=size, b_frames=0, format_name="h264").read_bytes()
        for index, size in enumerate([(48, 64), (96, 80), (48, 64)])
    ]
    source = VideoSource(saved(tmp_path / "sizes.h264", b"".join(parts)))
    shapes = [frame.image.shape[:2] for frame in source]
    assert shapes == [(48, 64)] * 5 + [(96, 80)] * 5 + [(48, 64)] * 5


def test_a_name_with_a_colon_is_a_file(tmp_path, make_video, monkeypatch):
    make_video(tmp_path / "plain.mp4", frames=2).rename(tmp_path / "take1:2.mp4")
    monkeypatch.chdir(tmp_path)
    assert len(list(VideoSource("take1:2.mp4"))) == 2


def test_it_is_read_once(tmp_path, make_video):
    source = VideoSource(str(make_video(tmp_path / "a.mp4", frames=3)))
    assert len(list(source)) == 3
    with pytest.raises(SourceError, match="read once"):
        next(iter(source))


def test_closing_in_the_middle_ends_it_without_a_warning(tmp_path, make_video):
    source = VideoSource(str(make_video(tmp_path / "a.mp4")))
    frames = iter(source)
    next(frames)
    source.close()
    assert list(frames) == []
    assert source.info.warnings == []


@pytest.mark.shared
def test_crowd_holds_half_of_what_it_claims(shared_dir):
    source = VideoSource(str(shared_dir / "media" / "crowd.avi"))
    assert source.info.frame_count == 682
    times = [frame.time for frame in source]
    assert len(times) == 341
    np.testing.assert_allclose(np.diff(times), 0.04, atol=1e-6)
    assert len(source.info.warnings) == 1
    assert "claims 682 frames, but it ends after 341" in source.info.warnings[0]


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "shape", "step"), [("street.mp4", (540, 960, 3), 0.2), ("posetrack_clip.mp4", (720, 1280, 3), 1 / 30)]
)
def test_short_clips(shared_dir, name, shape, step):
    source = VideoSource(str(shared_dir / "media" / name))
    frames = list(source)
    assert [frame.image.shape for frame in frames] == [shape] * 5
    np.testing.assert_allclose([frame.time for frame in frames], np.arange(5) * step, atol=1e-3)
    assert source.info.warnings == []


def matrix(a: int, b: int, c: int, d: int) -> bytes:
    return np.array([a, b, 0, c, d, 0, 0, 0, 1 << 30], np.int32).tobytes()


def shown_by_definition(image: np.ndarray, a: int, b: int, c: int, d: int) -> np.ndarray:
    """Every stored pixel (p, q) put at (a·p + c·q, b·p + d·q), moved to begin at 0."""
    q, p = np.indices(image.shape[:2])
    x, y = a * p + c * q, b * p + d * q
    x, y = x - x.min(), y - y.min()
    out = np.zeros((y.max() + 1, x.max() + 1, 3), np.uint8)
    out[y, x] = image
    return out


@pytest.mark.parametrize(
    "signs",
    [(1, 0, 0, -1), (-1, 0, 0, 1), (-1, 0, 0, -1), (0, 1, 1, 0), (0, 1, -1, 0), (0, -1, 1, 0), (0, -1, -1, 0)],
)
def test_all_turns_and_mirrorings(signs: tuple[int, int, int, int]):
    image = np.random.default_rng(0).integers(0, 255, (3, 5, 3), dtype=np.uint8)
    turned = upright(image, matrix(*(ONE * sign for sign in signs)))
    np.testing.assert_array_equal(turned, shown_by_definition(image, *signs))
    assert turned.flags["C_CONTIGUOUS"]


@pytest.mark.parametrize("nothing", [matrix(ONE, 0, 0, ONE), matrix(2 * ONE, 300, -300, 2 * ONE), b"", b"short"])
def test_upright_needs_nothing(nothing: bytes):
    image = np.random.default_rng(0).integers(0, 255, (3, 5, 3), dtype=np.uint8)
    np.testing.assert_array_equal(upright(image, nothing), image)


def test_a_slanted_matrix_is_the_nearest_quarter_turn():
    image = np.random.default_rng(0).integers(0, 255, (3, 5, 3), dtype=np.uint8)
    turned = upright(image, matrix(ONE // 10, ONE, -ONE, ONE // 10))
    np.testing.assert_array_equal(turned, shown_by_definition(image, 0, 1, -1, 0))


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
@pytest.mark.parametrize("name", ["vfr.mp4", "vfr.mkv", "vfr.flv"])
def test_the_place_in_a_video_of_variable_rate(tmp_path, make_video, shown, name, b_frames):
    stamps = np.cumsum(np.random.default_rng(4).integers(1, 9, 69)).tolist()
    path = make_video(tmp_path / name, frames=69, stamps=stamps, b_frames=b_frames)
    for first in (30, 50):
        source = open_source(str(path), SourceOptions(start=(stamps[first] - stamps[0]) / 25))
        frames = list(source)
        assert shown(frames) == [frame.index for frame in frames] == list(range(first, 69))
        assert source.info.warnings == []


def _encoded(path: Path, milliseconds: Sequence[int]) -> Path:
    """An MP4 in 1/1000 s with a key frame each half a second, B-frames, and an edit list where stamps are below 0."""
    with av.open(str(path), "w", options={"video_track_timescale": "1000"}) as container:
        stream = container.add_stream("libx264", rate=30, options={"g": "15", "bf": "2", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt, stream.time_base = 64, 48, "yuv420p", Fraction(1, 1000)
        for index, stamp in enumerate(milliseconds):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), index, np.uint8), format="bgr24")
            frame.pts, frame.time_base = stamp, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_the_place_in_a_file_with_a_colon_in_its_name(tmp_path, make_video, monkeypatch):
    stamps = np.cumsum(np.random.default_rng(4).integers(1, 9, 69)).tolist()
    make_video(tmp_path / "take:1.mkv", frames=69, stamps=stamps)
    monkeypatch.chdir(tmp_path)
    source = VideoSource("take:1.mkv", SourceOptions(start=(stamps[50] - stamps[0]) / 25))
    assert next(iter(source)).index == 50
    assert source._decoder.frames < 20  # from the key frame before it, not all from the beginning


@pytest.mark.parametrize("hidden", [0, 8])
def test_the_place_where_a_constant_rate_is_rounded(tmp_path, hidden):
    path = str(_encoded(tmp_path / "a.mp4", [round((index - hidden) * 1000 / 30) for index in range(120)]))
    whole = [(frame.index, frame.time) for frame in VideoSource(path)]
    assert len(whole) == 120 - hidden
    for start in np.arange(0.3, 3.5, 0.1):  # also just before key frames
        source = VideoSource(path, SourceOptions(start=float(start)))
        found = [(frame.index, pytest.approx(frame.time)) for frame in source]
        assert found == [place for place in whole if place[1] >= start - 1e-3]
        assert (source.info.warnings, source.info.image_ids) == ([], range(120 - hidden))


def test_the_decoder_goes_when_a_source_has_ended(tmp_path, make_video):
    source = VideoSource(str(make_video(tmp_path / "a.mp4")))
    decoder = weakref.ref(source._decoder)
    assert len(list(source)) == 40
    assert decoder() is not None
    source.close()
    source.close()
    assert decoder() is None
    left = VideoSource(str(make_video(tmp_path / "b.mp4")))
    frames = iter(left)
    next(frames)
    decoder = weakref.ref(left._decoder)
    left.close()
    assert decoder() is not None  # it is still read from
    del frames
    assert decoder() is None


def test_a_stream_that_does_not_begin_at_zero(tmp_path, make_video, shown):
    path = make_video(tmp_path / "late.mkv", frames=60, stamps=range(2500, 2560), b_frames=0)
    frames = list(open_source(str(path), SourceOptions(start=1.6)))
    assert shown(frames) == list(range(40, 60))
    assert frames[0].time == pytest.approx(1.6, abs=2e-3)


@pytest.mark.parametrize("start", [99.0, 1e300])
def test_a_start_past_the_end(tmp_path, make_video, start):
    path = make_video(tmp_path / "a.mp4")
    with pytest.raises(
        SourceError, match=rf"a\.mp4: ends before {re.escape(f'{start:g}')} s, where reading was to start"
    ):
        list(open_source(str(path), SourceOptions(start=start)))


def test_stride_counts_from_the_first_frame_that_is_wanted(tmp_path, make_video, shown):
    path = make_video(tmp_path / "a.mp4", frames=60)
    source = open_source(str(path), SourceOptions(stride=7))
    assert (source.info.frame_count, source.info.frame_rate) == (9, pytest.approx(25 / 7))
    assert source.info.image_ids == range(60)  # a boxes file may have the skipped frames too
    frames = list(source)
    assert shown(frames) == [frame.index for frame in frames] == list(range(0, 60, 7))
    frames = list(open_source(str(path), SourceOptions(stride=10, start=0.2)))
    assert [frame.index for frame in frames] == [5, 15, 25, 35, 45, 55]


def test_skipped_frames_are_not_converted(tmp_path, make_video, monkeypatch):
    source = VideoSource(str(make_video(tmp_path / "a.mp4", frames=40)), SourceOptions(stride=8))
    converted = []
    upright = source._upright
    monkeypatch.setattr(source, "_upright", lambda picture: converted.append(1) or upright(picture))
    assert len(list(source)) == 5
    assert len(converted) == 5
    assert source.info.progress == 40


def test_an_early_end_is_still_said(tmp_path, indexed_mp4):
    (tmp_path / "cut.mp4").write_bytes(indexed_mp4[: int(len(indexed_mp4) * 0.6)])
    source = VideoSource(str(tmp_path / "cut.mp4"), SourceOptions(stride=3, start=0.2))
    last = list(source)[-1].index
    (warning,) = source.info.warnings
    assert "its header claims 40 frames, but it ends after" in warning
    assert last < int(warning.rpartition(" ")[2]) <= last + 3


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
