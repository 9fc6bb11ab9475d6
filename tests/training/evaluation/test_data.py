"""Where labels come from: known folders, single files, MPII, the scene."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from sharpose.errors import InputError, SourceError
from sharpose.skeleton import COCO17, HALPE26, MPII16
from sharpose.training.evaluation.data import DataFiles, find_data, load_data


def document(**changes: Any) -> dict[str, Any]:
    person = {
        "id": 5,
        "image_id": 2,
        "category_id": 7,
        "bbox": [10, 10, 30, 40],
        "keypoints": [12, 14, 2, 20, 30, 1] + [0, 0, 0] * 15,
        **changes,
    }
    images = [{"id": number, "file_name": f"{number}.png", "width": 60, "height": 60} for number in (1, 2, 3)]
    return {"images": images, "annotations": [person, {**person, "id": 6, "image_id": 1}]}


@pytest.fixture
def where(tmp_path: Path) -> DataFiles:
    for number in (1, 2, 3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((60, 60, 3), number, np.uint8))
    (tmp_path / "labels.json").write_text(json.dumps(document()))
    return DataFiles(tmp_path / "labels.json", tmp_path)


def test_coco_labels_are_completed_and_every_picture_counts(where: DataFiles) -> None:
    data = load_data(where, COCO17)
    assert data.image_ids == (1, 2, 3)
    assert data.people.image_ids.tolist() == [1, 2]
    assert data.people.areas.tolist() == [pytest.approx(30 * 40 * 0.53)] * 2
    assert data.document is not None
    label = data.document["annotations"][0]
    assert (label["num_keypoints"], label["iscrowd"], label["area"]) == (2, 0, pytest.approx(636))
    assert data.document["categories"] == [{"id": 7, "name": "person"}]
    assert data.left_out == {}
    assert data.read(2)[0, 0].tolist() == [2, 2, 2]
    limited = load_data(where, COCO17, limit=1)
    assert limited.image_ids == (1,)
    assert limited.left_out == {"in pictures after the limit": 1}


def test_pictures_that_are_missing_do_not_count(where: DataFiles) -> None:
    (where.images / "2.png").unlink()
    data = load_data(where, COCO17)
    assert data.image_ids == (1, 3)
    assert data.left_out == {"whose picture is missing": 1}
    assert data.notes[-1] == f"missing: {where.images / '2.png'}"
    rest = data.without({3: "3.png: broken"})  # nobody is in it
    assert (rest.image_ids, len(rest.people)) == ((1,), 1)
    with pytest.raises(SourceError, match=r"expected pictures that can be read; 1\.png: broken"):
        data.without({1: "1.png: broken"})


def test_weak_labels_can_be_left_out(where: DataFiles) -> None:
    data = load_data(where, COCO17, ignore_weak=True)
    assert data.people.keypoints[0, :3, 2].tolist() == [2, 0, 0]
    assert data.document is not None
    assert data.document["annotations"][0]["num_keypoints"] == 1
    assert data.document["annotations"][0]["keypoints"][3:6] == [0, 0, 0]


def test_detections_are_people_without_labels(where: DataFiles, tmp_path: Path) -> None:
    boxes = [{"image_id": 3, "bbox": [1, 2, 3, 4], "score": 0.7}, {"image_id": 1, "bbox": [5, 5, 9, 9], "score": 0.6}]
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    data = load_data(where, COCO17, boxes=tmp_path / "boxes.json")
    assert data.people.image_ids.tolist() == [1, 3]
    assert data.people.box_scores.tolist() == pytest.approx([0.6, 0.7])
    assert not data.people.labelled


def test_a_limit_is_of_the_same_pictures_with_detections(where: DataFiles, tmp_path: Path) -> None:
    """Those with labelled people, also where nothing was detected in them."""
    found = [{"image_id": number, "bbox": [5, 5, 30, 30], "score": 0.5} for number in (3, 2, 3)]
    (tmp_path / "boxes.json").write_text(json.dumps(found))
    for limit in (2, 3):
        data = load_data(where, COCO17, boxes=tmp_path / "boxes.json", limit=limit)
        assert data.image_ids == load_data(where, COCO17, limit=limit).image_ids == (1, 2)
        assert data.people.image_ids.tolist() == [2]
        assert data.left_out == {"in pictures without labelled people": 2}
    with pytest.raises(
        SourceError, match=r"boxes\.json: expected boxes in the first picture with labelled people, found"
    ):
        load_data(where, COCO17, boxes=tmp_path / "boxes.json", limit=1)
    (where.images / "1.png").unlink()
    for boxes in (None, tmp_path / "boxes.json"):
        assert load_data(where, COCO17, boxes=boxes, limit=1).image_ids == (2,)


def test_known_folders_are_found(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="found none; or give --annotations and --images"):
        find_data(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "person_keypoints_val.json").write_text("{}")
    assert find_data(tmp_path) == DataFiles(tmp_path / "person_keypoints_val.json", tmp_path / "images")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "valid.json").write_text("[]")
    with pytest.raises(SourceError, match="found 2 of them"):
        find_data(tmp_path)


@pytest.mark.shared
def test_the_shared_folders_are_found(shared_dir: Path) -> None:
    assert len(load_data(find_data(shared_dir / "data" / "coco_tiny"), COCO17).people) == 44
    lspet = load_data(find_data(shared_dir / "data" / "lspet"), COCO17, ignore_weak=True)
    assert len(lspet.people) == 498
    assert not lspet.people.keypoints[:, :5].any()  # faces are labelled by a model


def mpii(tmp_path: Path, **changes: Any) -> DataFiles:
    joints = [[10.0 + 2 * joint, 20.0] for joint in range(16)]
    entry = {"image": "1.png", "center": [30, 30], "scale": 0.2, "joints": joints, "joints_vis": [1] * 16, **changes}
    (tmp_path / "valid.json").write_text(json.dumps([entry, {**entry, "image": "2.png"}]))
    for number in (1, 2):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((60, 60, 3), number, np.uint8))
    return DataFiles(tmp_path / "valid.json", tmp_path)


def test_mpii_is_recognised_and_says_what_its_unit_is(tmp_path: Path) -> None:
    data = load_data(mpii(tmp_path), MPII16)
    assert data.document is None
    assert len(data.people) == 2
    assert data.people.head_sizes.tolist() == pytest.approx([2.0, 2.0])  # from neck to head top
    assert "not official" in data.head_unit
    exact = load_data(mpii(tmp_path, head_box=[1, 1, 4, 5]), MPII16, limit=1)
    assert exact.people.head_sizes.tolist() == pytest.approx([3.0])
    assert "0.6" in exact.head_unit
    with pytest.raises(SourceError, match="need a model of mpii16, this one is coco17"):
        load_data(mpii(tmp_path), COCO17)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2]", "a list of objects with joints; got a list with 1"),
        ("[]", "got an empty list"),
        ('[{"image_id": 1}]', r"got a list with \{'image_id': 1\}"),
        ("[[[[", r"can't read the labels: not JSON \("),
        ("[" * 100_000, "can't read the labels: JSON nested too deeply"),
    ],
)
def test_a_list_that_is_no_labels_is_called_by_its_name(where: DataFiles, content: str, message: str) -> None:
    where.annotations.write_text(content)
    for ignore_weak in (False, True):
        with pytest.raises(SourceError, match=message):
            load_data(where, COCO17, ignore_weak=ignore_weak)


def test_options_that_do_not_fit_are_refused(where: DataFiles, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--ignore-weak doesn't go with MPII"):
        load_data(mpii(tmp_path), MPII16, ignore_weak=True)
    with pytest.raises(InputError, match="--head-boxes doesn't go with COCO"):
        load_data(where, COCO17, head_boxes=tmp_path / "x.mat")
    with pytest.raises(InputError, match="--boxes doesn't go with the scene"):
        load_data("scene", COCO17, boxes=tmp_path / "x.json")


def test_several_categories_are_refused(where: DataFiles) -> None:
    several = document()
    several["annotations"][1]["category_id"] = 8
    where.annotations.write_text(json.dumps(several))
    with pytest.raises(SourceError, match=r"one category, got category ids \[7, 8\]"):
        load_data(where, COCO17)


def test_the_scene_labels_itself() -> None:
    data = load_data("scene:people=2,frames=3,size=180x320", COCO17, limit=2)
    assert data.image_ids == (0, 1)
    assert data.document is not None
    assert data.read(1).shape == (180, 320, 3)
    assert len(data.people) == len(data.document["annotations"]) >= 2
    labelled = data.people.keypoints[..., 2] > 0
    assert labelled.any(axis=1).all()
    assert not data.people.keypoints[~labelled].any()
    assert all(math.isnan(size) for size in data.people.head_sizes)
    halpe = load_data("scene:people=2,frames=3,size=180x320", HALPE26, limit=2)
    assert halpe.people.keypoints.shape[1:] == (26, 3)
    np.testing.assert_array_equal(halpe.people.keypoints[:, :17], data.people.keypoints)
    with pytest.raises(InputError, match="the drawn scene has no pelvis"):
        load_data("scene", MPII16)
