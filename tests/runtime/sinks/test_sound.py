"""The sound of the source in the annotated video: which packets, when, and where it can't be copied."""

from __future__ import annotations

import contextlib
import functools
import http.server
import os
import shutil
import threading
from pathlib import Path

import av
import numpy as np
import pytest
from sound_files import RATE, Sounded, pictures_of, plain, sound_of, write_sounded

from sharpose.runtime.frames import Frame, FrameRecord
from sharpose.runtime.options import SourceOptions, VideoSettings
from sharpose.runtime.result import Boxes, PoseResult
from sharpose.runtime.sinks.video import VideoSink
from sharpose.runtime.sources import open_source
from sharpose.runtime.sources.video import VideoSource

NOBODY = PoseResult(Boxes.empty(), np.zeros((0, 17, 3), np.float32), np.zeros(0, np.float32), np.zeros(0, np.bool_))


def annotate(
    source: Path,
    out: Path,
    *,
    frames: int | None = None,
    reading: SourceOptions | None = None,
    settings: VideoSettings | None = None,
    copies: list[Path] | None = None,
) -> list[str]:
    """Copies a video through the sink, up to so many frames; what is said. `copies`: the file as it is after each."""
    said: list[str] = []
    frames_of = VideoSource(str(source), reading)
    sink = VideoSink(out, frame_rate=RATE, sound=frames_of.info.sound, settings=settings, say=said.append)
    with contextlib.closing(frames_of), contextlib.closing(sink):
        for count, frame in enumerate(frames_of, 1):
            sink.write(FrameRecord(frame, NOBODY, lambda image, poses: image))
            if copies is not None:
                copies.append(out.with_name(f"copy{count}{out.suffix}"))
                shutil.copy(out, copies[-1])
            if count == frames:
                break
    return said


def same(found: list[Sounded], given: list[Sounded], codec: str, shift: float = 0.0, atol: float = 1.1e-3) -> None:
    """`found` are packets of `given`, one after the other, `shift` seconds later."""
    data = [plain(packet.data, codec) for packet in given]
    first = data.index(plain(found[0].data, codec))
    assert [plain(packet.data, codec) for packet in found] == data[first : first + len(found)]
    np.testing.assert_allclose(
        [packet.time for packet in found],
        [packet.time + shift for packet in given[first : first + len(found)]],
        atol=atol,
    )


@pytest.mark.parametrize(
    ("source", "codec", "out"),
    [
        ("in.mp4", "aac", ".mp4"),
        ("in.mp4", "aac", ".mkv"),
        ("in.mkv", "aac", ".mp4"),
        ("in.ts", "aac", ".mp4"),
        ("in.ts", "aac", ".mkv"),
        ("in.ts", "ac3", ".mp4"),
        ("in.mkv", "libopus", ".mp4"),
        ("in.mkv", "libopus", ".mkv"),
        ("in.mov", "pcm_s16le", ".mov"),
        ("in.avi", "libmp3lame", ".mp4"),
        ("in.mkv", "flac", ".mkv"),
    ],
)
def test_every_packet_of_sound_is_copied_at_its_time(tmp_path: Path, source: str, codec: str, out: str) -> None:
    given = write_sounded(tmp_path / source, sound=codec)
    assert annotate(given, tmp_path / f"o{out}") == []
    packets, first_picture = sound_of(given), 0.0 if source == "in.avi" else pictures_of(given)[0]
    found = sound_of(tmp_path / f"o{out}")
    same(found, packets, codec, -first_picture)
    assert found[0].time < 0.045
    times = [frame.time for frame in VideoSource(str(given))]
    np.testing.assert_allclose(pictures_of(tmp_path / f"o{out}"), times, atol=1.1e-3)
    assert times[-1] - 0.06 < found[-1].time < times[-1] + 0.04
    with av.open(str(tmp_path / f"o{out}")) as container:  # it can be decoded, from the first packet on
        assert sum(frame.samples for frame in container.decode(audio=0)) > 0.9 * 48_000


@pytest.mark.parametrize("name", ["in.mp4", "in.mkv", "in.ts"])
@pytest.mark.parametrize("out", [".mp4", ".mkv"])
def test_a_part_of_a_video_has_the_sound_of_that_part(tmp_path: Path, name: str, out: str) -> None:
    given = write_sounded(tmp_path / name, frames=120, offset=0.0 if name == "in.mp4" else 7.0)
    annotate(given, tmp_path / f"o{out}", reading=SourceOptions(start=3.2, duration=1.0, stride=3))
    found, begin = sound_of(tmp_path / f"o{out}"), pictures_of(given)[0] + 3.2
    same(found, sound_of(given), "aac", -begin)
    assert 0 <= found[0].time < 0.022
    np.testing.assert_allclose(pictures_of(tmp_path / f"o{out}"), np.arange(9) * 0.12, atol=1.1e-3)
    assert 0.96 < found[-1].time < 1.081  # it ends with the last picture, which is shown for 0.12 s


