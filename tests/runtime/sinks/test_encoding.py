"""Encoders: which are found and usable, and pictures of any size into one."""

from __future__ import annotations

import io
from dataclasses import replace

import av
import numpy as np
import pytest

from sharpose.errors import InputError, SinkError
from sharpose.runtime.options import VideoSettings
from sharpose.runtime.sinks import encoding
from sharpose.runtime.sinks.encoding import PictureEncoder, find_encoder, letterbox, pad_even, usable_encoders

CHIPS = ("nvenc", "videotoolbox", "qsv", "amf", "v4l2m2m")


def test_the_software_encoders_of_the_wheel_are_usable():
    assert {"libx264", "libx265"} <= set(usable_encoders())
    assert find_encoder(VideoSettings()).name == "libx264"
    assert find_encoder(VideoSettings(encoder="h265")).name == "libx265"


def test_auto_takes_a_chip_where_there_is_one(monkeypatch):
    assert find_encoder(VideoSettings(encoder="auto")).family == "h264"
    monkeypatch.setattr(encoding, "_why_unusable", lambda encoder, settings: None)
    assert find_encoder(VideoSettings(encoder="auto")).name == "h264_nvenc"
    assert find_encoder(VideoSettings(encoder="h264")).name == "libx264"


def test_auto_says_h264_where_no_chip_opens(monkeypatch):
    monkeypatch.setattr(encoding, "_why_unusable", lambda encoder, settings: "no" if encoder.hardware else None)
    assert find_encoder(VideoSettings(encoder="auto")).name == "libx264"


@pytest.mark.parametrize("name", ["aac", "h264_vaapi", "nonsense", "../x"])
def test_encoders_that_nobody_knows(name):
    why = "the FFmpeg inside PyAV has no video encoder of that name"
    with pytest.raises(
        SinkError, match=rf"video encoder {name}: not usable here \({why}\); usable are libx264, libx265"
    ):
        find_encoder(VideoSettings(encoder=name))


@pytest.mark.parametrize(
    ("name", "container", "settings"),
    [
        ("mpeg4", "mp4", {"bitrate": 300_000}),
        ("libvpx-vp9", "matroska", {"crf": 40}),
        ("libvpx-vp9", "matroska", {"crf": 52}),
        ("libsvtav1", "mp4", {"crf": 15, "preset": "12"}),
        ("ffv1", "matroska", {}),
        ("mjpeg", "mov", {}),
        ("prores_ks", "mov", {}),
    ],
)
def test_any_of_ffmpegs_encoders_that_fits(tmp_path, capfd, name, container, settings):
    asked = VideoSettings(encoder=name, **settings)
    encoder, path = find_encoder(asked, container), tmp_path / "o"
    y, x = np.mgrid[:64, :96]
    frames = [np.dstack([2 * x, 3 * y, np.full_like(x, 60 * index)]).astype(np.uint8) for index in range(4)]
    with av.open(str(path), "w", format=container) as output:
        pictures = PictureEncoder(output, encoder, asked, picture=frames[0], frame_rate=25.0)
        for index, frame in enumerate(frames):
            output.mux(pictures.encode(frame, index / 25))
        output.mux(pictures.finish())
    with av.open(str(path)) as video:
        assert (
            video.streams.video[0].codec_context.name
            == {"libvpx-vp9": "vp9", "libsvtav1": "av1"}.get(name, name.removesuffix("_ks"))
            or name == "libsvtav1"
        )
        shown = [frame.to_ndarray(format="bgr24") for frame in video.decode(video=0)]
    assert len(shown) == 4
    assert capfd.readouterr() == ("", "")
    for one, frame in zip(shown, frames, strict=True):
        assert np.abs(one.astype(int) - frame).mean() < 12


@pytest.mark.parametrize("name", ["libx264", "libx265"])
@pytest.mark.parametrize("height", [66, 68])
def test_pictures_that_the_encoder_copies_are_the_same_as_copied_ones(name, height):
    """Of a width whose rows of chroma lie at odd addresses, and of a height that PyAV would cut."""
    noise = np.random.default_rng(0).integers(0, 256, (5, height, 102, 3), dtype=np.uint8)
    encoder = find_encoder(VideoSettings(encoder=name))
    assert encoder.copies
    packets = []
    for one in (encoder, replace(encoder, copies=False)):
        with av.open(io.BytesIO(), "w", format="matroska") as output:
            pictures = PictureEncoder(output, one, VideoSettings(), picture=noise[0], frame_rate=25.0)
            of_each = [pictures.encode(picture, index / 25) for index, picture in enumerate(noise)]
            packets.append([bytes(packet) for found in [*of_each, pictures.finish()] for packet in found])
    assert len(packets[0]) == 5
    assert packets[0] == packets[1]


