"""Families of detector graphs: how each wants its picture, and how its outputs are read. Add a new family here.

| family | outputs | channels | values | picture lies | overlaps |
| --- | --- | --- | --- | --- | --- |
| YOLOX | one, [1, anchors, 5 + classes] | BGR | 0 to 255 | top left | ours to suppress |
| YOLOv8-style | one, [1, 4 + classes, anchors] | RGB | 0 to 1 | centred | ours to suppress |
| YOLO end-to-end | one, [1, n, 6] | RGB | 0 to 1 | centred | suppressed in the graph |
| end-to-end | dets [1, n, 5], labels [1, n] | BGR | 0 to 255 | top left | suppressed in the graph |
"""

from __future__ import annotations

import reprlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import cv2
import numpy as np
import numpy.typing as npt

from sharpose.errors import DetectorError, InputError

PADDING_GREY = 114
"""Grey level around the picture, in all families."""

EXPECTED = (
    "YOLOX (one output [1, anchors, 5 + classes]), YOLOv8-style (one output [1, 4 + classes, anchors]), YOLO "
    "end-to-end (one output [1, n, 6]) or end-to-end (outputs dets [1, n, 5] and labels [1, n])"
)
"""The families, for messages."""

_STRIDES = (8, 16, 32)
_LARGEST_LEVEL = 65504  # of a mean or std: the largest half
_MOST_SELECTED = 1000  # boxes of a graph that selects them itself; 300 is usual

Outputs = Mapping[str, npt.NDArray[np.generic]]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Letterbox:
    """How a picture lies in a detector's input, with the aspect in which a player shows it."""

    picture: tuple[int, int]  # height and width of the picture
    input_size: tuple[int, int]  # height and width of the detector's input
    scaled: tuple[int, int]  # height and width of the picture as it lies in the input
    offset: tuple[int, int]  # where its top left corner lies, y and x

    @classmethod
    def fit(
        cls,
        picture: tuple[int, int],
        input_size: tuple[int, int],
        *,
        centred: bool,
        sample_aspect_ratio: float = 1.0,
    ) -> Letterbox:
        """The largest fit of `picture` in `input_size` (height, width), pixels made square: centred, or top left."""
        wide = picture[1] * sample_aspect_ratio
        ratio = min(input_size[0] / picture[0], input_size[1] / wide)
        # To whole pixels as the families' own tools do, so that the graph sees the pixels that they would show it;
        # a hair-thin picture still has one.
        whole = round if centred else int
        height = min(max(whole(picture[0] * ratio), 1), input_size[0])
        width = min(max(whole(wide * ratio), 1), input_size[1])
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


Channels = tuple[float, float, float]
"""A number for each channel of a picture, in the order in which a graph gets them."""


