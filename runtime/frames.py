"""A frame on its way through the runtime, and the Protocols of what makes frames and what takes results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sharpose.runtime.result import Boxes, PoseResult

__all__ = ["Frame", "FrameRecord", "Image", "Sink", "Source"]

Image = npt.NDArray[np.uint8]
"""A picture: uint8 [H, W, 3], BGR."""


@dataclass(frozen=True)
class Frame:
    """One picture of a source.

    Attributes:
        image: uint8 [H, W, 3], BGR.
        index: 0-based position in the source.
        time: Seconds since the source's first frame, never decreasing.
        image_id: What a boxes file calls this picture: `index` for a video; for a picture file its stem where that is
            all digits, else `index`.
        boxes: The boxes that the source itself knows (the built-in scene does), or None.
    """

    image: Image
    index: int
    time: float
    image_id: int
    boxes: Boxes | None = None

    @property
    def height(self) -> int:
        """Picture height in pixels."""
        return int(self.image.shape[0])

    @property
    def width(self) -> int:
        """Picture width in pixels."""
        return int(self.image.shape[1])


class Source(Protocol):
    """Frames in order, opened when it is made, and closed once.

    Attributes:
        name: What the user called it, with any password taken out.
        frame_count: How many frames it claims to hold (a claim: headers lie), or None.
        frame_rate: Frames a second, as its header says, or None.
        image_ids: The image ids that will come, where that is known before reading, else None.
        warnings: Lines for the user about frames that were lost; complete when iteration has ended.
    """

    name: str
    frame_count: int | None
    frame_rate: float | None
    image_ids: frozenset[int] | None
    warnings: list[str]

    def __iter__(self) -> Iterator[Frame]:
        """The frames. Raises `SourceError` where the source can't be decoded."""
        ...

    def close(self) -> None:
        """Let go of the file or device. May be called twice."""
        ...


@dataclass(frozen=True)
class FrameRecord:
    """A frame with its poses, and the annotated picture, drawn once and only when a sink asks for it."""

    frame: Frame
    poses: PoseResult
    draw: Callable[[Image, PoseResult], Image]

    @cached_property
    def picture(self) -> Image:
        """uint8 [H, W, 3], BGR: a copy of the frame with the poses drawn on it."""
        return self.draw(self.frame.image, self.poses)


class Sink(Protocol):
    """Takes records one by one; `path` is where they go.

    A sink makes its file at the first record, so a run that fails before it leaves nothing.
    """

    path: Path

    def write(self, record: FrameRecord) -> None:
        """Add one record. Raises `SinkError` where it can't be written."""
        ...

    def close(self) -> None:
        """Finish the file, so that all written so far can be read. May be called twice."""
        ...

    def abandon(self) -> Path | None:
        """Close after a failure and rename the file to `NAME.partial.EXT`, so that it isn't taken for the whole.

        Returns:
            Its new path, or None if nothing was written.
        """
        ...
