"""Video files that end early, are damaged, or are none."""

from __future__ import annotations

import itertools
import re
import resource

import av
import numpy as np
import pytest
from av.stream import Disposition
from sound_files import write_sounded
from video_files import cut, saved, with_garbage

from sharpose.errors import SourceError
from sharpose.runtime.frames import Frame
from sharpose.runtime.options import SourceOptions
from sharpose.runtime.sources import decoding
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


def test_a_matroska_file_that_ends_a_little_early(tmp_path, make_video):
    whole = make_video(tmp_path / "whole.mkv", frames=12, b_frames=0)
    data = whole.read_bytes()
    source = VideoSource(str(whole))
    assert len(list(source)) == 12
    assert source.info.warnings == []
    source = VideoSource(saved(tmp_path / "a.mkv", data[:-1500]))
    frames = len(list(source))
    assert 8 < frames < 12  # of half a second
    said = f"{source.info.name}: cut off after {frames} frames: 1500 bytes of the file are missing"
    assert source.info.warnings == [said]
    live = bytearray(data)  # a writer that can't seek leaves the size open
    at = live.index(b"\x18S\x80g") + 4
    live[at : at + 8] = b"\x01" + b"\xff" * 7
    live = live.replace(b"DURATION", b"COMMENTS")  # nor does it know the length
    source = VideoSource(saved(tmp_path / "live.mkv", live[:-1500]))
    assert len(list(source)) == frames
    assert source.info.warnings == []


@pytest.mark.parametrize("kept", [2, 5, 10])
def test_a_matroska_file_whose_reading_ends_at_damage(tmp_path, make_video, kept):
    data = bytearray(make_video(tmp_path / "whole.mkv", frames=12, b_frames=0).read_bytes())
    with av.open(str(tmp_path / "whole.mkv")) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.pos is not None]
    # Nothing that looks like an element follows: the demuxer ends there, without an error.
    data[places[kept] + 1 :] = b"\x7f" * (len(data) - places[kept] - 1)
    source = VideoSource(saved(tmp_path / "a.mkv", data))
    assert len(list(source)) == kept
    ends = f"its header claims 0.48 s, but it ends after {kept * 0.04:.2f} s"
    assert source.info.warnings == [f"{source.info.name}: {ends}"]


@pytest.fixture(scope="module")
def broken_mkv(tmp_path_factory, make_video):
    """60 frames with one key frame, in one cluster, whose middle is damaged: the demuxer finds nothing after it."""
    path = tmp_path_factory.mktemp("broken") / "whole.mkv"
    one_key = {"x264-params": "keyint=250:min-keyint=250:scenecut=0"}
    data = bytearray(make_video(path, frames=60, b_frames=0, options=one_key).read_bytes())
    with av.open(str(path)) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.pos is not None]
    for at in range(places[20] + 20, places[22] + 20):
        data[at] ^= 0x5A
    return bytes(data)


def test_damage_after_which_nothing_can_be_read_is_no_early_end(tmp_path, broken_mkv):
    source = VideoSource(saved(tmp_path / "broken.mkv", broken_mkv))
    frames = len(list(source))
    assert 15 < frames < 25
    (line,) = source.info.failures
    assert line.startswith(f"{source.info.name}: damaged after {frames} frames (")
    assert line.endswith(
        "), and nothing after that can be read: its header claims 2.40 s, and no byte of the file is missing"
    )
    assert source.info.warnings == []
    with pytest.raises(SourceError, match=rf"damaged after {frames} frames .*repair the file"):
        list(VideoSource(saved(tmp_path / "broken.mkv", broken_mkv), SourceOptions(strict=True)))


@pytest.mark.parametrize("end", ["missing", "zeros"])
def test_damage_in_a_file_that_also_ends_early_is_an_early_end(tmp_path, broken_mkv, end):
    kept = cut(broken_mkv, 0.6)
    source = VideoSource(saved(tmp_path / "cut.mkv", kept + bytes(len(broken_mkv) - len(kept)) * (end == "zeros")))
    assert 15 < len(list(source)) < 25
    assert source.info.failures == []
    (line,) = source.info.warnings
    assert f"{source.info.name}: cut off after" in line


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
def test_garbage_in_the_middle_is_passed_over_and_marked(tmp_path, indexed_mp4, shown, at):
    source = VideoSource(saved(tmp_path / "broken.mp4", with_garbage(indexed_mp4, at, 6000)))
    frames = list(source)
    assert shown(frames)[-1] == 39 or at == 0.8  # the last key frame is before the damage
    first = next((frame.index for frame in frames if frame.damaged), len(frames))
    assert shown(frames)[: min(first, 25)] == list(range(min(first, 25)))  # those before the damage are whole
    (line,) = source.info.failures
    match = re.match(r".*broken\.mp4: skipped damage once, near frame (\d+) \(.+\); frames lost: [1-9]", line)
    assert match is not None
    assert abs(int(match.group(1)) - 40 * at) < 10
    assert f"up to the next key frame: {sum(frame.damaged for frame in frames)}" in line
    assert source.info.warnings == []


