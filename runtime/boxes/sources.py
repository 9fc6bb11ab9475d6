"""Where a frame's boxes come from: a boxes file, a detector, the source itself, or nowhere (the full frame)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from sharpose.coco.labels import usage_line
from sharpose.errors import BoxesError
from sharpose.runtime.boxes.file import BoxesFile
from sharpose.runtime.frames import Frame, ImageId
from sharpose.runtime.result import Boxes, PoseResult

if TYPE_CHECKING:
    from sharpose.runtime.detectors.onnx import Detector

OUTSIDE = "outside of the picture"
"""Why a box is left out."""
SEARCHED_FRAMES = 30
"""Frames without anybody after which a detector is suspected."""


def lie_outside(boxes_xyxy: npt.NDArray[np.float32], width: float, height: float) -> npt.NDArray[np.bool_]:
    """Which boxes (bool [n]) have no part in a picture of `width` x `height` pixels."""
    first, last = boxes_xyxy[:, :2], boxes_xyxy[:, 2:]
    beyond = (first >= (width, height)) | ((first < 0) & (last <= 0))
    return np.asarray(beyond.any(axis=1), np.bool_)


class BoxSource(Protocol):
    """Says where the people of a frame are. One per stream, as it may have memory."""

    def boxes_for(self, frame: Frame) -> Boxes:
        """The people's boxes in the frame's pixels."""
        ...

    def observe(self, frame: Frame, poses: PoseResult) -> None:
        """Called with the poses of each frame that it gave boxes for, before the next `boxes_for`."""
        ...


class _Memoryless:
    def observe(self, frame: Frame, poses: PoseResult) -> None:
        """Do nothing."""


@dataclass
class FileBoxes(_Memoryless):
    """The boxes of a file for the frames that pass, but for those that lie outside or score less than `conf`.

    Attributes:
        file: The file.
        conf: Lowest score; None for any.
        ids: The file's ids of the frames by index, where they are picture files.
        used: How many boxes were handed out.
        left_out: How many of those frames' boxes were not used, by reason.
    """

    file: BoxesFile
    conf: float | None = None
    ids: Sequence[ImageId] | None = None
    used: int = 0
    left_out: Counter[str] = field(default_factory=Counter)

    def identified(self, frame: Frame) -> Frame:
        """The frame with the id that the file has for it."""
        return replace(
            frame, image_id=self.file.id_of_frame(frame.index) if self.ids is None else self.ids[frame.index]
        )

    def boxes_for(self, frame: Frame) -> Boxes:
        """The file's boxes for this frame, which `identified` has made, if it has any."""
        boxes = self.file.for_image(frame.image_id)
        if self.conf is not None:
            sure = boxes.scores >= self.conf
            self.left_out["below --conf"] += int((~sure).sum())
            boxes = Boxes(boxes.xyxy[sure], boxes.scores[sure])
        outside = lie_outside(boxes.xyxy, frame.width, frame.height)
        self.left_out[OUTSIDE] += int(outside.sum())
        boxes = Boxes(boxes.xyxy[~outside], boxes.scores[~outside])
        self.used += len(boxes)
        return boxes

    def leave_out(self, count: int, reason: str) -> None:
        """Count boxes that were handed out and are not used, after all."""
        self.used -= count
        self.left_out[reason] += count

    @property
    def is_useless(self) -> bool:
        """Whether the file has boxes, but not one was used."""
        return self.used == 0 < len(self.file)

    @property
    def summary(self) -> str:
        """One line: how many boxes of the file were used, how many were left out and why."""
        elsewhere = {"in frames that did not come": len(self.file) - self.used - self.left_out.total()}
        left_out = +(self.file.left_out + self.left_out + Counter(elsewhere))
        return usage_line(str(self.file.path), self.used, left_out, "box")


@dataclass(frozen=True)
class FullFrame(_Memoryless):
    """One box that covers the whole picture, score 1.0: for pictures of one person."""

    def boxes_for(self, frame: Frame) -> Boxes:
        """The box `0, 0, width, height`."""
        return Boxes.from_xyxy(np.array([[0, 0, frame.width, frame.height]], np.float32))


@dataclass(frozen=True)
class SourceBoxes(_Memoryless):
    """The boxes that the source itself brings, as the built-in scene does."""

    def boxes_for(self, frame: Frame) -> Boxes:
        """The frame's own boxes. Raises `BoxesError` where it has none to say."""
        if frame.boxes is None:
            raise BoxesError(
                f"frame {frame.index}: the source brings no boxes of its own: give a boxes file (--boxes FILE), a "
                "detector (--detector FILE.onnx) or --full-frame"
            )
        return frame.boxes


@dataclass(frozen=True)
class DetectorBoxes(_Memoryless):
    """The people that a detector finds in the frame."""

    detector: Detector

    def boxes_for(self, frame: Frame) -> Boxes:
        """What the detector finds, best first."""
        return self.detector.find(frame.image, float(frame.sample_aspect_ratio))


class NobodyWatch:
    """Passes a detector's boxes on, and warns once of a stream in whose first 30 frames (or all) there are none.

    Args:
        source: Finds people in one stream.
        stream: What to call it.
        why: Makes the end of the warning: what may be wrong, and what to check.
        warn: Called with the warning.
    """

    def __init__(self, source: BoxSource, stream: str, why: Callable[[], str], warn: Callable[[str], None]) -> None:
        self._source, self._stream, self._why, self._warn = source, stream, why, warn
        self._searched: int | None = 0  # frames; None once somebody was found, or the warning given

    def boxes_for(self, frame: Frame) -> Boxes:
        """The source's boxes."""
        boxes = self._source.boxes_for(frame)
        if self._searched is not None:
            self._searched = None if len(boxes) else self._searched + 1
            if self._searched == SEARCHED_FRAMES:
                self._say(f"the first {self._searched} frames")
        return boxes

    def observe(self, frame: Frame, poses: PoseResult) -> None:
        """Hand the poses on."""
        self._source.observe(frame, poses)

    def finish(self) -> None:
        """Warn of a stream that ended before its 30th frame."""
        if self._searched:
            self._say("its only frame" if self._searched == 1 else f"all its {self._searched} frames")

    def _say(self, where: str) -> None:
        self._searched = None
        self._warn(f"{self._stream}: nobody was found in {where}; {self._why()}")
