from __future__ import annotations

import base64
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from sharpose.errors import SourceError
from sharpose.runtime.sources import pictures
from sharpose.runtime.sources.picture_header import read_header
from sharpose.runtime.sources.pictures import PictureSource, captured_complaints, quiet_opencv, read_picture

# 16x16 of C 0, M 200, Y 200, K 0: red.
CMYK_JPEG = base64.b64decode(
    "/9j/7gAOQWRvYmUAZAAAAAAA/9sAQwADAgIDAgIDAwMDBAMDBAUIBQUEBAUKBwcGCAwKDAwLCgsLDQ4SEA0OEQ4LCxAWEBETFBUVFQwPFxgW"
    "FBgSFBUU/8AAFAgAEAAQBEMRAE0RAFkRAEsRAP/EABYAAQEBAAAAAAAAAAAAAAAAAAAICf/EABQQAQAAAAAAAAAAAAAAAAAAAAD/2gAOBEMA"
    "TQBZAEsAAD8A1TR4jxqmAAAA/9k="
)


def gradient(height: int = 24, width: int = 40) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 5, y * 8, np.full_like(x, 90)], axis=2).astype(np.uint8)


def save(path: Path, image: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    encoded = cv2.imencode(path.suffix, gradient() if image is None else image)[1]
    path.write_bytes(encoded.tobytes())
    return path


def with_orientation(jpeg: bytes, orientation: int) -> bytes:
    """The JPEG with an EXIF block that holds nothing but the orientation tag."""
    tiff = (
        b"MM\x00\x2a\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01" + bytes([0, orientation, 0, 0]) + bytes(4)
    )
    block = b"Exif\x00\x00" + tiff
    return jpeg[:2] + b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block + jpeg[2:]


def test_a_folder_in_natural_order(tmp_path):
    for index, name in enumerate(["img10.png", "img2.png", "IMG1.PNG", "img1.bmp"]):
        save(tmp_path / name.lower(), np.full((4 + index, 6, 3), index * 40, np.uint8)).rename(tmp_path / name)
    (tmp_path / "readme.txt").write_text("no picture")
    (tmp_path / "._img2.png").write_bytes(b"a macOS leftover")
    save(tmp_path / "sub" / "img3.png")
    source = PictureSource(str(tmp_path))
    frames = list(source)
    assert [path.name for path in source.paths] == ["IMG1.PNG", "img1.bmp", "img2.png", "img10.png"]
    assert [frame.height for frame in frames] == [6, 7, 5, 4]
    assert [(frame.index, frame.time, frame.image_id) for frame in frames] == [(i, float(i), i) for i in range(4)]
    assert (source.info.frame_count, source.info.image_ids, source.info.frame_rate) == (4, frozenset(range(4)), 1.0)
    assert source.info.name == str(tmp_path)
    assert source.info.warnings == [
        f"{tmp_path}: left out 1 file that is neither a picture nor a video: .txt; 1 subfolder (a glob with ** reaches "
        "into subfolders)"
    ]


def test_what_a_folder_holds_besides_pictures_is_counted(tmp_path, monkeypatch):
    save(tmp_path / "a.png")
    save(tmp_path / ".hidden.jpg")
    (tmp_path / "._a.png").write_bytes(b"a macOS leftover")
    (tmp_path / ".DS_Store").write_bytes(b"x")
    (tmp_path / "dir.jpg").mkdir()
    save(tmp_path / "sub" / "b.png")
    os.mkfifo(tmp_path / "pipe.jpg")
    monkeypatch.chdir(tmp_path)  # a socket's path may not be long
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket.jpg")
    source = PictureSource(str(tmp_path))
    assert [path.name for path in source.paths] == ["a.png"]
    what = "1 hidden picture; 1 pipe; 1 socket; 2 subfolders (a glob with ** reaches into subfolders)"
    assert source.info.warnings == [f"{tmp_path}: left out {what}"]
    assert PictureSource(f"{tmp_path}/**/*.png").info.warnings == []


def test_a_link_to_nothing_is_a_picture_that_cannot_be_read(tmp_path):
    save(tmp_path / "a.png")
    (tmp_path / "lost.jpg").symlink_to(tmp_path / "gone.jpg")
    (tmp_path / "round.jpg").symlink_to(tmp_path / "round.jpg")
    source = PictureSource(str(tmp_path))
    assert [frame.file_name for frame in source] == ["a.png"]
    lost = f"{tmp_path}/lost.jpg: expected a picture that can be read: a link to nothing; left out"
    assert source.info.failures[0] == lost
    assert source.info.failures[-1] == f"{tmp_path}: 2 of 3 picture files could not be read, or not whole"
    with pytest.raises(SourceError, match="a link to nothing"):
        list(PictureSource(str(tmp_path), strict=True))


def test_a_pipe_named_like_a_picture_is_called_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "p.jpg")
    with pytest.raises(SourceError, match=r"expected pictures .*, but this is a pipe$"):
        PictureSource(str(tmp_path / "p.jpg"))
    with pytest.raises(SourceError, match=r"but the folder holds 1 pipe$"):
        PictureSource(str(tmp_path))


