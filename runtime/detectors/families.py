"""The families of detector graphs that are understood: how each wants its picture, and how its outputs are read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
import numpy.typing as npt

from sharpose.errors import DetectorError

__all__ = [
    "EXPECTED",
    "PADDING_GREY",
    "Candidates",
    "EndToEnd",
    "Family",
    "Letterbox",
    "Yolov8",
    "Yolox",
    "anchor_count",
    "recognise",
]

PADDING_GREY = 114
"""What the space around the picture is filled with, in all families of detectors."""


@dataclass(frozen=True)
class Letterbox:
    """How a picture lies in an input of another size, its aspect kept.

    Attributes:
        picture: Height and width of the picture.
        input_size: Height and width of the detector's input.
        scaled: Height and width of the picture as it lies in the input.
        offset: Where its top left corner lies, y and x.
    """

    picture: tuple[int, int]
    input_size: tuple[int, int]
    scaled: tuple[int, int]
    offset: tuple[int, int]

    @classmethod
    def fit(cls, picture: tuple[int, int], input_size: tuple[int, int], *, centred: bool) -> Letterbox:
        """The largest fit of `picture` in `input_size` (height, width): in the middle, or else in the top left."""
        ratio = min(input_size[0] / picture[0], input_size[1] / picture[1])
        # To whole pixels as the families' own tools do, so that the graph sees the pixels that they would show it;
        # a hair-thin picture still has one.
        whole = round if centred else int
        height = min(max(whole(picture[0] * ratio), 1), input_size[0])
        width = min(max(whole(picture[1] * ratio), 1), input_size[1])
        top, left = ((input_size[0] - height) // 2, (input_size[1] - width) // 2) if centred else (0, 0)
        return cls(picture, input_size, (height, width), (top, left))

    def apply(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """The input picture: uint8 [H, W, 3], the resized `image` with grey around it."""
        (height, width), (top, left) = self.scaled, self.offset
        canvas = np.full((*self.input_size, 3), PADDING_GREY, np.uint8)
        inside = canvas[top : top + height, left : left + width]
        inside[:] = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        return canvas

    def to_picture(self, xyxy: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Boxes [n, 4] of input pixels as boxes of picture pixels, clipped to the picture."""
        top, left = self.offset
        # Each axis by its own ratio: rounding the scaled size made them differ by up to a pixel at the far edge.
        scale = np.array([self.picture[1] / self.scaled[1], self.picture[0] / self.scaled[0]] * 2, np.float32)
        limit = np.array([self.picture[1], self.picture[0]] * 2, np.float32)
        mapped = (xyxy - np.array([left, top] * 2, np.float32)) * scale
        clipped: npt.NDArray[np.float32] = np.clip(mapped, np.float32(0), limit)
        return clipped


STRIDES = (8, 16, 32)
EXPECTED = (
    "YOLOX (one output [1, anchors, 5 + classes]), YOLOv8-style (one output [1, 4 + classes, anchors]) "
    "or end-to-end (outputs dets [1, n, 5] and labels [1, n])"
)
"""The families, for messages."""

Outputs = Mapping[str, npt.NDArray[np.generic]]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Candidates:
    """What a graph says of one picture, before anything is thrown away.

    Attributes:
        xyxy: float32 [n, 4], in input pixels.
        scores: float32 [n], of each box's best class.
        labels: int64 [n], that class.
    """

    xyxy: Floats
    scores: Floats
    labels: npt.NDArray[np.int64]


class Family(ABC):
    """A way of feeding a detector and of reading it.

    Attributes:
        name: What it is called in messages.
        rgb: Whether channels are red first, else blue first.
        scale: What pixel values 0 to 255 are multiplied by.
        centred: Whether the picture lies in the middle of the input, else in the top left.
        overlapping: Whether boxes still need non-maximum suppression.
        classes: How many classes it tells apart; None where the graph does not say.
    """

    name: str
    rgb: bool
    scale: float
    centred: bool
    overlapping: bool
    classes: int | None

    @abstractmethod
    def decode(self, outputs: Outputs) -> Candidates:
        """The boxes in a graph's outputs. Raises `DetectorError` where their shapes are not those of the family."""


@dataclass(frozen=True)
class Yolox(Family):
    """One output [1, anchors, 5 + classes]: box, objectness, class scores; one anchor per cell of three grids.

    Attributes:
        size: Height and width of the input.
        classes: How many classes.
        decoded: Whether boxes are input pixels already (exported with decoding in the graph), else in the grid's terms.
    """

    size: tuple[int, int]
    classes: int
    decoded: bool = False
    name = "YOLOX"
    rgb = False
    scale = 1.0
    centred = False
    overlapping = True

    def decode(self, outputs: Outputs) -> Candidates:
        """Boxes of all anchors; the score is objectness times the best class's."""
        rows = _only(outputs, (1, anchor_count(self.size), 5 + self.classes))[0]
        centre, size = rows[:, :2], rows[:, 2:4]
        if not self.decoded:
            cells, strides = _grid(self.size)
            with np.errstate(over="ignore"):  # anchors that see nothing may say anything
                centre, size = (centre + cells) * strides, np.exp(size) * strides
        labels = rows[:, 5:].argmax(axis=1)
        return Candidates(_corners(centre, size), rows[:, 4] * _pick(rows[:, 5:], labels), labels)


