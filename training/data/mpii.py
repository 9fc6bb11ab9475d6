"""MPII Human Pose as the field's tools keep it: a JSON list of people with centre, scale and 16 joints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sharpose.errors import SourceError
from sharpose.similarity import BODY_SHARE
from sharpose.skeleton import MPII16
from sharpose.training.data.sample import FileDataset, Person

__all__ = ["MpiiDataset", "head_segment"]

_HEAD_BOX_SHARE = 0.6  # PCKh's unit is this share of the diagonal of the head's box
_FEET_SHIFT = 15.0  # the centre moves down by this many pixels a unit of scale, so that feet stay inside
_PIXELS_A_SCALE = 200.0
_HEAD_TOP, _NECK = MPII16.keypoints.index("head_top"), MPII16.keypoints.index("upper_neck")


class MpiiDataset(FileDataset):
    """People of `train.json`, `valid.json` or `trainval.json`.

    Coordinates are one-based in the file and zero-based here. The box is the square of 200 pixels a unit of scale.

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
                entry["head_box"] = box
        numbers = {name: index for index, name in enumerate(dict.fromkeys(str(entry["image"]) for entry in entries))}
        try:
            people = [_person(index, entry, Path(images), numbers) for index, entry in enumerate(entries)]
        except (KeyError, TypeError, ValueError) as error:
            raise SourceError(f"{path}: expected MPII entries with center, scale and 16 joints ({error!r})") from None
        super().__init__(path.stem, MPII16, people)


def head_segment(keypoints: npt.NDArray[np.float32]) -> float | None:
    """Pixels from the neck to the top of the head of keypoints [16, 3]: a stand-in where the head's box is unknown."""
    if (keypoints[[_HEAD_TOP, _NECK], 2] <= 0).any():
        return None
    return float(np.linalg.norm(keypoints[_HEAD_TOP, :2] - keypoints[_NECK, :2]))


def _read_entries(path: Path) -> list[dict[str, Any]]:
    try:
        entries = json.loads(path.read_bytes())
    except OSError as error:
        raise SourceError(f"{path}: can't read the labels ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path}: expected MPII's JSON; it does not parse ({error})") from None
    if not isinstance(entries, list) or not entries or not all(isinstance(e, dict) and "image" in e for e in entries):
        raise SourceError(f"{path}: expected MPII's list of people, each with image, center, scale and joints")
    return entries


def _person(index: int, entry: dict[str, Any], images: Path, numbers: dict[str, int]) -> Person:
    scale = float(entry["scale"])
    x, y = (float(value) for value in entry["center"])
    if x != -1:  # -1 marks a missing centre
        y += _FEET_SHIFT * scale
    half = 0.5 * _PIXELS_A_SCALE * scale
    center = np.array([x, y]) - 1
    joints = np.asarray(entry["joints"], np.float64)
    seen = np.asarray(entry["joints_vis"], np.float64).reshape(-1)
    if joints.shape != (len(MPII16.keypoints), 2) or len(seen) != len(joints):
        raise ValueError(f"joints {list(joints.shape)} and joints_vis {list(seen.shape)} of {entry['image']}")
    labelled = seen > 0
    head_size = None
    if entry.get("head_box") is not None:
        x1, y1, x2, y2 = (float(value) for value in entry["head_box"])
        head_size = _HEAD_BOX_SHARE * float(np.hypot(x2 - x1, y2 - y1))
    name = str(entry["image"])
    return Person(
        image_id=numbers[name],
        annotation_id=index,
        file=images / name,
        box_xyxy=np.concatenate([center - half, center + half]).astype(np.float32),
        keypoints=np.column_stack([(joints - 1) * labelled[:, None], 2.0 * labelled]).astype(np.float32),
        area=(2 * half) ** 2 * BODY_SHARE,
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
