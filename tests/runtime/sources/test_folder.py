"""What folders and globs hold, and which sources that makes."""

from __future__ import annotations

from pathlib import Path

import pytest

from sharpose.errors import SourceError
from sharpose.runtime.sources.folder import list_files
from sharpose.runtime.sources.open import source_names, sources_in
from sharpose.runtime.sources.pictures import PictureSource


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


@pytest.mark.parametrize(
    ("files", "glob", "found"),
    [
        ([], "", "the folder holds no file"),
        (["a.txt", "b.csv"], "", r"the folder holds 2 other files \(.csv, .txt\)"),
        (["._a.mp4"], "", r"the folder holds 1 other file \(.mp4\)"),
        ([], "/*.jpg", "the glob matches no file"),
    ],
)
def test_nothing_to_read_says_what_is_there(tmp_path: Path, files: list[str], glob: str, found: str) -> None:
    fill(tmp_path, *files)
    expected = r"expected pictures \(jpg jpeg jfif png bmp webp tif tiff\) or videos, but"
    with pytest.raises(SourceError, match=f"{expected} {found}$"):
        list_files(f"{tmp_path}{glob}")


def test_videos_are_told_from_pictures_and_the_rest_is_counted(tmp_path: Path) -> None:
    fill(tmp_path, "b10.MKV", "b2.mp4", "x.gif", "1.png", "0.JPG", "._b2.mp4", "notes.txt", "Makefile", "sub/c.mp4")
    listing = list_files(str(tmp_path))
    assert [path.name for path in listing.pictures] == ["0.JPG", "1.png"]
    assert [path.name for path in listing.videos] == ["b2.mp4", "b10.MKV", "x.gif"]
    assert listing.left_out == (
        "2 files that are neither pictures nor videos: .txt, no suffix; 1 subfolder (a glob with ** reaches into "
        "subfolders)"
    )
    nested = list_files(f"{tmp_path}/**/*.mp4")
    assert [path.name for path in nested.videos] == ["b2.mp4", "c.mp4"]
    assert (nested.pictures, nested.left_out) == ([], "")


def test_a_folder_stands_for_its_pictures_and_each_video(tmp_path: Path) -> None:
    said: list[str] = []
    both, videos = fill(tmp_path / "both", "a.png", "w.mp4", "n.txt"), fill(tmp_path / "v", "w.avi", "n.txt", "2.mp4")
    assert sources_in(str(both), said.append) == [str(both), f"{both}/w.mp4"]
    assert said == []  # the pictures' source counts
    assert sources_in(f"file://{videos}", said.append) == [f"{videos}/2.mp4", f"{videos}/w.avi"]
    assert said == [f"file://{videos}: left out 1 file that is neither a picture nor a video: .txt"]
    for spec in (
        "scene",
        "-",
        "0",
        "rtsp://cam/a",
        str(both / "a.png"),
        str(both / "w.mp4"),
        f"{both}/*.png",
        "nothing",
    ):
        assert sources_in(spec) == [spec]
    assert source_names([f"{both}/*", f"{both}/w.mp4", f"{videos}/w.avi"]) == ["both", "w", "w-2"]
    with pytest.raises(SourceError, match=r"expected pictures, found 2 videos; 1 file .*; open each video"):
        PictureSource(str(videos))
