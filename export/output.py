"""Folders that are written whole or not at all: a bundle, a model repository."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from sharpose.bundle import MANIFEST_NAME
from sharpose.engines.load import STAGES
from sharpose.engines.tensorrt.build import ENGINES_FOLDER
from sharpose.errors import ExportError
from sharpose.files import UNFINISHED
from sharpose.serving.contract import MODEL_NAME
from sharpose.serving.repository import CONFIG_PATH


@dataclass(frozen=True)
class OutputKind:
    """What is written into a folder."""

    option: str  # that names the folder on the command line
    name: str
    marker: str  # a file in it by which it is known
    holds: tuple[str, ...]  # names of all that lies in it


BUNDLE = OutputKind(
    "--output", "bundle", MANIFEST_NAME, (MANIFEST_NAME, "*.onnx", "*.bin", ENGINES_FOLDER, f".*{UNFINISHED}")
)
REPOSITORY = OutputKind(
    "--triton", "model repository", CONFIG_PATH, (MODEL_NAME, *(f"{MODEL_NAME}_{stage}" for stage in STAGES))
)


_OF_SYSTEM = (".DS_Store", "Thumbs.db", "desktop.ini")
"""What macOS and Windows put into folders that somebody looks at."""


def check_output(output: Path, kind: OutputKind = BUNDLE, *, overwrite: bool) -> None:
    """Refuse an output that exists, unless it is of its kind, with nothing else in it, and may be overwritten.

    Raises:
        ExportError: something is there that must not be replaced.
    """
    if not output.exists() and not output.is_symlink():
        return
    named = f"{kind.option} {output}"
    if not overwrite:
        raise ExportError(f"{named}: already exists; give another folder or --overwrite")
    if not output.is_dir() or output.is_symlink() or (any(output.iterdir()) and not (output / kind.marker).is_file()):
        raise ExportError(f"{named}: is not a {kind.name}, so --overwrite won't replace it; give another folder")
    for path in sorted(output.iterdir()):
        if not any(fnmatchcase(path.name, name) for name in (*kind.holds, *_OF_SYSTEM)):
            raise ExportError(f"{named}: holds {path.name} too, which --overwrite would remove; move it elsewhere")


@contextlib.contextmanager
def atomic_folder(output: Path, kind: OutputKind = BUNDLE, *, overwrite: bool) -> Iterator[Path]:
    """A temporary folder beside `output`, which takes its place when the block ends without an error.

    An error, Ctrl-C or SIGTERM removes it. The old folder is moved aside before the new one takes its place, so at no
    time is there half an output under that name.

    Raises:
        ExportError: see `check_output`; or the folder can't be written.
    """
    check_output(output, kind, overwrite=overwrite)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{output.name}.unfinished-", dir=output.parent))
    except OSError as error:
        raise ExportError(f"{kind.option} {output}: can't be written ({error.strerror})") from error
    try:
        work.chmod(0o755)
        yield work
        retired = work.with_name(work.name + "-old")
        try:
            if output.exists():
                output.rename(retired)
            work.rename(output)
        except BaseException:
            if retired.exists() and not output.exists():
                retired.rename(output)
            raise
        shutil.rmtree(retired, ignore_errors=True)
    except OSError as error:
        raise ExportError(f"{kind.option} {output}: can't be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
