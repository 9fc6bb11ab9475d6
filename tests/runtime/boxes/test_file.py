"""Boxes files: what is read, and that each unusable one gives one clear line."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sharpose.errors import BoxesError
from sharpose.runtime.boxes.file import BoxesFile
from sharpose.runtime.boxes.sources import FileBoxes
from sharpose.runtime.frames import Frame

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
        ('{"image_id": 1, "bbox": [1, 2, 3, 4], "score": -1}', '"score": expected a number from 0 to 1, got -1'),
        ('{"image_id": 1, "bbox": [1, 2, 3, 4], "score": 1.01}', '"score": expected a number from 0 to 1, got 1.01'),
        ('{"image_id": 1, "bbox": [1, 2, 3, 4], "score": "0.5"}', '"score": expected a number'),
        ('{"image_id": 1, "bbox": [1, 2, 3, 4], "score": false}', '"score": expected a number'),
        ('{"image_id": 1, "bbox": [1, 2, 3, 4], "score": null}', '"score": expected a number'),
        ('{"image_id": 1.5, "bbox": [1, 2, 3, 4], "score": 1}', '"image_id": expected an integer or a string, got 1.5'),
        (
            '{"image_id": 1, "bbox": [1, 2, 1e20, 4], "score": 1}',
            '"bbox": expected pixels within ±1e+06, got [1, 2, 1e+',
        ),
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
        (b'{"annotations": [], "images": [{"id": 1}, {"id": 2.5}]}', "image 1"),
        (
            b'{"annotations": [], "images": [{"id": 1, "file_name": 5}]}',
            'image 0: "file_name": expected a string, got 5',
        ),
        (
            b'{"annotations": [], "images": [{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}]}',
            'image 1: "id": expected one file for an id, got a and b',
        ),
    ],
)
def test_bad_file_is_refused(tmp_path: Path, content: bytes, expected: str) -> None:
    assert expected in refused(write(tmp_path, content))


def test_file_of_other_categories_only_is_refused(tmp_path: Path) -> None:
    message = refused(write(tmp_path, [{**GOOD, "category_id": 0}, {**GOOD, "category_id": 16}]))
    assert "category_id 1" in message
    assert "[0, 16]" in message


def test_shares_of_the_picture_are_refused(tmp_path: Path) -> None:
    message = refused(write(tmp_path, [{**GOOD, "bbox": [0.1, 0.2, 0.3, 1.0]}, {**GOOD, "bbox": [0, 0, 1, 1]}]))
    assert '"bbox": expected pixels, got numbers up to 1' in message


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


def named(folder: Path, names: Mapping[Any, str]) -> BoxesFile:
    """An annotation file whose pictures have names, with a box in each; its place is `x`."""
    images = [{"id": image_id, "file_name": name} for image_id, name in names.items()]
    entries = [{"image_id": image_id, "bbox": [place, 0, 5, 5]} for place, image_id in enumerate(names)]
    return BoxesFile.load(write(folder, {"images": images, "annotations": entries}))


def paths(*names: str) -> dict[Path, int]:
    return {Path("/data") / name: index for index, name in enumerate(names)}


@pytest.mark.parametrize(
    ("listed", "pictures", "ids"),
    [
        ({1: "moon.jpg", 2: "kite.jpg", 3: "lamp.jpg"}, ["kite.jpg", "lamp.jpg", "moon.jpg"], [2, 3, 1]),
        ({"m": "moon.jpg", "k": "kite.jpg"}, ["kite.jpg", "moon.jpg"], ["k", "m"]),
        ({1: "x/0.jpg", 2: "y/0.jpg"}, ["y/0.jpg", "x/0.jpg"], [2, 1]),
        ({1: "x\\0.jpg", 2: "x\\1.jpg"}, ["1.jpg", "0.jpg"], [2, 1]),
        ({1: "kite.jpg", 2: "moon.jpg"}, ["moon.png", "kite.png"], [2, 1]),
        ({1: "kite.jpg", 2: "moon.jpg"}, ["new.jpg", "other.jpg", "moon.jpg"], [0, 3, 2]),
    ],
)
def test_file_names_say_which_picture_an_id_is(
    tmp_path: Path, listed: dict[int | str, str], pictures: list[str], ids: list[int | str]
) -> None:
    boxes = named(tmp_path, listed)
    assert boxes.ids_of(paths(*pictures)) == ids
    assert (boxes.note is not None) == ("new.jpg" in pictures)
    assert len(boxes.for_image(ids[-1])) == 1


def test_file_names_that_say_nothing_clear_are_refused(tmp_path: Path) -> None:
    for listed, pictures, message in (
        ({1: "moon.jpg"}, ["kite.jpg"], "none of the pictures that it lists is in the source"),
        ({1: "x/0.jpg", 2: "y/0.jpg"}, ["0.jpg"], r"expected one id for each picture, got the ids \[1, 2\] for"),
        ({1: "0.jpg"}, ["x/0.jpg", "y/0.jpg"], "got the id 1, as /data/x/0.jpg has for /data/y/0.jpg"),
    ):
        with pytest.raises(BoxesError, match=message):
            named(tmp_path, listed).ids_of(paths(*pictures))
    renamed = named(tmp_path, {1: "moon.jpg", 2: "kite.jpg"})
    assert renamed.ids_of({Path("1.jpg"): 1, Path("2.jpg"): 2}) == [1, 2]
    assert "go by their numbers" in str(renamed.note)


def test_string_ids_are_taken_as_they_stand(tmp_path: Path) -> None:
    strings = BoxesFile.load(write(tmp_path, [{**GOOD, "image_id": one} for one in ("007", "kite", "lamp.jpg")]))
    assert strings.ids_of({Path("7.jpg"): 7, Path("kite.jpg"): 1, Path("lamp.jpg"): 2}) == ["007", "kite", "lamp.jpg"]
    moment = Frame(np.zeros((48, 64, 3), np.uint8), index=7, time=0.1, image_id=7)
    found = FileBoxes(strings).identified(moment)
    assert found.image_id == "007"
    assert len(FileBoxes(strings).boxes_for(found)) == 1
    with pytest.raises(BoxesError, match="3 ids such as '007'"):
        strings.check_image_ids(range(5))
    exact = BoxesFile.load(write(tmp_path, [{**GOOD, "image_id": one} for one in ("7", "07")]))
    assert exact.ids_of({Path("07.jpg"): 0, Path("7.jpg"): 1}) == ["07", "7"]
    twice = BoxesFile.load(write(tmp_path, [{**GOOD, "image_id": one} for one in ("7", 7)]))
    with pytest.raises(BoxesError, match="image_id: expected one way to write 7, got '7' and 7"):
        FileBoxes(twice).identified(moment)


def test_frames_of_a_video_go_by_names_that_count_from_zero(tmp_path: Path) -> None:
    listed = {number + 1: f"frame_{number:06d}.PNG" for number in range(3)}
    boxes = named(tmp_path, listed)
    assert [boxes.id_of_frame(index) for index in range(4)] == [1, 2, 3, 4]
    assert boxes.counts_from_one
    assert boxes.for_image(boxes.id_of_frame(2)).xyxy[0, 0] == 2
    listed = {number: f"frame_{number + 1:06d}.PNG" for number in range(3)}
    plain = named(tmp_path, listed)
    assert [plain.id_of_frame(index) for index in range(3)] == [0, 1, 2]


def test_people_are_the_category_of_that_name(tmp_path: Path) -> None:
    document = {
        "images": [{"id": 7}],
        "categories": [{"id": 1, "name": "horse"}, {"id": 2, "name": "Person"}],
        "annotations": [{**GOOD, "bbox": [1, 2, 3, 4]}, {**GOOD, "category_id": 2}, {**GOOD, "category_id": 2}],
    }
    boxes = BoxesFile.load(write(tmp_path, document))
    assert boxes.for_image(7).xyxy[:, 0].tolist() == [10.5, 10.5]
    assert boxes.left_out == {"of other categories": 1}


def test_a_claim_of_many_frames_costs_nothing(tmp_path: Path) -> None:
    file = BoxesFile.load(write(tmp_path, [{**GOOD, "image_id": "a"}]))
    with pytest.raises(BoxesError, match="the file has only 'a', the source 1000000000000 ids from 0 to 999999999999"):
        file.check_image_ids(range(10**12))


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
