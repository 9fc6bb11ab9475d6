"""Video files that end early, are damaged, or are none."""

from __future__ import annotations

import itertools
import re

import av
import numpy as np
import pytest
from av.stream import Disposition
from video_files import cut, saved, with_garbage

from sharpose.errors import SourceError
from sharpose.runtime.frames import Frame
from sharpose.runtime.sources.video import VideoSource


def test_a_file_that_ends_early_warns_and_gives_what_is_there(tmp_path, indexed_mp4, shown):
    source = VideoSource(saved(tmp_path / "cut.mp4", cut(indexed_mp4, 0.6)))
    frames = list(source)
    assert 10 < len(frames) < 40
    assert shown(frames) == list(range(len(frames)))
    assert source.info.frame_count == 40
    assert source.info.warnings == [f"{source.info.name}: its header claims 40 frames, but it ends after {len(frames)}"]


@pytest.mark.parametrize(
    ("name", "codec", "muxer"),
    [
        ("a.avi", "mpeg4", {}),
        ("a.mkv", "libx264", {}),
        ("a.ts", "libx264", {}),
        ("a.mp4", "libx264", {"movflags": "frag_keyframe+empty_moov"}),
        ("b.mp4", "libx265", {"movflags": "faststart"}),
    ],
)
def test_every_container_may_end_early(tmp_path, make_video, shown, name, codec, muxer):
    quiet = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    whole = make_video(tmp_path / f"whole{name}", frames=60, codec=codec, b_frames=0, muxer=muxer, options=quiet)
    source = VideoSource(saved(tmp_path / name, cut(whole.read_bytes(), 0.6)))
    frames = list(source)
    assert 0 < len(frames) < 60
    assert shown(frames) == list(range(len(frames)))
    # A transport stream makes no claims: cut between two packets, it is a shorter one.
    assert len(source.info.warnings) == 1 or (name == "a.ts" and not source.info.warnings)


def test_zeros_where_the_end_should_be_count_as_ending_early(tmp_path, indexed_mp4):
    kept = cut(indexed_mp4, 0.6)
    source = VideoSource(saved(tmp_path / "zeros.mp4", kept + bytes(len(indexed_mp4) - len(kept))))
    assert 10 < len(list(source)) < 40
    assert len(source.info.warnings) == 1


def test_a_header_that_claims_too_much(tmp_path, make_video):
    data = make_video(tmp_path / "whole.avi", codec="mjpeg").read_bytes()
    at = data.index(b"strh") + 8 + 32  # dwLength of the stream header
    source = VideoSource(saved(tmp_path / "liar.avi", data[:at] + (80).to_bytes(4, "little") + data[at + 4 :]))
    assert source.info.frame_count == 80
    assert len(list(source)) == 40
    assert source.info.warnings == [f"{source.info.name}: its header claims 80 frames, but it ends after 40"]


@pytest.mark.parametrize("at", [0.3, 0.5, 0.8])
def test_garbage_in_the_middle_is_an_error(tmp_path, indexed_mp4, at):
    path = saved(tmp_path / "broken.mp4", with_garbage(indexed_mp4, at, 6000))
    with pytest.raises(SourceError, match=r"broken\.mp4: broken near frame \d+ .*more video after it") as caught:
        list(VideoSource(path))
    assert "\n" not in str(caught.value)
    match = re.search(r"near frame (\d+)", str(caught.value))
    assert match is not None
    assert abs(int(match.group(1)) - 40 * at) < 10


def test_damage_that_the_decoder_conceals_is_an_error(tmp_path, make_video):
    whole = make_video(tmp_path / "whole.avi", codec="mpeg4").read_bytes()
    with pytest.raises(SourceError, match=r"part of a picture is missing.* more video after it"):
        list(VideoSource(saved(tmp_path / "a.avi", with_garbage(whole, 0.5, 300))))


