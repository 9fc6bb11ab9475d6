"""Who says where the people are, for each stream, as the options of `sharpose-run` ask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import click

from sharpose.engines.devices import onnxruntime_device
from sharpose.errors import InputError
from sharpose.runtime.box_sources import BoxSource, DetectorBoxes, FileBoxes, FullFrame, SourceBoxes
from sharpose.runtime.boxes import BoxesFile
from sharpose.runtime.detector import Detector
from sharpose.runtime.detectors.motion import MotionBoxes
from sharpose.runtime.detectors.named import MOTION, find_detector, how_to_find_people, is_file_name
from sharpose.runtime.detectors.settings import PeopleFrom, check_detector_options, parse_classes
from sharpose.runtime.frames import Source
from sharpose.runtime.run_options import RunOptions
from sharpose.runtime.sinks.names import fill
from sharpose.runtime.sources.scene import is_scene
from sharpose.runtime.tracking.follow_poses import FollowPoses

__all__ = ["PeopleFinder", "people_files"]

_LEAST_SCORE = 0.3  # of a detection, where the user doesn't say


def people_files(options: RunOptions, names: Sequence[str]) -> list[Path]:
    """What is read to find people in streams of these names, so that no output overwrites it."""
    if options.boxes is not None:
        return [Path(fill(options.boxes, name)) for name in names]
    if options.detector is not None and is_file_name(options.detector):
        return [Path(options.detector)]
    return []


class PeopleFinder:
    """Makes a box source a stream; streams share a detector's engine, and nothing else.

    Args:
        options: What the user wants.
        names: The streams' names, which `{source}` in a boxes file's name stands for.
        say: Told in a line what the user should know.
    """

    def __init__(self, options: RunOptions, names: Sequence[str], *, say: Callable[[str], None]) -> None:
        self._options, self._names, self._say = options, names, say
        self._detector: Detector | None = None

    def boxes_of(self, index: int, source: Source) -> BoxSource:
        """The box source of the stream at `index`.

        Raises:
            SharposeError: a boxes file or a detector can't be used, or an option would do nothing.
            click.UsageError: nobody says where the people are.
        """
        options = self._options
        people_from = self._people_from(source)
        check_detector_options(people_from, conf=options.conf, iou=options.iou, classes=options.classes)
        found: BoxSource
        if people_from == "boxes":
            return FileBoxes(self._boxes_file(index, source), options.conf)
        if people_from == "full-frame":
            return FullFrame()
        if people_from == "scene":
            return SourceBoxes()
        found = MotionBoxes(self._say) if people_from == "motion" else DetectorBoxes(self._shared_detector())
        return FollowPoses(found, options.detect_every) if options.detect_every > 1 else found

    def _people_from(self, source: Source) -> PeopleFrom:
        options = self._options
        if options.boxes is not None:
            return "boxes"
        if options.detector is not None:
            return "motion" if options.detector == MOTION else "detector"
        if options.full_frame:
            return "full-frame"
        if is_scene(source.name):
            return "scene"
        raise click.UsageError(how_to_find_people(source.name))

    def _shared_detector(self) -> Detector:
        options = self._options
        if self._detector is None:
            assert options.detector is not None
            named = not is_file_name(options.detector)
            if options.detector_sha256 is not None and not named:
                raise InputError("--detector-sha256 is for a named detector that is downloaded, not for a file")
            path = find_detector(options.detector, sha256=options.detector_sha256) if named else Path(options.detector)
            self._detector = Detector.from_onnx(
                path,
                device=onnxruntime_device(options.device),
                conf=_LEAST_SCORE if options.conf is None else options.conf,
                iou=options.iou,
                classes=(0,) if options.classes is None else parse_classes(options.classes),
            )
        return self._detector

    def _boxes_file(self, index: int, source: Source) -> BoxesFile:
        assert self._options.boxes is not None
        path = Path(fill(self._options.boxes, self._names[index]))
        if len(self._names) > 1 and str(path) == self._options.boxes:
            raise click.UsageError(
                f"--boxes {path}: {len(self._names)} sources can't share one file of boxes; put {{source}} into its "
                "name, which stands for the source's"
            )
        file = BoxesFile.load(path)
        if source.image_ids is not None:
            file.check_image_ids(source.image_ids)
        elif source.frame_count is not None:  # a claim, and headers claim too much rather than too little
            file.check_image_ids(frozenset(range(source.frame_count)))
        return file
