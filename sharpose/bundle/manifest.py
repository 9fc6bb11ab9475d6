"""What `bundle.json` says: graphs, gate, parity, and what was verified. Strict: nothing unknown, nothing missing."""

from __future__ import annotations

import math
import re
import reprlib
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sharpose.config import ModelConfig
from sharpose.scores.tables import ScoreTables
from sharpose.tokens import PATCH_SIZE, PATCHES_PER_REGION

MANIFEST_NAME = "bundle.json"
SCHEMA_VERSION = 1
MAX_BATCH = 4096
"""The most people in a run of any engine."""
MOST_VERIFIED = 100
"""The most results of `--verify` in a bundle, 3 kB each."""
_NOT_ENFORCED = "int8 of an earlier version, which enforced no limits; export it again"
PATCHES_AXIS = "4*K"
"""Name of the axis of fine patches, four a region, in a fine graph that takes any number of regions."""

Precision = Literal["fp32", "fp16", "int8"]
"""Of graphs."""


class _Strict(BaseModel):
    # A NaN that an engine computed is written as one: `null` would not be a number when it is read.
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")


_Int = Annotated[int, Field(strict=True)]
_Float = Annotated[float, Field(strict=True)]  # a text is no number


class TensorEntry(_Strict):
    """An input or output of a graph; a named axis is dynamic: `N` and `M` are 1 to the bundle's max_batch."""

    name: str
    dtype: Literal["uint8", "int32", "float16", "float32"]
    shape: tuple[int | str, ...]


class GraphEntry(_Strict):
    """One ONNX graph of the bundle."""

    file: str
    opset: int
    inputs: tuple[TensorEntry, ...]
    outputs: tuple[TensorEntry, ...]

    @property
    def patches(self) -> int | str | None:
        """Fine patches a crop: of a graph that takes any number, `PATCHES_AXIS`; None of a coarse graph."""
        return next((item.shape[1] for item in self.inputs if item.name == "patches" and len(item.shape) == 3), None)

    @property
    def takes_any_regions(self) -> bool:
        """Whether it is a fine graph for any number of selected regions; earlier versions fixed it in the graph."""
        return self.patches == PATCHES_AXIS

    def at_regions(self, selected: int) -> GraphEntry:
        """The same for K selected regions: with no named axis left but `N` and `M`."""
        sides = {PATCHES_AXIS: PATCHES_PER_REGION * selected}
        inputs = (
            item.model_copy(update={"shape": tuple(sides.get(str(side), side) for side in item.shape)})
            for item in self.inputs
        )
        return self.model_copy(update={"inputs": tuple(inputs)})


class GraphPair(_Strict):
    """The two stages in one precision."""

    coarse: GraphEntry
    fine: GraphEntry


class GainCurve(_Strict):
    """Mean gain in OKS from refining a person, by predicted quality: piecewise linear, constant beyond its ends."""

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
    """Who is refined: crops whose predicted quality is below the threshold; and what refining gains."""

    quality_threshold: float = Field(allow_inf_nan=False)
    chosen_by: str
    gain: GainCurve | None = Field(default=None, description="decides who is refined first within a deadline")


class OutputParity(_Strict):
    """How far one output of a graph is from the reference's."""

    graph: Literal["coarse", "fine"]
    output: str
    max_abs_difference: _Float
    mean_abs_difference: _Float
    reference_range: _Float = Field(description="largest minus smallest value of the reference")


class ParityReport(_Strict):
    """How far graphs are from PyTorch in float32, made at the end of every export."""

    pictures: str = Field(description="what the crops were taken from")
    judged: str = Field(default="ONNX Runtime on the CPU against PyTorch", description="what ran, against what")
    crops: _Int = Field(gt=0)
    batch_sizes: tuple[_Int, ...]
    outputs: tuple[OutputParity, ...]
    region_set_agreement: _Float = Field(ge=0, le=1, description="share of crops with the same set of selected regions")
    region_slot_agreement: _Float | None = Field(
        default=None, ge=0, le=1, description="share of the selected regions that are the same; older reports lack it"
    )
    gate_agreement: _Float = Field(ge=0, le=1, description="share of crops with the same gate decision")
    gate_flips: _Int = Field(default=0, ge=0, description="crops with another gate decision")
    gate_near_threshold: _Int = Field(default=0, ge=0, description="crops with a quality close to the threshold")
    gate_flips_near_threshold: _Int = Field(default=0, ge=0, description="crops that are both")
    keypoint_pixels_median: _Float = Field(description="distance in crop pixels")
    keypoint_pixels_p99: _Float
    keypoint_pixels_max: _Float
    tolerance: _Float = Field(description="share of its range that a heatmap or quality may be off by")
    failures: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _of_an_older_version(cls, values: object) -> object:
        """Without `experimental`: once true of int8 graphs, whose parity was not enforced; they are not to be taken."""
        if not isinstance(values, dict) or "experimental" not in values:
            return values
        older = {name: value for name, value in values.items() if name != "experimental"}
        if values["experimental"] is True and values.get("failures") in ([], ()):
            older["failures"] = [_NOT_ENFORCED]
        return older