@dataclass(frozen=True)
class Preprocessing:
    """How the pixels of a picture, 0 to 255, become a graph's input: (pixel - mean) / std.

    Attributes:
        rgb: Whether channels are red, green, blue; else blue, green, red.
        mean: For each channel, in grey levels.
        std: For each channel, in grey levels.

    Raises:
        InputError: a number isn't finite, or `std` isn't one of grey levels.
    """

    rgb: bool = False
    mean: Channels = (0.0, 0.0, 0.0)
    std: Channels = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        if not isinstance(self.rgb, bool):
            raise InputError(f"detector rgb: expected True or False, got {reprlib.repr(self.rgb)}")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != 3 or not all(abs(value) <= _LARGEST_LEVEL for value in values):
                raise InputError(
                    f"detector {name}: expected three numbers, one for each channel, within ±{_LARGEST_LEVEL}, "
                    f"got {values}"
                )
        if min(self.std) < 1:
            raise InputError(
                f"detector std: expected grey levels of 1 or more, for pixels of 0 to 255, got {self.std}; multiply a "
                "mean and std for pixels of 0 to 1 by 255"
            )

    def changed(
        self, mean: Sequence[float] | None = None, std: Sequence[float] | None = None, rgb: bool | None = None
    ) -> Preprocessing:
        """The same with what is not None; with a mean or std, values aren't scaled otherwise."""
        own = mean is None and std is None
        return Preprocessing(
            self.rgb if rgb is None else rgb,
            self.mean if own else _channels("mean", (0.0, 0.0, 0.0) if mean is None else mean),
            self.std if own else _channels("std", (1.0, 1.0, 1.0) if std is None else std),
        )

    def tensor(self, canvas: npt.NDArray[np.uint8], dtype: np.dtype[Any]) -> npt.NDArray[np.generic]:
        """The graph's input [1, 3, H, W] of `dtype` from a letterboxed picture uint8 [H, W, 3], BGR."""
        channels = (canvas[:, :, ::-1] if self.rgb else canvas).transpose(2, 0, 1)
        tensor = np.empty((1, 3, *canvas.shape[:2]), dtype)
        for channel, mean, std, out in zip(channels, self.mean, self.std, tensor[0], strict=True):
            values: Any = channel if mean == 0 else channel - np.float32(mean)
            np.multiply(values, np.float32(1 / std), out=out, casting="unsafe")
        return tensor

    def __str__(self) -> str:
        order = "RGB" if self.rgb else "BGR"
        if self.mean == (0.0, 0.0, 0.0) and len(set(self.std)) == 1:
            return f"{order}, values 0 to {255 / self.std[0]:g}, no mean or std subtracted"
        mean, std = (",".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        return f"{order}, mean {mean} subtracted, divided by std {std}"


@dataclass(frozen=True)
class Candidates:
    """All boxes that a graph gives for a picture."""

    xyxy: Floats  # float32 [n, 4], in input pixels
    scores: Floats  # float32 [n], of each box's best class
    labels: npt.NDArray[np.int64]  # int64 [n], that class


def _channels(name: str, values: Sequence[float]) -> Channels:
    try:
        numbers = () if isinstance(values, str | bytes) else tuple(float(value) for value in values)
    except (TypeError, ValueError, OverflowError):
        numbers = ()
    if len(numbers) != 3:
        raise InputError(f"detector {name}: expected three numbers, one for each channel, got {reprlib.repr(values)}")
    return numbers[0], numbers[1], numbers[2]


class Family(ABC):
    """How to feed a detector and read its outputs; the values of each family are in the table above."""

    name: str  # in messages
    preprocessing: ClassVar[Preprocessing] = Preprocessing()
    centred: bool = False  # whether the picture lies in the middle of the input, else in the top left
    overlapping: bool = True  # whether boxes still need non-maximum suppression
    corners: bool = False  # whether the graph gives corners of boxes, else their centre and size
    classes: int | None = None  # how many there are; None where the graph does not tell

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


_ULTRALYTICS = Preprocessing(rgb=True, std=(255.0, 255.0, 255.0))


@dataclass(frozen=True)
class Yolov8(Family):
    """Centre and size in input pixels, and class scores, of each anchor; no objectness."""

    size: tuple[int, int]
    classes: int
    name = "YOLOv8-style"
    preprocessing = _ULTRALYTICS
    centred = True

    def decode(self, outputs: Outputs) -> Candidates:
        """Boxes of all anchors, each with its best class's score."""
        rows = _only(outputs, (1, 4 + self.classes, _anchor_count(self.size)))[0].T
        labels, scores = _best_class(rows[:, 4:])
        return Candidates(_corners(rows[:, :2], rows[:, 2:4]), scores, labels)


@dataclass(frozen=True)
class YoloEndToEnd(Family):
    """x1, y1, x2, y2 in input pixels, score and class, as of `yolo export nms=True`, YOLOv10 and YOLO26."""

    name = "YOLO end-to-end"
    corners = True
    preprocessing = _ULTRALYTICS
    centred = True
    overlapping = False

    def decode(self, outputs: Outputs) -> Candidates:
        """The graph's own boxes."""
        (output,) = outputs.values()
        if output.dtype.kind != "f" or output.ndim != 3 or (output.shape[0], output.shape[2]) != (1, 6):
            raise DetectorError(f"expected one output float [1, n, 6], as at first, found {_describe(outputs)}")
        rows = output[0].astype(np.float32, copy=False)
        return Candidates(rows[:, :4], rows[:, 4], _whole(rows[:, 5], outputs))


@dataclass(frozen=True)
class EndToEnd(Family):
    """`dets` (x1, y1, x2, y2 in input pixels, score) and `labels`, as MMDeploy exports RTMDet, YOLOX and others."""

    name = "end-to-end"
    corners = True
    overlapping = False

    def decode(self, outputs: Outputs) -> Candidates:
        """The graph's own boxes."""
        dets, labels = outputs["dets"], outputs["labels"]
        count = labels.shape[-1] if labels.ndim else 0
        kinds = dets.dtype.kind + labels.dtype.kind
        if kinds not in ("fi", "ff") or (labels.shape, dets.shape) != ((1, count), (1, count, 5)):
            raise DetectorError(f"expected dets float [1, n, 5] and labels [1, n], found {_describe(outputs)}")
        rows = dets[0].astype(np.float32, copy=False)
        return Candidates(rows[:, :4], rows[:, 4], _whole(labels[0], outputs))


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
    if columns == 6 and not (yolox or yolov8) and _looks_selected(output[0], anchors):
        selected = YoloEndToEnd()
        try:
            selected.decode(outputs)
        except DetectorError as error:
            raise DetectorError(f"taken for YOLO end-to-end, {error}; known detectors: {EXPECTED}") from None
        return selected
    if yolox and yolov8:
        raise DetectorError(f"{found} can be YOLOX as well as YOLOv8-style; export it with another input size")
    if yolox:
        return Yolox(size, columns - 5, decoded=_looks_decoded(output[0], size))
    if yolov8:
        return Yolov8(size, rows - 4)
    raise DetectorError(
        f"expected {EXPECTED}; an input of {size[0]}x{size[1]} has {anchors} anchors (strides 8, 16, 32); found {found}"
    )


def _looks_selected(rows: npt.NDArray[np.generic], anchors: int) -> bool:
    """Whether rows [n, 6] are of boxes that the graph has selected, the last number a class, not of all anchors.

    YOLOv5 with one class has six numbers too, for a multiple of the anchors (or more grids), the last one a score.
    """
    of_all = len(rows) > max(anchors, _MOST_SELECTED) or (len(rows) > 0 and len(rows) % anchors == 0)
    return not of_all


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


def _whole(labels: npt.NDArray[np.generic], outputs: Outputs) -> npt.NDArray[np.int64]:
    """Labels as int64; raises `DetectorError` for a number that is no class."""
    numbers = labels.astype(np.float32)
    bad = numbers[np.rint(numbers) != numbers]  # NaN as well
    if np.isinf(numbers).any() or bad.size:
        found = "infinity" if not bad.size else "NaN" if np.isnan(bad[0]) else f"{bad[0]:g}"
        raise DetectorError(f"expected whole numbers as classes, found {found} in {_describe(outputs)}")
    return labels.astype(np.int64, copy=False)


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
