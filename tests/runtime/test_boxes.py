"""Boxes files: what is read, and that each unusable one gives one clear line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from sharpose.errors import BoxesError
from sharpose.runtime.boxes import BoxesFile, FileBoxes, FullFrame, SourceBoxes
from sharpose.runtime.frames import Frame
from sharpose.runtime.result import Boxes

GOOD = {"image_id": 7, "category_id": 1, "bbox": [10.5, 20, 30, 40], "score": 0.75}


def write(folder: Path, content: object) -> Path:
    path = folder / "boxes.json"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def refused(path: Path) -> str:
    with pytest.raises(BoxesError) as caught:
        BoxesFile.load(path)
    message = str(caught.value)
    assert caught.value.exit_code == 2
    assert "\n" not in message
    assert message.startswith(str(path))
    assert len(message) < 600
    return message


def test_boxes_are_grouped_by_picture_in_file_order(tmp_path: Path) -> None:
    entries = [
        GOOD,
        {**GOOD, "image_id": 0, "bbox": [1, 2, 3, 4], "score": 1},
        {**GOOD, "bbox": [-5, -6, 7, 8.25], "score": 0.5},
    ]
    boxes = BoxesFile.load(write(tmp_path, entries))
    assert boxes.image_ids == {0, 7}
    assert len(boxes) == 3
    np.testing.assert_array_equal(boxes.for_image(7).xyxy, [[10.5, 20, 40.5, 60], [-5, -6, 2, 2.25]])
    np.testing.assert_array_equal(boxes.for_image(7).scores, np.array([0.75, 0.5], np.float32))
    np.testing.assert_array_equal(boxes.for_image(0).xyxy, [[1, 2, 4, 6]])
    assert len(boxes.for_image(3)) == 0
    assert boxes.for_image(3).xyxy.shape == (0, 4)


def test_other_categories_and_missing_keys(tmp_path: Path) -> None:
    car = {"image_id": "anything", "category_id": 3}
    no_category = {"image_id": 1, "bbox": [0, 0, 5, 5], "score": 0.25}
    no_score = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 6, 6]}
    boxes = BoxesFile.load(write(tmp_path, [car, no_category, no_score]))
    np.testing.assert_array_equal(boxes.for_image(1).xyxy, [[0, 0, 5, 5], [0, 0, 6, 6]])
    np.testing.assert_array_equal(boxes.for_image(1).scores, [0.25, 1.0])
    assert boxes.image_ids == {1}


def test_zero_sized_box_is_kept(tmp_path: Path) -> None:
    boxes = BoxesFile.load(write(tmp_path, [{**GOOD, "bbox": [3, 4, 0, 0]}]))
    np.testing.assert_array_equal(boxes.for_image(7).xyxy, [[3, 4, 3, 4]])


def test_a_file_without_people(tmp_path: Path) -> None:
    boxes = BoxesFile.load(write(tmp_path, []))
    assert boxes.image_ids == frozenset()
    assert len(boxes.for_image(0)) == 0
    boxes.check_image_ids(frozenset({0, 1}))  # nobody was detected: not a file of another source


def test_annotation_file(tmp_path: Path) -> None:
    document = {
        "images": [{"id": 7}, {"id": 9}],
        "annotations": [
            {"image_id": 7, "category_id": 1, "bbox": [1, 1, 400, 300], "iscrowd": 1},
            {"image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 4], "iscrowd": 0, "num_keypoints": 0},
        ],
    }
    boxes = BoxesFile.load(write(tmp_path, document))
    np.testing.assert_array_equal(boxes.for_image(7).xyxy, [[1, 2, 4, 6]])
    np.testing.assert_array_equal(boxes.for_image(7).scores, [1.0])
    assert boxes.image_ids == {7, 9}
    assert len(boxes.for_image(9)) == 0


def test_a_bad_annotation_is_named_by_its_place_in_the_file(tmp_path: Path) -> None:
    crowd = {"image_id": 7, "category_id": 1, "bbox": [1, 1, 4, 3], "iscrowd": 1}
    document = {"annotations": [crowd, crowd, {"image_id": 7, "category_id": 1, "bbox": [1, 2, -3, 4]}]}
    assert "entry 2" in refused(write(tmp_path, document))


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("3", "expected a dict"),
        ('[1, 2, "x"]', "got a JSON list"),
        ('{"category_id": 1, "bbox": [1, 2, 3, 4], "score": 1}', 'no "image_id"'),
        ('{"image_id": 1, "category_id": 1, "score": 1}', 'no "bbox"'),
        ('{"image_id": 1, "bbox": [1, 2, 3], "score": 1}', "four numbers [x, y, width, height], got [1, 2, 3]"),
        ('{"image_id": 1, "bbox": [1, 2, 3, 4, 5], "score": 1}', "four numbers"),
        ('{"image_id": 1, "bbox": {"x": 1}, "score": 1}', "four numbers"),
        ('{"image_id": 1, "bbox": [1, 2, 3, "4"], "score": 1}', "four numbers"),
        ('{"image_id": 1, "bbox": [1, 2, 3, true], "score": 1}', "four numbers"),
        ('{"image_id": 1, "bbox": [1, 2, 3, null], "score": 1}', "four numbers"),
        ('{"image_id": 1, "bbox": [1, [2], 3, 4], "score": 1}', "four numbers"),
        ('{"image_id": 1, "bbox": [NaN, 2, 3, 4], "score": 1}', '"bbox": expected finite numbers, got [nan, 2, 3, 4]'),
        ('{"image_id": 1, "bbox": [1, 2, Infinity, 4], "score": 1}', "finite"),
        ('{"image_id": 1, "bbox": [1, -Infinity, 3, 4], "score": 1}', "finite"),
        ('{"image_id": 1, "bbox": [1, 2, 1e999, 4], "score": 1}', "finite"),
        ('{"image_id": 1, "bbox": [1, 2, 1e60, 4], "score": 1}', "finite"),
        ('{"image_id": 1, "bbox": [1, 2, 1' + "0" * 400 + ', 4], "score": 1}', "finite"),
        ('{"image_id": 1, "bbox": [3e38, 2, 3e38, 4], "score": 1}', "finite"),
        ('{"image_id": 1, "bbox": [1, 2, -0.5, 4], "score": 1}', "width and height not negative, got [1, 2, -0.5, 4]"),
        ('{"image_id": 1, "bbox": [1, 2, 3, -4], "score": 1}', "not negative"),
        ('{"image_id": 1, "bbox": [1, 2, 3, 4], "score": NaN}', '"score": expected a finite number, got nan'),
        ('{"image_id": 1, "bbox": [1, 2, 3, 4], "score": "0.5"}', '"score": expected a number'),
        ('{"image_id": 1, "bbox": [1, 2, 3, 4], "score": false}', '"score": expected a number'),
        ('{"image_id": 1, "bbox": [1, 2, 3, 4], "score": null}', '"score": expected a number'),
        ('{"image_id": 1.5, "bbox": [1, 2, 3, 4], "score": 1}', '"image_id": expected an integer, got 1.5'),
        ('{"image_id": "000001", "bbox": [1, 2, 3, 4], "score": 1}', "\"image_id\": expected an integer, got '000001'"),
        ('{"image_id": true, "bbox": [1, 2, 3, 4], "score": 1}', '"image_id": expected an integer'),
        ('{"image_id": 1, "category_id": "1", "bbox": [1, 2, 3, 4]}', '"category_id": expected an integer'),
    ],
)
def test_bad_entry_is_refused_and_named(tmp_path: Path, entry: str, expected: str) -> None:
    text = f"[{json.dumps(GOOD)}, {json.dumps({**GOOD, 'category_id': 18, 'bbox': []})}, {entry}, {json.dumps(GOOD)}]"
    message = refused(write(tmp_path, text))
    assert "entry 2:" in message
    assert expected in message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "expected JSON"),
        (b"frame,x,y\n1,2,3\n", "expected JSON"),
        (json.dumps([GOOD] * 3).encode()[:-20], "expected JSON"),
        (b'{"frame": 0}\n{"frame": 1}\n', "Extra data"),
        (b"\xff\xfe\x00\x01\xd8", "expected JSON"),
        (b"[" * 200_000, "expected JSON"),
        (b'[{"image_id": 1' + b"0" * 5000 + b"}]", "expected JSON"),
        (b"12", "expected a list"),
        (b'"boxes"', "got a JSON string"),
        (b"null", "got a JSON null"),
        (b'{"boxes": [1]}', "keys found: ['boxes']"),
        (b'{"annotations": {"1": 2}}', "without a list"),
        (b'{"annotations": [], "images": 3}', '"images": expected a list'),
        (b'{"annotations": [], "images": [{"id": 1}, {"id": "2"}]}', "image 1"),
    ],
)
def test_bad_file_is_refused(tmp_path: Path, content: bytes, expected: str) -> None:
    assert expected in refused(write(tmp_path, content))


def test_file_of_other_categories_only_is_refused(tmp_path: Path) -> None:
    message = refused(write(tmp_path, [{**GOOD, "category_id": 0}, {**GOOD, "category_id": 16}]))
    assert "category_id 1" in message
    assert "[0, 16]" in message


def test_unreadable_paths(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "missing.json")
    assert "directory" in refused(tmp_path)
    locked = write(tmp_path, [GOOD])
    locked.chmod(0)
    if not os.access(locked, os.R_OK):  # root reads everything
        assert "Permission denied" in refused(locked)


def test_image_ids_are_checked_against_the_source(tmp_path: Path) -> None:
    boxes = BoxesFile.load(write(tmp_path, [GOOD, {**GOOD, "image_id": 139}]))
    boxes.check_image_ids(frozenset(range(10)))
    with pytest.raises(BoxesError) as caught:
        boxes.check_image_ids(frozenset(range(5)))
    assert "2 ids from 7 to 139" in str(caught.value)
    assert "5 ids from 0 to 4" in str(caught.value)
    with pytest.raises(BoxesError, match="source only 3"):
        boxes.check_image_ids(frozenset({3}))


def test_large_image_ids_are_exact(tmp_path: Path) -> None:
    stem = 20260102030405060708090
    boxes = BoxesFile.load(write(tmp_path, [{**GOOD, "image_id": stem}, {**GOOD, "image_id": stem + 1}]))
    assert boxes.image_ids == {stem, stem + 1}
    assert len(boxes.for_image(stem)) == 1


def test_many_entries_keep_their_places(tmp_path: Path) -> None:
    entries = [{**GOOD, "image_id": i % 1000, "bbox": [i, 0, 1, 1]} for i in range(100_000)]
    path = write(tmp_path, entries)
    boxes = BoxesFile.load(path)
    assert len(boxes) == 100_000
    np.testing.assert_array_equal(boxes.for_image(17).xyxy[:, 0], np.arange(17, 100_000, 1000))
    entries[99_998]["bbox"] = [1, 1, float("nan"), 1]
    assert "entry 99998:" in refused(write(tmp_path, entries))


def frame(boxes: Boxes | None = None) -> Frame:
    return Frame(np.zeros((48, 64, 3), np.uint8), index=3, time=0.1, image_id=7, boxes=boxes)


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


@pytest.mark.shared
def test_coco_annotations_give_their_boxes(shared_dir: Path) -> None:
    path = shared_dir / "data/coco_tiny/annotations/person_keypoints_val2017.json"
    document = json.loads(path.read_text())
    boxes = BoxesFile.load(path)
    stems = frozenset(int(picture.stem) for picture in (shared_dir / "data/coco_tiny/val2017").glob("*.jpg"))
    boxes.check_image_ids(stems)
    people = [a for a in document["annotations"] if not a["iscrowd"] and a["category_id"] == 1]
    assert len(boxes) == len(people) > 0
    one = people[0]
    np.testing.assert_allclose(boxes.for_image(one["image_id"]).xywh[0], one["bbox"], atol=1e-3)
