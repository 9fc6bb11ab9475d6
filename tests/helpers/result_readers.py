"""Reads every format as strictly as its users do, and gives the people of each frame."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av

MOT_COLUMNS = 10


@dataclass
class Found:
    """One person as a file has it; what the format leaves out is None.

    Attributes:
        box: Left, top, width, height.
        keypoints: `x, y, score` for each.
        id: 0 without a sure one.
    """

    box: list[float] | None = None
    keypoints: list[list[float]] | None = None
    score: float | None = None
    quality: float | None = None
    refined: bool | None = None
    id: int = 0


@dataclass
class Frames:
    """The people of each frame of a file; a frame without people may be missing."""

    people: dict[int, list[Found]] = field(default_factory=dict)

    def add(self, frame: int, person: Found) -> None:
        self.people.setdefault(frame, []).append(person)


def whole_lines(path: Path) -> list[str]:
    """The lines of a file, without a last one that has no end: a kill inside a write leaves such."""
    text = path.read_bytes().decode()
    return text[: text.rfind("\n") + 1].splitlines()


def read_json_lines(path: Path) -> Frames:
    frames = Frames()
    for line in map(json.loads, whole_lines(path)):
        frames.people[line["frame"]] = [
            Found(
                person["bbox"],
                person["keypoints"],
                person["score"],
                person["quality"],
                person["refined"],
                person.get("id") or 0,
            )
            for person in line["people"]
        ]
    return frames


def read_csv(path: Path) -> Frames:
    frames = Frames()
    for row in csv.DictReader(whole_lines(path), strict=True):
        assert None not in row.values()
        x1, y1, x2, y2 = (float(row[name]) for name in ("x1", "y1", "x2", "y2"))
        numbers = [float(number) for number in list(row.values())[10:]]
        points = [numbers[start : start + 3] for start in range(0, len(numbers), 3)]
        found = Found(
            [x1, y1, x2 - x1, y2 - y1],
            points,
            float(row["score"]),
            float(row["quality"]),
            {"true": True, "false": False}[row["refined"]],
            int(row["id"] or 0),
        )
        frames.add(int(row["frame"]), found)
    return frames


def read_angles(path: Path) -> Frames:
    frames = Frames()
    for row in csv.DictReader(whole_lines(path), strict=True):
        assert None not in row.values()
        assert int(row["person"]) == len(frames.people.get(int(row["frame"]), []))
        frames.add(int(row["frame"]), Found(id=int(row["id"] or 0)))
    return frames


def read_coco(path: Path) -> Frames:
    """Through pycocotools."""
    from pycocotools.coco import COCO

    ids = {entry["image_id"] for entry in json.loads(path.read_text())}
    truth = COCO()
    truth.dataset = {
        "images": [{"id": image_id, "width": 64, "height": 48} for image_id in ids],
        "annotations": [],
        "categories": [{"id": 1, "name": "person"}],
    }
    truth.createIndex()
    frames = Frames()
    if ids:
        for entry in truth.loadRes(str(path)).dataset["annotations"]:
            flat = entry["keypoints"]
            points = [flat[start : start + 3] for start in range(0, len(flat), 3)]
            frames.add(entry["image_id"], Found(entry["bbox"], points, entry["score"], id=entry.get("track_id", 0)))
    return frames


def read_mot(path: Path) -> Frames:
    """By the challenge's published format; back to frames and pixels from 0."""
    frames = Frames()
    for line in whole_lines(path):
        fields = line.split(",")
        assert len(fields) == MOT_COLUMNS
        assert fields[7:] == ["-1", "-1", "-1"]
        frame, identity = int(fields[0]), int(fields[1])
        assert frame >= 1
        assert identity >= 1
        left, top, width, height, score = map(float, fields[2:7])
        frames.add(frame - 1, Found([left - 1, top - 1, width, height], score=score, id=identity))
    return frames


def read_openpose(folder: Path) -> Frames:
    """By OpenPose's documented output format."""
    frames = Frames()
    for path in sorted(folder.glob("*_keypoints.json")):
        content: dict[str, Any] = json.loads(path.read_text())
        assert content["version"] == 1.3
        frame = int(path.name.removesuffix("_keypoints.json").rpartition("_")[2])
        frames.people[frame] = []
        for person in content["people"]:
            flat = person["pose_keypoints_2d"]
            assert len(flat) == 25 * 3
            points = [flat[start : start + 3] for start in range(0, len(flat), 3)]
            frames.add(frame, Found(keypoints=points, id=max(0, person["person_id"][0])))
    return frames


def read_video(path: Path) -> list[float]:
    """The times of all pictures, each of them decoded."""
    with av.open(str(path)) as container:
        return [float(frame.time) for frame in container.decode(video=0)]
