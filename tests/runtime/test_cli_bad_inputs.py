"""Sources, boxes and detectors that `sharpose-run` refuses: in one line, with exit code 2."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from cli_files import write_boxes, write_detector, write_video


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_video(tmp_path / "video.mp4")


def half_a_header(folder: Path) -> str:
    whole = write_video(folder / "whole.mp4", faststart=True).read_bytes()
    (folder / "half.mp4").write_bytes(whole[:300])
    return "half.mp4"


def made(name: str, content: bytes | None = None) -> Callable[[Path], str]:
    """Makes a file, or a folder where there is no content, and names it."""

    def make(folder: Path) -> str:
        if content is None:
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(content)
        return name

    return make


@pytest.mark.parametrize(
    ("make", "words"),
    [
        pytest.param(lambda folder: "nowhere.mp4", "nowhere.mp4: no such file or folder", id="missing"),
        pytest.param(made("text.mp4", b"Dear diary,\n" * 400), "text.mp4", id="text as mp4"),
        pytest.param(made("text.txt", b"Dear diary,\n" * 400), "text.txt", id="text"),
        pytest.param(made("empty.mp4", b""), "found an empty file", id="empty file"),
        pytest.param(half_a_header, "half.mp4", id="half a header"),
        pytest.param(made("folder"), "the folder holds no file", id="empty folder"),
        pytest.param(lambda folder: "*.jpg", "the glob matches no file", id="empty glob"),
        pytest.param(made("bad.jpg", b"\xff\xd8\xff\xe0 no more"), "can't be decoded", id="damaged picture"),
        pytest.param(lambda folder: "scene:cats=3", "unknown key 'cats'", id="scene"),
    ],
)
def test_a_source_that_is_none(
    refused: Callable[..., str], tmp_path: Path, make: Callable[[Path], str], words: str
) -> None:
    message = refused(make(tmp_path), "--full-frame")
    assert words in message
    assert not (tmp_path / "results").exists()


NEGATIVE = b'[{"image_id": 0, "category_id": 1, "bbox": [10, 10, -5, 20], "score": 1}]'


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(NEGATIVE.replace(b"-5", b"NaN"), "finite numbers", id="nan"),
        pytest.param(NEGATIVE, "not negative", id="negative size"),
        pytest.param(b"[{", "expected JSON", id="no json"),
        pytest.param(None, "can't read the boxes file", id="missing"),
    ],
)
def test_a_boxes_file_that_is_none(
    refused: Callable[..., str], video: Path, tmp_path: Path, content: bytes | None, words: str
) -> None:
    if content is not None:
        (tmp_path / "b.json").write_bytes(content)
    message = refused(video, "--boxes", "b.json")
    assert message.startswith("error: b.json: ")
    assert words in message


def test_boxes_of_another_video(refused: Callable[..., str], video: Path, tmp_path: Path) -> None:
    foreign = write_boxes(tmp_path / "foreign.json", [(500, (1, 1, 9, 9), 1.0), (501, (1, 1, 9, 9), 1.0)])
    message = refused(video, "--boxes", foreign)
    assert "none of its image ids occurs in the source: the file has 2 ids from 500 to 501" in message


def test_boxes_of_other_pictures(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    cv2.imwrite(str(tmp_path / "pictures" / "12.png"), np.zeros((40, 40, 3), np.uint8))
    foreign = write_boxes(tmp_path / "foreign.json", [(0, (1, 1, 9, 9), 1.0)])
    assert "the file has only 0, the source only 12" in refused("pictures", "--boxes", foreign)
    assert not (tmp_path / "results").exists()  # said before anything is run


def test_no_boxes_at_all(refused: Callable[..., str], video: Path) -> None:
    message = refused(video)
    assert all(option in message for option in ("--boxes", "--detector", "--full-frame"))


@pytest.mark.parametrize("detector", ["wrong size", "text", "missing"])
def test_a_detector_that_is_none(refused: Callable[..., str], video: Path, tmp_path: Path, detector: str) -> None:
    path = tmp_path / "d.onnx"
    if detector == "wrong size":  # as many anchors as at another input size
        write_detector(path, output=np.zeros((1, 8400, 85), np.float32))
    elif detector == "text":
        path.write_text("no graph")
    assert refused(video, "--detector", "d.onnx").startswith("error: detector d.onnx: ")
