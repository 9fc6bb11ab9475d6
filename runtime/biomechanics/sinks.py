"""Sinks of whole trajectories: they keep a stream's keypoints and write them at its end."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sharpose.angles import angles_of, joint_angles
from sharpose.errors import InputError, SinkError
from sharpose.files import GrowingFile, removed_error
from sharpose.runtime.biomechanics.facing import FeetSeen
from sharpose.runtime.biomechanics.filters import check_cutoff, frame_rate_of, require_filter
from sharpose.runtime.biomechanics.opensim import Markers, mot_text, trc_text, with_midpoints
from sharpose.runtime.biomechanics.options import BiomechanicsOptions
from sharpose.runtime.biomechanics.trajectories import Trajectories, Trajectory, body_points, metres_per_pixel
from sharpose.runtime.frames import FrameRecord
from sharpose.runtime.sinks.folders import FolderSettings, FolderSink
from sharpose.runtime.sinks.tables import csv_rows
from sharpose.skeleton import Skeleton

_SAME_RATE = 0.02  # relative: so close to what the source says, its number is taken


@dataclass(frozen=True)
class MotionSettings:
    """What sinks of trajectories know of the stream, and what is done with its keypoints.

    Attributes:
        skeleton: Of the poses.
        options: Filters, gaps and units.
        keypoint_threshold: Lowest score of a keypoint that is used.
        tracked: Whether people have ids.
        frame_rate: Frames per second as the source says, or None.
        live: Whether the source has no end.
        timed: False for pictures that have no times.
        folder: How files in folders are named.
        say: Called with a line about what is missing.
        note: Called with a line that is worth knowing.
    """

    skeleton: Skeleton
    options: BiomechanicsOptions = field(default_factory=BiomechanicsOptions)
    keypoint_threshold: float = 0.3
    tracked: bool = False
    frame_rate: float | None = None
    live: bool = False
    timed: bool = True
    folder: FolderSettings = field(default_factory=lambda: FolderSettings("people"))
    say: Callable[[str], None] = lambda line: None
    note: Callable[[str], None] = lambda line: None

    def check(self, name: str) -> None:
        """Refuse what can't be done for this stream.

        Args:
            name: Option and target, for errors.

        Raises:
            InputError: the source has no times or no end, SciPy is missing, or the cut-off is too high for the frame
                rate.
        """
        if not self.timed:
            raise InputError(f"{name}: expected frames of a video, found pictures, which have no times")
        ahead = self.options.looks_ahead
        if self.live and ahead is not None:
            raise InputError(f"{name}: {ahead} needs the end of the source, and a live one has none; take --smooth")
        if self.options.butterworth is not None:
            require_filter()
            if self.frame_rate is not None:
                check_cutoff(self.options.butterworth, self.frame_rate)


class PeopleFolder(FolderSink):
    """A folder with a file per person, `STEM_person01.trc`, and `STEM_people.csv`, which says when each was seen.

    Args:
        path: The folder.
        settings: How files are named; `names` is not used.
        ending: What they end with, such as `.trc`.

    Raises:
        InputError: See `FolderSink`.
    """

    def __init__(self, path: str | Path, settings: FolderSettings, *, ending: str) -> None:
        if Path(path).is_file():
            raise InputError(
                f"{path}: expected a folder for a file per person, as the name has no ending, found a file; give "
                f"another name, or one that ends in {ending} for the file of one person"
            )
        super().__init__(path, settings, ending=ending)

    def _is_ours(self, name: str) -> bool:
        start = f"{self._settings.stem}_person"
        number = name.removeprefix(start).removesuffix(self._ending)
        is_person = number.isascii() and number.isdigit() and name == self._file_name(int(number))
        return is_person or name == f"{self._settings.stem}_people.csv"

    def _file_name(self, index: int) -> str:
        return f"{self._settings.stem}_person{index:02d}{self._ending}"

    def person_file(self, person: Trajectory) -> str:
        """The name of a person's file."""
        return self._file_name(person.id)

    def check(self) -> None:
        """Raise `SinkError` where the folder was removed after `begin`."""
        if not self.path.is_dir():
            self._removed = True
            raise removed_error(self.path)

    def write_people(self, files: Iterable[tuple[Trajectory, bytes]]) -> None:
        """Writes all files. Raises `SinkError` where one can't be written."""
        rows: list[Sequence[object]] = [
            ["id", "file", "first_frame", "last_frame", "first_time", "last_time", "frames"]
        ]
        for person, text in files:
            self.write_file(person.id, text)
            frames, times = person.frames[[0, -1]].tolist(), np.round(person.times[[0, -1]], 6).tolist()
            rows.append([person.id, self.person_file(person), *frames, *times, person.seen])
        self.write_named(f"{self._settings.stem}_people.csv", csv_rows(rows))


