"""A frame on its way through the runtime, and the Protocols of what makes frames and what takes results."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from sharpose.runtime.result import Boxes, Image, PoseResult

ImageId = int | str
"""What a boxes file, and COCO results, call a picture."""


@dataclass(frozen=True)
class Frame:
    """One picture of a source.

    Attributes:
        image: uint8 [H, W, 3], BGR; see `owned`.
        index: 0-based position in the source.
        time: Seconds since the source's first frame, never decreasing.
        image_id: What a boxes file calls this picture: `index` for a video; for a picture file its stem where that is
            all digits, else `index`; with a boxes file, as that file writes it.
        boxes: The boxes that the source itself knows (the built-in scene does), or None.
        arrived: `time.monotonic()` when it reached this process, for live sources; None for files.
        damaged: Whether it was decoded from damaged data, so that it may show what never was.
        file_name: Of a picture file: its name, or its path where another of the source's files has the same name.
        timed: Whether `time` is the source's own; pictures that are no stream are taken as one second apart.
        stamp: `time` in seconds on the clock of its file, which sound goes by as well; None where that isn't known.
        sample_aspect_ratio: Width of a pixel to its height; 1 for square pixels.
        owned: Whether nobody else has `image`, so that the run may draw on it.
    """

    image: Image
    index: int
    time: float
    image_id: ImageId
    boxes: Boxes | None = None
    arrived: float | None = None
    damaged: bool = False
    file_name: str | None = None
    timed: bool = True
    stamp: float | None = None
    sample_aspect_ratio: Fraction = Fraction(1)
    owned: bool = False

    @property
    def height(self) -> int:
        """Picture height in pixels."""
        return int(self.image.shape[0])

    @property
    def width(self) -> int:
        """Picture width in pixels."""
        return int(self.image.shape[1])


@dataclass
class SourceHealth:
    """How a source is doing; written by its own thread and its queue, read by others.

    Attributes:
        connected: Whether it delivers; False while it reconnects.
        dropped: Frames that arrived and were dropped, for newer ones or because a server had no time for them.
        reconnects: How often it was reconnected.
    """

    connected: bool = True
    dropped: int = 0
    reconnects: int = 0


@dataclass
class SourceInfo:
    """What is known about a source once it is open. A live source learns more when it connects.

    Attributes:
        name: What the user called it, with any password taken out.
        frame_count: How many frames it claims to hold (a claim: headers lie), or None.
        frame_rate: Frames per second that will be handed out, according to its header, or None.
        image_ids: The image ids that will come, where that is known before reading, else None.
        pictures: The picture files by frame index with their image ids, where the source is one of pictures; of a file
            with several, the second is `FILE/picture 2`.
        id_note: What is unusual about the pictures' image ids, for a user who uses them.
        live: Whether it is a camera or a stream, which doesn't wait for a slow reader.
        timed: False for pictures that have no times; see `Frame.timed`.
        health: Connection, dropped frames and reconnects; never changes for files.
        warnings: Lines for the user about frames that were lost; complete when iteration has ended.
        failures: Lines for the user about what of a file could not be read, though others of its frames could: the run
            isn't a whole one then; complete when iteration has ended.
        sound: What FFmpeg opens (`file:PATH` or an address) for the sound that goes with the frames' stamps, or None.
        progress: Frames read so far, skipped ones included, where they are counted.
        end_reason: Why a live stream ended, where that is known; None as long as it hasn't.
    """

    name: str
    frame_count: int | None = None
    frame_rate: float | None = None
    image_ids: Collection[int] | None = None
    live: bool = False
    timed: bool = True
    health: SourceHealth = field(default_factory=SourceHealth)
    warnings: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    progress: int = 0
    end_reason: str | None = None
    pictures: Mapping[Path, int] | None = None
    id_note: str | None = None
    sound: str | None = None


class Source(Protocol):
    """Frames in order, opened when it is made, and closed once."""

    @property
    def info(self) -> SourceInfo:
        """Its name, length, rate, image ids, health and warnings."""
        ...

    def __iter__(self) -> Iterator[Frame]:
        """The frames. Raises `SourceError` where the source can't be decoded."""
        ...

    def close(self) -> None:
        """Let go of the file or device. May be called twice."""
        ...


@dataclass(frozen=True)
class FrameRecord:
    """A frame with its poses, and the annotated picture, drawn once and only when a sink asks for it, in its thread.

    Attributes:
        frame: The frame. Once anybody asked for `picture`, its `image` may be drawn on: take `picture`, or a copy made
            before the record.
        poses: Of the people in it.
        draw: Draws the poses onto the picture that it is given, or onto a copy, and returns that.
        stages: Seconds that each stage took for this frame, from `read` to `track`; without `read` where that isn't
            known, as of live sources, standard input and files on a server.
        age: Seconds between the frame's arrival and the start of inference; None where the source isn't live.
        late: Whether the poses came after their deadline.
    """

    frame: Frame
    poses: PoseResult
    draw: Callable[[Image, PoseResult], Image]
    stages: Mapping[str, float] = field(default_factory=dict)
    age: float | None = None
    late: bool = False

    # The record's own lock: that of functools.cached_property is one for all records before Python 3.12, then none.
    _lock: threading.RLock = field(default_factory=threading.RLock, init=False, repr=False, compare=False)
    _made: dict[str, Image | Exception] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def picture(self) -> Image:
        """uint8 [H, W, 3], BGR: the frame with the poses drawn on it; on a copy, unless the frame is `owned`.

        Raises what drawing raised, at every call: a second try would begin on a picture that is drawn in part.
        """
        return self._once("picture", lambda: self.draw(self._canvas(), self.poses))

    @property
    def square_picture(self) -> Image:
        """`picture` as a player shows it: stretched to square pixels where the frame's are not."""
        return self._once("square_picture", self._stretched)

    def _canvas(self) -> Image:
        """A picture that OpenCV can draw on, whatever the frame's strides."""
        image = self.frame.image
        ready = self.frame.owned and image.flags.writeable and image.flags.c_contiguous
        return image if ready else np.array(image, order="C")

    def _once(self, name: str, make: Callable[[], Image]) -> Image:
        with self._lock:
            if name not in self._made:
                try:
                    self._made[name] = make()
                except Exception as error:
                    self._made[name] = error
            made = self._made[name]
        if isinstance(made, Exception):
            raise made
        return made

    def _stretched(self) -> Image:
        ratio, (height, width) = self.frame.sample_aspect_ratio, self.picture.shape[:2]
        if ratio == 1:
            return self.picture
        size = (round(width * ratio), height) if ratio > 1 else (width, round(height / ratio))
        return np.asarray(cv2.resize(self.picture, size, interpolation=cv2.INTER_LINEAR), np.uint8)


class Sink(Protocol):
    """Takes records one by one, in a thread of the run's, or in its main thread where it has `main_thread_only`.

    A sink makes its file at the first record, so a run that fails before it leaves nothing. One with clients (the
    receiver of a stream, a browser) never makes `write` wait for them. One that shows pictures takes `record.picture`:
    `record.frame.image` may have been drawn on, or be drawn on at any moment.

    Attributes:
        name: Where the results go, as the user may read it: a path, or an address without its password.
    """

    name: str

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
