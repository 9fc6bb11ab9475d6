"""Families of detector graphs: how each wants its picture, and how its outputs are read. Add a new family here.

| family | outputs | channels | values | picture lies | overlaps |
| --- | --- | --- | --- | --- | --- |
| YOLOX | one, [1, anchors, 5 + classes] | BGR | 0 to 255 | top left | ours to suppress |
| YOLOv8-style | one, [1, 4 + classes, anchors] | RGB | 0 to 1 | centred | ours to suppress |
| end-to-end | dets [1, n, 5], labels [1, n] | BGR | 0 to 255 | top left | suppressed in the graph |
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from sharpose.errors import DetectorError

PADDING_GREY = 114
"""Grey level around the picture, in all families."""

EXPECTED = (
    "YOLOX (one output [1, anchors, 5 + classes]), YOLOv8-style (one output [1, 4 + classes, anchors]) "
    "or end-to-end (outputs dets [1, n, 5] and labels [1, n])"
)
"""The families, for messages."""

_STRIDES = (8, 16, 32)

Outputs = Mapping[str, npt.NDArray[np.generic]]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Letterbox:
    """How a picture lies in a detector's input, its aspect kept."""

    picture: tuple[int, int]  # height and width of the picture
    input_size: tuple[int, int]  # height and width of the detector's input
    scaled: tuple[int, int]  # height and width of the picture as it lies in the input
    offset: tuple[int, int]  # where its top left corner lies, y and x

    @classmethod
    def fit(cls, picture: tuple[int, int], input_size: tuple[int, int], *, centred: bool) -> Letterbox:
        """The largest fit of `picture` in `input_size` (height, width): centred, or in the top left."""
        ratio = min(input_size[0] / picture[0], input_size[1] / picture[1])
        # To whole pixels as the families' own tools do, so that the graph sees the pixels that they would show it;
        # a hair-thin picture still has one.
        whole = round if centred else int
        height = min(max(whole(picture[0] * ratio), 1), input_size[0])
        width = min(max(whole(picture[1] * ratio), 1), input_size[1])
        top, left = ((input_size[0] - height) // 2, (input_size[1] - width) // 2) if centred else (0, 0)
        return cls(picture, input_size, (height, width), (top, left))

    def apply(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """The resized `image` with grey around it: uint8 [H, W, 3]."""
        (height, width), (top, left) = self.scaled, self.offset
        canvas = np.full((*self.input_size, 3), PADDING_GREY, np.uint8)
        inside = canvas[top : top + height, left : left + width]
        inside[:] = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        return canvas

    def to_picture(self, xyxy: Floats) -> Floats:
        """Boxes [n, 4] of input pixels as boxes of picture pixels, clipped to the picture."""
        top, left = self.offset
        # Each axis by its own ratio: rounding the scaled size made them differ by up to a pixel at the far edge.
        scale = np.array([self.picture[1] / self.scaled[1], self.picture[0] / self.scaled[0]] * 2, np.float32)
        limit = np.array([self.picture[1], self.picture[0]] * 2, np.float32)
        return np.asarray(np.clip((xyxy - np.array([left, top] * 2, np.float32)) * scale, np.float32(0), limit))


@dataclass(frozen=True)
class Candidates:
    """All boxes that a graph gives for a picture."""

    xyxy: Floats  # float32 [n, 4], in input pixels
    scores: Floats  # float32 [n], of each box's best class
    labels: npt.NDArray[np.int64]  # int64 [n], that class


class Family(ABC):
    """How to feed a detector and read its outputs; the values of each family are in the table above."""

    name: str  # in messages
    rgb: bool = False  # else BGR
    scale: float = 1.0  # factor for pixel values 0 to 255
    centred: bool = False  # whether the picture lies in the middle of the input, else in the top left
    overlapping: bool = True  # whether boxes still need non-maximum suppression
    classes: int | None = None  # how many there are; None where the graph does not tell

    def tensor(self, canvas: npt.NDArray[np.uint8], dtype: np.dtype[Any]) -> npt.NDArray[np.generic]:
        """The graph's input [1, 3, H, W] of `dtype` from a letterboxed picture uint8 [H, W, 3], BGR."""
        channels = canvas[:, :, ::-1] if self.rgb else canvas
        tensor = np.empty((1, 3, *canvas.shape[:2]), dtype)
        np.multiply(channels.transpose(2, 0, 1), np.float32(self.scale), out=tensor[0], casting="unsafe")
        return tensor

    @property
    def preprocessing(self) -> str:
        """What `tensor` makes of a picture, in words."""
        return (
            f"{'RGB' if self.rgb else 'BGR'}, values 0 to {255 * self.scale:g}, no mean or std subtracted, the picture "
            f"{'in the middle' if self.centred else 'in the top left'} on grey {PADDING_GREY}"
        )

    @abstractmethod
    def decode(self, outputs: Outputs) -> Candidates:
        """The boxes in a graph's outputs. Raises `DetectorError` where their shapes are not those of the family."""


@dataclass(frozen=True)
class Yolox(Family):
    """Box, objectness and class scores of one anchor per cell of three grids."""

    size: tuple[int, int]  # height and width of the input
    classes: int  # how many classes
    decoded: bool = False  # whether boxes are input pixels (decoded in the graph), else relative to a cell
    name = "YOLOX"

    def decode(self, outputs: Outputs) -> Candidates:
        """Boxes of all anchors; the score is objectness times the best class's."""
        rows = _only(outputs, (1, _anchor_count(self.size), 5 + self.classes))[0]
        centre, size = rows[:, :2], rows[:, 2:4]
        if not self.decoded:
            cells, strides = _grid(self.size)
            with np.errstate(over="ignore"):  # anchors that see nothing may say anything
                centre, size = (centre + cells) * strides, np.exp(size) * strides
        labels, scores = _best_class(rows[:, 5:])
        return Candidates(_corners(centre, size), rows[:, 4] * scores, labels)


@dataclass(frozen=True)
class Yolov8(Family):
    """Centre and size in input pixels, and class scores, of each anchor; no objectness."""

    size: tuple[int, int]
    classes: int
    name = "YOLOv8-style"
    rgb = True
    scale = 1 / 255
    centred = True

    def decode(self, outputs: Outputs) -> Candidates:
        """Boxes of all anchors, each with its best class's score."""
        rows = _only(outputs, (1, 4 + self.classes, _anchor_count(self.size)))[0].T
        labels, scores = _best_class(rows[:, 4:])
        return Candidates(_corners(rows[:, :2], rows[:, 2:4]), scores, labels)


@dataclass(frozen=True)
class EndToEnd(Family):
    """`dets` (x1, y1, x2, y2 in input pixels, score) and `labels`, as RTMDet is exported."""

    name = "end-to-end"
    overlapping = False

    def decode(self, outputs: Outputs) -> Candidates:
        """The graph's own boxes."""
        dets, labels = outputs["dets"], outputs["labels"]
        count = labels.shape[-1] if labels.ndim else 0
        kinds = dets.dtype.kind + labels.dtype.kind
        if kinds != "fi" or (labels.shape, dets.shape) != ((1, count), (1, count, 5)):
            raise DetectorError(f"expected dets float [1, n, 5] and labels int [1, n], found {_describe(outputs)}")
        rows = dets[0].astype(np.float32, copy=False)
        return Candidates(rows[:, :4], rows[:, 4], labels[0].astype(np.int64, copy=False))


def recognise(outputs: Outputs, size: tuple[int, int]) -> Family:
    """The family of a graph, from its outputs by name for a plain grey picture of `size` (height, width).

    Raises:
        DetectorError: the outputs are of no known family; the message says what was found.
    """
    if set(outputs) == {"dets", "labels"}:
        family = EndToEnd()
        family.decode(outputs)
        return family
    found = _describe(outputs)
    output, *others = outputs.values()
    if others or output.dtype.kind != "f" or output.ndim != 3 or output.shape[0] != 1:
        raise DetectorError(f"expected {EXPECTED}, found {found}")
    anchors = _anchor_count(size)
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


def _looks_decoded(rows: npt.NDArray[np.generic], size: tuple[int, int]) -> bool:
    """Whether YOLOX boxes [A, 5 + classes] are pixels already, which no name or shape tells.

    A raw centre is an offset from its own cell, and so near zero; a decoded one is near its cell's place.
    """
    cells, strides = _grid(size)
    centre = rows[:, :2].astype(np.float32)
    return bool(np.median(np.abs(centre / strides - cells)) < np.median(np.abs(centre)))


def _anchor_count(size: tuple[int, int]) -> int:
    """How many anchors an input of `size` (height, width) has on its three grids."""
    return sum((size[0] // stride) * (size[1] // stride) for stride in _STRIDES)


@cache
def _grid(size: tuple[int, int]) -> tuple[Floats, Floats]:
    """Each anchor's cell (x, y) [A, 2] and its stride [A, 1], the finest grid first, row by row."""
    cells, strides = [], []
    for stride in _STRIDES:
        y, x = np.mgrid[: size[0] // stride, : size[1] // stride].reshape(2, -1)
        cells.append(np.stack([x, y], axis=1).astype(np.float32))
        strides.append(np.full((x.size, 1), stride, np.float32))
    return np.concatenate(cells), np.concatenate(strides)


def _only(outputs: Outputs, shape: tuple[int, ...]) -> Floats:
    """The one output as float32; raises `DetectorError` where its shape differs from the first picture's."""
    (output,) = outputs.values()
    if output.shape != shape:
        raise DetectorError(f"expected one output {list(shape)}, as at first, found {_describe(outputs)}")
    return output.astype(np.float32, copy=False)


def _describe(outputs: Outputs) -> str:
    return ", ".join(f"{name} {array.dtype} {list(array.shape)}" for name, array in outputs.items())


def _corners(centre: Floats, size: Floats) -> Floats:
    """Boxes x1, y1, x2, y2 [n, 4] from centres [n, 2] and sizes [n, 2]."""
    with np.errstate(invalid="ignore"):  # infinity minus infinity: not finite, and so dropped later
        return np.concatenate([centre - size / 2, centre + size / 2], axis=1)


def _best_class(scores: Floats) -> tuple[npt.NDArray[np.int64], Floats]:
    """The best class [n] of each row of scores [n, classes], and its score [n]."""
    labels = scores.argmax(axis=1)
    return labels, scores[np.arange(len(labels)), labels]
