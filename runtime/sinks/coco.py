"""Poses as COCO keypoint results, as `pycocotools` loads them: a complete document at every moment."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from sharpose.errors import OutputTakenError, SinkError
from sharpose.file_locks import check_not_held, open_to_write
from sharpose.files import mark_partial, removed_error, write_all
from sharpose.runtime.frames import FrameRecord
from sharpose.runtime.sinks.people import people_of, strict_json

_PERSON = 1  # COCO's category


class CocoSink:
    """Writes `[{"image_id", "category_id", "keypoints", "score", "bbox"}, …]`, a complete array at every moment.

    People with an id have it as `"track_id"`.

    Args:
        path: The file, created at the first record. A run without people leaves an empty array.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.name = str(self.path)
        self._file = TwinFile(self.path, tail=b"\n]\n")
        self._entries = self._closed = False

    def write(self, record: FrameRecord) -> None:
        """Adds one entry per person. Raises `SinkError` where they can't be written or a number is not finite."""
        entries = [
            {
                "image_id": record.frame.image_id,
                "category_id": _PERSON,
                "keypoints": [number for point in person.keypoints for number in point],
                "score": person.score,
                "bbox": person.bbox,
            }
            | ({"track_id": person.track_id} if person.track_id else {})
            for person in people_of(record)
        ]
        text = b",\n".join(strict_json(entry, record) for entry in entries)
        text = (b",\n" if self._entries else b"\n") + text if text else b""
        if not self._file.made:  # even where nobody is in it: an earlier run's results must not stay under this name
            text = b"[" + text
        if text:
            self._file.append(text)
        self._entries = self._entries or bool(entries)

    def close(self) -> None:
        """Closes the file, and creates it where nobody was written. May be called twice."""
        if not self._closed and not self._file.made:
            self._file.append(b"[")
        self._closed = True
        self._file.close()

    def abandon(self) -> Path | None:
        """Closes the file of a failed run and marks it as partial; its new path, or None where nothing was written."""
        self._closed = True
        return self._file.abandon()


_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


@dataclass
class _Copy:
    """An open file, and how many bytes of entries it holds (its tail not counted)."""

    descriptor: int
    size: int = 0

    def append(self, entries: bytes, tail: bytes) -> None:
        write_all(self.descriptor, entries + tail, self.size)
        self.size += len(entries)


class TwinFile:
    """Entries, and a tail after the last one.

    There is no way to move a tail within a file in one step: a process killed in between would leave no document. So
    two copies take turns. The one under a name that nobody reads, `.NAME.spare`, gets the entries that it lacks, then
    the two swap names; renaming is one step. The price is twice the disk space while the file grows, and that a kill
    leaves the spare behind, which the next run of that name takes over.

    Where the file system has no hard links (FAT), and on Windows, where open files can't be renamed, the tail is
    overwritten in place, and a kill inside that one write, some microseconds, leaves a document without its end. Into a
    pipe or a device the tail is written on closing.

    Args:
        path: Where it goes; an existing file is replaced, and a symbolic link is followed.
        tail: What stands after the last entry.

    Attributes:
        made: Whether anything was written.
    """

    def __init__(self, path: Path, *, tail: bytes) -> None:
        self.path = path
        self.made = False
        self._tail = tail
        self._named = path
        self._shown: _Copy | None = None
        self._spare: _Copy | None = None
        self._spare_lacks = b""
        self._in_place = self._stream = self._removed = False

    def append(self, entry: bytes) -> None:
        """Writes `entry`, which must not be empty, and the tail after it.

        Raises:
            SinkError: it can't be written, the file then holds the entries before it; or the file was removed.
        """
        try:
            if not self.made:
                self._named = self.path.resolve()
                self._named.parent.mkdir(parents=True, exist_ok=True)
                self._stream = self._named.exists() and not self._named.is_file()
            if self._stream:
                if self._shown is None:
                    self._shown = _Copy(os.open(self._named, os.O_WRONLY))
                write_all(self._shown.descriptor, entry)
            else:
                self._append_to_file(entry)
        except OSError as error:
            self._drop_spare()
            raise SinkError(f"{self.path}: can't be written: {error.strerror}") from None
        self.made = True

    def close(self) -> None:
        """Closes the file. May be called twice. Raises `SinkError` where the system reports a late failure."""
        self._drop_spare()
        shown, self._shown = self._shown, None
        if shown is None:
            return
        try:
            if self._stream:
                write_all(shown.descriptor, self._tail)
            os.close(shown.descriptor)
        except OSError as error:
            raise SinkError(f"{self.path}: can't be written: {error.strerror}") from None

    def abandon(self) -> Path | None:
        """Closes the file of a failed run and marks it as partial; its new path, or None where nothing is left."""
        with contextlib.suppress(SinkError):  # what led here was reported
            self.close()
        return mark_partial(self.path) if self.made and not self._removed else None

    @property
    def _spare_path(self) -> Path:
        return self._named.with_name(f".{self._named.name}.spare")

    def _append_to_file(self, entry: bytes) -> None:
        if sys.platform == "win32" and self._shown is None:
            self._shown, self._in_place = _Copy(open_to_write(self._named, self.path)), True
        if self._shown is not None:
            self._check_name(self._shown)
            if self._in_place:
                self._shown.append(entry, self._tail)
                return
        if self._spare is None:
            self._spare = _Copy(open_to_write(self._spare_path, self.path))
            if self._shown is None:
                try:  # both copies are held: the two swap names
                    check_not_held(self._named)
                except OutputTakenError:
                    self._drop_spare()
                    raise
        self._spare.append(self._spare_lacks + entry, self._tail)
        self._spare_lacks = entry
        self._swap_names()

    def _swap_names(self) -> None:
        if self._shown is None:
            self._spare_path.replace(self._named)
        else:
            third = self._named.with_name(f".{self._named.name}.old")
            third.unlink(missing_ok=True)  # left by a killed run
            try:
                os.link(self._named, third)
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                self._in_place = True
            self._spare_path.replace(self._named)
            if self._in_place:
                os.close(self._shown.descriptor)
                self._shown = None
            else:
                third.replace(self._spare_path)
        self._shown, self._spare = self._spare, self._shown

    def _check_name(self, shown: _Copy) -> None:
        """Raises `SinkError` if the name doesn't stand for the file being written any more."""
        ours = os.fstat(shown.descriptor)
        try:
            found = self._named.stat()
        except FileNotFoundError:
            found = None
        if found is None or (found.st_dev, found.st_ino) != (ours.st_dev, ours.st_ino):
            self._removed = True
            raise removed_error(self.path)

    def _drop_spare(self) -> None:
        spare, self._spare = self._spare, None
        if spare is not None:
            with contextlib.suppress(OSError):
                os.close(spare.descriptor)
            with contextlib.suppress(OSError):
                self._spare_path.unlink()
