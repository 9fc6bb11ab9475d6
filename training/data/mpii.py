"""MPII Human Pose as the field's tools keep it: a JSON list of people with centre, scale and 16 joints."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from sharpose.coco.labels import Finite, LabelEntry, checked_entry
from sharpose.errors import SourceError
from sharpose.files import LABELS_LIMIT, read_json
from sharpose.similarity import BODY_SHARE
from sharpose.skeleton import MPII16
from sharpose.training.data.sample import FileDataset, Person

_HEAD_BOX_SHARE = 0.6  # PCKh's unit is this share of the diagonal of the head's box
_FEET_SHIFT = 15.0  # the centre moves down by this many pixels a unit of scale, so that feet stay inside
_PIXELS_A_SCALE = 200.0
_HEAD_TOP, _NECK = MPII16.keypoints.index("head_top"), MPII16.keypoints.index("upper_neck")


class MpiiDataset(FileDataset):
    """People of `train.json`, `valid.json` or `trainval.json`.

    Coordinates are one-based in the file and zero-based here. The box is the square of 200 pixels a unit of scale.
    People without a scale above 0, or without a labelled joint, are left out and counted.

    Args:
        annotations: The JSON list: `image`, `center`, `scale`, `joints` [16][2], `joints_vis` [16]; the head's box as
            `head_box` [x1, y1, x2, y2] (one-based too) where it is known.
        images: Folder of its pictures.
        head_boxes: MPII's own `mpii_gt_val.mat` for the file's people in order (needs SciPy), if not in the entries.

    Raises:
        SourceError: a file can't be read, or isn't MPII's.
    """

    def __init__(self, annotations: str | Path, images: str | Path, *, head_boxes: str | Path | None = None) -> None:
        path = Path(annotations)
        entries = _read_entries(path)
        if head_boxes is not None:
            for entry, box in zip(entries, _read_head_boxes(Path(head_boxes), len(entries)), strict=True):
                entry.head_box = box
        numbers = {name: index for index, name in enumerate(dict.fromkeys(entry.image for entry in entries))}
        people = [_person(index, entry, Path(images), numbers) for index, entry in enumerate(entries)]
        placed = [person for person in people if person.area > 0]
        labelled = [person for person in placed if person.keypoints[:, 2].any()]
        counts = {"without scale": len(people) - len(placed), "without labelled joints": len(placed) - len(labelled)}
        super().__init__(path.stem, MPII16, labelled, path=path, left_out=Counter(counts))


def head_segment(keypoints: npt.NDArray[np.float32]) -> float | None:
    """Pixels from the neck to the top of the head of keypoints [16, 3]: a stand-in where the head's box is unknown."""
    if (keypoints[[_HEAD_TOP, _NECK], 2] <= 0).any():
        return None
    return float(np.linalg.norm(keypoints[_HEAD_TOP, :2] - keypoints[_NECK, :2]))


_Pair = Annotated[list[Finite], Field(min_length=2, max_length=2)]
_JOINTS = len(MPII16.keypoints)


class _Entry(LabelEntry):
    image: Annotated[str, Field(min_length=1)]
    center: _Pair
    scale: Finite
    joints: Annotated[list[_Pair], Field(min_length=_JOINTS, max_length=_JOINTS)]
    joints_vis: Annotated[list[Finite | bool], Field(min_length=_JOINTS, max_length=_JOINTS)]
    head_box: Annotated[list[Finite], Field(min_length=4, max_length=4)] | None = None


def _read_entries(path: Path) -> list[_Entry]:
    entries = read_json(path, lambda reason: SourceError(f"{path}: can't read the labels: {reason}"), LABELS_LIMIT)
    if not isinstance(entries, list) or not entries:
        raise SourceError(f"{path}: expected MPII's list of people, each with image, center, scale and joints")
    return [checked_entry(_Entry, entry, f"{path}: entry {index}") for index, entry in enumerate(entries)]


def _person(index: int, entry: _Entry, images: Path, numbers: dict[str, int]) -> Person:
    x, y = entry.center
    if x != -1:  # -1 marks a missing centre
        y += _FEET_SHIFT * entry.scale
    half = 0.5 * _PIXELS_A_SCALE * entry.scale
    center = np.array([x, y]) - 1
    joints = np.asarray(entry.joints, np.float64)
    seen = np.asarray(entry.joints_vis, np.float64)
    labelled = seen > 0
    head_size = None
    if entry.head_box is not None:
        x1, y1, x2, y2 = entry.head_box
        head_size = _HEAD_BOX_SHARE * float(np.hypot(x2 - x1, y2 - y1))
    return Person(
        image_id=numbers[entry.image],
        annotation_id=index,
        file=images / entry.image,
        box_xyxy=np.concatenate([center - half, center + half]).astype(np.float32),
        keypoints=np.column_stack([(joints - 1) * labelled[:, None], 2.0 * labelled]).astype(np.float32),
        area=(2 * max(half, 0.0)) ** 2 * BODY_SHARE,
        head_size=head_size,
    )


def _read_head_boxes(path: Path, people: int) -> list[list[float]]:
    """Boxes `x1, y1, x2, y2` from MPII's `headboxes_src` [2, 2, people]."""
    try:
        from scipy.io import loadmat
    except ImportError:
        raise SourceError(f"{path}: reading MATLAB files needs SciPy: pip install scipy") from None
    try:
        corners = np.asarray(loadmat(path)["headboxes_src"], np.float64)
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise SourceError(f"{path}: expected mpii_gt_val.mat with headboxes_src ({error})") from None
    if corners.shape != (2, 2, people):
        raise SourceError(f"{path}: expected head boxes of {people} people, got shape {list(corners.shape)}")
    boxes: list[list[float]] = corners.reshape(4, people).T.tolist()
    return boxes