def test_a_name_that_is_not_utf8_is_written_with_its_bytes(tmp_path):
    save(tmp_path / "a.png")
    save(tmp_path / "b.png").rename(os.fsdecode(os.fsencode(tmp_path) + b"/x\xff.png"))
    source = PictureSource(str(tmp_path))
    assert [frame.file_name for frame in source] == ["a.png", r"x\xff.png"]
    note = r"1 picture file with a name that is not UTF-8: results write its bytes as \xNN"
    assert source.info.warnings == [f"{tmp_path}: {note}"]


def test_frames_name_their_files(tmp_path):
    for name in ["a/1.png", "a/2.png", "b/1.png"]:
        save(tmp_path / name)
    source = PictureSource(f"{tmp_path}/a")
    frames = list(source)
    assert not source.info.timed
    assert [(frame.file_name, frame.timed, frame.time) for frame in frames] == [
        ("1.png", False, 0),
        ("2.png", False, 1),
    ]
    names = [frame.file_name for frame in PictureSource(f"{tmp_path}/**/*.png")]
    assert names == [f"{tmp_path}/a/1.png", "2.png", f"{tmp_path}/b/1.png"]


def test_digits_are_ids(tmp_path):
    for name in ["000000000785.jpg", "12.png", "x7.png"]:
        save(tmp_path / name)
    source = PictureSource(str(tmp_path))
    assert [frame.image_id for frame in source] == [12, 785, 2]
    assert source.info.image_ids == {2, 12, 785}


@pytest.mark.parametrize(
    ("names", "ids", "note"),
    [
        (["a.jpg", "b.jpg"], [0, 1], None),
        (["7.jpg", "b.jpg"], [7, 1], None),
        (["01.png", "1.jpg", "b.jpg"], [0, 1, 2], "01.png have the same number: image ids are positions, from 0"),
        (["1.jpg", "2.jpg", "b.jpg"], [1, 2, 3], "b.jpg has the image id 3, as {}2.jpg has its position 2"),
        (["1.jpg", "2.jpg", "9.jpg", "b.jpg", "c.jpg", "4.jpg"], [1, 2, 4, 9, 10, 5], "b.jpg has the image id 10, as"),
    ],
)
def test_no_two_pictures_have_one_id(tmp_path, names, ids, note):
    for name in names:
        save(tmp_path / name)
    source = PictureSource(str(tmp_path))
    assert [frame.image_id for frame in source] == list(source.info.pictures.values()) == ids
    assert source.info.id_note is None if note is None else note.format(f"{tmp_path}/") in source.info.id_note


def test_one_file(tmp_path):
    path = save(tmp_path / "0042.png")
    (frame,) = PictureSource(str(path))
    assert (frame.image_id, frame.index, frame.time) == (42, 0, 0.0)
    np.testing.assert_array_equal(frame.image, gradient())


def test_globs(tmp_path):
    for name in ["a/1.png", "a/2.jpg", "a/note.txt", "b/c/3.png"]:
        save(tmp_path / name) if not name.endswith("txt") else (tmp_path / name).write_text("no picture")
    assert [path.name for path in PictureSource(f"{tmp_path}/a/*").paths] == ["1.png", "2.jpg"]
    assert [path.name for path in PictureSource(f"{tmp_path}/**/*.png").paths] == ["1.png", "3.png"]
    assert [path.name for path in PictureSource(f"{tmp_path}/a/[2-9].*").paths] == ["2.jpg"]


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".tiff", ".webp", ".jpg", ".jpeg"])
def test_every_suffix_is_read(tmp_path, suffix):
    image, _ = read_picture(save(tmp_path / f"a{suffix}"))
    tolerance = 0 if suffix in (".png", ".bmp", ".tif", ".tiff") else 12
    np.testing.assert_allclose(image.astype(int), gradient(), atol=tolerance)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_grey_deep_and_transparent_pictures_become_bgr(tmp_path, suffix):
    image = gradient()
    grey, _ = read_picture(save(tmp_path / f"grey{suffix}", image[:, :, 0]))
    np.testing.assert_array_equal(grey, np.repeat(image[:, :, :1], 3, axis=2))
    np.testing.assert_array_equal(
        read_picture(save(tmp_path / f"deep{suffix}", image.astype(np.uint16) * 257))[0], image
    )
    transparent = np.dstack([image, np.full(image.shape[:2], 128, np.uint8)])
    np.testing.assert_array_equal(read_picture(save(tmp_path / f"clear{suffix}", transparent))[0], image)


