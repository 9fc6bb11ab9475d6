"""`bundle.json`: the strict description of a bundle. An unknown or a missing key is an error. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sharpose.config import ModelConfig

__all__ = [
    "MANIFEST_NAME",
    "SCHEMA_VERSION",
    "GainCurve",
    "Gate",
    "GraphEntry",
    "GraphPair",
    "Manifest",
    "OutputParity",
    "ParityReport",
    "Precision",
    "TensorEntry",
    "gpu_precision",
]

MANIFEST_NAME = "bundle.json"
SCHEMA_VERSION = 1

Precision = Literal["fp32", "fp16", "int8"]
"""int8 is experimental."""


def gpu_precision(available: Iterable[Precision]) -> Precision:
    """The precision that a GPU runs unless another is asked for: fp16 where there is one, else fp32."""
    return "fp16" if "fp16" in available else "fp32"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TensorEntry(_Strict):
    """An input or output of a graph; a named axis (`N`, `M`) is dynamic, from 1 to the bundle's max_batch."""

    name: str
    dtype: Literal["uint8", "int32", "float16", "float32"]
    shape: tuple[int | str, ...]


class GraphEntry(_Strict):
    """One ONNX graph of the bundle."""

    file: str
    opset: int
    inputs: tuple[TensorEntry, ...]
    outputs: tuple[TensorEntry, ...]


class GraphPair(_Strict):
    """The two stages in one precision."""

    coarse: GraphEntry
    fine: GraphEntry


class GainCurve(_Strict):
    """What refining a person gains in OKS on average, by the quality that the coarse stage predicted: a broken line.

    Before its first quality and after its last it is level.
    """

    quality: tuple[float, ...] = Field(min_length=1, description="ascending")
    gain: tuple[float, ...] = Field(description="as many; below 0 where the fine stage does harm")
    measured_on: str

    @model_validator(mode="after")
    def _is_a_line(self) -> GainCurve:
        if len(self.quality) != len(self.gain):
            raise ValueError(f"expected as many gains as qualities, got {len(self.gain)} and {len(self.quality)}")
        if not all(math.isfinite(value) for value in (*self.quality, *self.gain)):
            raise ValueError("expected finite numbers")
        if list(self.quality) != sorted(set(self.quality)):
            raise ValueError(f"expected ascending qualities, got {list(self.quality)}")
        return self


class Gate(_Strict):
    """Who is refined: crops whose predicted quality is below the threshold; and what that is known to gain."""

    quality_threshold: float = Field(allow_inf_nan=False)
    chosen_by: str
    gain: GainCurve | None = Field(default=None, description="tells who goes first where a deadline leaves no time")


class OutputParity(_Strict):
    """How far one output of a graph is from the reference's."""

    graph: Literal["coarse", "fine"]
    output: str
    max_abs_difference: float
    mean_abs_difference: float
    reference_range: float = Field(description="largest minus smallest value of the reference")


class ParityReport(_Strict):
    """How far graphs are from PyTorch in float32, made at the end of every export."""

    pictures: str = Field(description="what the crops were taken from")
    judged: str = Field(default="ONNX Runtime on the CPU against PyTorch", description="what ran, against what")
    experimental: bool = Field(default=False, description="whether parity is reported only, and not enforced")
    crops: int
    batch_sizes: tuple[int, ...]
    outputs: tuple[OutputParity, ...]
    region_set_agreement: float = Field(ge=0, le=1, description="share of crops with the same set of selected regions")
    gate_agreement: float = Field(ge=0, le=1, description="share of crops with the same gate decision")
    gate_flips: int = Field(default=0, ge=0, description="crops with another gate decision")
    gate_near_threshold: int = Field(default=0, ge=0, description="crops with a quality close to the threshold")
    gate_flips_near_threshold: int = Field(default=0, ge=0, description="crops that are both")
    keypoint_pixels_median: float = Field(description="distance in crop pixels")
    keypoint_pixels_p99: float
    keypoint_pixels_max: float
    tolerance: float = Field(description="share of its range that a heatmap or quality may be off by")
    failures: tuple[str, ...] = ()


class Manifest(_Strict):
    """The whole of `bundle.json`.

    Attributes:
        files: sha256 in hexadecimal of every file but `bundle.json`, by file name.
        graphs: One pair of graphs a precision.
        parity: The parity report of each precision's export.
    """

    schema_version: Literal[1]
    sharpose_version: str
    source: str = Field(description="where the weights came from, for people to read")
    model: ModelConfig
    gate: Gate
    max_batch: int = Field(gt=0)
    weights: str
    files: dict[str, str]
    graphs: dict[Precision, GraphPair] = Field(min_length=1)
    parity: dict[Precision, ParityReport]

    @model_validator(mode="after")
    def _files_are_listed(self) -> Manifest:
        named = {self.weights}
        for pair in self.graphs.values():
            named |= {pair.coarse.file, pair.fine.file}
        for name in sorted(named | set(self.files)):
            if not _is_plain_name(name):
                raise ValueError(f"file name {name!r} leaves the bundle's folder; expected a plain name")
        if named != set(self.files):
            raise ValueError(f"files lists {sorted(self.files)}, but the graphs and weights are {sorted(named)}")
        return self


def _is_plain_name(name: str) -> bool:
    return bool(name) and name not in {".", "..", MANIFEST_NAME} and not set(name) & set("/\\:\0")
