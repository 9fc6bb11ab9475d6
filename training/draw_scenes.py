"""`python -m sharpose.training.draw_scenes`: people of many built-in scenes as a COCO dataset on the disk.

Drawing takes longer than reading: for hours of training on scenes, draw them once. The dataset `kind: scene` of a
recipe draws people while it trains, one a picture, in poses and views that a scene's people never take.
"""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NoReturn

import click
import cv2
import numpy as np
from rich.console import Console
from rich.progress import track

from sharpose.cli import main as run_command
from sharpose.errors import SinkError, counted
from sharpose.files import atomic_file
from sharpose.scene import Scene, SceneConfig, SceneFrame
from sharpose.scene.keypoints import rows_of
from sharpose.similarity import BODY_SHARE
from sharpose.skeleton import Skeleton, load_skeleton
from sharpose.training.data.sample import Sample

_SIZES = ((720, 1280), (540, 960), (480, 640), (360, 640))  # height and width of the scenes
_MOST_PEOPLE = 6
_SECONDS = 120.0  # length of a scene
_FPS = 25.0
_MARGIN = 0.4  # kept around the box on every side, in its sizes, for augmentation
_LONGEST = 320  # pixels of a person's longer side; larger ones are made smaller
_SHORTEST = 48  # people smaller than this are left out
_JPEG_QUALITY = 90


def cut_people(frame: SceneFrame) -> list[Sample]:
    """The people of a scene's frame who are large enough, each in a picture of their own with a margin around them.

    Keypoints outside the picture are zeros; `annotation_id` is the scene's number of the person.
    """
    height, width = frame.image.shape[:2]
    found = []
    for box, keypoints, person in zip(frame.boxes_xyxy, frame.keypoints, frame.ids, strict=True):
        sides = box[2:] - box[:2]
        if sides.max() < _SHORTEST or sides.min() < 1 or not (keypoints[:, 2] > 0).any():
            continue
        corner = np.maximum(np.floor(box[:2] - _MARGIN * sides), 0).astype(int)
        end = np.minimum(np.ceil(box[2:] + _MARGIN * sides), (width, height)).astype(int)
        image = frame.image[corner[1] : end[1], corner[0] : end[0]]
        wanted = np.maximum(np.round((end - corner) * min(_LONGEST / float(sides.max()), 1.0)), 1).astype(int)
        factor = wanted / (end - corner)
        if (factor < 1).any():
            image = np.asarray(cv2.resize(image, wanted.tolist(), interpolation=cv2.INTER_AREA), np.uint8)
        moved = keypoints.copy()
        # whole numbers are the centres of pixels: half a pixel stays at the picture's edge
        moved[:, :2] = (keypoints[:, :2] - corner + 0.5) * factor - 0.5
        moved[keypoints[:, 2] == 0] = 0
        placed = (box.reshape(2, 2) - corner) * factor
        box, weights = placed.reshape(4).astype(np.float32), (moved[:, 2] > 0).astype(np.float32)
        found.append(Sample(image, box, moved, weights, frame.index, int(person), f"frame {frame.index}"))
    return found


Entry = dict[str, Any]


def _draw(seed: int, moments: int, folder: Path, skeleton: Skeleton) -> list[tuple[Entry, Entry]]:
    """Write the pictures of a scene; their COCO images and annotations, without ids."""
    cv2.setNumThreads(1)
    rng = np.random.default_rng([seed, 77])
    height, width = _SIZES[int(rng.integers(len(_SIZES)))]
    frames = int(_SECONDS * _FPS)
    scene = Scene(SceneConfig(seed, int(rng.integers(1, _MOST_PEOPLE + 1)), frames, height, width, _FPS), skeleton)
    entries = []
    for index in rng.choice(frames, moments, replace=False).tolist():
        for person in cut_people(scene.frame(index)):
            name = f"{seed:07d}_{index:05d}_{person.annotation_id}.jpg"
            if not cv2.imwrite(str(folder / name), person.image_bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]):
                raise SinkError(f"{folder / name}: can't be written")
            x1, y1, x2, y2 = (round(float(value), 2) for value in person.box_xyxy)
            annotation = {
                "category_id": 1,
                "iscrowd": 0,
                "bbox": [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)],
                "area": round((x2 - x1) * (y2 - y1) * BODY_SHARE, 2),
                "keypoints": [float(value) for value in np.round(person.keypoints, 2).reshape(-1)],
                "num_keypoints": int((person.keypoints[:, 2] > 0).sum()),
            }
            size = {"height": person.image_bgr.shape[0], "width": person.image_bgr.shape[1]}
            entries.append(({"file_name": name, **size}, annotation))
    return entries


def _document(entries: list[tuple[Entry, Entry]], skeleton: Skeleton) -> Entry:
    """COCO's `person_keypoints` JSON; every person has a picture of their own."""
    images = [{"id": number, **image} for number, (image, _) in enumerate(entries, 1)]
    people = [{"id": number, "image_id": number, **person} for number, (_, person) in enumerate(entries, 1)]
    links = [[first + 1, second + 1] for first, second in skeleton.limbs]
    category = {"id": 1, "name": "person", "keypoints": list(skeleton.keypoints), "skeleton": links}
    return {"images": images, "annotations": people, "categories": [category]}


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder for images/ and the labels.")
@click.option("--scenes", type=click.IntRange(1, 10**9), required=True, help="Number of scenes.")
@click.option("--moments", type=click.IntRange(1, 100), default=4, show_default=True, help="Frames from each scene.")
@click.option(
    "--seed",
    type=click.IntRange(0, 10**12 - 10**9),
    default=100_000,
    show_default=True,
    help="Seed of the first scene.",
)
@click.option(
    "--skeleton",
    "skeleton_name",
    default="coco17",
    show_default=True,
    metavar="NAME|FILE",
    help="Skeleton of the labels: coco17, halpe26, or the file of another with their keypoints.",
)
@click.option("--processes", type=click.IntRange(1, 1024), default=1, show_default=True, help="Processes that draw.")
@click.option("--debug", is_flag=True, help="Traceback of an error.")
def command(
    output: Path, scenes: int, moments: int, seed: int, skeleton_name: str, processes: int, debug: bool
) -> None:
    """Draw people of the built-in scene as a COCO dataset: images/ and person_keypoints_train.json.

    In a recipe: {kind: coco, annotations: person_keypoints_train.json, images: images}.
    """
    labels_file = output / "person_keypoints_train.json"
    folder = output / "images"
    skeleton = load_skeleton(skeleton_name)
    rows_of(skeleton)
    if labels_file.exists():
        raise SinkError(f"{labels_file} exists; choose another --output, or remove it")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SinkError(f"{folder}: can't be made ({error.strerror})") from error
    draw = partial(_draw, moments=moments, folder=folder, skeleton=skeleton)
    console = Console(stderr=True)
    # a fork would inherit the locks of other threads
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        found = pool.map(draw, range(seed, seed + scenes), chunksize=16)
        hidden = not console.is_terminal
        drawn = track(found, "drawing scenes", scenes, console=console, transient=True, disable=hidden)
        entries = [entry for of_scene in drawn for entry in of_scene]
    with atomic_file(labels_file) as path:
        path.write_text(json.dumps(_document(entries, skeleton)), encoding="utf-8")
    click.echo(f"{counted(len(entries), 'person')} of {counted(scenes, 'scene')} in {output}")


def main(arguments: list[str] | None = None) -> NoReturn:
    """Entry point of the module."""
    run_command(command, arguments)


if __name__ == "__main__":
    main()