def test_cmyk(tmp_path):
    path = tmp_path / "print.jpg"
    path.write_bytes(CMYK_JPEG)
    np.testing.assert_allclose(read_picture(path)[0][8, 8], (55, 55, 255), atol=3)


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, -1), (8, 1)])
def test_exif_rotation_is_applied(tmp_path, orientation, turns):
    path = tmp_path / "phone.jpg"
    jpeg = cv2.imencode(".jpg", gradient(), [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
    path.write_bytes(with_orientation(jpeg, orientation))
    np.testing.assert_allclose(read_picture(path)[0].astype(int), np.rot90(gradient(), turns), atol=6)


def test_names_in_any_script(tmp_path):
    path = save(tmp_path / "bücher 図 💡" / "é.jpg")
    assert len(list(PictureSource(str(path.parent)))) == 1


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp", ".tif"])
@pytest.mark.parametrize("content", ["cut", "text", "empty"])
def test_what_can_not_be_decoded_is_named(tmp_path, capfd, suffix, content):
    if (suffix, content) == (".jpg", "cut") and int(cv2.__version__.split(".")[0]) < 5:
        pytest.skip("OpenCV 4 fills up a JPEG that was cut off; the missing end is a warning there")
    noise = np.random.default_rng(0).integers(0, 255, (50, 60, 3), dtype=np.uint8)
    path = save(tmp_path / f"3{suffix}", noise)
    save(tmp_path / "1.png")
    data = path.read_bytes()
    path.write_bytes({"cut": data[: len(data) // 2], "text": b"hello, world " * 9, "empty": b""}[content])
    source = iter(PictureSource(str(tmp_path), strict=True))
    assert next(source).image_id == 1
    with pytest.raises(SourceError, match=rf"3\{suffix}: expected a picture") as caught:
        next(source)
    assert "\n" not in str(caught.value)
    left_out = PictureSource(str(tmp_path))
    assert [frame.image_id for frame in left_out] == [1]
    assert left_out.info.failures == [
        f"{caught.value}; left out",
        f"{tmp_path}: 1 of 2 picture files could not be read, or not whole",
    ]
    assert capfd.readouterr() == ("", "")


def test_a_broken_picture_is_left_out_and_the_others_keep_their_place(tmp_path):
    for name in ("a.png", "c.png"):
        save(tmp_path / name)
    (tmp_path / "b.png").write_bytes(b"no picture")
    source = PictureSource(str(tmp_path))
    assert [(frame.index, frame.time, frame.image_id) for frame in source] == [(0, 0.0, 0), (2, 2.0, 2)]
    assert len(source.info.failures) == 2


def test_not_one_picture_can_be_read(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"no picture")
    with pytest.raises(SourceError, match=r"none of 2 pictures can be read; the first: .*a\.png: expected a picture"):
        list(PictureSource(str(tmp_path)))


def test_a_jfif_is_a_picture(tmp_path):
    save(tmp_path / "a.jpg").rename(tmp_path / "a.jfif")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "b.gif").write_bytes(b"x")
    source = PictureSource(str(tmp_path))
    assert len(list(source)) == 1
    assert source.info.warnings == [f"{tmp_path}: left out 1 video; 1 file that is neither a picture nor a video: .txt"]


several = pytest.mark.skipif(not hasattr(cv2, "imdecodeanimation"), reason="OpenCV before 4.11 has no animations")


def save_animation(path: Path, shades: list[int], durations: list[int]) -> Path:
    animation = cv2.Animation()
    animation.frames = [np.full((20, 30, 3), shade, np.uint8) for shade in shades]
    animation.durations = durations
    assert cv2.imwriteanimation(str(path), animation)
    return path


@several
@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_all_pictures_of_an_animation_in_its_time(tmp_path, suffix):
    path = save_animation(tmp_path / f"a{suffix}", [10, 90, 200], [200, 600, 100])
    source = PictureSource(str(path))
    frames = list(source)
    assert source.info.frame_count == 3
    assert source.info.frame_rate == pytest.approx(3 / 0.9)
    assert [round(float(frame.image.mean())) for frame in frames] == pytest.approx([10, 90, 200], abs=3)
    assert [frame.time for frame in frames] == pytest.approx([0, 0.2, 0.8])
    assert [frame.image_id for frame in frames] == [0, 1, 2]
    assert [(frame.file_name, frame.timed) for frame in frames] == [(f"a{suffix}", True)] * 3
    assert source.info.timed
    assert source.info.failures == source.info.warnings == []


@several
def test_an_animation_of_a_size_that_is_only_claimed_is_refused(tmp_path):
    path = save_animation(tmp_path / "a.png", [10, 90], [200, 600])
    data = bytearray(path.read_bytes())
    data[16:24] = 2 * (6000).to_bytes(4, "big")
    path.write_bytes(data)
    with pytest.raises(SourceError, match="at most 25 million pixels, but its header claims 6000x6000"):
        list(PictureSource(str(path)))


def test_a_chunk_that_claims_more_than_there_is(tmp_path):
    path = save(tmp_path / "a.png")
    data = bytearray(path.read_bytes())
    at = data.index(b"IDAT")
    data[at - 4 : at] = (0xFFFF0000).to_bytes(4, "big")
    path.write_bytes(data)
    with pytest.raises(SourceError, match=r"a\.png: expected a picture, but it is longer than the file"):
        list(PictureSource(str(path)))


def save_pages(path: Path, shades: list[int]) -> Path:
    assert cv2.imwritemulti(str(path), [np.full((20, 30, 3), shade, np.uint8) for shade in shades])
    return path


def test_all_pages_of_a_tiff_among_other_pictures(tmp_path):
    save(tmp_path / "a.png")
    save_pages(tmp_path / "b.tif", [10, 90, 200])
    save(tmp_path / "c.png")
    source = PictureSource(str(tmp_path))
    frames = list(source)
    assert source.info.frame_count == 5
    assert [(frame.index, frame.time, frame.image_id) for frame in frames] == [(i, float(i), i) for i in range(5)]
    assert [int(frame.image[0, 0, 0]) for frame in frames[1:4]] == [10, 90, 200]
    assert list(source.info.pictures.values()) == list(range(5))


def test_pages_are_decoded_a_few_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "_DECODED_BYTES", 2 * 3 * 20 * 30)
    path = save_pages(tmp_path / "b.tif", [10, 20, 30, 40, 50])
    assert [int(frame.image[0, 0, 0]) for frame in PictureSource(str(path))] == [10, 20, 30, 40, 50]


def test_memory_does_not_grow_with_the_pages(tmp_path):
    code = (
        "import resource, sys; from sharpose.runtime.sources.pictures import PictureSource\n"
        "for path in sys.argv[1:]:\n"
        "    print(len(list(map(lambda frame: frame.index, PictureSource(path)))))\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    paths = []
    for pages in (4, 24):
        paths.append(str(tmp_path / f"{pages}.tif"))
        assert cv2.imwritemulti(paths[-1], [np.zeros((1200, 1200, 3), np.uint8)] * pages)
    done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, check=True)
    numbers = list(map(int, done.stdout.split()))
    assert numbers[::2] == [4, 24]
    peaks = numbers[1::2]
    assert peaks[1] - peaks[0] < 25_000  # KiB; 20 pages are 84,375


def test_a_tiff_that_lacks_a_page_is_not_whole(tmp_path):
    path = save_pages(tmp_path / "b.tif", [10, 90, 200])
    data = bytearray(path.read_bytes())
    with path.open("rb") as file:
        assert read_header(file).durations == (1.0,) * 3
    offset = int.from_bytes(data[4:8], "little")  # of the first directory, whose end says where the second is
    end = offset + 2 + 12 * int.from_bytes(data[offset : offset + 2], "little")
    data[end : end + 4] = len(data).to_bytes(4, "little")
    path.write_bytes(data)
    source = PictureSource(str(path))
    assert len(list(source)) == 1
    assert source.info.failures[0] == f"{path}: holds 2 pictures, but only 1 of them can be decoded; left out"


def tiff_of(*pages: tuple[np.ndarray, int]) -> bytes:
    """A TIFF of grey pages with their NewSubfileType (1: a reduced picture)."""
    data, pointer = bytearray(b"II*\0\0\0\0\0"), 4
    for image, kind in pages:
        height, width = image.shape
        start = len(data)
        data += image.tobytes() + bytes(image.size % 2)
        struct.pack_into("<I", data, pointer, len(data))
        tags = {254: kind, 256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: start, 278: height, 279: image.size}
        data += struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", tag, 4, 1, tags[tag]) for tag in tags)
        pointer = len(data)
        data += bytes(4)
    return bytes(data)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_thumbnail_in_a_tiff_is_no_picture(tmp_path, order):
    pages = [(np.full((200, 300), 180, np.uint8), 0), (np.full((20, 30), 50, np.uint8), 1)]
    (tmp_path / "b.tif").write_bytes(tiff_of(*(pages[place] for place in order)))
    source = PictureSource(str(tmp_path / "b.tif"))
    assert [(frame.image.shape, int(frame.image[0, 0, 0])) for frame in source] == [((200, 300, 3), 180)]
    assert source.info.warnings == source.info.failures == []


@pytest.mark.parametrize("cut", [1, 4])
def test_a_tiff_without_its_last_bytes_has_no_further_page(tmp_path, cut):
    (tmp_path / "b.tif").write_bytes(tiff_of((np.full((200, 300), 180, np.uint8), 0))[:-cut])
    image, complaint = read_picture(tmp_path / "b.tif")
    assert (image.shape, int(image[0, 0, 0]), complaint) == ((200, 300, 3), 180, None)


def test_damage_inside_a_png_is_an_error_and_stays_off_the_terminal(tmp_path, capfd):
    noise = np.random.default_rng(0).integers(0, 255, (50, 60, 3), dtype=np.uint8)
    path = save(tmp_path / "a.png", noise)
    data = path.read_bytes()
    path.write_bytes(data[:2000] + bytes(300) + data[2300:])
    with pytest.raises(SourceError, match=r"a\.png: expected a picture"):
        read_picture(path)
    assert capfd.readouterr() == ("", "")


def test_damage_that_libjpeg_gets_over_is_a_warning(tmp_path, capfd):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    path = save(tmp_path / "a.jpg", noise)
    data = path.read_bytes()
    path.write_bytes(data[:2000] + b"\xff\xd9" + data[2300:])  # ends, for the decoder, in the middle
    source = PictureSource(str(path))
    assert len(list(source)) == 1
    assert len(source.info.warnings) == 1
    assert source.info.warnings[0].startswith(f"{path}: may be damaged (")
    assert capfd.readouterr() == ("", "")


def test_a_jpeg_without_an_end_is_a_warning(tmp_path):
    path = save(tmp_path / "a.jpg", np.random.default_rng(0).integers(0, 255, (50, 60, 3), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:-2])
    source = PictureSource(str(path))
    assert len(list(source)) == 1
    assert source.info.warnings == [f"{path}: may be damaged (it ends early)"]


def test_a_picture_that_vanishes(tmp_path):
    path = save(tmp_path / "1.png")
    source = PictureSource(str(tmp_path))
    path.unlink()
    with pytest.raises(SourceError, match=r"1\.png: .*No such file"):
        list(source)


def test_only_the_codecs_lines_are_kept_from_standard_error(capfd):
    with captured_complaints() as complaints:
        os.write(2, b"libpng error: bad\nprogress 3/4\r\nCorrupt JPEG data: 3 bytes\nTraceback\n")
        os.write(1, b"out\n")
    assert complaints == ["libpng error: bad", "Corrupt JPEG data: 3 bytes"]
    assert capfd.readouterr() == ("out\n", "progress 3/4\r\nTraceback\n")


@pytest.mark.shared
def test_coco_pictures(shared_dir):
    source = PictureSource(str(shared_dir / "data" / "coco_tiny" / "val2017"))
    frames = list(source)
    assert len(frames) == source.info.frame_count == 49
    assert {frame.image_id for frame in frames} == source.info.image_ids
    assert {int(path.stem) for path in source.paths} == source.info.image_ids


def test_opencvs_log_speaks_again_after_the_last_thread() -> None:
    log = getattr(cv2.utils, "logging", cv2)
    before = log.getLogLevel()
    log.setLogLevel(3)
    try:
        first, second = quiet_opencv(), quiet_opencv()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert log.getLogLevel() == 0
        second.__exit__(None, None, None)
        assert log.getLogLevel() == 3
    finally:
        log.setLogLevel(before)
