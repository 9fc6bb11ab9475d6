"""COCO labels: what is left out, how boxes are cut, what weak labels weigh, and files that are wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sharpose.errors import BoxesError, SourceError
from sharpose.skeleton import COCO17, MPII16
from sharpose.training.data.coco import CocoDataset
from sharpose.training.data.sample import UndecodableImageError


def edit(folder: Path, number: int, **changes: object) -> None:
    document = json.loads((folder / "labels.json").read_text())
    document["annotations"][number].update(changes)
    (folder / "labels.json").write_text(json.dumps(document))


def test_a_sample_is_what_the_file_says(coco_dataset: CocoDataset) -> None:
    sample = coco_dataset.load(2)
    label = coco_dataset.labels.document()["annotations"][2]
    assert len(coco_dataset) == 13
    assert (sample.image_id, sample.annotation_id, coco_dataset.people[2].area) == (2, 102, 3000.0)
    assert sample.box_xyxy.tolist() == [15, 5, 85, 85]
    assert sample.keypoints.ravel() == pytest.approx(label["keypoints"])
    assert sample.weights.tolist() == [1.0] * 17
    assert sample.image_bgr.shape == (90, 120, 3)
    assert sample.source.endswith("2.png")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"iscrowd": 1}, "crowd"),
        ({"num_keypoints": 0, "keypoints": [0] * 51}, "without labelled keypoints"),
        ({"keypoints": [0] * 51}, "without labelled keypoints"),
        ({"keypoints": None}, "without keypoints"),
        ({"bbox": [10, 10, 0, 5]}, "with a box without area"),
        ({"bbox": [200, 10, 20, 5]}, "with a box outside of the picture"),
    ],
)
def test_people_that_do_not_count_are_left_out_and_counted(
    coco_folder: Path, changes: dict[str, object], why: str
) -> None:
    edit(coco_folder, 4, **changes)
    dataset = CocoDataset(coco_folder / "labels.json", coco_folder, COCO17)
    assert 104 not in [person.annotation_id for person in dataset.people]
    assert len(dataset) == 12
    assert dataset.summary == f"labels.json: 12 people used, 1 left out (1 {why})"


def test_people_whose_picture_is_missing_are_left_out_and_counted(coco_folder: Path) -> None:
    (coco_folder / "4.png").unlink()
    dataset = CocoDataset(coco_folder / "labels.json", coco_folder, COCO17)
    assert dataset.summary == "labels.json: 12 people used, 1 left out (1 whose picture is missing)"
    assert dataset.notes == [f"missing: {coco_folder / '4.png'}"]
    with pytest.raises(SourceError, match=r"0 people used, 13 left out .*the first picture that is missing: .*0\.png"):
        CocoDataset(coco_folder / "labels.json", coco_folder / "elsewhere", COCO17)


def test_a_picture_of_another_size_than_its_labels_is_refused(coco_folder: Path) -> None:
    document = json.loads((coco_folder / "labels.json").read_text())
    document["images"][3].update(width=90, height=120)
    (coco_folder / "labels.json").write_text(json.dumps(document))
    dataset = CocoDataset(coco_folder / "labels.json", coco_folder, COCO17)
    with pytest.raises(UndecodableImageError, match=r"3\.png: expected \(90, 120\) pixels .*, got \(120, 90\)"):
        dataset.load(3)


def test_a_box_is_not_outside_by_a_wrong_width(coco_folder: Path) -> None:
    document = json.loads((coco_folder / "labels.json").read_text())
    document["images"][3].update(width=5)
    (coco_folder / "labels.json").write_text(json.dumps(document))
    boxes = coco_folder / "boxes.json"
    boxes.write_text(json.dumps([{"image_id": 3, "bbox": [10, 10, 5, 5]}]))
    for detections in (None, boxes):
        with pytest.raises(SourceError, match=r"3\.png: expected \(5, 90\) pixels .*, got \(120, 90\)"):
            CocoDataset(coco_folder / "labels.json", coco_folder, COCO17, boxes=detections)


def test_detections_outside_of_the_picture_are_left_out(coco_folder: Path) -> None:
    found = [[-500, 5, 20, 20], [120, 5, 20, 20], [110, 5, 20, 20], [5, 90, 9, 9]]
    boxes = coco_folder / "boxes.json"
    boxes.write_text(json.dumps([{"image_id": 3, "bbox": bbox} for bbox in found]))
    dataset = CocoDataset(coco_folder / "labels.json", coco_folder, COCO17, boxes=boxes)
    assert [person.box_xyxy.tolist() for person in dataset.people] == [[110, 5, 130, 25]]
    assert dataset.left_out == {"outside of the picture": 3}
    document = json.loads((coco_folder / "labels.json").read_text())
    del document["images"][3]["width"]
    (coco_folder / "labels.json").write_text(json.dumps(document))
    dataset = CocoDataset(coco_folder / "labels.json", coco_folder, COCO17, boxes=boxes)
    assert dataset.left_out == {"outside of the picture": 3}  # the picture itself says how large it is


def test_a_picture_without_a_size_is_refused(coco_folder: Path) -> None:
    document = json.loads((coco_folder / "labels.json").read_text())
    del document["images"][3]["height"]
    (coco_folder / "labels.json").write_text(json.dumps(document))
    with pytest.raises(SourceError, match=r"labels\.json: picture 3: height: expected pixels.*found none"):
        CocoDataset(coco_folder / "labels.json", coco_folder, COCO17)


def test_weak_labels_weigh_what_was_asked(coco_folder: Path) -> None:
    visibility = np.array([1, 2, 0] + [2] * 14)
    points = np.column_stack([np.full(17, 40), np.full(17, 40), visibility])
    edit(coco_folder, 0, keypoints=points.ravel().tolist())
    for weight, expected in ((None, [1, 1, 0, 1]), (0.25, [0.25, 1, 0, 1]), (0.0, [0, 1, 0, 1])):
        dataset = CocoDataset(coco_folder / "labels.json", coco_folder, COCO17, weak_weight=weight)
        assert dataset.load(0).weights[:4].tolist() == expected


def test_detections_replace_labelled_boxes(coco_folder: Path) -> None:
    boxes = [
        {"image_id": 3, "category_id": 1, "bbox": [1, 2, 30, 40], "score": 0.5},
        {"image_id": 3, "category_id": 2, "bbox": [1, 2, 30, 40], "score": 0.9},
        {"image_id": 99, "category_id": 1, "bbox": [1, 2, 30, 40], "score": 0.9},
    ]
    (coco_folder / "boxes.json").write_text(json.dumps(boxes))
    dataset = CocoDataset(coco_folder / "labels.json", coco_folder, COCO17, boxes=coco_folder / "boxes.json")
    (person,) = dataset.people
    assert (person.image_id, person.score, person.annotation_id) == (3, 0.5, -1)
    assert person.box_xyxy.tolist() == [1, 2, 31, 42]
    assert not dataset.load(0).weights.any()
    assert dataset.left_out == {"of other categories": 1, "in pictures that the labels don't list": 1}


def test_detections_go_by_file_name(coco_folder: Path) -> None:
    images = [{"id": 1, "file_name": "3.png"}, {"id": 3, "file_name": "7.png"}]
    entries = [{"image_id": 1, "bbox": [1, 2, 30, 40]}, {"image_id": 3, "bbox": [5, 2, 30, 40]}]
    (coco_folder / "boxes.json").write_text(json.dumps({"images": images, "annotations": entries}))
    dataset = CocoDataset(coco_folder / "labels.json", coco_folder, COCO17, boxes=coco_folder / "boxes.json")
    assert [(person.image_id, person.box_xyxy[0]) for person in dataset.people] == [(3, 1), (7, 5)]


def test_detections_of_other_pictures_are_refused(coco_folder: Path) -> None:
    (coco_folder / "boxes.json").write_text(json.dumps([{"image_id": 77, "bbox": [1, 2, 3, 4], "score": 1.0}]))
    with pytest.raises(BoxesError, match="none of its image ids"):
        CocoDataset(coco_folder / "labels.json", coco_folder, COCO17, boxes=coco_folder / "boxes.json")


def test_wrong_files_are_named(coco_folder: Path) -> None:
    labels = coco_folder / "labels.json"
    with pytest.raises(SourceError, match=r"annotation 100: keypoints: expected 16 keypoints \(mpii16\), got 17"):
        CocoDataset(labels, coco_folder, MPII16)
    with pytest.raises(SourceError, match="can't read the labels"):
        CocoDataset(coco_folder / "none.json", coco_folder, COCO17)
    labels.write_text("{")
    with pytest.raises(SourceError, match="not JSON"):
        CocoDataset(labels, coco_folder, COCO17)
    labels.write_text('{"images": []}')
    with pytest.raises(SourceError, match="annotations"):
        CocoDataset(labels, coco_folder, COCO17)
    labels.write_text('{"images": [], "annotations": []}')
    with pytest.raises(SourceError, match="expected people to use; 0 people used"):
        CocoDataset(labels, coco_folder, COCO17)


@pytest.mark.shared
def test_the_shared_data_has_the_people_it_says(shared_dir: Path) -> None:
    root = shared_dir / "data" / "coco_tiny"
    counts = [
        len(CocoDataset(root / f"annotations/person_keypoints_{part}.json", root / part, COCO17))
        for part in ("train2017", "val2017")
    ]
    assert counts == [143, 44]
