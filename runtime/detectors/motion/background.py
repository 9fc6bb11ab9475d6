"""A background that is learned, and how far the camera has strayed from where it was learned."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["Background", "CameraShake"]

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


_LEARN = 4.0  # seconds in which empty places follow the light
_KEEP_PEOPLE = 60.0  # seconds after which what stands still there is furniture
_LEAST_DIFFERENCE = 12.0  # levels
_SIGMAS = 4.0
_START_VARIANCE = 9.0
_COLOUR_WEIGHT = 2  # colour differences are smaller than those of light, and surer
_SHADOW = 0.72  # a shadow leaves at least so much of the light
_SHADOW_TINT = 5  # levels by which a shadow may change colour
_STILL = 0.3  # seconds
_LONG_STILL, _REMAINS_STILL = 0.6, 0.7  # seconds, and the share of a thing's pixels
_CHANGED = 8  # levels between two frames
_GHOST_EDGE = 5.0  # levels a pixel
_GHOST_RATIO = 1.5
_GHOST_AREA = 12  # pixels
_GHOST_ALONE = 0.4  # of its surroundings are empty

Picture = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
_RING = np.ones((5, 5), np.uint8)


class Background:
    """Tells what is in front of a background.

    Empty places follow the light, places with people are left alone. Where somebody stood from the start and walks off,
    a ghost is left: something that differs, keeps still, and has its outline in the background rather than in the
    picture. It is taken into the background at once; so are the people of the first picture, once they have moved.

    Pictures are uint8 [H, W, 3], YCrCb, laid over the background; `visible`, uint8 [H, W], is 1 where they reach, else
    0: the camera may shake. Where it reaches first, what is there is the background.

    Args:
        picture: The first one.
        visible: Where it reaches.
    """

    def __init__(self, picture: Picture, visible: Mask) -> None:
        self._known = visible > 0
        self._mean: Floats = picture.astype(np.float32)
        self.picture: Picture = picture.copy()
        self._variance: Floats = np.full(picture.shape[:2], _START_VARIANCE, np.float32)
        self._last: Picture = picture
        self._still: Floats = np.zeros(picture.shape[:2], np.float32)  # seconds
        self._occupied: Floats = np.zeros(picture.shape[:2], np.float32)  # seconds

    def difference(self, picture: Picture, visible: Mask, seconds: float) -> Mask:
        """What is in front, `seconds` after the last picture: uint8 [H, W], 255 in front, 127 shadow, 0 background."""
        new = (visible > 0) & ~self._known
        if new.any():
            self._known |= new
            self._mean[new] = picture[new]
            self.picture[new] = picture[new]
        self._still += np.float32(seconds)
        self._still[_largest(picture, self._last) > _CHANGED] = 0
        self._last = picture
        front = self._front(picture)
        if self._forget_ghosts(picture, front) | self._forget_remains(picture, front):
            front = self._front(picture)
        front[(front > 0) & self._shadow(picture)] = 127
        front *= visible
        return front

    def learn(self, picture: Picture, people: Mask, seconds: float) -> None:
        """Follow the light where there is nobody; `people`, uint8 [H, W], is not 0 where people are."""
        self._occupied += np.float32(seconds)
        self._occupied[people == 0] = 0
        share = 1 - float(np.exp(-seconds / _LEARN))
        free = ((people == 0) | (self._occupied > _KEEP_PEOPLE)).astype(np.uint8)
        distance = _largest(picture, self.picture).astype(np.float32)
        # What is in front but nobody's is learned as well, yet isn't noise.
        quiet = free & (distance < _LEAST_DIFFERENCE).astype(np.uint8)
        cv2.accumulateWeighted(distance * distance, self._variance, share, mask=quiet)
        cv2.accumulateWeighted(picture, self._mean, share, mask=free)
        self.picture = np.asarray(cv2.convertScaleAbs(self._mean), np.uint8)

    def _front(self, picture: Picture) -> Mask:
        distance = _largest(picture, self.picture).astype(np.float32)
        limit = np.maximum(_SIGMAS * cv2.sqrt(self._variance), np.float32(_LEAST_DIFFERENCE))
        return np.asarray(cv2.compare(distance, limit, cv2.CMP_GT), np.uint8)

    def _shadow(self, picture: Picture) -> npt.NDArray[np.bool_]:
        """Where the background shows through, only darker."""
        light, red, blue = cv2.split(picture)
        old_light, old_red, old_blue = cv2.split(self.picture)
        tint = cv2.max(cv2.absdiff(red, old_red), cv2.absdiff(blue, old_blue))
        dimmest = cv2.convertScaleAbs(old_light, alpha=_SHADOW)
        return (light >= dimmest) & (light < old_light) & (tint <= _SHADOW_TINT)

    def _forget_ghosts(self, picture: Picture, front: Mask) -> bool:
        """Take into the background what keeps still and has no outline of its own. Whether there was any."""
        edges, old_edges = _edges(picture), _edges(self.picture)
        # Parted at the picture's edges, so that a ghost comes off the person who steps out of it.
        still = front & np.where((self._still >= _STILL) & (edges < _GHOST_EDGE), np.uint8(255), np.uint8(0))
        count, labels, stats, _ = cv2.connectedComponentsWithStats(still, connectivity=4)
        if count < 2:
            return False
        near = cv2.dilate(labels.astype(np.uint16), _RING)
        ring = cv2.subtract(cv2.dilate(still, _RING), still) > 0
        around = near[ring]
        pixels = np.maximum(np.bincount(around, minlength=count), 1)
        own = np.bincount(around, edges[ring], minlength=count) / pixels
        old = np.bincount(around, old_edges[ring], minlength=count) / pixels
        # The middle of a dark coat keeps still too, but what is around it is in front as well.
        alone = np.bincount(around, front[ring] == 0, minlength=count) > _GHOST_ALONE * pixels
        ghost = (stats[:, cv2.CC_STAT_AREA] >= _GHOST_AREA) & (old > _GHOST_RATIO * own) & (old > _GHOST_EDGE) & alone
        ghost[0] = False
        if not ghost.any():
            return False
        where = (cv2.dilate(ghost[labels].astype(np.uint8), _RING) > 0) & (self._still >= _STILL / 2)
        self._take(where, picture)
        return True

    def _forget_remains(self, picture: Picture, front: Mask) -> bool:
        """The same for what has kept still for long, whole: its outline need only be weaker than the background's."""
        joined = cv2.dilate(front, _RING)
        count, labels = cv2.connectedComponents(joined, connectivity=8)
        inside = labels[front > 0]
        area = np.maximum(np.bincount(inside, minlength=count), 1)
        still = np.bincount(inside, self._still[front > 0] >= _LONG_STILL, minlength=count) > _REMAINS_STILL * area
        if not still[1:].any():
            return False
        edge = labels[(joined > 0) & still[labels]]
        own = np.bincount(edge, _edges(picture)[(joined > 0) & still[labels]], minlength=count)
        old = np.bincount(edge, _edges(self.picture)[(joined > 0) & still[labels]], minlength=count)
        gone = still & (old > own)
        gone[0] = False
        if not gone.any():
            return False
        self._take(gone[labels], picture)
        return True

    def _take(self, where: npt.NDArray[np.bool_], picture: Picture) -> None:
        self._mean[where] = picture[where]
        self.picture = np.asarray(cv2.convertScaleAbs(self._mean), np.uint8)


def _largest(picture: Picture, other: Picture) -> Mask:
    """uint8 [H, W]: the largest difference of light and, weighted, colour."""
    light, red, blue = cv2.split(cv2.absdiff(picture, other))
    return np.asarray(cv2.max(light, cv2.convertScaleAbs(cv2.max(red, blue), alpha=_COLOUR_WEIGHT)), np.uint8)


def _edges(picture: Picture) -> Floats:
    """float32 [H, W]: the steepness of light, in levels a pixel."""
    light = cv2.extractChannel(picture, 0)
    x, y = (cv2.Sobel(light, cv2.CV_32F, *order, ksize=3, scale=1 / 8) for order in ((1, 0), (0, 1)))
    return np.asarray(cv2.magnitude(x, y), np.float32)
