"""From the options of a run to the box source of each stream."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sharpose.engines.device import detector_devices, parse_device
from sharpose.engines.load import OnnxRuntimeSettings
from sharpose.engines.tensorrt.load import TensorRtSettings
from sharpose.errors import InputError
from sharpose.runtime.boxes.file import BoxesFile
from sharpose.runtime.boxes.sources import BoxSource, DetectorBoxes, FileBoxes, FullFrame, NobodyWatch, SourceBoxes
from sharpose.runtime.detectors.catalogue import MOTION, find_detector, is_file_name, load_table
from sharpose.runtime.detectors.motion import NOTHING_MOVED, MotionBoxes
from sharpose.runtime.detectors.onnx import Detector, PeopleFrom, check_detector_options, check_early, parse_classes
from sharpose.runtime.frames import Source
from sharpose.runtime.messages import Messages
from sharpose.runtime.options import RunOptions, is_scene
from sharpose.runtime.sinks.outputs import fill
from sharpose.runtime.tracking.follow_poses import FollowPoses

if TYPE_CHECKING:
    from sharpose.runtime.estimator import Estimator

_LOWEST_SCORE = 0.3  # of a detection, without --conf


class BoxSources:
    """Makes a box source per stream; streams share a detector's engine, and nothing else.

    Args:
        options: Of the run.
        names: Of the sources, which `{source}` in the name of a boxes file stands for.
        messages: For lines to the user.
        device: The estimator's, which a detector shares unless the options name another.
        tensorrt: How a detector runs where its device is `tensorrt`.
        onnxruntime: How it runs on other devices.
        estimator: Has the detector that is used where the options name none; by default it is loaded by its name.

    Attributes:
        watches: Those that wait for somebody to be found, to be finished at the end.
    """

    def __init__(
        self,
        options: RunOptions,
        names: Sequence[str],
        messages: Messages,
        device: str,
        *,
        tensorrt: TensorRtSettings | None = None,
        onnxruntime: OnnxRuntimeSettings | None = None,
        estimator: Estimator | None = None,
    ) -> None:
        self._options, self._names, self._messages, self._estimator = options, names, messages, estimator
        self._device, self._tensorrt, self._onnxruntime = device, tensorrt, onnxruntime
        self._say, self._warn = messages.info, messages.warning
        self._detector: Detector | None = None
        self.watches: list[NobodyWatch] = []

    def make(self, index: int, source: Source) -> BoxSource:
        """The box source of the stream at `index`.

        Raises:
            SharposeError: a boxes file or a detector can't be used, or an option would do nothing.
            click.UsageError: several sources are to share a boxes file.
        """
        options, kind = self._options, self._kind(source)
        check_detector_options(kind, conf=options.conf, iou=options.iou, classes=options.classes)
        if kind == "boxes":
            file, pictures = self._read_boxes(index, source), source.info.pictures
            if not len(file):
                self._warn(f"{file.path}: holds no box of a person: nobody is in the results")
            ids = None if pictures is None else file.ids_of(pictures)
            for note in (None if file.has_names else source.info.id_note, file.note):
                if note is not None:
                    self._warn(note)
            if pictures is None and file.counts_from_one:
                self._warn(f"{file.path}: its ids count from 1, its file names from 0: frames go by the names")
            return FileBoxes(file, options.conf, ids)
        if kind == "full-frame":
            return FullFrame()
        if kind == "scene":
            return SourceBoxes()
        found: NobodyWatch
        if kind == "motion":
            name = source.info.name
            motion = MotionBoxes(self._say, lambda line: self._warn(f"{name}: {line}"))
            found = NobodyWatch(motion, name, lambda: NOTHING_MOVED, self._warn)
        else:
            own = self._estimator is not None and options.detector is None
            detector = self._estimator.load_detector() if own and self._estimator else self._load_detector()
            found = NobodyWatch(DetectorBoxes(detector), source.info.name, detector.assumptions, self._warn)
        self.watches.append(found)
        return FollowPoses(found, options.detect_every) if options.detect_every > 1 else found

    def prepare(self) -> None:
        """Load the detector of videos now, rather than for the first of them. Raises what `make` raises."""
        options, name = self._options, self._options.detector_used
        kind: PeopleFrom = "motion" if name == MOTION else "detector"
        if name is None:
            kind = "boxes" if options.boxes is not None else "full-frame"
        check_detector_options(kind, conf=options.conf, iou=options.iou, classes=options.classes)
        if kind == "detector":
            self._load_detector()

    def of(self, options: RunOptions, names: Sequence[str]) -> BoxSources:
        """Those of another run, whose options differ in sources and outputs alone; this one still frees the detector.

        Args:
            options: Of that run.
            names: Of its sources.
        """
        other = copy.copy(self)
        other._options, other._names, other.watches = options, names, []
        return other

    def __enter__(self) -> BoxSources:
        return self

    def __exit__(self, *failure: object) -> None:
        """Free the detector's engine."""
        if self._detector is not None:
            self._detector.close()

    def _kind(self, source: Source) -> PeopleFrom:
        if self._options.boxes is not None:
            return "boxes"
        if self._options.full_frame:
            return "full-frame"
        given = self._options.detector is not None or (self._estimator is not None and self._estimator.detector)
        if not given and is_scene(source.info.name):
            return "scene"
        return "motion" if self._options.detector == MOTION else "detector"

    def _load_detector(self) -> Detector:
        options, name = self._options, self._options.detector_used
        if self._detector is None:
            assert name is not None
            entry = None
            given = options.detector_device
            devices = detector_devices(self._device) if given == "auto" else (given,)
            mean, std, rgb = options.detector_mean, options.detector_std, options.detector_rgb
            check_early(devices, mean, std, rgb)
            if not is_file_name(name):
                path = find_detector(
                    name,
                    sha256=options.detector_sha256,
                    table=options.detector_table,
                    console=self._messages.bars,
                    say=self._say,
                    warn=self._warn,
                )
                entry = load_table(options.detector_table)[name]
            elif options.detector_sha256 is None and options.detector_table is None:
                path = Path(name)
            else:
                option = "--detector-table" if options.detector_sha256 is None else "--detector-sha256"
                raise InputError(f"{option} is for a named detector that is downloaded, not for a file")
            self._detector = Detector.from_onnx(
                path,
                device=devices,
                conf=_LOWEST_SCORE if options.conf is None else options.conf,
                iou=options.iou,
                classes=(0,) if options.classes is None else parse_classes(options.classes),
                mean=entry.mean if entry and mean is None else mean,
                std=entry.std if entry and std is None else std,
                rgb=entry.rgb if entry and rgb is None else rgb,
                tensorrt=self._tensorrt,
                onnxruntime=self._onnxruntime,
            )
            if self._detector.device != str(parse_device(self._device)):
                self._say(f"the detector runs on {self._detector.device}")
        return self._detector

    def _read_boxes(self, index: int, source: Source) -> BoxesFile:
        assert self._options.boxes is not None
        path = Path(fill("--boxes", self._options.boxes, self._names[index]))
        if len(self._names) > 1 and str(path) == self._options.boxes:
            raise click.UsageError(
                f"--boxes {path}: {len(self._names)} sources can't share one file of boxes; put {{source}} into its "
                "name, which stands for the source's"
            )
        file, info = BoxesFile.load(path), source.info
        if info.pictures is not None:
            return file  # `ids_of` checks them
        if info.image_ids is not None:
            file.check_image_ids(info.image_ids)
        elif info.frame_count is not None:  # a claim, and headers claim too much rather than too little
            file.check_image_ids(range(info.frame_count))
        return file
