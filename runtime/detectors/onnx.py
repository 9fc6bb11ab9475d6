"""Find people with an ONNX detector, whose family is recognised from its graph."""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from sharpose.engines.base import GraphError, Runner, TensorSpec
from sharpose.engines.choose import AUTO, load_on
from sharpose.engines.device import parse_device
from sharpose.engines.load import OnnxRuntimeSettings, load_graph
from sharpose.engines.locks import EngineLock
from sharpose.errors import BundleError, DetectorError, EngineError, InputError
from sharpose.files import found_at
from sharpose.onnx_file import model_metadata
from sharpose.runtime.boxes.sources import SEARCHED_FRAMES
from sharpose.runtime.detectors.catalogue import find_detector, load_table
from sharpose.runtime.detectors.families import (
    EXPECTED,
    PADDING_GREY,
    Candidates,
    Family,
    Letterbox,
    Preprocessing,
    recognise,
)
from sharpose.runtime.options import DEFAULT_DETECTOR
from sharpose.runtime.result import Boxes, Image
from sharpose.similarity import box_nms

if TYPE_CHECKING:
    from sharpose.engines.tensorrt.load import TensorRtSettings

PeopleFrom = Literal["detector", "boxes", "motion", "full-frame", "scene"]
"""Where people's boxes come from."""

COCO_CLASSES = (  # noqa: SIM905 - readable as a text
    "person bicycle car motorcycle airplane bus train truck boat traffic-light fire-hydrant stop-sign "
    "parking-meter bench bird cat dog horse sheep cow elephant bear zebra giraffe backpack umbrella handbag "
    "tie suitcase frisbee skis snowboard sports-ball kite baseball-bat baseball-glove skateboard surfboard "
    "tennis-racket bottle wine-glass cup fork knife spoon bowl banana apple sandwich orange broccoli carrot "
    "hot-dog pizza donut cake chair couch potted-plant bed dining-table toilet tv laptop mouse remote keyboard "
    "cell-phone microwave oven toaster sink refrigerator book clock vase scissors teddy-bear hair-drier "
    "toothbrush "
).split()
"""COCO's 80 classes in the order of their ids; words are joined by a hyphen."""

_WHY_USELESS: dict[PeopleFrom, str] = {
    "boxes": "a boxes file's people are taken as they are",
    "motion": "the motion detector has neither classes nor overlaps",
    "full-frame": "the full frame is one person",
    "scene": "the scene's boxes are the true ones",
}
_DYNAMIC_SIDE = 640  # height or width that a graph with a dynamic one is run at
_INPUT_DTYPES = (np.dtype("f4"), np.dtype("f2"))
_OTHER_TASKS = ("classify", "segment", "pose", "obb")
_DEFAULT_IOU = 0.65
_SCORE_SLACK = 1e-2  # half precision
_NORMALISED = 1.5  # all coordinates of boxes from 0 to 1 are below it; they may reach outside a little
_RTMDET = "RTMDet wants --detector-mean 103.53,116.28,123.675 --detector-std 57.375,57.12,58.395"


def parse_classes(text: str) -> tuple[int, ...]:
    """Class ids from `0,16` or `person,dog`: ids from 0, or COCO's names (`sports-ball` or `sports ball`).

    Raises:
        InputError: an entry is neither, or is repeated.
    """
    ids: list[int] = []
    for part in text.split(","):
        name = "-".join(part.lower().split())
        if name.isascii() and name.isdigit():
            ids.append(int(name))
        elif name in COCO_CLASSES:
            ids.append(COCO_CLASSES.index(name))
        else:
            raise InputError(
                f"--classes: expected ids from 0 or COCO's names with commas between, as person or 0,16; got {part!r}"
            )
    if len(set(ids)) != len(ids):
        raise InputError(f"--classes: every class once, got {text!r}")
    return tuple(ids)


def check_detector_options(
    people_from: PeopleFrom, *, conf: float | None, iou: float | None, classes: str | None
) -> None:
    """Check the options that are given (not None). Raises `InputError` for one without effect or out of range."""
    for name, value in (("--conf", conf), ("--iou", iou), ("--classes", classes)):
        if value is not None and people_from != "detector" and (name, people_from) != ("--conf", "boxes"):
            raise InputError(f"{name} would do nothing here: {_WHY_USELESS[people_from]}; leave it out")
    for name, number in (("--conf", conf), ("--iou", iou)):
        if number is not None and not 0 <= number <= 1:
            raise InputError(f"{name}: expected a number from 0 to 1, got {number}")
    if classes is not None:
        parse_classes(classes)


