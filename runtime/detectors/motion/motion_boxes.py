"""`--detector motion`: people who move before a camera that stands still, found without any weights."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

from sharpose.runtime.detectors.motion.background import Background, CameraShake
from sharpose.runtime.detectors.motion.silhouettes import PersonSize, find_people
from sharpose.runtime.frames import Frame
from sharpose.runtime.result import Boxes, PoseResult

__all__ = ["MotionBoxes"]

_LONG_SIDE = 640  # pixels that the picture is looked at with
_WARM_UP = 0.3  # seconds of learning before anybody is reported
_LONGEST_STEP = 1.0  # seconds: a gap in the stream teaches nothing
_MARGIN = 0.04  # of the longer side: how far the background reaches beyond the picture, for a camera that shakes
_TOO_MUCH = 0.5  # of the picture in front: the light or the camera has changed
_PATIENCE = 0.6  # seconds that this may last (a flash, a bus) before all is learned anew
_REFER_EVERY = 1.0  # seconds


class MotionBoxes:
    """Background subtraction for one stream from a camera that stands still (it may shake and drift a little).

    Nobody is reported in the first moments, while the background is learned; who stands still from the start is part of
    the background until they move. How large people are where in the picture is learned as well; by it fragments are
    joined and groups taken apart. Where the whole picture changes (the light is switched, the camera turned), that is
    said and all is learned anew.

    Args:
        say: Told in a line when that happens.
    """

    def __init__(self, say: Callable[[str], None] = lambda line: None) -> None:
        self._say = say
        self._frame_size: tuple[int, int] | None = None
        self._size = PersonSize()
        self._time = self._began = self._referred = self._changed = 0.0

    def boxes_for(self, frame: Frame) -> Boxes:
        """The people who move, clipped to the picture; they score 0.9 alone, 0.6 in a group, 0.3 where unsure."""
        picture = self._small(frame.image)
        if self._frame_size != (frame.height, frame.width):
            self._size = PersonSize()
            self._begin(picture, frame)
            return Boxes.empty()
        seconds = min(max(frame.time - self._time, 0.0), _LONGEST_STEP)
        self._time = frame.time
        same_view = self._shake.follow(_light(picture))
        steady, visible = self._shake.onto_background(picture, self._background.picture)
        front = self._background.difference(steady, visible, seconds)
        changed = not same_view or np.count_nonzero(front == 255) > _TOO_MUCH * front.size
        self._changed = self._changed + seconds if changed else 0.0
        if changed:
            if self._changed > _PATIENCE:
                what = "the light changed" if same_view else "the camera moved"
                self._say(f"motion: {what} at {frame.time:.1f} s: learning the background anew")
                self._begin(picture, frame)
            return Boxes.empty()
        found = find_people(front, visible, self._size)
        people = np.zeros(front.shape, np.uint8)
        for x1, y1, x2, y2 in found.xyxy.astype(int):
            people[max(y1 - 3, 0) : y2 + 3, max(x1 - 3, 0) : x2 + 3] = 1
        self._background.learn(steady, people, seconds)
        if frame.time - self._referred >= _REFER_EVERY:
            self._referred = frame.time
            self._shake.refer_to(_light(self._background.picture))
        if frame.time - self._began < _WARM_UP:
            return Boxes.empty()
        return self._in_picture(found.xyxy, found.scores, frame)

    def observe(self, frame: Frame, poses: PoseResult) -> None:
        """Poses tell it nothing."""

    def _begin(self, picture: npt.NDArray[np.uint8], frame: Frame) -> None:
        self._frame_size = frame.height, frame.width
        self._small_size = picture.shape[:2]
        margin = round(_MARGIN * max(picture.shape))
        wide = np.asarray(cv2.copyMakeBorder(picture, margin, margin, margin, margin, cv2.BORDER_REPLICATE), np.uint8)
        self._shake = CameraShake(margin)
        self._background = Background(*self._shake.onto_background(picture, wide))
        self._shake.refer_to(_light(self._background.picture))
        self._time = self._began = self._referred = frame.time
        self._changed = 0.0

    def _small(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """The picture at the size it is looked at, YCrCb."""
        height, width = image.shape[:2]
        scale = min(_LONG_SIDE / max(height, width), 1.0)
        small = (max(round(width * scale), 1), max(round(height * scale), 1))
        resized = cv2.resize(image, small, interpolation=cv2.INTER_AREA) if scale < 1 else image
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
        solid = (placed[:, 2] - placed[:, 0] >= 1) & (placed[:, 3] - placed[:, 1] >= 1)
        return Boxes(placed[solid], scores[solid])


def _light(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The light of a YCrCb picture: uint8 [H, W]."""
    return np.ascontiguousarray(picture[:, :, 0])