class TrajectorySink(ABC):
    """Keeps a stream's keypoints, and writes them when it ends; a run that is killed leaves an empty file or folder.

    What a run that fails has seen is kept under a name that says it is partial, with its gaps, unfiltered, in pixels.

    Args:
        path: A file, or a folder for a file per person.
        settings: What is known and wanted.
        ending: What files in a folder end with; None if `path` is a file.

    Raises:
        InputError: the stream doesn't allow what is wanted, or a folder holds such files already.
    """

    def __init__(self, path: str | Path, settings: MotionSettings, *, ending: str | None = None) -> None:
        settings.check(str(path))
        self._settings = settings
        self._target: GrowingFile | PeopleFolder
        if ending is None:
            self._target = GrowingFile(path)
        else:
            self._target = PeopleFolder(path, settings.folder, ending=ending)
        self.path = self._target.path
        self.name = str(self.path)
        self._people = Trajectories(self.name, settings.skeleton, settings.keypoint_threshold, tracked=settings.tracked)
        self._feet = FeetSeen(settings.skeleton, settings.options.facing)
        self._begun = self._closed = False

    def write(self, record: FrameRecord) -> None:
        """Keeps the frame's people. Raises `SinkError` where they can't be kept, or the file can't be made."""
        self._people.add(record)
        if isinstance(self._target, PeopleFolder):
            self._target.begin()
            self._target.check()
        else:
            self._target.append(b"")
        self._begun = True

    def close(self) -> None:
        """Writes and closes the files. May be called twice. Raises `SinkError` where they can't be written."""
        if self._begun and not self._closed:
            try:
                people = [person.processed(self._settings.options) for person in self._people.all()]
                self._write(people)
            except InputError as error:
                raise SinkError(f"{self.name}: {error}") from None
            if (line := self._feet.warning(self.name)) is not None:
                self._settings.say(line)
        self._closed = True
        self._people.clear()
        self._target.close()

    def abandon(self) -> Path | None:
        """Writes what there is as it is, and marks it as partial; its new path, or None where nothing is left."""
        if self._begun and not self._closed:
            plain = BiomechanicsOptions(facing=self._settings.options.facing)
            self._settings = replace(self._settings, options=plain)
            with contextlib.suppress(SinkError):  # what led here was reported
                self._write(self._people.all())
        self._closed = True
        self._people.clear()
        return self._target.abandon()

    def _write(self, people: Sequence[Trajectory]) -> None:
        if not people:
            self._settings.say(f"{self.name}: nobody was seen")
        if isinstance(self._target, PeopleFolder):
            name_of = self._target.person_file
            self._target.write_people((person, self.text([person], name_of(person))) for person in people)
        else:
            self._target.append(self.text(people, self.path.name))

    def _angles(self, person: Trajectory) -> dict[str, npt.NDArray[np.float32]]:
        """float32 [F] in degrees for each name; see `joint_angles`."""
        known = np.isfinite(person.places).all(axis=2, keepdims=True)
        keypoints = np.concatenate([person.places, known], axis=2).astype(np.float32)
        angles = joint_angles(keypoints, self._settings.skeleton, 0.5, facing=self._settings.options.facing)
        self._feet.add(angles)
        return angles

    @abstractmethod
    def text(self, people: Sequence[Trajectory], file_name: str) -> bytes:
        """The content of the file with that name, of these people."""


class OnePersonSink(TrajectorySink):
    """A sink whose files hold one person: with ids it needs a folder. Arguments and errors as `TrajectorySink` has."""

    def __init__(self, path: str | Path, settings: MotionSettings, *, ending: str | None = None) -> None:
        if settings.tracked and ending is None:
            raise InputError(f"{path}: expected a folder for a file per person, got a file")
        super().__init__(path, settings, ending=ending)


