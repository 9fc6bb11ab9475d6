"""COCO results: what an entry says, and the file that is a complete document at every moment."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from sharpose.errors import OutputTakenError, SinkError
from sharpose.runtime.sinks.coco import CocoSink, TwinFile


def entries(path: Path) -> list[dict[str, object]]:
    found = json.loads(path.read_text())
    assert isinstance(found, list)
    return found


def test_the_file_is_whole_after_every_record(tmp_path, record):
    sink = CocoSink(tmp_path / "deep" / "out.json")
    assert not (tmp_path / "deep").exists()
    for index, people in enumerate([2, 0, 3]):
        sink.write(record(index, people=people))
        assert len(entries(sink.path)) == [2, 2, 5][index]
    sink.close()
    sink.close()
    assert [entry["image_id"] for entry in entries(sink.path)] == [0, 0, 2, 2, 2]


def test_what_an_entry_says(tmp_path, record):
    sink = CocoSink(str(tmp_path / "out.json"))
    given = record(0, people=1, image_id=785)
    sink.write(given)
    sink.close()
    (entry,) = entries(sink.path)
    assert list(entry) == ["image_id", "category_id", "keypoints", "score", "bbox"]
    assert (entry["image_id"], entry["category_id"], entry["bbox"]) == (785, 1, [10.25, 20, 40.25, 70])
    np.testing.assert_allclose(entry["keypoints"], given.poses.keypoints.ravel(), atol=1e-3)
    assert entry["score"] == pytest.approx(float(given.poses.scores[0]), abs=1e-5)


def test_people_with_ids(tmp_path, record):
    sink = CocoSink(tmp_path / "out.json")
    sink.write(record(0, people=2, ids=[5, 0]))
    sink.close()
    assert [entry.get("track_id") for entry in entries(sink.path)] == [5, None]


def test_pycocotools_loads_it(tmp_path, record):
    from pycocotools.coco import COCO

    sink = CocoSink(tmp_path / "out.json")
    for index in range(3):
        sink.write(record(index, image_id=100 + index))
    sink.close()
    truth = COCO()
    truth.dataset = {
        "images": [{"id": 100 + index, "width": 64, "height": 48} for index in range(3)],
        "annotations": [],
        "categories": [{"id": 1, "name": "person"}],
    }
    truth.createIndex()
    loaded = truth.loadRes(str(sink.path))
    assert len(loaded.getAnnIds(imgIds=[101])) == 2
    annotation = loaded.loadAnns(loaded.getAnnIds(imgIds=[101]))[0]
    assert len(annotation["keypoints"]) == 51
    assert annotation["score"] > 0


@pytest.mark.parametrize("records", [0, 2])
def test_nobody_at_all_is_an_empty_array(tmp_path, record, records):
    sink = CocoSink(tmp_path / "out.json")
    for index in range(records):
        sink.write(record(index, people=0))
    sink.close()
    sink.close()
    assert entries(sink.path) == []


def test_a_failed_run_without_people_keeps_an_empty_array(tmp_path, record):
    sink = CocoSink(tmp_path / "out.json")
    sink.write(record(people=0))
    assert sink.abandon() == tmp_path / "out.partial.json"
    sink.close()
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.partial.json"]
    assert entries(tmp_path / "out.partial.json") == []


def test_results_of_an_earlier_run_go_at_the_first_record_even_if_nobody_is_in_it(tmp_path, record):
    (tmp_path / "out.json").write_text('[{"image_id": 7}]')
    sink = CocoSink(tmp_path / "out.json")
    for index, people in enumerate([0, 0, 1, 0, 2]):
        sink.write(record(index, people=people))
        assert len(entries(sink.path)) == [0, 0, 1, 1, 3][index]  # what a kill would leave
    sink.close()


def test_a_place_that_can_not_be_written_is_noticed_before_anybody_is_seen(tmp_path, record):
    (tmp_path / "out.json").symlink_to("/dev/full")
    sink = CocoSink(tmp_path / "out.json")
    with pytest.raises(SinkError, match=r"out\.json: can't be written: No space left on device"):
        sink.write(record(people=0))
    assert sink.abandon() is None


def test_two_runs_keep_each_other_out_from_the_first_record_on(tmp_path, record):
    first, second = CocoSink(tmp_path / "out.json"), CocoSink(tmp_path / "out.json")
    first.write(record(people=0))
    with pytest.raises(OutputTakenError):
        second.write(record(people=0))
    assert second.abandon() is None
    first.close()
    assert entries(first.path) == []


def test_abandoned_files_are_marked_and_whole(tmp_path, record):
    sink = CocoSink(tmp_path / "out.json")
    sink.write(record())
    assert sink.abandon() == tmp_path / "out.partial.json"
    sink.close()
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.partial.json"]
    assert len(entries(tmp_path / "out.partial.json")) == 2


def test_a_full_disk(tmp_path, record):
    (tmp_path / "out.json").symlink_to("/dev/full")
    with pytest.raises(SinkError, match=r"out\.json: can't be written: No space left on device"):
        CocoSink(tmp_path / "out.json").write(record())


def array_file(path: Path) -> TwinFile:
    return TwinFile(path, tail=b"\n]\n")


def add(file: TwinFile, number: int) -> None:
    file.append((b",\n" if file.made else b"[\n") + json.dumps({"number": number, "text": "x" * 5000}).encode())


def numbers(path: Path) -> list[int]:
    return [entry["number"] for entry in json.loads(path.read_bytes())]


@pytest.fixture(params=["hard links", "no hard links"])
def links(request, monkeypatch):
    if request.param == "no hard links":

        def refuse(old: object, new: object) -> None:
            raise OSError(1, "Operation not permitted")

        monkeypatch.setattr(os, "link", refuse)
    return request.param


def test_it_is_whole_after_every_entry(tmp_path, links):
    file = array_file(tmp_path / "deep" / "a.json")
    assert not file.made
    for number in range(5):
        add(file, number)
        assert numbers(file.path) == list(range(number + 1))
    file.close()
    file.close()
    assert [entry.name for entry in (tmp_path / "deep").iterdir()] == ["a.json"]
    assert numbers(file.path) == list(range(5))


def test_it_is_whole_whatever_call_the_kill_comes_before(tmp_path, monkeypatch):
    """Looked at before and after every call that changes the disk, with writes that come in pieces."""
    file = array_file(tmp_path / "a.json")
    seen: list[int] = []

    def look() -> None:
        if file.path.exists():
            seen.append(len(numbers(file.path)))

    def watched(name: str) -> None:
        call = getattr(os, name)

        def watching(*arguments: object) -> object:
            look()
            if name == "pwrite":
                descriptor, data, position = arguments
                arguments = (descriptor, bytes(data[:1000]), position)  # type: ignore[index]
            result = call(*arguments)
            look()
            return result

        monkeypatch.setattr(os, name, watching)

    for name in ("pwrite", "link", "replace"):
        watched(name)
    for number in range(4):
        add(file, number)
    file.close()
    assert len(seen) > 30
    assert seen == sorted(seen)
    assert set(seen) == {1, 2, 3, 4}


def test_what_a_killed_run_leaves_beside_it_is_taken_over(tmp_path):
    (tmp_path / ".a.json.spare").write_text("long" * 9999)
    (tmp_path / ".a.json.old").write_text("older")
    file = array_file(tmp_path / "a.json")
    for number in range(3):
        add(file, number)
    file.close()
    assert numbers(file.path) == [0, 1, 2]
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def test_a_link_keeps_its_name(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "a.json").symlink_to(tmp_path / "there" / "b.json")
    file = array_file(tmp_path / "a.json")
    for number in range(3):
        add(file, number)
    file.close()
    assert (tmp_path / "a.json").is_symlink()
    assert numbers(tmp_path / "there" / "b.json") == [0, 1, 2]


def test_a_full_disk_leaves_the_entries_before(tmp_path, monkeypatch, links):
    file = array_file(tmp_path / "a.json")
    for number in range(3):
        add(file, number)

    def full(descriptor: int, data: bytes, position: int) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        with pytest.raises(SinkError, match=r"a\.json: can't be written: No space left on device"):
            add(file, 3)
    assert file.abandon() == tmp_path / "a.partial.json"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.partial.json"]
    assert numbers(tmp_path / "a.partial.json") == [0, 1, 2]


def test_a_first_entry_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(descriptor: int, data: bytes, position: int) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    file = array_file(tmp_path / "a.json")
    with pytest.raises(SinkError):
        add(file, 0)
    assert file.abandon() is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", ["removed", "replaced"])
def test_a_file_that_is_not_ours_any_more(tmp_path, what):
    file = array_file(tmp_path / "deep" / "a.json")
    add(file, 0)
    add(file, 1)
    if what == "removed":
        shutil.rmtree(tmp_path / "deep")
    else:
        (tmp_path / "deep" / "b.json").write_text("[]")
        (tmp_path / "deep" / "b.json").replace(file.path)
    with pytest.raises(SinkError, match=r"a\.json: was removed while it was being written"):
        add(file, 2)
    assert file.abandon() is None
    assert what == "removed" or file.path.read_text() == "[]"