@pytest.mark.parametrize("at", [0.3, 0.5, 0.8])
def test_garbage_in_the_middle_is_an_error_if_strict(tmp_path, indexed_mp4, shown, at):
    path = saved(tmp_path / "broken.mp4", with_garbage(indexed_mp4, at, 6000))
    frames: list[Frame] = []
    with pytest.raises(SourceError, match=r"broken\.mp4: broken near frame \d+ .*more video after it") as caught:
        frames.extend(VideoSource(path, SourceOptions(strict=True)))
    assert "\n" not in str(caught.value)
    assert shown(frames) == list(range(len(frames)))
    assert not any(frame.damaged for frame in frames)


def test_damage_that_the_decoder_conceals_is_marked_up_to_the_next_key_frame(tmp_path, make_video, shown):
    no_cuts = {"sc_threshold": "1000000000"}
    whole = make_video(tmp_path / "whole.avi", codec="mpeg4", b_frames=0, options=no_cuts).read_bytes()
    path = saved(tmp_path / "a.avi", with_garbage(whole, 0.5, 300))
    source = VideoSource(path)
    frames = list(source)
    damaged = [frame.index for frame in frames if frame.damaged]
    assert damaged == list(range(damaged[0], damaged[-1] + 1))
    assert (damaged[-1] + 1) % 12 == 0  # where the next group of pictures begins
    assert shown(frames)[damaged[-1] + 1 :] == list(range(damaged[-1] + 1, 40))
    assert len(source.info.failures) == 1
    with pytest.raises(SourceError, match=r"part of a picture is missing.* more video after it"):
        list(VideoSource(path, SourceOptions(strict=True)))