@pytest.mark.parametrize("out", [".mp4", ".mov", ".mkv"])
def test_an_interrupted_run_ends_both_together(tmp_path: Path, out: str) -> None:
    given = write_sounded(tmp_path / "in.mp4", frames=50)
    annotate(given, tmp_path / f"o{out}", frames=20)
    assert len(pictures_of(tmp_path / f"o{out}")) == 20
    assert 0.75 < sound_of(tmp_path / f"o{out}")[-1].time < 0.8


@pytest.mark.parametrize("out", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize(("begin", "seconds", "lost"), [(0.0, 1.8, 2), (0.0, 0.5, 3), (1.2, 0.6, 3), (0.4, 0.4, 3)])
def test_a_killed_run_leaves_pictures_and_sound(
    tmp_path: Path, out: str, begin: float, seconds: float, lost: int
) -> None:
    """Also where the sound begins late or ends early."""
    given = write_sounded(tmp_path / "in.mp4", frames=45, sound_from=begin, sound_seconds=seconds)
    copies: list[Path] = []
    annotate(given, tmp_path / f"o{out}", copies=copies)
    for done in (12, 36, 45):
        pictures = pictures_of(copies[done - 1])
        assert done - lost <= len(pictures) <= done
        np.testing.assert_allclose(pictures, np.arange(len(pictures)) / RATE, atol=1.1e-3)
        heard = sound_of(copies[done - 1])
        due = min(done / RATE - 0.1, begin + seconds - 0.05)
        assert (heard[-1].time if heard else 0.0) >= min(due, begin + seconds) - 0.05 or due < begin
    first = pictures_of(given)[0]
    same(sound_of(tmp_path / f"o{out}"), sound_of(given), "aac", -first)


def test_sound_lies_beside_its_pictures_in_the_file(tmp_path: Path) -> None:
    given = write_sounded(tmp_path / "in.mp4", frames=50)
    annotate(given, tmp_path / "o.mp4")
    with av.open(str(tmp_path / "o.mp4")) as container:
        packets = [
            (packet.pos, float(packet.pts * packet.time_base)) for packet in container.demux() if packet.pos is not None
        ]
    times = np.array([time for _, time in sorted(packets)])
    assert len(times) > 90
    assert (np.maximum.accumulate(times) - times).max() < 0.1


@pytest.mark.parametrize(("begin", "out"), [(9.0, ".mkv"), (100.0, ".mkv"), (100.0, ".mp4")])
def test_glued_files_keep_pictures_and_sound_together(tmp_path: Path, begin: float, out: str) -> None:
    first, second = (
        write_sounded(tmp_path / f"{name}.ts", frames=frames, offset=offset)
        for name, frames, offset in (("a", 50, begin), ("b", 40, 2.0))
    )
    glued = tmp_path / "glued.ts"
    glued.write_bytes(first.read_bytes() + second.read_bytes())
    annotate(glued, tmp_path / f"o{out}")
    pictures, found = pictures_of(tmp_path / f"o{out}"), sound_of(tmp_path / f"o{out}")
    np.testing.assert_allclose(pictures, np.arange(90) / RATE, atol=1.1e-3)
    packets = sound_of(second)
    where = {plain(packet.data, "aac"): packet.time for packet in packets}
    late = [(packet.time, where[packet.data]) for packet in found if packet.time > 2.3]
    assert len(late) > 50
    shift = 2.0 - pictures_of(second)[0]  # the second file's first picture is the 51st
    np.testing.assert_allclose([time for time, _ in late], [time + shift for _, time in late], atol=2e-3)


@pytest.mark.parametrize("out", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("settings", [VideoSettings(), VideoSettings(audio="none")], ids=["sound", "silent"])
def test_a_gap_that_the_container_cannot_hold_is_closed(tmp_path: Path, out: str, settings: VideoSettings) -> None:
    given, name = leaping(tmp_path / "in.mkv", 25_000), tmp_path / f"o{out}"
    said = annotate(given, name, settings=settings)
    gap = 25_000 * (out == ".mkv")
    expected = np.arange(50) / RATE + np.where(np.arange(50) < 25, 0, gap)
    np.testing.assert_allclose(pictures_of(name), expected, atol=1.1e-3)
    closed = f"{name}: the gap of 6.9 h after 0.96 s is closed: {out} holds at most 6.5 h without a picture"
    assert said == ([] if gap else [f"{closed}; take .mkv to keep it"])
    if settings.audio == "copy":
        times = [packet.time for packet in sound_of(name)]
        assert len(times) > 90
        assert max(np.diff(times)) < gap + 0.1
        assert gap + 1.9 < times[-1] < gap + 2.02


def leaping(path: Path, seconds: float) -> Path:
    """Two seconds of pictures and sound, the second one `seconds` late."""
    with (
        av.open(str(write_sounded(path.with_suffix(".mp4"), frames=50))) as given,
        av.open(str(path), "w") as container,
    ):
        streams = {stream: container.add_stream_from_template(stream) for stream in given.streams}
        for packet in given.demux():
            if packet.dts is not None:
                leap = round(seconds / packet.time_base) if packet.pts * packet.time_base >= 1 else 0
                packet.pts, packet.dts = packet.pts + leap, packet.dts + leap
                packet.stream = streams[packet.stream]
                container.mux(packet)
    return path


def test_without_sound(tmp_path: Path) -> None:
    given = write_sounded(tmp_path / "in.mp4")
    assert annotate(given, tmp_path / "o.mp4", settings=VideoSettings(audio="none")) == []
    assert sound_of(tmp_path / "o.mp4") == []
    assert len(pictures_of(tmp_path / "o.mp4")) == 25


def test_a_codec_that_the_container_does_not_take_is_said(tmp_path: Path) -> None:
    given = write_sounded(tmp_path / "in.mkv", sound="pcm_u8")
    (line,) = annotate(given, tmp_path / "o.mp4")
    left_out = f"{tmp_path / 'o.mp4'}: the sound of {given} is left out"
    assert line == f"{left_out}: .mp4 can't hold pcm_u8; take .mov or .mkv"
    assert sound_of(tmp_path / "o.mp4") == []
    assert len(pictures_of(tmp_path / "o.mp4")) == 25
    assert annotate(given, tmp_path / "o.mkv") == []
    same(sound_of(tmp_path / "o.mkv"), sound_of(given), "pcm_u8", -pictures_of(given)[0])
    (line,) = annotate(write_sounded(tmp_path / "in.wmv", sound="wmav2"), tmp_path / "o.mov")
    assert line.endswith("in.wmv is left out: .mov can't hold wmav2")


@pytest.mark.parametrize("out", [".mp4", ".mkv"])
def test_damaged_sound_costs_no_picture(tmp_path: Path, out: str) -> None:
    given = write_sounded(tmp_path / "in.ts", frames=75)
    data, chance = bytearray(given.read_bytes()), np.random.default_rng(0)
    with av.open(str(given)) as container:
        stream = container.streams.audio[0].id
    places = [at for at in range(0, len(data), 188) if (data[at + 1] & 31) << 8 | data[at + 2] == stream]
    for at in places[len(places) // 3 : len(places) // 2]:
        data[at + 8 : at + 188] = chance.integers(0, 256, 180, dtype=np.uint8).tobytes()
    damaged = tmp_path / "damaged.ts"
    damaged.write_bytes(data)
    annotate(damaged, tmp_path / f"o{out}")
    assert len(pictures_of(tmp_path / f"o{out}")) == 75
    found, whole = sound_of(tmp_path / f"o{out}"), {plain(packet.data, "aac") for packet in sound_of(given)}
    heard = [packet.time for packet in found if packet.data in whole]
    assert len(heard) > 70
    assert heard[0] < 0.05
    assert heard[-1] > 2.8


@pytest.mark.skipif(not hasattr(av.stream, "Discard"), reason="this PyAV can't pass over a stream")
@pytest.mark.parametrize("table", [b"stco", b"stsz"])
def test_damaged_tables_of_the_sound_cost_no_picture(tmp_path: Path, table: bytes) -> None:
    data = bytearray(write_sounded(tmp_path / "in.mp4", frames=50).read_bytes())
    at = data.rindex(table) + (12 if table == b"stco" else 8)  # offsets of chunks; the size of all samples
    data[at : at + (32 if table == b"stco" else 4)] = b"\xff" * (32 if table == b"stco" else 4)
    given = tmp_path / "damaged.mp4"
    given.write_bytes(data)
    said = annotate(given, tmp_path / "o.mp4")
    why = "not one packet of it can be read; it is empty, or its index is damaged"
    assert said == [f"{tmp_path / 'o.mp4'}: the sound of {given} is left out: {why}"]
    np.testing.assert_allclose(pictures_of(tmp_path / "o.mp4"), np.arange(50) / RATE, atol=1.1e-3)


def test_sound_that_ends_before_the_first_frame_is_said(tmp_path: Path) -> None:
    given = write_sounded(tmp_path / "in.mp4", frames=60, sound_seconds=0.5)
    (line,) = annotate(given, tmp_path / "o.mp4", reading=SourceOptions(start=2.0))
    assert line == f"{tmp_path / 'o.mp4'}: the sound of {given} is left out: it ends before the first frame"
    assert len(pictures_of(tmp_path / "o.mp4")) == 10


def test_sound_that_is_gone_when_the_run_begins_is_said(tmp_path: Path) -> None:
    given = write_sounded(tmp_path / "in.mp4", frames=5)
    source = VideoSource(str(given))
    said: list[str] = []
    sink = VideoSink(tmp_path / "o.mp4", sound=source.info.sound, say=said.append)
    frames = list(source)
    given.unlink()
    for frame in frames:
        sink.write(FrameRecord(frame, NOBODY, lambda image, poses: image))
    sink.close()
    (line,) = said
    assert line == f"{tmp_path / 'o.mp4'}: the sound of {given} is left out: No such file or directory"
    assert len(pictures_of(tmp_path / "o.mp4")) == 5


def test_a_codec_whose_header_is_lost_is_left_out(tmp_path: Path) -> None:
    data = write_sounded(tmp_path / "in.mkv", sound="flac").read_bytes()
    at = data.rindex(b"\x63\xa2", 0, data.index(b"fLaC"))  # Matroska's element CodecPrivate
    given = tmp_path / "lost.mkv"
    given.write_bytes(data[:at] + b"\x63\xa3" + data[at + 2 :])
    (line,) = annotate(given, tmp_path / "o.mp4")
    assert line == f"{tmp_path / 'o.mp4'}: the sound of {given} is left out: the header of its codec is missing"
    assert len(pictures_of(tmp_path / "o.mp4")) == 25


@pytest.mark.parametrize("out", [".mp4", ".mkv"])
def test_a_kill_inside_a_write_or_while_closing_loses_nothing_more(
    tmp_path: Path, out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, copy = write_sounded(tmp_path / "in.mp4", frames=8), tmp_path / f"copy{out}"
    states: list[tuple[int, int]] = []
    pwrite = os.pwrite

    def in_pieces(descriptor: int, data: bytes, position: int) -> int:
        size = len(data) if len(data) <= 8 else max(1, len(data) // 3)
        written = pwrite(descriptor, bytes(data[:size]), position)
        shutil.copy(tmp_path / f"o{out}", copy)
        with contextlib.suppress(av.FFmpegError):  # before the header is whole
            states.append((len(pictures_of(copy)), len(sound_of(copy))))
        return written

    monkeypatch.setattr(os, "pwrite", in_pieces)
    annotate(given, tmp_path / f"o{out}")
    assert len(states) > 40
    assert [pictures for pictures, _ in states] == sorted(pictures for pictures, _ in states)
    assert [packets for _, packets in states] == sorted(packets for _, packets in states)
    assert states[-1] == (8, len(sound_of(tmp_path / f"o{out}")))
    assert states[-1][1] > 13


def test_a_file_on_a_server_has_its_sound(tmp_path: Path) -> None:
    given = write_sounded(tmp_path / "in.mkv")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        source = open_source(f"http://127.0.0.1:{server.server_address[1]}/in.mkv")
        said: list[str] = []
        sink = VideoSink(tmp_path / "o.mkv", sound=source.info.sound, say=said.append)
        with contextlib.closing(source), contextlib.closing(sink):
            for frame in source:
                sink.write(FrameRecord(frame, NOBODY, lambda image, poses: image))
        server.shutdown()
    assert said == []
    same(sound_of(tmp_path / "o.mkv"), sound_of(given), "aac", -pictures_of(given)[0])


@pytest.mark.parametrize("address", ["http://user:secret@127.0.0.1:9/in.mp4", "file:/nowhere/in.mp4"])
def test_a_password_is_not_said_with_the_sound(tmp_path: Path, address: str) -> None:
    said: list[str] = []
    sink = VideoSink(tmp_path / "o.mp4", sound=address, say=said.append)
    sink.write(
        FrameRecord(Frame(np.zeros((48, 64, 3), np.uint8), 0, 0.0, 0, stamp=0.0), NOBODY, lambda image, _: image)
    )
    sink.close()
    (line,) = said
    assert line.startswith(
        f"{tmp_path / 'o.mp4'}: the sound of {address.removeprefix('file:')}".replace("user:secret", "***")
    )
    assert "secret" not in line
