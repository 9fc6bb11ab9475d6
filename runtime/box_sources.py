"""Where a frame's boxes come from: a file, a detector, the source itself, or nowhere (the full frame)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from sharpose.errors import BoxesError
from sharpose.runtime.boxes import BoxesFile
from sharpose.runtime.frames import Frame
from sharpose.runtime.result import Boxes, PoseResult

if TYPE_CHECKING:
    from sharpose.runtime.detector import Detector

__all__ = ["BoxSource", "DetectorBoxes", "FileBoxes", "FullFrame", "SourceBoxes"]


class BoxSource(Protocol):
    """Says where the people of a frame are; one is made per stream, since it may remember frames."""

    def boxes_for(self, frame: Frame) -> Boxes:
        """The people's boxes in `frame`, in its pixels; empty where there is nobody."""
        ...

    def observe(self, frame: Frame, poses: PoseResult) -> None:
        """Told the poses of every frame that it gave boxes for, before the next one is asked about."""
        ...


class _Memoryless:
    """For sources that poses tell nothing."""

    def observe(self, frame: Frame, poses: PoseResult) -> None:
        """Nothing to learn."""


@dataclass(frozen=True)
class FileBoxes(_Memoryless):
    """The boxes that a file gives for the frame's `image_id`.

    Attributes:
        file: Read and checked.
        conf: Boxes that score less are left out.
    """

    file: BoxesFile
    conf: float | None = None

    def boxes_for(self, frame: Frame) -> Boxes:
        """The file's boxes for this frame; none where it does not speak of it."""
        boxes = self.file.for_image(frame.image_id)
        if self.conf is None:
            return boxes
        sure = boxes.scores >= self.conf
        return Boxes(boxes.xyxy[sure], boxes.scores[sure])


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
        return self.detector(frame.image)
