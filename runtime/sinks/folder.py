"""A folder that gets one file a frame, each whole from the moment it has its name."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from sharpose.errors import InputError, SinkError
from sharpose.runtime.sinks.growing import removed_error

__all__ = ["ResultFolder"]


class ResultFolder:
    """Files `STEM_000000000000ENDING`, numbered by frame.

    Args:
        path: The folder; made, with those above it, at the first file.
        stem: What names begin with.
        ending: What they end with.

    Raises:
        InputError: the folder holds such files already (two runs would be mixed), or is no folder.
    """

    def __init__(self, path: str | Path, *, stem: str, ending: str) -> None:
        self.path = Path(path)
        self._stem, self._ending = stem, ending
        self._files = 0
        self._ours = self._removed = False
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path}: expected a folder, found a file; give another name")
        if self.path.is_dir():
            with os.scandir(self.path) as entries:
                found = next((entry.name for entry in entries if self._is_ours(entry.name)), None)
            if found is not None:
                raise InputError(
                    f"{self.path}: already holds files of this kind ({found}), which would be mixed with the new ones; "
                    "give another folder, or empty it"
                )

    def write(self, index: int, data: bytes) -> None:
        """Writes frame `index`'s file. Raises `SinkError` where it can't; no half of it is left then."""
        name = f"{self._stem}_{index:012d}{self._ending}"
        part = self.path / f".{name}.part"
        try:
            if not self._files:
                self._ours = not self.path.exists()
                self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(descriptor, view) :]
            finally:
                os.close(descriptor)
            part.replace(self.path / name)
        except OSError as error:
            if self._files and not self.path.is_dir():
                self._removed = True
                raise removed_error(self.path) from None
            with contextlib.suppress(OSError):
                part.unlink()
            if not self._files and self._ours:
                with contextlib.suppress(OSError):
                    self.path.rmdir()
            raise SinkError(f"{self.path / name}: can't be written: {error.strerror}") from None
        self._files += 1

    def abandon(self) -> Path | None:
        """Renames the folder of a failed run to `NAME.partial`, or where that is taken `NAME.partial2` and so on.

        Returns:
            Its new path; its own where it had been there before the run; None where nothing was written.

        Raises:
            SinkError: it can't be renamed.
        """
        if not self._files or self._removed:
            return None
        if not self._ours:
            return self.path
        for number in range(1, 10_000):
            partial = self.path.with_name(f"{self.path.name}.partial{number if number > 1 else ''}")
            if not partial.exists():
                break
        try:
            self.path.replace(partial)
        except OSError as error:
            raise SinkError(
                f"{self.path}: expected to rename this incomplete folder to {partial}: {error.strerror}"
            ) from None
        self._files = 0
        return partial

    def _is_ours(self, name: str) -> bool:
        number = name.removeprefix(f"{self._stem}_").removesuffix(self._ending)
        return len(number) == 12 and number.isdigit() and name == f"{self._stem}_{number}{self._ending}"
