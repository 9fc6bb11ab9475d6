"""How far the camera has strayed from where the background was learned: wind, drift, a hand."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["CameraShake"]

_CELLS = (6, 10)  # corners are looked for cell by cell, else people would have them all
_IN_A_CELL = 6
_MIN_POINTS = 12
_NEEDED = 0.2  # of the points must agree on one motion; people hide some, and walk off with others
_TOLERANCE = 0.7  # pixels
_MAX_SCALE_CHANGE = 0.1
_MAX_SHIFT = 0.12  # of the picture's longer side; beyond it the camera looks elsewhere

Grey = npt.NDArray[np.uint8]
Points = npt.NDArray[np.float32]


class CameraShake:
    """Finds the small motion (shift, turn, zoom) that lays a picture over the background.

    Corners of the background are looked for in the picture where they were last, by optical flow; what most of them
    agree on is the camera's motion, so that what people hide or carry doesn't matter.

    Attributes:
        matrix: float64 [2, 3], the affine map from background pixels to picture pixels, as last found.

    Args:
        margin: By how many pixels the background reaches beyond the first picture, on each side.
    """

    def __init__(self, margin: int) -> None:
        self._margin = margin
        self.matrix: npt.NDArray[np.float64] = np.array([[1.0, 0.0, -margin], [0.0, 1.0, -margin]])
        self._background: Grey | None = None
        self._points: Points = np.zeros((0, 1, 2), np.float32)

    def refer_to(self, background: Grey) -> None:
        """Compare with this background, uint8 [H, W], from now on."""
        self._background, self._points = background, _corners(background)

    def follow(self, picture: Grey) -> bool:
        """Find the motion anew.

        Args:
            picture: uint8 [H, W].

        Returns:
            Whether it is the same view. Where too little can be recognised (a plain wall, the dark) the last motion is
            kept and the answer is True.
        """
        if self._background is None or len(self._points) < _MIN_POINTS:
            return True
        expected = cv2.transform(self._points, self.matrix).astype(np.float32)
        flags = cv2.OPTFLOW_USE_INITIAL_FLOW
        height, width = picture.shape
        # Optical flow wants both of one size.
        picture = np.pad(picture, [(0, 2 * self._margin)] * 2)
        found, status, _ = cv2.calcOpticalFlowPyrLK(
            self._background, picture, self._points, expected, winSize=(21, 21), maxLevel=1, flags=flags
        )
        tracked = status.ravel() == 1
        if tracked.sum() < _MIN_POINTS:
            return True
        matrix, agreeing = cv2.estimateAffinePartial2D(
            self._points[tracked], found[tracked], method=cv2.RANSAC, ransacReprojThreshold=_TOLERANCE
        )
        if matrix is None or agreeing.mean() < _NEEDED:
            return True
        scale = float(np.hypot(matrix[0, 0], matrix[0, 1]))
        middle = matrix @ np.array([width / 2 + self._margin, height / 2 + self._margin, 1])
        shift = float(np.hypot(*(middle - (width / 2, height / 2))))
        if abs(scale - 1) > _MAX_SCALE_CHANGE or shift > _MAX_SHIFT * max(height, width):
            return False
        self.matrix = np.asarray(matrix, np.float64)
        return True

    def onto_background(
        self, picture: npt.NDArray[np.uint8], background: npt.NDArray[np.uint8]
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """The picture laid over the background, uint8 as that is, and where it lies: uint8 [H, W], 1 or 0."""
        height, width = background.shape[:2]
        laid = cv2.warpAffine(
            picture,
            self.matrix,
            (width, height),
            dst=background.copy(),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_TRANSPARENT,
        )
        whole = np.ones(picture.shape[:2], np.uint8)
        flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
        visible = cv2.erode(cv2.warpAffine(whole, self.matrix, (width, height), flags=flags), np.ones((3, 3), np.uint8))
        return np.asarray(laid, np.uint8), np.asarray(visible, np.uint8)


def _corners(grey: Grey) -> Points:
    """float32 [n, 1, 2], x and y."""
    height, width = grey.shape
    rows = np.linspace(0, height, _CELLS[0] + 1).astype(int)
    columns = np.linspace(0, width, _CELLS[1] + 1).astype(int)
    found = []
    for top, bottom in pairwise(rows.tolist()):
        for left, right in pairwise(columns.tolist()):
            points = cv2.goodFeaturesToTrack(grey[top:bottom, left:right], _IN_A_CELL, 0.02, 5)
            if points is not None:
                found.append(points + np.array([left, top], np.float32))
    return np.concatenate(found) if found else np.zeros((0, 1, 2), np.float32)