class TrcSink(OnePersonSink):
    """Writes markers for OpenSim, a person a file: `x` to the right, `y` up, `z` 0; y is the height less the pixel's.

    In pixels (those of a picture with square ones), or in metres where a scale is given. The rate is the source's
    where the frames' times agree with it.

    Args:
        path: A file; or, with `ending`, a folder.
        settings: What is known and wanted.
        ending: See `TrajectorySink`.

    Raises:
        InputError: See `TrajectorySink`; or the skeleton doesn't tell a person's height, which the scale is taken from.
    """

    def __init__(self, path: str | Path, settings: MotionSettings, *, ending: str | None = None) -> None:
        if settings.options.height_m is not None:
            body_points(settings.skeleton)
        super().__init__(path, settings, ending=ending)
        self._scale, self._units = 1.0, "px"

    def _write(self, people: Sequence[Trajectory]) -> None:
        options = self._settings.options
        scaled = options.height_m is not None or options.metres_per_pixel is not None
        self._scale, self._units = options.metres_per_pixel or 1.0, "m" if scaled else "px"
        if options.height_m is not None and people:
            self._scale, measured = metres_per_pixel(people, self._settings.skeleton, options.height_m)
            who, tall = f"person {measured.id}" if measured.id else "the person", options.height_m / self._scale
            self._settings.note(f"{self.name}: {self._scale:.6g} m per pixel, as {who} is {tall:.0f} pixels tall")
        super()._write(people)

    def text(self, people: Sequence[Trajectory], file_name: str) -> bytes:
        """See `TrajectorySink`."""
        joints = self._settings.skeleton.num_keypoints
        places = np.concatenate([np.zeros((0, joints, 2)), *(person.places for person in people)])
        times, heights = (
            np.concatenate([np.zeros(0), *(getattr(person, name) for person in people)])
            for name in ("times", "heights")
        )
        places = np.stack([places[:, :, 0], heights[:, None] - places[:, :, 1]], axis=2) * self._scale
        names, places = with_midpoints(places, self._settings.skeleton)
        first = people[0].first + 1 if people else 1
        return trc_text(Markers(names, places, times, first, self._frame_rate(times), self._units), file_name).encode()

    def _frame_rate(self, times: npt.NDArray[np.float64]) -> float:
        said, found = self._settings.frame_rate, frame_rate_of(times)
        if found is None:
            return said or 1.0
        return said if said is not None and abs(said / found - 1) <= _SAME_RATE else found


class MotionSink(OnePersonSink):
    """Writes joint angles as an OpenSim motion (.mot), a person a file; see `TrajectorySink`."""

    def text(self, people: Sequence[Trajectory], file_name: str) -> bytes:
        """See `TrajectorySink`."""
        name = Path(file_name).stem
        if not people:
            nothing = {angle: np.zeros(0, np.float32) for angle in angles_of(self._settings.skeleton)}
            return mot_text(nothing, np.zeros(0), name).encode()
        (person,) = people
        return mot_text(self._angles(person), person.times, name).encode()


class ProcessedAnglesSink(TrajectorySink):
    """Writes what `AnglesSink` writes, of filled or filtered keypoints, at the end; see `TrajectorySink`.

    A frame in which somebody wasn't found has a row if its gap was filled, with an empty `person`.
    """

    def text(self, people: Sequence[Trajectory], file_name: str) -> bytes:
        """See `TrajectorySink`."""
        names = angles_of(self._settings.skeleton)
        file_names = self._people.file_names
        named = any(name is not None for name in file_names)
        rows: list[tuple[int, int, list[object]]] = []
        for person in people:
            table = np.array([*self._angles(person).values()], np.float64).reshape(len(names), -1).T
            for row, angles in enumerate(table):
                place = int(person.people[row])
                if place < 0 and np.isnan(angles).all():
                    continue
                name = [file_names[person.first + row]] if named else []
                start = [int(person.frames[row]), *name, round(float(person.times[row]), 6), person.id or None]
                numbers = [None if np.isnan(angle) else round(float(angle), 2) + 0.0 for angle in angles]
                rows.append((person.first + row, person.id, [*start, None if place < 0 else place, *numbers]))
        header: list[object] = ["frame", *(["file_name"] if named else []), "time", "id", "person", *names]
        return csv_rows([header, *(row for _, _, row in sorted(rows, key=lambda one: one[:2]))])
