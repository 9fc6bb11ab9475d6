"""`--detector motion`: people who move in front of a camera that stands still, found without any weights."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import pairwise

import cv2
import numpy as np
import numpy.typing as npt

from sharpose.engines.locks import one_thread
from sharpose.runtime.detectors.background import Background, Mask, Picture
from sharpose.runtime.detectors.silhouettes import PersonSize, find_people
from sharpose.runtime.frames import Frame
from sharpose.runtime.result import Boxes, PoseResult

NOTHING_MOVED = (
    "--detector motion sees what moves in front of a camera that stands still, after 0.3 s and 8 frames: "
    "nothing moved, or the camera did; for people who stand still, a moving camera, single pictures or a few "
    "frames take --detector NAME"
)
"""What may be wrong where nobody was found."""

_LONG_SIDE = 640  # pixels, of the picture that is analysed
_WARM_UP, _WARM_UP_FRAMES = 0.3, 8  # seconds, and frames, of learning before anybody is reported
_LONGEST_STEP = 1.0  # seconds: a gap in the stream teaches nothing
_MARGIN = 0.04  # of the longer side: how far the background reaches beyond the picture, for a camera that shakes
_TOO_MUCH = 0.5  # of the picture in front: the light or the camera has changed
_PATIENCE = 0.6  # seconds that this may last (a flash, a bus) before the background is learned again
_REFER_EVERY = 1.0  # seconds
_UNSTEADY = 10.0  # seconds within which two new beginnings mean that the camera moves
_PAN, _PAN_STEPS = 0.02, 8  # of the longer side within a second, and frames at least: a pan, no shake and no knock


class MotionBoxes:
    """Background subtraction for one stream from a camera that stands still (it may shake and drift a little).

    Nobody is reported in the first 0.3 s and 8 frames, while the background is learned; who stands still from the start
    is part of the background until they move. The usual size of people by their place in the picture is learned as
    well; fragments are joined and groups split by it. Where the whole picture changes (the light is switched, the
    camera turned), the background is learned again. One per stream; a second thread at a time is refused
    (`InputError`).

    Measured on a crowd of some 30 walkers (341 frames), tracked by boxes alone: 10,629 boxes with an id, in 77 tracks
    over 10 frames, their median 108. OpenCV's MOG2 instead of our background gave 8,343, 85 and 73 (it breaks bodies
    up), its KNN 9,930, 72 and 107 (who stands still dissolves within seconds). MOG2 that
    doesn't learn under people for 10 s gave longer tracks (median 115), but only 8,293 boxes with an id.

    Args:
        say: Called with a line when the background is learned again, unless `warn` was.
        warn: Called once, where that happens again and again, or the camera pans.
    """

    def __init__(
        self, say: Callable[[str], None] = lambda line: None, warn: Callable[[str], None] = lambda line: None
    ) -> None:
        self._say, self._warn = say, warn
        self._warned = False
        self._begun: deque[float] = deque(maxlen=2)  # times at which the background was learned again
        self._places: deque[tuple[float, float, float]] = deque()  # time, x and y of the view in the last second
        self._moved = False  # whether the camera did, since the picture began to change
        self._frames = 0  # that it was learned from
        self._frame_size: tuple[int, int] | None = None
        self._size = PersonSize()
        self._time = self._began = self._referred = self._changed = 0.0

    @one_thread
    def boxes_for(self, frame: Frame) -> Boxes:
        """The people who move, clipped to the picture; they score 0.9 alone, 0.6 in a group, 0.3 where unsure."""
        picture = self._small(frame)
        if self._frame_size != (frame.height, frame.width):
            self._size = PersonSize()
            self._begin(picture, frame)
            return Boxes.empty()
        seconds = min(max(frame.time - self._time, 0.0), _LONGEST_STEP)
        self._time = frame.time
        same_view = self._shake.follow(_light(picture))
        steady, visible = self._shake.onto_background(picture, self._background.picture)
        front = self._background.difference(steady, visible, seconds)
        changed = not same_view or bool(np.count_nonzero(front == 255) > _TOO_MUCH * front.size)
        self._changed = self._changed + seconds if changed else 0.0
        self._moved = changed and (self._moved or not same_view)
        if changed:
            if self._changed > _PATIENCE:
                self._begin_again(picture, frame)
            return Boxes.empty()
        self._look_for_pan(frame.time)
        xyxy, scores = find_people(front, visible, self._size)
        people = np.zeros(front.shape, np.uint8)
        for x1, y1, x2, y2 in xyxy.astype(int):
            people[max(y1 - 3, 0) : y2 + 3, max(x1 - 3, 0) : x2 + 3] = 1
        self._background.learn(steady, people, seconds)
        if frame.time - self._referred >= _REFER_EVERY:
            self._referred = frame.time
            self._shake.refer_to(_light(self._background.picture))
        self._frames += 1
        if frame.time - self._began < _WARM_UP or self._frames < _WARM_UP_FRAMES:
            return Boxes.empty()
        return self._in_picture(xyxy, scores, frame)

    def observe(self, frame: Frame, poses: PoseResult) -> None:
        """Nothing to learn from poses."""

    def _begin_again(self, picture: Picture, frame: Frame) -> None:
        """Learn the background again; warn where that was necessary shortly before as well."""
        self._begun.append(frame.time)
        if len(self._begun) == 2 and frame.time - self._begun[0] <= _UNSTEADY:
            self._warn_of_camera(frame.time, "the whole picture has changed again and again, as where a camera moves")
        if not self._warned:
            what = "the camera moved" if self._moved else "the light or the view changed"
            self._say(f"motion: {what} at {frame.time:.1f} s: learning the background again")
        self._begin(picture, frame)

    def _look_for_pan(self, time: float) -> None:
        """Warn where the view moves on steadily."""
        height, width = self._small_size
        self._places.append((time, *self._shake.shift((height, width))))
        while time - self._places[0][0] > 1:
            self._places.popleft()
        way = np.hypot(*np.subtract(self._places, self._places[0])[:, 1:].T)
        steps = np.diff(way)
        if len(steps) >= _PAN_STEPS and way[-1] > _PAN * max(height, width) and steps.max() < way[-1] / 2:
            self._warn_of_camera(time, "the camera seems to pan")

    def _warn_of_camera(self, time: float, found: str) -> None:
        if not self._warned:
            self._warned = True
            self._warn(
                f"--detector motion needs a camera that stands still, but by {time:.1f} s {found}: people are missed, "
                "and there may be poses where nobody is; take --detector NAME"
            )

    def _begin(self, picture: Picture, frame: Frame) -> None:
        self._frame_size = frame.height, frame.width
        self._small_size = picture.shape[:2]
        margin = round(_MARGIN * max(picture.shape))
        wide = np.asarray(cv2.copyMakeBorder(picture, margin, margin, margin, margin, cv2.BORDER_REPLICATE), np.uint8)
        self._shake = CameraShake(margin)
        self._background = Background(*self._shake.onto_background(picture, wide))
        self._shake.refer_to(_light(self._background.picture))
        self._time = self._began = self._referred = frame.time
        self._changed, self._moved = 0.0, False
        self._places.clear()
        self._frames = 1

    def _small(self, frame: Frame) -> Picture:
        """The picture at the size that is analysed, with square pixels, YCrCb."""
        ratio = float(frame.sample_aspect_ratio)
        height, width = frame.height / max(ratio, 1.0), frame.width * min(ratio, 1.0)
        scale = min(_LONG_SIDE / max(height, width), 1.0)
        small = (max(round(width * scale), 1), max(round(height * scale), 1))
        same = small == (frame.width, frame.height)
        resized = frame.image if same else cv2.resize(frame.image, small, interpolation=cv2.INTER_AREA)
        return np.asarray(cv2.cvtColor(resized, cv2.COLOR_BGR2YCrCb), np.uint8)

    def _in_picture(self, xyxy: npt.NDArray[np.float32], scores: npt.NDArray[np.float32], frame: Frame) -> Boxes:
        """Boxes of the steady small picture as boxes of the frame."""
        if not len(xyxy):
            return Boxes.empty()
        height, width = self._small_size
        # The camera's shake hardly turns the picture, so that a box's corners stay a box's corners.
        corners = cv2.transform(xyxy.reshape(-1, 1, 2), self._shake.matrix).reshape(-1, 4)
        scale = np.array([frame.width / width, frame.height / height] * 2)
        placed = np.clip(corners * scale, 0, [frame.width, frame.height] * 2).astype(np.float32)
        solid = (placed[:, 2:] - placed[:, :2] >= 1).all(axis=1)
        return Boxes(placed[solid], scores[solid])


def _light(picture: Picture) -> Mask:
    """The light of a YCrCb picture: uint8 [H, W]."""
    return np.ascontiguousarray(picture[:, :, 0])


_CELLS = (6, 10)  # rows and columns that corners are looked for in, else people would have them all
_IN_A_CELL = 6
_MIN_POINTS = 12
_NEEDED = 0.2  # of the points must agree on one motion; people hide some, and walk off with others
_TOLERANCE = 0.7  # pixels
_MAX_SCALE_CHANGE = 0.1
_MAX_SHIFT = 0.12  # of the picture's longer side; beyond it the camera looks elsewhere


class CameraShake:
    """Finds the small motion (shift, turn, zoom) that lays a picture over the background.

    Corners of the background are tracked into the picture by optical flow; the motion that most of them agree on
    (RANSAC) is the camera's, so that what people hide or carry doesn't matter. The background reaches `margin` pixels
    beyond the first picture, on each side.
    """

    def __init__(self, margin: int) -> None:
        self._margin = margin
        # The affine map from background pixels to picture pixels, as last found.
        self.matrix: npt.NDArray[np.float64] = np.array([[1.0, 0.0, -margin], [0.0, 1.0, -margin]])

    def refer_to(self, background: Mask) -> None:
        """Compare with the light of this background, uint8 [H, W], from now on."""
        self._background, self._points = background, _corners(background)

    def follow(self, picture: Mask) -> bool:
        """Find the motion of a picture's light, uint8 [H, W]; whether it is the same view.

        Where too little can be recognised (a plain wall, the dark) the last motion is kept and the answer is True.
        """
        if len(self._points) < _MIN_POINTS:
            return True
        height, width = picture.shape
        found, status, _ = cv2.calcOpticalFlowPyrLK(
            self._background,
            np.pad(picture, [(0, 2 * self._margin)] * 2),  # optical flow wants both of one size
            self._points,
            cv2.transform(self._points, self.matrix).astype(np.float32),
            winSize=(21, 21),
            maxLevel=1,
            flags=cv2.OPTFLOW_USE_INITIAL_FLOW,
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
        shift = float(np.hypot(*self._shift(matrix, (height, width))))
        if abs(scale - 1) > _MAX_SCALE_CHANGE or shift > _MAX_SHIFT * max(height, width):
            return False
        self.matrix = np.asarray(matrix, np.float64)
        return True

    def shift(self, size: tuple[int, int]) -> tuple[float, float]:
        """How far the middle of a picture of `size` (height, width) has moved since the first picture, x and y."""
        x, y = self._shift(self.matrix, size).tolist()
        return x, y

    def _shift(self, matrix: npt.NDArray[np.float64], size: tuple[int, int]) -> npt.NDArray[np.float64]:
        middle = np.array([size[1] / 2, size[0] / 2])
        moved: npt.NDArray[np.float64] = matrix @ np.array([*(middle + self._margin), 1.0]) - middle
        return moved

    def onto_background(self, picture: Picture, background: Picture) -> tuple[Picture, Mask]:
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


def _corners(grey: Mask) -> npt.NDArray[np.float32]:
    """Corners spread over the picture: float32 [n, 1, 2], x and y."""
    rows, columns = (np.linspace(0, n, cells + 1).astype(int) for n, cells in zip(grey.shape, _CELLS, strict=True))
    found = [np.zeros((0, 1, 2), np.float32)]
    for top, bottom in pairwise(rows.tolist()):
        for left, right in pairwise(columns.tolist()):
            points = cv2.goodFeaturesToTrack(grey[top:bottom, left:right], _IN_A_CELL, 0.02, 5)
            if points is not None:
                found.append(np.asarray(points + np.array([left, top]), np.float32))
    return np.concatenate(found)
