"""Label files as people have them: what is taken, what is counted as left out, what is refused and how it is named."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sharpose.coco.labels import CocoLabels, clean_box, read_coco_labels
from sharpose.errors import SourceError
from sharpose.similarity import BODY_SHARE
from sharpose.skeleton import COCO17

Change = Callable[[dict[str, Any]], object]


def document(people: int = 3) -> dict[str, Any]:
    """A sound file: each person in a picture of 100 x 80 pixels, keypoint j at (10 + j, 20 + j), all seen."""
    points = [value for j in range(17) for value in (10.0 + j, 20.0 + j, 2)]
    return {
        "images": [{"id": 7 + n, "file_name": f"{n}.jpg", "width": 100, "height": 80} for n in range(people)],
        "annotations": [
            {
                "id": 40 + n,
                "image_id": 7 + n,
                "category_id": 1,
                "iscrowd": 0,
                "bbox": [10, 20, 30, 40],
                "area": 500.0,
                "num_keypoints": 17,
                "keypoints": list(points),
            }
            for n in range(people)
        ],
        "categories": [{"id": 1, "name": "person"}],
    }


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., CocoLabels]:
    def write_and_read(change: Change = lambda labels: None) -> CocoLabels:
        labels = document()
        change(labels)
        file = tmp_path / "labels.json"
        file.write_text(json.dumps(labels))
        return read_coco_labels(file, COCO17)

    return write_and_read


def test_a_sound_file(read) -> None:
    labels = read()
    assert [person.image_id for person in labels.people] == [7, 8, 9]
    assert labels.people[0].bbox_xywh == (10, 20, 30, 40)
    np.testing.assert_array_equal(labels.people[0].keypoints[3], [13, 23, 2])
    assert labels.people[0].area == 500
    assert labels.pictures[8].file_name == "1.jpg"
    assert (labels.pictures[8].width, labels.pictures[8].height) == (100, 80)
    assert labels.summary == "labels.json: 3 people used"
    assert labels.notes == []


@pytest.mark.parametrize("first", [0, 40])
def test_ids_that_repeat_or_begin_at_zero_are_numbered_anew(read, first: int) -> None:
    def same(labels: dict[str, Any]) -> None:
        for entry in labels["annotations"]:
            entry["id"] = first

    labels = read(same)
    assert [entry["id"] for entry in labels.document()["annotations"]] == [1, 2, 3]
    assert labels.notes == ["labels.json: 3 annotations share their ids with others: renumbered"]


@pytest.mark.parametrize("area", [None, 0, 0.0])
def test_an_area_that_nobody_labelled_is_a_share_of_the_box(read, area: float | None) -> None:
    def drop(labels: dict[str, Any]) -> None:
        labels["annotations"][1]["area"] = area

    labels = read(drop)
    assert [person.area for person in labels.people] == pytest.approx([500, 1200 * BODY_SHARE, 500])
    assert labels.notes == ["labels.json: area is missing or 0 in 1 annotation: taken as 0.53 of the box"]


@pytest.mark.parametrize("size", [100.0, "100"])
def test_sizes_as_other_tools_write_them(read, size: object) -> None:
    labels = read(lambda labels: labels["images"][0].update(width=size))
    assert labels.pictures[7].width == 100


def test_who_is_left_out_is_counted(read) -> None:
    def change(labels: dict[str, Any]) -> None:
        labels["categories"].append({"id": 37, "name": "sports ball"})
        labels["annotations"] += [
            {"id": 1, "image_id": 7, "category_id": 37, "bbox": "whatever", "keypoints": []},
            {"id": 2, "image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 4]},
            {"id": 3, "image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 4], "keypoints": []},
            {**labels["annotations"][0], "iscrowd": 1},
            {**labels["annotations"][0], "keypoints": [0] * 51},
            {**labels["annotations"][0], "bbox": [1, 2, 0, 4]},
            {**labels["annotations"][0], "bbox": [101, 2, 20, 4]},
        ]

    labels = read(change)
    assert len(labels.labelled) == 3
    head, _, reasons = labels.summary.partition(" left out ")
    assert head == "labels.json: 3 people used, 7"
    assert sorted(reasons.strip("()").split(", ")) == [
        "1 crowd",
        "1 of other categories",
        "1 with a box outside of the picture",
        "1 with a box without area",
        "1 without labelled keypoints",
        "2 without keypoints",
    ]


def test_boxes_are_cut_to_the_picture_as_the_field_does() -> None:
    assert clean_box([-5, -7, 30, 40], 120, 90) == pytest.approx([0, 0, 30, 40])  # width and height aren't shortened
    assert clean_box([100, 50, 60, 80], 120, 90) == pytest.approx([100, 50, 119, 89])
    assert clean_box([119, 10, 5, 5], 120, 90) is None
    assert clean_box([10, 10, -3, 5], 120, 90) is None


def test_another_number_for_people(read) -> None:
    """As files of one or several own categories have it: the name decides, or the only one there is."""

    def renumber(labels: dict[str, Any]) -> None:
        labels["categories"] = [{"id": 0, "name": "horse"}, {"id": 5, "name": "Person"}]
        labels["annotations"][0]["category_id"] = 0
        for entry in labels["annotations"][1:]:
            entry["category_id"] = 5

    labels = read(renumber)
    assert labels.summary == "labels.json: 2 people used, 1 left out (1 of other categories)"
    assert {entry["category_id"] for entry in labels.document()["annotations"]} == {5}

    def only(labels: dict[str, Any]) -> None:
        labels["categories"] = [{"id": 4, "name": "dancer"}]
        for entry in labels["annotations"]:
            entry["category_id"] = 4

    assert len(read(only).people) == 3

    def unlisted(labels: dict[str, Any]) -> None:
        only(labels)
        del labels["categories"]

    assert read(unlisted).category_id == 4


def test_animals_of_several_species_are_taken_as_one(read) -> None:
    def species(labels: dict[str, Any]) -> None:
        names = [name.title() for name in COCO17.keypoints]
        labels["categories"] = [
            {"id": 3, "name": "cat", "keypoints": names},
            {"id": 8, "name": "dog", "keypoints": names},
        ]
        labels["categories"].append({"id": 9, "name": "bird", "keypoints": ["beak"]})
        for entry, category in zip(labels["annotations"], (8, 3, 9), strict=True):
            entry["category_id"] = category

    labels = read(species)
    assert labels.summary == "labels.json: 2 people used, 1 left out (1 of other categories)"
    assert labels.notes == ["labels.json: 2 categories have the keypoints of coco17: taken as one"]
    assert [entry["category_id"] for entry in labels.document()["annotations"]] == [3, 3]

    def with_people(labels: dict[str, Any]) -> None:
        species(labels)
        labels["categories"][0]["name"] = "person"

    assert read(with_people).summary == "labels.json: 1 person used, 2 left out (2 of other categories)"


def test_a_category_of_another_name_is_said(read) -> None:
    labels = read(lambda labels: labels["categories"][0].update(name="dog"))
    assert labels.notes == ["labels.json: no category is named person: 'dog' is taken for people"]
    assert len(labels.labelled) == 3
    assert read(lambda labels: labels["categories"][0].pop("name")).notes == []


def test_names_of_the_keypoints_as_other_tools_write_them(read) -> None:
    names = [name.replace("_", " ").title() for name in COCO17.keypoints]
    assert len(read(lambda labels: labels["categories"][0].update(keypoints=names)).labelled) == 3
    assert len(read(lambda labels: labels["categories"][0].update(keypoints=[])).labelled) == 3


def test_num_keypoints_gives_way_to_the_keypoints(read) -> None:
    def change(labels: dict[str, Any]) -> None:
        labels["annotations"][0]["num_keypoints"] = 0
        labels["annotations"][1]["num_keypoints"] = 3
        del labels["annotations"][2]["num_keypoints"]

    labels = read(change)
    assert [person.num_keypoints for person in labels.labelled] == [17, 17, 17]
    assert labels.notes == ["labels.json: num_keypoints disagrees with the keypoints of 2 people: the keypoints count"]
    assert [entry["num_keypoints"] for entry in labels.document()["annotations"]] == [17, 17, 17]


def test_nobody_needs_places_where_no_keypoint_is_labelled(read) -> None:
    labels = read(lambda labels: labels["annotations"][0].update(num_keypoints=0, keypoints=[None, None, 0] * 5))
    assert labels.summary == "labels.json: 2 people used, 1 left out (1 without labelled keypoints)"
    assert labels.notes == []


def test_an_unlabelled_keypoint_needs_no_place(read) -> None:
    def change(labels: dict[str, Any]) -> None:
        labels["annotations"][0]["keypoints"][:3] = [None, math.nan, 0]

    labels = read(change)
    np.testing.assert_array_equal(labels.people[0].keypoints[0], [0, 0, 0])
    assert labels.people[0].num_keypoints == 16


def test_weak_labels_can_be_left_out_of_the_evaluators_document(read) -> None:
    def change(labels: dict[str, Any]) -> None:
        labels["annotations"][0]["keypoints"][2] = 1

    entry = read(change).document(ignore_weak=True)["annotations"][0]
    assert entry["num_keypoints"] == 16
    assert entry["keypoints"][:6] == [0, 0, 0, 11, 21, 2]


def _set(key: str, value: object) -> Change:
    return lambda labels: labels["annotations"][1].update({key: value})


def _keypoint(index: int, value: object) -> Change:
    return lambda labels: labels["annotations"][1]["keypoints"].__setitem__(index, value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_keypoint(3, None), "annotation 41: keypoints: left_eye: expected finite x, y and a visibility of 0, 1 or 2"),
        (_keypoint(4, math.nan), "annotation 41: keypoints: left_eye: expected finite x, y"),
        (_keypoint(4, math.inf), "annotation 41: keypoints: left_eye: expected finite x, y"),
        (_keypoint(4, 1e30), "annotation 41: keypoints: left_eye: expected finite x, y"),
        (_keypoint(5, 3), "annotation 41: keypoints: left_eye: expected finite x, y and a visibility of 0, 1 or 2"),
        (_keypoint(4, "x"), "annotation 41: keypoints.4: expected a number, got 'x'"),
        (_set("keypoints", [1, 2, 2]), "annotation 41: keypoints: expected 17 keypoints (coco17), got 1"),
        (_set("bbox", None), "annotation 41: bbox: expected a list, got None"),
        (_set("bbox", [1, 2, 3]), "annotation 41: bbox: expected at least 4 entries, got 3"),
        (_set("bbox", [1, 2, math.nan, 4]), "annotation 41: bbox.2: expected a finite number, got nan"),
        (_set("bbox", [1, 2, "3", 4]), "annotation 41: bbox.2: expected a number, got '3'"),
        (_set("bbox", [1, 2, -3, 4]), "annotation 41: bbox: expected a width and height of 0 or more, got -3.0 x 4.0"),
        (_set("bbox", [1, 2, 10**400, 4]), "annotation 41: bbox.2: "),
        (_set("area", -1), "annotation 41: area: expected at least 0, got -1"),
        (_set("area", math.inf), "annotation 41: area: expected a finite number, got inf"),
        (_set("bbox", [1, 2, 1e30, 4]), "annotation 41: bbox.2: expected a number below 1e+12, got 1e+30"),
        (_set("image_id", 3), "annotation 41: image_id: expected the id of a listed picture, got 3"),
        (_set("image_id", "7"), "annotation 41: image_id: expected a whole number, got '7'"),
        (_set("id", "41"), "annotation number 1 (no id): id: expected a whole number, got '41'"),
        (_set("category_id", 9), "annotation 41: category_id: expected one of [1], got 9"),
        (_set("iscrowd", 2), "annotation 41: iscrowd"),
        (lambda labels: labels["annotations"][1].pop("id"), "number 1 (no id): id: missing key"),
        (lambda labels: labels["annotations"].append(5), "annotation number 3 (no id): expected an object, got 5"),
        (
            lambda labels: labels["images"][1].update(id=7),
            "picture 7: id: expected one file for each picture id, got 0.jpg and 1.jpg",
        ),
        (
            lambda labels: labels["images"][1].update(id=10**30),
            "picture 1000000000000000000000000000000: id: expected less",
        ),
        (
            lambda labels: (labels.pop("categories"), labels["annotations"][1].update(category_id=[1])),
            "annotation 41: category_id: expected an integer, got [1]",
        ),
        (lambda labels: labels["images"][0].update(width=10.5), "picture 7: width: expected a whole number, got 10.5"),
        (lambda labels: labels["images"][0].pop("file_name"), "picture 7: file_name: missing key"),
        (lambda labels: labels.pop("images"), "expected COCO keypoint labels, an object with the lists images and"),
        (
            lambda labels: labels.update(categories=[{"name": "person"}]),
            "category number 0 (no id): expected an object",
        ),
        (
            lambda labels: labels["categories"][0].update(keypoints=["nose", "right_eye", *COCO17.keypoints[2:]]),
            "category 1: keypoints: expected the names of coco17 in its order, got 'right_eye' as number 2, where "
            "left_eye belongs",
        ),
        (
            lambda labels: labels["categories"][0].update(keypoints=list(COCO17.keypoints[1:])),
            "category 1: keypoints: expected 17 (coco17), got 16",
        ),
        (
            lambda labels: labels["categories"][0].update(keypoints=[1] * 17),
            "category 1: keypoints: expected a list of names, got [1, ",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_place(read, change: Change, message: str) -> None:
    with pytest.raises(SourceError) as caught:
        read(change)
    assert message in str(caught.value)
    assert "labels.json: " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_shares_of_the_picture_are_refused(read) -> None:
    def share(labels: dict[str, Any]) -> None:
        for entry in labels["annotations"]:
            entry["keypoints"] = [v if place % 3 == 2 else v / 100 for place, v in enumerate(entry["keypoints"])]

    with pytest.raises(SourceError, match=r"labels\.json: keypoints: expected pixels, got numbers up to 0\.36"):
        read(share)


@pytest.mark.parametrize("content", [b"", b"[1, 2", b"\xff\xfe", b"[" * 100_000, b"[]", b"7"])
def test_what_is_no_label_file_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "labels.json"
    file.write_bytes(content)
    with pytest.raises(SourceError, match="expected COCO keypoint"):
        read_coco_labels(file, COCO17)
    with pytest.raises(SourceError, match="can't read the labels"):
        read_coco_labels(tmp_path / "absent.json", COCO17)
