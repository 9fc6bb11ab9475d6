"""The table of detectors that can be had by name: ours, and the user's own on top."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sharpose.config import describe_validation_error
from sharpose.errors import DetectorError

__all__ = ["DetectorEntry", "load_table", "user_table_path"]


class DetectorEntry(BaseModel):
    """One detector of the table.

    Attributes:
        url: Where the ONNX file is, `https://` (or `http://` on this machine).
        sha256: Of the file; None where nobody who can be named has published it.
        sha256_source: Who published it; goes with `sha256`.
        family: `yolox`, `yolov8` or `end-to-end`: what it is expected to be recognised as.
        licence: Of the weights.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(pattern=r"^(https://|http://(127\.0\.0\.1|localhost)[:/]).+\.onnx$")
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    sha256_source: str | None = Field(default=None, min_length=1)
    family: Literal["yolox", "yolov8", "end-to-end"]
    licence: str = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> DetectorEntry:
        if (self.sha256 is None) != (self.sha256_source is None):
            raise ValueError("sha256 and sha256_source go together: a hash is worth what its source is worth")
        return self


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    detectors: dict[str, DetectorEntry]

    @model_validator(mode="after")
    def _check(self) -> _Table:
        for name in self.detectors:
            # A name that could be a file, a number or an option would be taken for one.
            if not name.replace("-", "").replace("_", "").isalnum() or name[0] == "-" or name == "motion":
                raise ValueError(f"name {name!r}: expected letters, digits, - and _, and not 'motion'")
        return self


def user_table_path() -> Path:
    """`$XDG_CONFIG_HOME/sharpose/detectors.yaml`, or `~/.config/sharpose/detectors.yaml`."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    # The specification says to ignore a relative one.
    return (Path(base) if os.path.isabs(base) else Path.home() / ".config") / "sharpose" / "detectors.yaml"  # noqa: PTH117


def load_table(own: Path | None = None) -> dict[str, DetectorEntry]:
    """Every detector by name; the user's entries replace ours of the same name.

    Args:
        own: The user's table, which must exist; `user_table_path()`, if it is there, where None.

    Raises:
        DetectorError: PyYAML isn't installed, or a table can't be read or isn't valid.
    """
    ours = resources.files("sharpose.configs").joinpath("detectors/detectors.yaml").read_text("utf-8")
    table = _parse(ours, "the built-in table of detectors")
    path = own or user_table_path()
    if own is None and not path.exists():
        return table
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise DetectorError(f"table of detectors {path}: can't be read ({reason})") from error
    return table | _parse(text, f"table of detectors {path}")


def _parse(text: str, source: str) -> dict[str, DetectorEntry]:
    try:
        import yaml
    except ImportError:
        raise DetectorError("detectors by name need PyYAML: pip install pyyaml, or give --detector FILE.onnx") from None
    try:
        return _Table.model_validate(yaml.safe_load(text)).detectors
    except yaml.YAMLError as error:
        raise DetectorError(f"{source}: not valid YAML ({' '.join(str(error).split())})") from error
    except ValidationError as error:
        raise DetectorError(f"{source}: {describe_validation_error(error)}") from error
