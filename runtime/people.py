"""Who says where the people are, for each stream, as the options of `sharpose-run` ask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import click

from sharpose.runtime.box_sources import BoxSource, DetectorBoxes, FileBoxes, FullFrame, SourceBoxes
from sharpose.runtime.boxes import BoxesFile
from sharpose.runtime.frames import Source
from sharpose.runtime.run_options import RunOptions
from sharpose.runtime.sinks.names import fill
from sharpose.runtime.sources.scene import is_scene

__all__ = ["PeopleFinder"]


class PeopleFinder:
    """Makes a box source a stream; streams share a detector's engine, and nothing else.

    Args:
        options: What the user wants.
        names: The streams' names, which `{source}` in a boxes file's name stands for.
        say: Told in a line what the user should know.
    """

    def __init__(self, options: RunOptions, names: Sequence[str], *, say: Callable[[str], None]) -> None:
        self._options, self._names, self._say = options, names, say

    @property
    def files(self) -> list[Path]:
        """What is read to find people, so that no output overwrites it."""
        options = self._options
        if options.boxes is not None:
            return [Path(fill(options.boxes, name)) for name in self._names]
        return [] if options.detector is None else [Path(options.detector)]

    def boxes_of(self, index: int, source: Source) -> BoxSource:
        """The box source of the stream at `index`.

        Raises:
            SharposeError: a boxes file or a detector can't be used.
            click.UsageError: nobody says where the people are.
        """
        options = self._options
        if options.boxes is not None:
            return FileBoxes(self._boxes_file(index, source))
        if options.detector is not None:
            from sharpose.engines.devices import onnxruntime_device
            from sharpose.runtime.detector import Detector

            return DetectorBoxes(Detector.from_onnx(options.detector, device=onnxruntime_device(options.device)))
        if options.full_frame:
            return FullFrame()
        if is_scene(source.name):
            return SourceBoxes()
        raise click.UsageError(
            "where are the people? give --boxes FILE (COCO detection results), --detector FILE.onnx (a YOLOX or YOLOv8 "
            "person detector), or --full-frame where one person fills the picture"
        )

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
