"""Where boxes come from, frame by frame, and what is counted and said of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from sharpose.errors import BoxesError
from sharpose.runtime.boxes.file import BoxesFile
from sharpose.runtime.boxes.sources import FileBoxes, FullFrame, NobodyWatch, SourceBoxes
from sharpose.runtime.frames import Frame
from sharpose.runtime.result import Boxes

GOOD = {"image_id": 7, "category_id": 1, "bbox": [10.5, 20, 30, 40], "score": 0.75}


def write(folder: Path, entries: Sequence[object]) -> Path:
    path = folder / "boxes.json"
    path.write_text(json.dumps(entries))
    return path


def frame(boxes: Boxes | None = None) -> Frame:
    return Frame(np.zeros((48, 64, 3), np.uint8), index=3, time=0.1, image_id=7, boxes=boxes)


def test_boxes_that_are_not_used_are_counted(tmp_path: Path) -> None:
    entries = [GOOD, {**GOOD, "score": 0.1}, {**GOOD, "image_id": 8}, {**GOOD, "category_id": 3}]
    boxes = FileBoxes(BoxesFile.load(write(tmp_path, [*entries, {**GOOD, "iscrowd": 1}, GOOD])), conf=0.5)
    assert len(boxes.boxes_for(frame())) == 2
    boxes.leave_out(1, "after --max-people")
    head, _, why = boxes.summary.partition(" left out ")
    assert head == f"{tmp_path / 'boxes.json'}: 1 box used, 5"
    assert sorted(why.strip("()").split(", ")) == [
        "1 after --max-people",
        "1 below --conf",
        "1 crowd",
        "1 in frames that did not come",
        "1 of other categories",
    ]


def test_boxes_outside_of_the_picture_are_left_out(tmp_path: Path) -> None:
    inside = [[-5, -5, 6, 6], [63, 47, 9, 9], [0, 0, 0, 0], [0, 0, 64, 48], [10, 10, 0, 5]]
    outside = [[-500, 5, 20, 20], [64, 5, 20, 20], [5, 48, 9, 9], [5, -30, 9, 20], [-9, 5, 9, 9]]
    entries = [{**GOOD, "bbox": bbox} for bbox in inside + outside]
    source = FileBoxes(BoxesFile.load(write(tmp_path, entries)))
    np.testing.assert_array_equal(source.boxes_for(frame()).xywh, inside)
    assert source.summary.endswith("boxes.json: 5 boxes used, 5 left out (5 outside of the picture)")


def test_file_boxes_go_by_image_id(tmp_path: Path) -> None:
    source = FileBoxes(BoxesFile.load(write(tmp_path, [GOOD, {**GOOD, "image_id": 3, "bbox": [0, 0, 1, 1]}])))
    np.testing.assert_array_equal(source.boxes_for(frame()).xyxy, [[10.5, 20, 40.5, 60]])


def test_full_frame_is_one_box() -> None:
    boxes = FullFrame().boxes_for(frame())
    np.testing.assert_array_equal(boxes.xyxy, [[0, 0, 64, 48]])
    np.testing.assert_array_equal(boxes.scores, [1.0])


def test_source_boxes_are_the_frames_own() -> None:
    own = Boxes.from_xyxy([[1, 2, 3, 4]])
    assert SourceBoxes().boxes_for(frame(own)) is own
    assert len(SourceBoxes().boxes_for(frame(Boxes.empty()))) == 0
    with pytest.raises(BoxesError, match="--boxes FILE"):
        SourceBoxes().boxes_for(frame(None))


def watched(found_in: int | None, frames: int) -> list[str]:
    """What is warned of a stream of so many frames, with somebody in one of them."""

    class Finder:
        def boxes_for(self, frame: Frame) -> Boxes:
            return Boxes.from_xyxy([[0, 0, 9, 9]]) if frame.index == found_in else Boxes.empty()

        def observe(self, frame: Frame, poses: object) -> None: ...

    said: list[str] = []
    watch = NobodyWatch(Finder(), "cam", lambda: "check it", said.append)
    for index in range(frames):
        frame = Frame(np.zeros((9, 9, 3), np.uint8), index, index / 25, index)
        assert len(watch.boxes_for(frame)) == (index == found_in)
    watch.finish()
    return said


def test_a_stream_without_anybody_is_warned_of_once() -> None:
    assert watched(None, 100) == ["cam: nobody was found in the first 30 frames; check it"]
    assert watched(60, 100) == ["cam: nobody was found in the first 30 frames; check it"]
    assert watched(None, 3) == ["cam: nobody was found in all its 3 frames; check it"]
    assert watched(None, 1) == ["cam: nobody was found in its only frame; check it"]
    for quiet in (watched(None, 0), watched(0, 100), watched(29, 100), watched(2, 3)):
        assert quiet == []
