"""A folder that appears whole or not at all."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sharpose.errors import ExportError
from sharpose.manifest import MANIFEST_NAME

__all__ = ["atomic_folder", "check_output"]


def check_output(output: Path, *, overwrite: bool) -> None:
    """Refuse an output that exists, unless it is a bundle (or an empty folder) and may be overwritten.

    Raises:
        ExportError: something is there that must not be replaced.
    """
    if not output.exists() and not output.is_symlink():
        return
    if not overwrite:
        raise ExportError(f"--output {output}: already exists; give another folder or --overwrite")
    if not output.is_dir() or output.is_symlink() or (any(output.iterdir()) and not (output / MANIFEST_NAME).is_file()):
        raise ExportError(f"--output {output}: is not a bundle, so --overwrite won't replace it; give another folder")


@contextlib.contextmanager
def atomic_folder(output: Path, *, overwrite: bool) -> Iterator[Path]:
    """A temporary folder beside `output`, which takes its place when the block ends without an error.

    An error, Ctrl-C or SIGTERM removes it. The old folder is moved aside before the new one takes its place, so at no
    time is there half a bundle under that name.

    Raises:
        ExportError: see `check_output`; or the folder can't be written.
    """
    check_output(output, overwrite=overwrite)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{output.name}.unfinished-", dir=output.parent))
    except OSError as error:
        raise ExportError(f"--output {output}: can't be written ({error.strerror})") from error
    try:
        work.chmod(0o755)
        yield work
        retired = work.with_name(work.name + "-old")
        if output.exists():
            output.rename(retired)
        try:
            work.rename(output)
        except BaseException:
            if retired.exists() and not output.exists():
                retired.rename(output)
            raise
        shutil.rmtree(retired, ignore_errors=True)
    except OSError as error:
        raise ExportError(f"--output {output}: can't be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