def check_early(
    device: str | Sequence[str],
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    rgb: bool | None = None,
) -> None:
    """Check what can be before a detector is downloaded; see `Detector.from_onnx`, also for what is raised."""
    for one in (device,) if isinstance(device, str) else device:
        parse_device(one)
    Preprocessing().changed(mean, std, rgb)


class Detector:
    """A detector of people, of one of the families in `detectors/families.py`; see `from_name` and `from_onnx`.

    Thread-safe. A process may not use one that was made before it was forked.

    Attributes:
        path: The ONNX file.
        device: Where it runs.
        family: The family it belongs to.
        preprocessing: How pixels become its input.
        input_size: Height and width of its input; 640 where that is dynamic.
        conf: Lowest score of a box.
        iou: Highest overlap of two boxes of one class; the worse is dropped (not in end-to-end graphs).
        classes: The classes that are people.
        best_score: Highest score of these classes so far.
    """

    def __init__(
        self,
        path: Path,
        runner: Runner,
        conf: float,
        iou: float | None,
        classes: Sequence[int],
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        rgb: bool | None = None,
    ) -> None:
        overlap = _DEFAULT_IOU if iou is None else iou
        if not 0 <= conf <= 1 or not 0 <= overlap <= 1:
            raise InputError(f"detector: conf and iou must be in [0, 1], got {conf} and {overlap}")
        self.path, self.conf, self.iou, self.classes = path, conf, overlap, tuple(classes)
        self.best_score = 0.0
        self._boxes_are_pixels = False  # as was seen
        self._runner, self._lock = runner, EngineLock(f"detector {path}")
        self._searched: int | None = 0  # pictures; None once somebody was found, or the warning given
        (self._input,) = runner.inputs.values()
        _, _, *sides = (side for side in self._input.shape if isinstance(side, int))
        self.input_size = (sides[0], sides[1])
        self.family = self._recognise()
        self.preprocessing = self.family.preprocessing.changed(mean, std, rgb)
        if iou is not None and not self.family.overlapping:
            raise InputError(
                f"detector {path}: iou would do nothing: the graph suppresses overlaps itself; leave it out"
            )
        count = self.family.classes
        if not self.classes or any(c < 0 or (count is not None and c >= count) for c in self.classes):
            known = "non-negative" if count is None else f"among its {count}"
            ids = [f"{c} ({COCO_CLASSES[c]})" if 0 <= c < len(COCO_CLASSES) else str(c) for c in self.classes]
            raise InputError(f"detector {path}: expected classes {known}, got {', '.join(ids) or 'none'}")

    @classmethod
    def from_name(
        cls,
        name: str = DEFAULT_DETECTOR,
        *,
        sha256: str | None = None,
        table: Path | None = None,
        device: str | Sequence[str] = "cpu",
        conf: float = 0.3,
        iou: float | None = None,
        classes: Sequence[int] = (0,),
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        rgb: bool | None = None,
        tensorrt: TensorRtSettings | None = None,
        onnxruntime: OnnxRuntimeSettings | None = None,
    ) -> Detector:
        """Load a detector by its name in the table, downloaded once; `find_detector` says how, `from_onnx` the rest.

        Its mean, std and rgb are the table's where they are None.
        """
        check_early(device, mean, std, rgb)
        path = find_detector(name, sha256=sha256, table=table)
        entry = load_table(table)[name]
        return cls.from_onnx(
            path,
            device=device,
            conf=conf,
            iou=iou,
            classes=classes,
            mean=entry.mean if mean is None else mean,
            std=entry.std if std is None else std,
            rgb=entry.rgb if rgb is None else rgb,
            tensorrt=tensorrt,
            onnxruntime=onnxruntime,
        )

    @classmethod
    def from_onnx(
        cls,
        path: str | Path,
        *,
        device: str | Sequence[str] = "cpu",
        conf: float = 0.3,
        iou: float | None = None,
        classes: Sequence[int] = (0,),
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        rgb: bool | None = None,
        tensorrt: TensorRtSettings | None = None,
        onnxruntime: OnnxRuntimeSettings | None = None,
    ) -> Detector:
        """Load a detector and run it once on a grey picture, to recognise its family and to check that it runs.

        Args:
            path: An ONNX file.
            device: `cpu`, `cuda[:i]`, `tensorrt[:i]`, `ort-tensorrt[:i]`, `openvino[:CPU|GPU[.i]|NPU]`, `coreml`,
                `directml[:i]`, or `auto`: the best that this machine has and that can run the graph, as the attribute
                `device` says then. Of several, the first that can run the graph; a line is said of those that can't.
            conf: Lowest score of a box, 0 to 1.
            iou: Highest overlap of two boxes of one class, 0 to 1; 0.65 if None. Not for end-to-end graphs.
            classes: The classes that are people, counted from 0.
            mean: Subtracted from the pixels, 0 to 255, before they are divided by `std`; a number for each channel, in
                the order that the graph gets. With one of both, the other is 0 or 1. The family's if both are None.
            std: See `mean`.
            rgb: Whether the graph gets red, green, blue, rather than blue, green, red; the family's if None.
            tensorrt: How to build, find and run the engine where the device is `tensorrt`.
            onnxruntime: How to run on the other GPU devices.

        Raises:
            DetectorError: there is no such file, it is not an ONNX graph that the device takes, or of no known family.
            EngineError: the device, or what runs graphs on it, is not there.
            InputError: conf, iou, classes, mean or std are out of range, or iou would do nothing.
        """
        path = Path(path)
        if (found := found_at(path)) != "a file":
            raise DetectorError(f"detector {path}: expected an ONNX file, found {found}")
        if not os.access(path, os.R_OK):
            raise DetectorError(f"detector {path}: can't be read: {os.strerror(errno.EACCES)}")

        def load(*devices: str) -> Runner:
            return load_graph(
                path, lambda inputs: [_fix_input(path, inputs)], devices, tensorrt=tensorrt, onnxruntime=onnxruntime
            )

        try:
            if isinstance(device, str):
                runner = load_on(device, load, None if onnxruntime is None else onnxruntime.say)
            else:
                runner = load(*device)
        except GraphError as error:
            reason = str(error).removeprefix(f"{path}: ")
            tried = device if isinstance(device, str) else device[0]
            where = "cpu" if tried == AUTO else tried  # its last one
            raise DetectorError(f"detector {path}: expected an ONNX graph that {where} runs: {reason}") from error
        return cls(path, runner, conf, iou, classes, mean=mean, std=std, rgb=rgb)

    def __call__(self, image_bgr: Image) -> Boxes:
        """As `find`; where nobody was in the first 30 pictures, warns once of what was assumed (`UserWarning`)."""
        boxes = self.find(image_bgr)
        if self._searched is not None:
            self._searched = None if len(boxes) else self._searched + 1
            if self._searched == SEARCHED_FRAMES:
                self._searched = None
                warnings.warn(
                    f"nobody was found in the first {SEARCHED_FRAMES} pictures; {self.assumptions()}", stacklevel=2
                )
        return boxes

    def assumptions(self) -> str:
        """Where it finds nobody: how it feeds its graph, and what to check."""
        (height, width), place = self.input_size, "in the middle" if self.family.centred else "in the top left"
        return (
            f"the best score was {self.best_score:.2g}, with conf {self.conf:g}; {self.path.name} was taken for "
            f"{self.family.name} and fed {height}x{width} (HxW), {self.preprocessing}, the picture {place} on grey "
            f"{PADDING_GREY}: if people are there, check that it was trained so, else give --detector-mean, "
            f"--detector-std or --detector-rgb ({_RTMDET}), and check --conf and --classes"
        )

    def find(self, image_bgr: Image, sample_aspect_ratio: float = 1.0) -> Boxes:
        """The people in a picture.

        Args:
            image_bgr: uint8 [H, W, 3], BGR.
            sample_aspect_ratio: Width of a pixel to its height; the graph gets square pixels.

        Returns:
            Boxes in picture pixels, clipped to the picture, best first, without those that are not finite or have no
            area inside the picture.

        Raises:
            InputError: `image_bgr` is not such a picture.
            EngineError: the run failed, not one score was finite, or this process was forked since it was made.
            DetectorError: the outputs are not what the family promises: another shape, or scores above 1.
        """
        if image_bgr.dtype != np.uint8 or image_bgr.ndim != 3 or image_bgr.shape[2] != 3 or not image_bgr.size:
            raise InputError(
                f"detector: expected a picture uint8 [H, W, 3], got {image_bgr.dtype} {list(image_bgr.shape)}"
            )
        height, width = image_bgr.shape[:2]
        letterbox = Letterbox.fit(
            (height, width), self.input_size, centred=self.family.centred, sample_aspect_ratio=sample_aspect_ratio
        )
        outputs = self._run(self.preprocessing.tensor(letterbox.apply(image_bgr), self._input.dtype))
        try:
            candidates = self.family.decode(outputs)
        except DetectorError as error:
            raise DetectorError(f"detector {self.path}: {error}") from None
        return self._select(candidates, letterbox)

    @property
    def device(self) -> str:
        """Where it runs."""
        return self._runner.device

    def close(self) -> None:
        """Free the engine, once no call is under way. May be called twice; does nothing in a forked process."""
        if not self._lock.forked:
            with self._lock:
                self._runner.close()

    def _recognise(self) -> Family:
        try:
            task = model_metadata(self.path.read_bytes()).get("task")
        except (OSError, BundleError) as error:
            raise DetectorError(f"detector {self.path}: can't be read: {error}") from error
        if task in _OTHER_TASKS:  # Ultralytics says so; a pose graph's output looks like one of many classes
            raise DetectorError(f"detector {self.path}: expected a detector, found a graph exported for task {task!r}")
        grey = np.full((1, 3, *self.input_size), PADDING_GREY / 255, self._input.dtype)
        try:
            return recognise(self._run(grey), self.input_size)
        except EngineError as error:
            size = "x".join(map(str, self.input_size))
            raise DetectorError(f"detector {self.path}: it does not run at its input size {size}: {error}") from error
        except DetectorError as error:
            raise DetectorError(f"detector {self.path}: {error}") from None

    def _run(self, tensor: npt.NDArray[np.generic]) -> dict[str, npt.NDArray[np.generic]]:
        with self._lock:
            try:
                outputs = self._runner.run({self._input.name: tensor}, list(self._runner.outputs))
            except EngineError as error:
                raise EngineError(f"detector {self.path}: {error}") from error
        return {name: np.asarray(value) for name, value in outputs.items()}

    def _select(self, candidates: Candidates, letterbox: Letterbox) -> Boxes:
        """The people that score enough as boxes in the picture, without overlaps and those that have no area there."""
        scores = candidates.scores
        finite = np.isfinite(scores)
        if scores.size and not finite.any():
            raise EngineError(f"detector {self.path}: none of its {scores.size} scores is a finite number")
        top = scores.max(where=finite, initial=0)
        if top > 1 + _SCORE_SLACK:
            raise DetectorError(
                f"detector {self.path}: expected {self.family.name} scores from 0 to 1, got {top:g}; export a "
                "detector (not a pose or mask model) with its sigmoid"
            )
        wanted = finite & np.isin(candidates.labels, self.classes)
        self.best_score = max(self.best_score, float(scores.max(where=wanted, initial=0)))
        self._check_boxes(candidates.xyxy[finite & (scores >= self.conf)])
        people = wanted & (scores >= self.conf)
        people &= np.isfinite(candidates.xyxy).all(axis=1)
        xyxy, scores, labels = candidates.xyxy[people], scores[people], candidates.labels[people]
        if self.family.overlapping:
            order = box_nms(xyxy, scores, self.iou, labels)
        else:
            order = np.argsort(-scores, kind="stable")
        xyxy, scores = letterbox.to_picture(xyxy[order]), scores[order]
        solid = (xyxy[:, 2] > xyxy[:, 0]) & (xyxy[:, 3] > xyxy[:, 1])
        return Boxes(xyxy[solid], scores[solid])

    def _check_boxes(self, xyxy: npt.NDArray[np.float32]) -> None:
        """Refuse the first boxes of a graph if they can't be corners in input pixels."""
        xyxy = xyxy[np.isfinite(xyxy).all(axis=1) & (xyxy != 0).any(axis=1)]
        if self._boxes_are_pixels or not len(xyxy):
            return
        found = f"got {[round(side, 3) for side in xyxy[0].tolist()]}"
        if self.family.corners and (xyxy[:, 2:] < xyxy[:, :2]).any(axis=1).all():
            raise DetectorError(f"detector {self.path}: expected boxes x1, y1, x2, y2 with x1 <= x2, y1 <= y2, {found}")
        if (np.abs(xyxy) <= _NORMALISED).all():
            raise DetectorError(
                f"detector {self.path}: expected boxes in pixels of the input, {found}, as of boxes from 0 to 1; "
                "export it with boxes in pixels"
            )
        self._boxes_are_pixels = True


def _fix_input(path: Path, inputs: Sequence[TensorSpec]) -> TensorSpec:
    """A graph's one input, a picture, at a fixed size; raises `DetectorError` for any other input."""
    one = inputs[0] if len(inputs) == 1 else None
    if one is not None and one.dtype in _INPUT_DTYPES and len(one.shape) == 4:
        batch, channels, *sides = one.shape
        if (batch == 1 or isinstance(batch, str)) and (channels == 3 or isinstance(channels, str)):
            height, width = (_DYNAMIC_SIDE if isinstance(side, str) else side for side in sides)
            return TensorSpec(one.name, one.dtype, (1, 3, height, width))
    raise DetectorError(
        f"detector {path}: expected one picture as input, float or float16 [1, 3, height, width], found "
        f"{', '.join(map(str, inputs))}; known detectors: {EXPECTED}"
    )