class BatchTime(_Strict):
    """Milliseconds a person that each stage takes in a batch."""

    people: _Int = Field(gt=0, le=MAX_BATCH, description="size of the batch")
    coarse: _Float = Field(gt=0, allow_inf_nan=False)
    fine: _Float = Field(gt=0, allow_inf_nan=False)


_JUDGED = {("coarse", "heatmaps"), ("coarse", "quality"), ("fine", "heatmaps")}  # outputs with limits


class Verified(_Strict):
    """How an engine of a kind of device did against the float32 ONNX graphs on a CPU: a result of `--verify`."""

    device: str = Field(description="as users write it, without a number")
    hardware: str = Field(description="what decides its speed and rounding: instruction sets, compute capability")
    engine: str
    engine_version: str
    precision: Literal[Precision, "bf16"] = Field(description="what it computed in")
    graphs_sha256: str = Field(description="of the graphs that it ran; see `Bundle.graphs_sha256`")
    parity: ParityReport
    average_precision_change: _Float | None = Field(allow_inf_nan=False, description="None without labelled pictures")
    times: tuple[BatchTime, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _is_possible(self) -> Verified:
        report, people = self.parity, [time.people for time in self.times]
        if re.fullmatch("[0-9a-f]{64}", self.graphs_sha256) is None:
            raise ValueError(f"graphs_sha256: expected 64 hexadecimal digits, got {reprlib.repr(self.graphs_sha256)}")
        if report.gate_flips > report.crops:
            raise ValueError(f"parity.gate_flips: expected at most {report.crops}, the crops, got {report.gate_flips}")
        if missing := _JUDGED - {(item.graph, item.output) for item in report.outputs}:
            raise ValueError(f"parity.outputs: {' '.join(min(missing))}: missing")
        if len(set(people)) != len(people):
            raise ValueError(f"times: expected each number of people once, got {people}")
        return self

    @property
    def place(self) -> tuple[str, ...]:
        """What it is about; a later result for the same takes its place."""
        return self.device, self.hardware, self.engine, self.precision

    def time_against(self, other: Verified) -> float:
        """Its time as a share of another's: milliseconds of a person in both stages, added over the batches that both
        were timed in; infinity where there are none.
        """
        own, others = ({time.people: time.coarse + time.fine for time in entry.times} for entry in (self, other))
        both = own.keys() & others.keys()
        return sum(own[people] for people in both) / sum(others[people] for people in both) if both else math.inf


class Manifest(_Strict):
    """The whole of `bundle.json`.

    Attributes:
        files: sha256 in hexadecimal of every file but `bundle.json`, by file name.
        graphs: One pair of graphs a precision.
        parity: The parity report of each precision's export.
        verified: The results of `--verify`, the latest last; those of several machines.
        scores: What makes scores probabilities; None where they stay raw.
    """

    schema_version: Literal[1]
    sharpose_version: str
    source: str = Field(description="where the weights came from, for people to read")
    model: ModelConfig
    gate: Gate
    max_batch: int = Field(gt=0, le=MAX_BATCH)
    weights: str
    files: dict[str, str]
    graphs: dict[Precision, GraphPair] = Field(min_length=1)
    parity: dict[Precision, ParityReport]
    verified: tuple[Verified, ...] = Field(default=(), max_length=MOST_VERIFIED)
    scores: ScoreTables | None = None

    def to_json(self) -> str:
        """The text of `bundle.json`."""
        left_out = {name for name in ("verified", "scores") if not getattr(self, name)}
        return self.model_dump_json(indent=2, exclude=left_out) + "\n"

    @model_validator(mode="after")
    def _tables_are_the_skeletons(self) -> Manifest:
        if self.scores is not None:
            self.scores.check(self.model.skeleton)
        return self

    @model_validator(mode="after")
    def _places_are_verified_once(self) -> Manifest:
        places = [entry.place for entry in self.verified]
        for number, place in enumerate(places):
            if place in places[:number]:
                raise ValueError(f"verified.{number}: a second result of {', '.join(place)}; verify it again")
        return self

    @model_validator(mode="after")
    def _crops_fit(self) -> Manifest:
        height, width = self.model.crop_size
        most = largest_batch(self.model.crop_size)
        if self.max_batch > most:
            raise ValueError(
                f"max_batch: expected at most {most} crops of {height}x{width} ({_CROP_BYTES >> 20} MiB), "
                f"got {self.max_batch}"
            )
        return self

    @model_validator(mode="after")
    def _graphs_are_the_models(self) -> Manifest:
        coarse, fine = _signatures(self.model)
        for precision, pair in self.graphs.items():
            for stage, graph, (inputs, outputs) in (("coarse", pair.coarse, coarse), ("fine", pair.fine, fine)):
                found_inputs = graph.at_regions(self.model.num_selected).inputs
                for what, items, wanted in (("inputs", found_inputs, inputs), ("outputs", graph.outputs, outputs)):
                    found = {item.name: item.shape for item in items}
                    if found != wanted or len(items) != len(wanted):
                        differing = next((name for name in wanted if found.get(name) != wanted[name]), "too many")
                        raise ValueError(
                            f"graphs.{precision}.{stage}.{what}: not those of a {self.model.name} (crop_size, width, "
                            f"alpha, keypoints): {differing}: expected {reprlib.repr(wanted.get(differing))}, "
                            f"got {reprlib.repr(found.get(differing))}"
                        )
        return self

    @model_validator(mode="after")
    def _files_are_listed(self) -> Manifest:
        named = {self.weights}
        for pair in self.graphs.values():
            named |= {pair.coarse.file, pair.fine.file}
        for name in sorted(named | set(self.files)):
            if not _is_plain_name(name):
                raise ValueError(f"file name {reprlib.repr(name)} leaves the bundle's folder; expected a plain name")
        if named != set(self.files):
            raise ValueError(f"files lists {sorted(self.files)}, but the graphs and weights are {sorted(named)}")
        return self


def largest_batch(crop_size: tuple[int, int]) -> int:
    """The largest max_batch of crops of `(height, width)`: an engine holds so many of them at once."""
    return min(MAX_BATCH, max(1, _CROP_BYTES // (crop_size[0] * crop_size[1] * 3)))


_Shapes = dict[str, tuple[int | str, ...]]


def _signatures(model: ModelConfig) -> tuple[tuple[_Shapes, _Shapes], tuple[_Shapes, _Shapes]]:
    """Shapes of the coarse graph's inputs and outputs, and of the fine graph's."""
    joints, regions, heatmap = model.num_keypoints, model.num_regions, model.heatmap_size
    carried: _Shapes = {
        "region_order": ("N", regions),
        "region_features": ("N", regions, model.width),
        "region_embeddings": ("N", regions, model.width),
    }
    patches = ("M", PATCHES_PER_REGION * model.num_selected, 3 * PATCH_SIZE**2)

    def poses(axis: str) -> _Shapes:
        return {"keypoints": (axis, joints, 3), "heatmaps": (axis, joints, *heatmap)}

    coarse: _Shapes = {"image": ("N", *model.crop_size, 3)}
    fine: _Shapes = {"rows": ("M",), "patches": patches, **carried}
    return (coarse, {"quality": ("N",), **poses("N"), **carried}), (fine, poses("M"))


def _is_plain_name(name: str) -> bool:
    if not name or name in {".", "..", MANIFEST_NAME} or len(name.encode()) > _NAME_BYTES:
        return False
    return not set(name) & set("/\\:\0")


_CROP_BYTES = 1 << 30  # of max_batch crops, which an engine holds at once
_NAME_BYTES = 255  # of a file's name, as file systems have it