@pytest.mark.parametrize(
    ("name", "container", "settings", "why"),
    [
        ("prores_ks", "mp4", {}, "it doesn't fit into mp4"),
        ("mpeg4", "flv", {}, "it doesn't fit into flv"),
        ("mjpeg", "mp4", {"crf": 20}, "it takes no crf"),
        ("mpeg2video", "matroska", {}, "it needs a constant frame rate, and frames are timed one by one here"),
        ("h263", "mov", {}, "it needs a constant frame rate, and frames are timed one by one here"),
        ("libx264", "mp4", {"crf": 52}, "libx264 takes a crf of 0 to 51, got 52"),
        ("ffv1", "matroska", {"preset": "fast"}, "it takes no --preset"),
        ("libopenh264", "mp4", {"preset": "fast"}, "libopenh264 has no presets"),
    ],
)
def test_what_an_encoder_can_not_do(name, container, settings, why):
    with pytest.raises(SinkError, match=rf"video encoder {name}: not usable here \({why}\); usable are libx264"):
        find_encoder(VideoSettings(encoder=name, **settings), container)


def test_an_error_names_encoders_that_fit_the_file():
    def named(container):
        with pytest.raises(SinkError) as refused:
            find_encoder(VideoSettings(encoder="nonsense"), container)
        return str(refused.value).partition("usable are ")[2].split(", ")

    assert {"libx264", "libvpx-vp9", "mpeg4", "ffv1"} <= set(named("matroska"))
    assert "prores_ks" in named("mov")
    assert not {"prores_ks", "ffv1"} & set(named("flv"))


def test_a_chip_that_is_not_there_says_why_and_what_is():
    if any(chip in name for name in usable_encoders() for chip in CHIPS):
        pytest.skip("this machine has a video chip")
    with pytest.raises(SinkError, match=r"h264_nvenc: not usable here \(.+\); usable are libx264, libx265"):
        find_encoder(VideoSettings(encoder="h264_nvenc"))


def test_a_preset_that_the_encoder_does_not_know():
    with pytest.raises(SinkError, match=r"h264: not usable here \(it doesn't open with preset warp\)"):
        find_encoder(VideoSettings(preset="warp"))


def test_a_quality_for_one_that_takes_a_bit_rate(monkeypatch):
    monkeypatch.setattr(encoding, "_why_unusable", lambda encoder, settings: None)
    with pytest.raises(SinkError, match=r"h264_v4l2m2m: not usable here \(h264_v4l2m2m takes a bit rate, no crf\)"):
        find_encoder(VideoSettings(encoder="h264_v4l2m2m", crf=20))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"crf": 64}, r"crf of 0 \(best\) to 63, got 64"),
        ({"crf": -1}, "got -1"),
        ({"bitrate": 5}, "at least 1000, got 5"),
        ({"crf": 20, "bitrate": 100_000}, "exclude each other"),
    ],
)
def test_settings_that_can_not_be(settings, said):
    with pytest.raises(InputError, match=said):
        VideoSettings(**settings)


def lit(image: np.ndarray) -> tuple[int, int, int, int]:
    """Top, bottom, left, right of what isn't black."""
    rows, columns = np.nonzero(image.any(axis=(1, 2)))[0], np.nonzero(image.any(axis=(0, 2)))[0]
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((96, 96), (0, 48, 8, 56)),  # shrunk: bars left and right
        ((20, 80), (16, 32, 0, 64)),  # shrunk: bars above and below
        ((24, 32), (0, 48, 0, 64)),  # enlarged
        ((1, 1000), (23, 24, 0, 64)),  # never thinner than a pixel
    ],
)
def test_the_aspect_is_kept_and_the_picture_centred(size, expected):
    boxed = letterbox(np.full((*size, 3), 200, np.uint8), 48, 64)
    assert boxed.shape == (48, 64, 3)
    assert lit(boxed) == expected
    assert (boxed[boxed > 0] == 200).all()


def test_the_same_size_is_the_same_picture():
    image = np.zeros((48, 64, 3), np.uint8)
    assert letterbox(image, 48, 64) is image


def test_odd_sizes_repeat_their_edge():
    image = np.arange(45, dtype=np.uint8).reshape(3, 5, 3)
    padded = pad_even(image)
    assert padded.shape == (4, 6, 3)
    np.testing.assert_array_equal(padded[:3, :5], image)
    np.testing.assert_array_equal(padded[3, :5], image[2])
    np.testing.assert_array_equal(padded[:3, 5], image[:, 4])
    assert pad_even(padded) is padded