def test_frames_that_the_demuxer_skips_leave_a_warning(tmp_path, make_video, shown):
    # Bit-exact: Matroska's random ids would move the damage from run to run.
    whole = make_video(tmp_path / "whole.mkv", muxer={"fflags": "+bitexact"}).read_bytes()
    source = VideoSource(saved(tmp_path / "a.mkv", with_garbage(whole, 0.5, 6000)))
    frames = list(source)
    assert len(frames) < 40
    assert shown(frames)[-1] == 39
    before, after = max(itertools.pairwise(frame.time for frame in frames), key=lambda pair: pair[1] - pair[0])
    expected = f"frames may be missing between {before:.2f} s and {after:.2f} s"
    assert source.info.warnings == [f"{source.info.name}: {expected}"]


def test_frames_before_the_damage_are_whole(tmp_path, indexed_mp4, shown):
    frames: list[Frame] = []
    with pytest.raises(SourceError):
        frames.extend(VideoSource(saved(tmp_path / "broken.mp4", with_garbage(indexed_mp4, 0.5, 6000))))
    assert len(frames) > 8
    assert shown(frames) == list(range(len(frames)))


def test_a_recording_that_begins_between_key_frames(tmp_path, make_video):
    data = make_video(tmp_path / "whole.ts", b_frames=0, options={"x264-params": "repeat-headers=1"}).read_bytes()
    packets = [data[at : at + 188] for at in range(0, len(data), 188)]
    source = VideoSource(saved(tmp_path / "tuned_in.ts", b"".join(packets[:3] + packets[len(packets) // 4 :])))
    frames = list(source)
    assert 10 < len(frames) < 40


def test_an_index_that_is_missing_is_said(tmp_path, make_video):
    data = make_video(tmp_path / "whole.mp4").read_bytes()  # its index stands at the end
    with pytest.raises(SourceError, match=r"cut\.mp4: expected a video file.*cut off before the index"):
        VideoSource(saved(tmp_path / "cut.mp4", cut(data, 0.6)))


@pytest.mark.parametrize("name", ["notes.mp4", "notes.txt", "notes.avi"])
def test_a_text_file_is_no_video(tmp_path, name):
    path = tmp_path / name
    path.write_text("This is not a video.\n" * 200)
    with pytest.raises(SourceError, match=name.replace(".", r"\.") + ": expected a video"):
        VideoSource(str(path))


def test_an_empty_file_is_no_video(tmp_path):
    with pytest.raises(SourceError, match=r"a\.mp4: expected a video, found an empty file"):
        VideoSource(saved(tmp_path / "a.mp4", b""))


@pytest.mark.parametrize(("cover", "found"), [(False, "audio only"), (True, "audio and a cover picture only")])
def test_sound_alone_is_no_video(tmp_path, cover, found):
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        art = container.add_stream("mjpeg", rate=1) if cover else None
        if art is not None:
            art.height, art.width, art.pix_fmt = 48, 64, "yuvj420p"
            art.disposition = Disposition.attached_pic
            container.mux(art.encode(av.VideoFrame(64, 48, "yuvj420p")))
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(SourceError, match=rf"song\.mp4: expected a video stream, found {found}"):
        VideoSource(str(path))


def test_not_one_decodable_frame(tmp_path, indexed_mp4):
    start = indexed_mp4.index(b"mdat") + 4
    source = VideoSource(saved(tmp_path / "black.mp4", indexed_mp4[:start] + b"\xff" * (len(indexed_mp4) - start)))
    with pytest.raises(SourceError, match=r"black\.mp4: expected a video, but not one frame of it can be decoded"):
        list(source)


def test_ffmpeg_stays_silent(tmp_path, indexed_mp4, capfd):
    list(VideoSource(saved(tmp_path / "cut.mp4", cut(indexed_mp4, 0.6))))
    with pytest.raises(SourceError):
        list(VideoSource(saved(tmp_path / "broken.mp4", with_garbage(indexed_mp4, 0.5, 6000))))
    with pytest.raises(SourceError):
        VideoSource(saved(tmp_path / "none.mp4", b"nothing"))
    assert capfd.readouterr() == ("", "")
