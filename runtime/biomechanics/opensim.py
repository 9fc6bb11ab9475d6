"""OpenSim's text formats: markers over time (.trc) and motions (.mot).

What isn't known is `NaN`: OpenSim refuses rows with empty cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sharpose.angles import points_at
from sharpose.skeleton import Skeleton, plain_name

Floats = npt.NDArray[np.float64]

_MIDWAY = {"neck": "neck_base", "hip": "hip_centre"}  # markers that Pose2Sim's models have beside those of COCO


@dataclass(frozen=True)
class Markers:
    """Marker positions of one person.

    Attributes:
        names: M markers.
        places: float64 [F, M, 2], `x` to the right, `y` up; NaN where a marker isn't known.
        times: float64 [F], seconds.
        first: Number of the first frame, from 1.
        frame_rate: Frames per second.
        units: `px` or `m`.
    """

    names: Sequence[str]
    places: Floats
    times: Floats
    first: int
    frame_rate: float
    units: str


def marker_name(keypoint: str) -> str:
    """What Pose2Sim and its OpenSim models call a keypoint: `left_big_toe` is `LBigToe`, `nose` is `Nose`."""
    words = plain_name(keypoint).split("_")  # letters, digits and _ alone
    side = {"left": "L", "right": "R"}.get(words[0], "") if len(words) > 1 else ""
    return side + "".join(word[:1].upper() + word[1:] for word in (words[1:] if side else words))


def with_midpoints(places: Floats, skeleton: Skeleton) -> tuple[list[str], Floats]:
    """Markers of keypoints, with the neck and the middle of the hips where the skeleton lacks them.

    Args:
        places: float64 [F, J, 2], NaN where a keypoint isn't known.
        skeleton: Names the J keypoints.

    Returns:
        The markers' names, and float64 [F, M, 2].
    """
    names = [marker_name(keypoint) for keypoint in skeleton.keypoints]
    if len(set(names)) < len(names):
        names = list(skeleton.keypoints)
    added = []
    for name, point in _MIDWAY.items():
        indices = points_at(point, skeleton)
        if indices and marker_name(name) not in names:
            names.append(marker_name(name))
            added.append(places[:, indices].mean(axis=1, keepdims=True))
    return names, np.concatenate([places, *added], axis=1)


def trc_text(markers: Markers, file_name: str) -> str:
    """A .trc file, tabs between; z is 0, as everything lies in the picture's plane.

    Pixels have 3 decimals, metres 6.
    """
    count, rate = len(markers.times), _number(markers.frame_rate)
    values = [rate, rate, count, len(markers.names), markers.units, rate, markers.first, count]
    axes = [f"{axis}{number}" for number in range(1, len(markers.names) + 1) for axis in "XYZ"]
    lines = [
        f"PathFileType\t4\t(X/Y/Z)\t{file_name}",
        "DataRate\tCameraRate\tNumFrames\tNumMarkers\tUnits\tOrigDataRate\tOrigDataStartFrame\tOrigNumFrames",
        "\t".join(map(str, values)),
        "Frame#\tTime\t" + "".join(f"{name}\t\t\t" for name in markers.names),
        "\t\t" + "\t".join(axes),
        "",
    ]
    decimals = 3 if markers.units == "px" else 6
    depth = np.where(np.isnan(markers.places[:, :, :1]), np.nan, 0.0)
    rows = _rounded(np.concatenate([markers.places, depth], axis=2), decimals).reshape(count, len(axes))
    for number, (time, row) in enumerate(zip(markers.times.tolist(), rows, strict=True)):
        cells = "\t".join("NaN" if value != value else repr(value) for value in row.tolist())
        lines.append(f"{markers.first + number}\t{round(time, 6)!r}\t{cells}")
    return "\n".join(lines) + "\n"


def mot_text(angles: Mapping[str, npt.NDArray[np.float32]], times: Floats, name: str) -> str:
    """A .mot file of angles in degrees, with 2 decimals: [F] for each name."""
    lines = [
        name,
        "version=1",
        f"nRows={len(times)}",
        f"nColumns={len(angles) + 1}",
        "inDegrees=yes",
        "",
        "endheader",
        "\t".join(["time", *angles]),
    ]
    table = _rounded(np.array(list(angles.values()), np.float64).reshape(len(angles), len(times)).T, 2)
    for time, row in zip(times.tolist(), table.tolist(), strict=True):
        lines.append("\t".join([repr(round(time, 6)), *("NaN" if value != value else repr(value) for value in row)]))
    return "\n".join(lines) + "\n"


def _rounded(values: Floats, decimals: int) -> Floats:
    return np.asarray(np.round(values, decimals) + 0.0, np.float64)  # + 0.0: no -0.0


def _number(value: float) -> str:
    return f"{value:.10g}"