@pytest.mark.parametrize(
    ("codec", "options"),
    [("libx264", {"sc_threshold": "0", "crf": "35"}), ("libx265", {"x265-params": "hash=1:log-level=none:scenecut=0"})],
    ids=["h264", "h265 with checksums"],
)
def test_no_frame_that_differs_is_taken_for_a_whole_one(tmp_path, make_video, codec, options):
    whole = make_video(tmp_path / "whole.mp4", codec=codec, size=(120, 160), b_frames=0, options=options)
    sound = {round(frame.time, 2): frame.image for frame in VideoSource(str(whole))}
    with av.open(str(whole)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        places = [(packet.pos, packet.size) for packet in packets]
        keys = [index for index, packet in enumerate(packets) if packet.is_keyframe]
    for number in (5, 17, 30):
        start, size = places[number]
        whole_again = next(key for key in keys if key > number)
        data = bytearray(whole.read_bytes())
        data[start + size // 2 : start + size] = bytes(size - size // 2)
        source = VideoSource(saved(tmp_path / "a.mp4", data))
        frames = list(source)
        same = [i for i in range(40) if any(_same(frame, sound, i) and not frame.damaged for frame in frames)]
        assert same == [i for i in range(40) if not number <= i < whole_again]
        assert len([frame for frame in frames if not frame.damaged]) == len(same)
        (line,) = source.info.failures
        lost = 40 - len(frames)
        assert line.endswith(
            f"frames lost: {lost}, frames that may be wrong, up to the next key frame: {len(frames) - len(same)}"
        )
        assert source.info.warnings == []


def _same(frame: Frame, sound: dict[float, np.ndarray], index: int) -> bool:
    return round(frame.time, 2) == round(index / 25, 2) and np.array_equal(frame.image, sound[round(index / 25, 2)])


@pytest.mark.parametrize("into_a_picture", [0, 10, 100, 300, 500, 700])  # where the decoder may meet the damage too
def test_frames_that_the_demuxer_skips_leave_a_warning(tmp_path, make_video, shown, into_a_picture):
    # Bit-exact: Matroska's random ids would move the damage from run to run.
    path = make_video(tmp_path / "whole.mkv", muxer={"fflags": "+bitexact"})
    with av.open(str(path)) as container:
        start = [packet.pos for packet in container.demux(video=0)][20] + into_a_picture
    data = path.read_bytes()
    source = VideoSource(saved(tmp_path / "a.mkv", with_garbage(data, (start + 0.5) / len(data), 6000)))
    frames = list(source)
    assert len(frames) < 40
    assert shown(frames)[-1] == 39
    before, after = max(itertools.pairwise(frame.time for frame in frames), key=lambda pair: pair[1] - pair[0])
    lost = 40 - len(frames)
    room = f"room for {lost} frame{'s' * (lost > 1)} ({lost * 0.04:.2f} s) in all"
    expected = f"frames may be missing between {before:.2f} s and {after:.2f} s: {room}"
    assert source.info.warnings == [f"{source.info.name}: {expected}"]


def test_damage_and_an_early_end_are_both_said(tmp_path, indexed_mp4):
    source = VideoSource(saved(tmp_path / "both.mp4", cut(with_garbage(indexed_mp4, 0.3, 2000), 0.7)))
    assert list(source)
    assert len(source.info.failures) == 1
    assert "but it ends after" in source.info.warnings[0]


def test_a_glued_transport_stream_is_not_damaged(tmp_path, make_video):
    pieces = [make_video(tmp_path / f"{n}.ts", frames=n, b_frames=0).read_bytes() for n in (8, 9, 10)]
    source = VideoSource(saved(tmp_path / "glued.ts", b"".join(pieces)))
    frames = list(source)
    assert [round(frame.time / 0.04, 3) for frame in frames] == list(range(27))
    assert not any(frame.damaged for frame in frames)
    assert source.info.failures == []


def test_a_matroska_file_that_begins_late_is_whole(tmp_path):
    source = VideoSource(str(write_sounded(tmp_path / "late.mkv", frames=12, offset=100.0)))
    frames = list(source)
    assert (len(frames), frames[-1].time) == (12, pytest.approx(0.44))
    assert source.info.warnings == []


def test_glued_recordings_of_which_the_first_begins_late(tmp_path):
    first, second = (write_sounded(tmp_path / f"{at}.ts", frames=12, offset=at).read_bytes() for at in (100.0, 0.0))
    source = VideoSource(saved(tmp_path / "glued.ts", first + second + first))
    assert [round(frame.time / 0.04, 3) for frame in source] == list(range(36))
    assert source.info.failures == []
    assert not any("claims" in line for line in source.info.warnings)


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


def test_tables_that_no_memory_could_hold_are_damage(tmp_path):
    data = bytearray(write_sounded(tmp_path / "whole.mp4", frames=5).read_bytes())
    at = data.rindex(b"stts") + 8  # the number of entries, then samples and duration of each
    data[at + 4 : at + 8] = b"\xff" * 4
    data[at : at + 4] = (0x7FFFFFFF).to_bytes(4, "big")
    with pytest.raises(SourceError, match=r"a\.mp4: .* claims more than fits into memory: it is damaged"):
        VideoSource(saved(tmp_path / "a.mp4", data))


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
    list(VideoSource(saved(tmp_path / "broken.mp4", with_garbage(indexed_mp4, 0.5, 6000))))
    with pytest.raises(SourceError):
        VideoSource(saved(tmp_path / "none.mp4", b"nothing"))
    assert capfd.readouterr() == ("", "")


def test_a_frame_size_that_is_only_claimed_is_refused(tmp_path, indexed_mp4, monkeypatch):
    path = saved(tmp_path / "a.mp4", indexed_mp4)
    monkeypatch.setattr(decoding, "_MOST_PIXELS", 64 * 48 - 1)
    with pytest.raises(SourceError, match=r"a\.mp4: expected frames of at most .* but its header claims 64x48"):
        VideoSource(path)


def test_more_samples_than_there_are_take_no_memory(tmp_path, indexed_mp4):
    at = indexed_mp4.index(b"stts") + 8  # the number of entries, then samples and duration of each
    data = indexed_mp4[: at + 4] + (1 << 28).to_bytes(4, "big") + indexed_mp4[at + 8 :]
    path = saved(tmp_path / "a.mp4", data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for options in (SourceOptions(duration=0.4), SourceOptions(start=0.2), SourceOptions(stride=2)):
        source = VideoSource(path, options)
        assert list(source)
        assert len(source.info.image_ids) > 1e8
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB
