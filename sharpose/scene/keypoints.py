"""The keypoints of drawn people: where they are, and which can be seen."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sharpose.errors import InputError
from sharpose.scene.body import Body, Joints
from sharpose.scene.canvas import NOBODY, Array, Camera, Canvas
from sharpose.scene.figure import LABELS
from sharpose.scene.head import EAR_COVERING, face_keypoints
from sharpose.scene.looks import Looks
from sharpose.skeleton import Skeleton, plain_name

KEYPOINTS = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
    "right_ankle", "head", "neck", "hip", "left_big_toe", "right_big_toe", "left_small_toe", "right_small_toe",
    "left_heel", "right_heel",
)  # fmt: skip
"""What a scene knows the place of, in the order of the skeleton `halpe26`: COCO's 17, then the top of the head, the
base of the neck, the middle of the hips, and the feet."""
COCO = 17
"""How many of them COCO has, which come first."""
LABEL_STRIDE = 32
"""How many labels of surfaces one person takes on the canvas."""

_ROWS = {name: row for row, name in enumerate(KEYPOINTS)}
_FEET = slice(_ROWS["left_big_toe"], None)
# A shoulder or hip on the far side is hidden by the trunk once the body is turned this far (sine of the turn); likewise
# a heel by the foot in front of it, and toes by the foot behind them.
_FAR_SIDE = 0.72
# Probes around a keypoint, in body heights; one counts as hidden when most of them are.
_PROBES = np.array([(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)], np.float64)
_PROBE_REACH = np.full(len(KEYPOINTS), 0.011)
_PROBE_REACH[:5] = 0.005
_PROBE_REACH[_FEET] = 0.006


def rows_of(skeleton: Skeleton | None) -> npt.NDArray[np.intp]:
    """Which of `KEYPOINTS` are a skeleton's, in its order: intp [J]; COCO's without one.

    Raises:
        InputError: it has keypoints that a scene doesn't know the place of.
    """
    if skeleton is None:
        return np.arange(COCO)
    names = [plain_name(name) for name in skeleton.keypoints]
    if unknown := [name for name, plain in zip(skeleton.keypoints, names, strict=True) if plain not in _ROWS]:
        more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        raise InputError(
            f"the drawn scene has no {', '.join(unknown[:3])}{more}, which skeleton {skeleton.name} has; it labels "
            "coco17, halpe26, and other skeletons of their keypoints"
        )
    return np.array([_ROWS[name] for name in names], np.intp)


def owner_label(person: int, part: str) -> int:
    """The canvas label of a person's part."""
    return 1 + person * LABEL_STRIDE + LABELS.index(part)


def _surfaces() -> npt.NDArray[np.bool_]:
    """[26, stride]: on which parts each keypoint lies, so that they do not hide it."""
    table = np.zeros((len(KEYPOINTS), LABEL_STRIDE), bool)

    def allow(keypoint: str, *parts: str) -> None:
        table[_ROWS[keypoint], [LABELS.index(part) for part in parts]] = True

    for keypoint in KEYPOINTS[:5]:
        allow(keypoint, "head")
    allow("head", "head", "hair")
    allow("neck", "neck", "torso", "hair")
    allow("hip", "torso", "pelvis", "skirt", "left_thigh", "right_thigh")
    for side in ("left", "right"):
        allow(f"{side}_shoulder", "torso", "neck", "hair", f"{side}_upper_arm")
        allow(f"{side}_elbow", f"{side}_upper_arm", f"{side}_forearm")
        allow(f"{side}_wrist", f"{side}_forearm", f"{side}_hand")
        allow(f"{side}_hip", "torso", "pelvis", "skirt", f"{side}_thigh")
        allow(f"{side}_knee", "skirt", f"{side}_thigh", f"{side}_shank")
        allow(f"{side}_ankle", "skirt", f"{side}_shank", f"{side}_foot")
        allow(f"{side}_heel", f"{side}_shank", f"{side}_foot")
        for toe in ("big_toe", "small_toe"):
            allow(f"{side}_{toe}", f"{side}_foot")
    return table


_SURFACES = _surfaces()


def body_keypoints(
    body: Body, looks: Looks, joints: Joints, camera: Camera
) -> tuple[Array, npt.NDArray[np.bool_], float]:
    """`KEYPOINTS` [26, 2] in pixels, whether neither the body's turn nor hair hides them [26], stature in pixels."""
    face, turned = face_keypoints(body, joints, camera)
    pairs = (joints.shoulders, joints.elbows, joints.wrists, joints.hips, joints.knees, joints.ankles)
    top = joints.head + 0.47 * body.head * joints.head_frame[:, 1]  # on the skull as it is drawn
    middle = np.stack([top, joints.neck, joints.pelvis])
    xy, depth = camera.project(np.concatenate([face, *pairs, middle, *_foot_points(body, joints)]))
    towards = np.ones(len(KEYPOINTS), bool)
    towards[:5] = turned
    if looks.hair_style in EAR_COVERING:
        towards[3:5] = False
    for first, frame, centre in ((5, joints.chest_frame, joints.neck), (11, joints.pelvis_frame, joints.pelvis)):
        left = float(frame[:, 0] @ camera.towards(centre))
        towards[first], towards[first + 1] = left > -_FAR_SIDE, left < _FAR_SIDE
    for side, name in enumerate(("left", "right")):
        ahead = float(joints.foot_frames[side, :, 2] @ camera.towards(joints.ankles[side]))
        towards[_ROWS[f"{name}_heel"]] = ahead < _FAR_SIDE
        towards[[_ROWS[f"{name}_big_toe"], _ROWS[f"{name}_small_toe"]]] = ahead > -_FAR_SIDE
    return xy, towards, float(camera.focal * body.stature / depth[:COCO].mean())


def _foot_points(body: Body, joints: Joints) -> tuple[Array, Array, Array]:
    """Big toes, small toes and heels in the world, [2, 3] each, left first: on the drawn shoe, above its sole."""
    size = body.stature
    outwards, up = joints.foot_frames[:, :, 0] * np.array([[1.0], [-1.0]]), joints.foot_frames[:, :, 1]
    length = joints.toes - joints.heels
    big = joints.toes - 0.08 * length - 0.010 * size * outwards + 0.014 * size * up
    small = joints.toes - 0.26 * length + 0.016 * size * outwards + 0.014 * size * up
    return big, small, joints.heels + 0.016 * size * up


def seen_on(
    canvas: Canvas, person: int, xy: Array, towards: npt.NDArray[np.bool_], pixels: float
) -> npt.NDArray[np.int8]:
    """COCO visibility [26] on the finished picture, of one person's `body_keypoints`.

    0 is outside the picture, 1 hidden by a prop, another person or the own body, 2 seen.
    """
    limit = np.array([canvas.width - 1, canvas.height - 1])
    inside = ((xy >= 0) & (xy <= limit)).all(axis=1)
    probes = np.rint(xy[:, None, :] + _PROBES * (_PROBE_REACH * pixels)[:, None, None]).clip(0, limit).astype(np.intp)
    labels = canvas.owner[probes[..., 1], probes[..., 0]].astype(np.int64)
    own = labels - (1 + person * LABEL_STRIDE)
    mine = (own >= 0) & (own < LABEL_STRIDE)
    rows = np.arange(len(KEYPOINTS))[:, None]
    covered = np.where(mine, ~_SURFACES[rows, own.clip(0, LABEL_STRIDE - 1)], labels != NOBODY)
    hidden = (covered.sum(axis=1) >= 3) | ~towards
    return np.where(inside, np.where(hidden, 1, 2), 0).astype(np.int8)