@dataclass(frozen=True)
class Yolov8(Family):
    """One output [1, 4 + classes, anchors]: centre and size in input pixels, class scores; no objectness."""

    size: tuple[int, int]
    classes: int
    name = "YOLOv8-style"
    rgb = True
    scale = 1 / 255
    centred = True
    overlapping = True

    def decode(self, outputs: Outputs) -> Candidates:
        """Boxes of all anchors, each with its best class's score."""
        columns = _only(outputs, (1, 4 + self.classes, anchor_count(self.size)))[0]
        labels = columns[4:].argmax(axis=0)
        return Candidates(_corners(columns[:2].T, columns[2:4].T), _pick(columns[4:].T, labels), labels)


@dataclass(frozen=True)
class EndToEnd(Family):
    """Outputs `dets` [1, n, 5] (x1, y1, x2, y2 in input pixels, score) and `labels` [1, n]; suppression is done."""

    name = "end-to-end"
    rgb = False
    scale = 1.0
    centred = False
    overlapping = False
    classes = None

    def decode(self, outputs: Outputs) -> Candidates:
        """The graph's own boxes."""
        dets, labels = outputs["dets"], outputs["labels"]
        count = labels.shape[-1] if labels.ndim else 0
        if not _floats(dets) or labels.dtype.kind != "i" or (labels.shape, dets.shape) != ((1, count), (1, count, 5)):
            raise DetectorError(f"expected dets float [1, n, 5] and labels int [1, n], found {_describe(outputs)}")
        rows = dets[0].astype(np.float32, copy=False)
        return Candidates(rows[:, :4], rows[:, 4], labels[0].astype(np.int64, copy=False))


def recognise(outputs: Outputs, size: tuple[int, int]) -> Family:
    """The family of a graph, from what it gave for a plain grey picture.

    Args:
        outputs: All outputs by name, of one run.
        size: Height and width of the input.

    Raises:
        DetectorError: they are not those of a family that is understood; the message says what was found.
    """
    if set(outputs) == {"dets", "labels"}:
        family = EndToEnd()
        family.decode(outputs)
        return family
    found = _describe(outputs)
    output, *others = outputs.values()
    if others or not _floats(output) or output.ndim != 3 or output.shape[0] != 1:
        raise DetectorError(f"expected {EXPECTED}, found {found}")
    anchors = anchor_count(size)
    _, rows, columns = output.shape
    yolox, yolov8 = rows == anchors and columns > 5, columns == anchors and rows > 4
    if yolox and yolov8:
        raise DetectorError(f"{found} can be YOLOX as well as YOLOv8-style; export it with another input size")
    if yolox:
        return Yolox(size, columns - 5, decoded=_looks_decoded(output[0], size))
    if yolov8:
        return Yolov8(size, rows - 4)
    raise DetectorError(
        f"expected {EXPECTED}; an input of {size[0]}x{size[1]} has {anchors} anchors (strides 8, 16, 32); found {found}"
    )


def anchor_count(size: tuple[int, int]) -> int:
    """How many anchors an input of `size` (height, width) has on the grids of strides 8, 16 and 32."""
    return sum((size[0] // stride) * (size[1] // stride) for stride in STRIDES)


def _floats(array: npt.NDArray[np.generic]) -> bool:
    return array.dtype.kind == "f"


def _describe(outputs: Outputs) -> str:
    return ", ".join(f"{name} {array.dtype} {list(array.shape)}" for name, array in outputs.items())


def _only(outputs: Outputs, shape: tuple[int, ...]) -> Floats:
    """The one output as float32; raises `DetectorError` where a later picture gives another shape than the first."""
    (output,) = outputs.values()
    if output.shape != shape:
        raise DetectorError(f"expected one output {list(shape)}, as at first, found {_describe(outputs)}")
    return output.astype(np.float32, copy=False)


@cache
def _grid(size: tuple[int, int]) -> tuple[Floats, Floats]:
    """Each anchor's cell (x, y) [A, 2] and its stride [A, 1], the finest grid first, row by row."""
    cells, strides = [], []
    for stride in STRIDES:
        y, x = np.mgrid[: size[0] // stride, : size[1] // stride].reshape(2, -1)
        cells.append(np.stack([x, y], axis=1).astype(np.float32))
        strides.append(np.full((x.size, 1), stride, np.float32))
    return np.concatenate(cells), np.concatenate(strides)


def _looks_decoded(rows: npt.NDArray[np.generic], size: tuple[int, int]) -> bool:
    """Whether YOLOX boxes [A, 5 + classes] are pixels already, which no name or shape tells.

    A raw centre is an offset from its own cell, and so near zero; a decoded one is near its cell's place.
    """
    cells, strides = _grid(size)
    centre = rows[:, :2].astype(np.float32)
    return bool(np.median(np.abs(centre / strides - cells)) < np.median(np.abs(centre)))


def _corners(centre: Floats, size: Floats) -> Floats:
    """Boxes x1, y1, x2, y2 [n, 4] from centres [n, 2] and sizes [n, 2]."""
    with np.errstate(invalid="ignore"):  # infinity minus infinity: not finite, and so dropped later
        return np.concatenate([centre - size / 2, centre + size / 2], axis=1)


def _pick(class_scores: Floats, labels: npt.NDArray[np.int64]) -> Floats:
    """The scores [n] at `labels` [n] in `class_scores` [n, classes]."""
    return class_scores[np.arange(len(labels)), labels]
