"""The background behind the people: learned from the pictures, and subtracted from them."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]
"""[H, W, 3]"""
Mask = npt.NDArray[np.uint8]
"""[H, W]"""
_Floats = npt.NDArray[np.float32]
_Bools = npt.NDArray[np.bool_]

_LEARN = 4.0  # seconds in which empty places follow the light
_KEEP_PEOPLE = 60.0  # seconds after which what stands still is furniture
_LEAST_DIFFERENCE = 12.0  # grey levels
_SIGMAS = 4.0
_START_VARIANCE = 9.0
_COLOUR_WEIGHT = 2  # colour differences are smaller than those of light, and surer
_SHADOW = 0.72  # a shadow leaves at least so much of the light
_SHADOW_TINT = 5  # levels by which a shadow may change colour
_STILL = 0.3  # seconds
_LONG_STILL, _MOSTLY = 0.6, 0.7  # seconds, and share of a region's pixels
_CHANGED = 8  # levels between two frames
_GHOST_EDGE = 5.0  # levels per pixel
_GHOST_RATIO = 1.5
_GHOST_AREA = 12  # pixels
_GHOST_ALONE = 0.4  # of its surroundings are empty
_RING = np.ones((5, 5), np.uint8)


class Background:
    """A running mean and variance per pixel, frozen where people are.

    Where somebody stood from the start and walks off, a ghost is left: a region that differs, keeps still, and has its
    outline in the background rather than in the picture. It is taken into the background at once.

    Pictures are uint8 [H, W, 3], YCrCb, laid over the background; `visible`, uint8 [H, W], is 1 where they reach, else
    0: the camera may shake. What is seen first at a place is its background.
    """

    def __init__(self, picture: Picture, visible: Mask) -> None:
        self.picture = picture.copy()  # the background
        self._known = visible > 0
        self._mean: _Floats = picture.astype(np.float32)
        self._variance: _Floats = np.full(picture.shape[:2], _START_VARIANCE, np.float32)
        self._last = picture
        self._still: _Floats = np.zeros(picture.shape[:2], np.float32)  # seconds without change
        self._occupied: _Floats = np.zeros(picture.shape[:2], np.float32)  # seconds with people

    def difference(self, picture: Picture, visible: Mask, seconds: float) -> Mask:
        """The foreground, `seconds` after the last picture: uint8 [H, W], 255 in front, 127 shadow, 0 background."""
        self._take((visible > 0) & ~self._known, picture)
        self._known |= visible > 0
        self._still += np.float32(seconds)
        self._still[_largest(picture, self._last) > _CHANGED] = 0
        self._last = picture
        front = self._front(picture)
        if not cv2.countNonZero(front):  # most of the time, where a camera watches an empty place
            return front
        if self._forget_ghosts(picture, front) | self._forget_long_still(picture, front):
            front = self._front(picture)
        front[(front > 0) & self._shadow(picture)] = 127
        return front * visible

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

    def _take(self, where: _Bools, picture: Picture) -> None:
        """Make what the picture shows there the background."""
        if where.any():
            self._mean[where] = picture[where]
            self.picture = np.asarray(cv2.convertScaleAbs(self._mean), np.uint8)

    def _front(self, picture: Picture) -> Mask:
        distance = _largest(picture, self.picture).astype(np.float32)
        limit = np.maximum(_SIGMAS * cv2.sqrt(self._variance), np.float32(_LEAST_DIFFERENCE))
        return np.asarray(cv2.compare(distance, limit, cv2.CMP_GT), np.uint8)

    def _shadow(self, picture: Picture) -> _Bools:
        """Where the background shows through, only darker."""
        light, red, blue = cv2.split(picture)
        old_light, old_red, old_blue = cv2.split(self.picture)
        tint = cv2.max(cv2.absdiff(red, old_red), cv2.absdiff(blue, old_blue))
        dimmest = cv2.convertScaleAbs(old_light, alpha=_SHADOW)
        return np.asarray((light >= dimmest) & (light < old_light) & (tint <= _SHADOW_TINT))

    def _forget_ghosts(self, picture: Picture, front: Mask) -> bool:
        """Take still regions without an outline of their own into the background; whether there were any."""
        edges, old_edges = _edges(picture), _edges(self.picture)
        # Split at the picture's edges, so that a ghost comes off the person who steps out of it.
        still = front & np.where((self._still >= _STILL) & (edges < _GHOST_EDGE), np.uint8(255), np.uint8(0))
        count, labels, stats, _ = cv2.connectedComponentsWithStats(still, connectivity=4)
        if count < 2:
            return False
        ring = cv2.subtract(cv2.dilate(still, _RING), still) > 0
        around = cv2.dilate(labels.astype(np.uint16), _RING)[ring]
        pixels = np.maximum(np.bincount(around, minlength=count), 1)
        own = np.bincount(around, edges[ring], minlength=count) / pixels
        old = np.bincount(around, old_edges[ring], minlength=count) / pixels
        # The middle of a dark coat keeps still too, but what is around it is in front as well.
        alone = np.bincount(around, front[ring] == 0, minlength=count) > _GHOST_ALONE * pixels
        ghost = (stats[:, cv2.CC_STAT_AREA] >= _GHOST_AREA) & (old > _GHOST_RATIO * own) & (old > _GHOST_EDGE) & alone
        ghost[0] = False
        if ghost.any():
            self._take((cv2.dilate(ghost[labels].astype(np.uint8), _RING) > 0) & (self._still >= _STILL / 2), picture)
        return bool(ghost.any())

    def _forget_long_still(self, picture: Picture, front: Mask) -> bool:
        """The same for whole regions, still for long, whose outline is weaker than the background's."""
        joined = cv2.dilate(front, _RING)
        count, labels = cv2.connectedComponents(joined, connectivity=8)
        inside = labels[front > 0]
        area = np.maximum(np.bincount(inside, minlength=count), 1)
        still = np.bincount(inside, self._still[front > 0] >= _LONG_STILL, minlength=count) > _MOSTLY * area
        if not still[1:].any():
            return False
        region = (joined > 0) & still[labels]
        edges, old_edges = _edges(picture)[region], _edges(self.picture)[region]
        inside = labels[region]
        gone = still & (np.bincount(inside, old_edges, minlength=count) > np.bincount(inside, edges, minlength=count))
        gone[0] = False
        self._take(gone[labels], picture)
        return bool(gone.any())


def _largest(picture: Picture, other: Picture) -> Mask:
    """uint8 [H, W]: the largest difference of light and, weighted, colour."""
    light, red, blue = cv2.split(cv2.absdiff(picture, other))
    return np.asarray(cv2.max(light, cv2.convertScaleAbs(cv2.max(red, blue), alpha=_COLOUR_WEIGHT)), np.uint8)


def _edges(picture: Picture) -> _Floats:
    """float32 [H, W]: the steepness of light, in levels per pixel."""
    light = cv2.extractChannel(picture, 0)
    x, y = (cv2.Sobel(light, cv2.CV_32F, *order, ksize=3, scale=1 / 8) for order in ((1, 0), (0, 1)))
    return np.asarray(cv2.magnitude(x, y), np.float32)
