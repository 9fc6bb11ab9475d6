"""COCO visibility of drawn keypoints: which are seen, hidden, or outside the picture."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sharpose.scene.body import Body, Joints
from sharpose.scene.camera import Array, Camera
from sharpose.scene.canvas import NOBODY, Canvas
from sharpose.scene.face import face_keypoints
from sharpose.scene.figure import LABELS
from sharpose.scene.head import EAR_COVERING
from sharpose.scene.outfit import Looks

__all__ = ["LABEL_STRIDE", "body_keypoints", "owner_label", "seen_on"]

LABEL_STRIDE = 32
"""How many labels of surfaces one person takes on the canvas."""

# A shoulder or hip on the far side is hidden by the trunk once the body is turned this far (sine of the turn).
_FAR_SIDE = 0.72
# Probes around a keypoint, in body heights; one counts as hidden when most of them are.
_PROBES = np.array([(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)], np.float64)
_PROBE_REACH = np.where(np.arange(17) < 5, 0.005, 0.011)


def owner_label(person: int, part: str) -> int:
    """The canvas label of a person's part."""
    return 1 + person * LABEL_STRIDE + LABELS.index(part)


def _surfaces() -> npt.NDArray[np.bool_]:
    """[17, stride]: on which parts each keypoint lies, so that they do not hide it."""
    table = np.zeros((17, LABEL_STRIDE), bool)

    def allow(keypoint: int, *parts: str) -> None:
        table[keypoint, [LABELS.index(part) for part in parts]] = True

    for keypoint in range(5):
        allow(keypoint, "head")
    for index, side in enumerate(("left", "right")):
        allow(5 + index, "torso", "neck", "hair", f"{side}_upper_arm")
        allow(7 + index, f"{side}_upper_arm", f"{side}_forearm")
        allow(9 + index, f"{side}_forearm", f"{side}_hand")
        allow(11 + index, "torso", "pelvis", "skirt", f"{side}_thigh")
        allow(13 + index, "skirt", f"{side}_thigh", f"{side}_shank")
        allow(15 + index, "skirt", f"{side}_shank", f"{side}_foot")
    return table


_SURFACES = _surfaces()


def body_keypoints(
    body: Body, looks: Looks, joints: Joints, camera: Camera
) -> tuple[Array, npt.NDArray[np.bool_], float]:
    """The COCO keypoints of one person, before anything else is in the way.

    Returns:
        Picture x, y [17, 2] in pixels; whether neither the turn of the body nor hair hides them [17]; and
        the stature in pixels.
    """
    face, turned = face_keypoints(body, joints, camera)
    pairs = (joints.shoulders, joints.elbows, joints.wrists, joints.hips, joints.knees, joints.ankles)
    xy, depth = camera.project(np.concatenate([face, *pairs]))
    towards = np.ones(17, bool)
    towards[:5] = turned
    if looks.hair_style in EAR_COVERING:
        towards[3:5] = False
    for first, frame, middle in ((5, joints.chest_frame, joints.neck), (11, joints.pelvis_frame, joints.pelvis)):
        left = float(frame[:, 0] @ camera.towards(middle))
        towards[first], towards[first + 1] = left > -_FAR_SIDE, left < _FAR_SIDE
    return xy, towards, float(camera.focal * body.stature / depth.mean())


def seen_on(
    canvas: Canvas, person: int, xy: Array, towards: npt.NDArray[np.bool_], pixels: float
) -> npt.NDArray[np.int8]:
    """COCO visibility [17] on the finished picture.

    Args:
        canvas: With everything drawn.
        person: Index of the person whose labels are theirs on the canvas.
        xy: [17, 2] picture x, y.
        towards: [17], from `body_keypoints`.
        pixels: Stature in pixels.

    Returns:
        0 outside the picture, 1 hidden by a prop, another person or the own body, 2 seen.
    """
    limit = np.array([canvas.width - 1, canvas.height - 1])
    inside = ((xy >= 0) & (xy <= limit)).all(axis=1)
    probes = np.rint(xy[:, None, :] + _PROBES * (_PROBE_REACH * pixels)[:, None, None]).clip(0, limit).astype(np.intp)
    labels = canvas.owner[probes[..., 1], probes[..., 0]].astype(np.int64)
    own = labels - (1 + person * LABEL_STRIDE)
    mine = (own >= 0) & (own < LABEL_STRIDE)
    covered = np.where(mine, ~_SURFACES[np.arange(17)[:, None], own.clip(0, LABEL_STRIDE - 1)], labels != NOBODY)
    hidden = (covered.sum(axis=1) >= 3) | ~towards
    return np.where(inside, np.where(hidden, 1, 2), 0).astype(np.int8)
