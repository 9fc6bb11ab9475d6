"""Skeletons: the names, mirror pairs and limbs of a set of keypoints. Torch-free.

Indices follow the datasets' own order: COCO's 17 keypoints and MPII's 16.
"""

from __future__ import annotations

from dataclasses import dataclass

from sharpose.errors import ConfigError

_MOST = 1024  # keypoints; COCO-WholeBody has 133


@dataclass(frozen=True)
class Skeleton:
    """A set of keypoints.

    Attributes:
        name: The name a configuration refers to it by.
        keypoints: Keypoint names, in index order.
        limbs: Pairs of keypoint indices joined by a line when drawn.
        flip_pairs: `(left, right)` index pairs that change places in a mirrored picture.
        sigmas: OKS constants, one a keypoint (COCO's published ones; MPII's are those its COCO-style tools use).
    """

    name: str
    keypoints: tuple[str, ...]
    limbs: tuple[tuple[int, int], ...]
    flip_pairs: tuple[tuple[int, int], ...]
    sigmas: tuple[float, ...]

    def __post_init__(self) -> None:
        count = len(self.keypoints)
        for what, number, most in (("keypoint", count, _MOST), ("limb", len(self.limbs), 4 * _MOST)):
            if number > most or not count:
                raise ConfigError(f"skeleton {self.name!r}: {what}s: expected 1 to {most}, got {number}")
        if len(set(self.keypoints)) != count:
            raise ConfigError(f"skeleton {self.name!r}: keypoint names must be unique, got {list(self.keypoints)}")
        if len(self.sigmas) != count:
            raise ConfigError(f"skeleton {self.name!r}: expected {count} sigmas, got {len(self.sigmas)}")
        if not all(sigma > 0 for sigma in self.sigmas):
            raise ConfigError(f"skeleton {self.name!r}: sigmas must be positive, got {list(self.sigmas)}")
        for what, pairs in (("limb", self.limbs), ("flip pair", self.flip_pairs)):
            for pair in pairs:
                if len(pair) != 2 or not all(0 <= index < count for index in pair) or pair[0] == pair[1]:
                    raise ConfigError(
                        f"skeleton {self.name!r}: {what} {pair} must be two different indices in [0, {count})"
                    )
        mirrored = [index for pair in self.flip_pairs for index in pair]
        if len(set(mirrored)) != len(mirrored):
            raise ConfigError(f"skeleton {self.name!r}: a keypoint is in more than one flip pair")

    @property
    def num_keypoints(self) -> int:
        """How many keypoints there are (J)."""
        return len(self.keypoints)

    @property
    def flip_order(self) -> tuple[int, ...]:
        """For each keypoint, the index of its mirror image (itself where it has none)."""
        order = list(range(self.num_keypoints))
        for left, right in self.flip_pairs:
            order[left], order[right] = right, left
        return tuple(order)

    def side(self, index: int) -> str:
        """`"left"`, `"right"` or `"centre"`: which side of the body keypoint `index` belongs to."""
        for left, right in self.flip_pairs:
            if index == left:
                return "left"
            if index == right:
                return "right"
        return "centre"


# fmt: off
COCO17 = Skeleton(
    name="coco17",
    keypoints=(
        "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
        "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
        "right_ankle",
    ),
    limbs=(
        (0, 1), (0, 2), (1, 3), (2, 4), (5, 6), (5, 7), (7, 9), (6, 8), (8, 10), (5, 11), (6, 12), (11, 12), (11, 13),
        (13, 15), (12, 14), (14, 16),
    ),
    flip_pairs=((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16)),
    sigmas=(
        0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089,
        0.089,
    ),
)

MPII16 = Skeleton(
    name="mpii16",
    keypoints=(
        "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle", "pelvis", "thorax",
        "upper_neck", "head_top", "right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow",
        "left_wrist",
    ),
    limbs=(
        (0, 1), (1, 2), (2, 6), (6, 3), (3, 4), (4, 5), (6, 7), (7, 8), (8, 9), (8, 12), (12, 11), (11, 10), (8, 13),
        (13, 14), (14, 15),
    ),
    flip_pairs=((5, 0), (4, 1), (3, 2), (15, 10), (14, 11), (13, 12)),
    sigmas=(
        0.089, 0.083, 0.107, 0.107, 0.083, 0.089, 0.026, 0.026, 0.026, 0.026, 0.062, 0.072, 0.179, 0.179, 0.072, 0.062,
    ),
)
# fmt: on

SKELETONS: dict[str, Skeleton] = {skeleton.name: skeleton for skeleton in (COCO17, MPII16)}


def get_skeleton(name: str) -> Skeleton:
    """The built-in skeleton called `name`; raises `ConfigError` with the known names if there is none."""
    try:
        return SKELETONS[name]
    except KeyError:
        raise ConfigError(f"unknown skeleton {name!r}: expected one of {sorted(SKELETONS)}") from None
