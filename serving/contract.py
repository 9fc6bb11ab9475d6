"""What a server of poses takes and gives: the model's name, its tensors, and the parameters that describe the model.

Tensors follow the KServe v2 protocol. N crops make a request; a crop has H x W pixels, J keypoints and R regions.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import reprlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter, ValidationError

from sharpose.bundle import MAX_BATCH, Bundle
from sharpose.engines.load import STAGES
from sharpose.errors import ConfigError, ServerRefusedError, describe_validation_error
from sharpose.scores.tables import ScoreTables
from sharpose.skeleton import Skeleton
from sharpose.tokens import REGION_SIZE, region_grid

CONTRACT = 2
"""Version of everything here; a client refuses another."""

MODEL_NAME = "sharpose"
"""Of the model that clients ask for."""


@dataclass(frozen=True)
class ServedTensor:
    """An input or output of the served model; its first axis is the batch, and not part of a configuration's dims."""

    name: str
    datatype: str  # in KServe v2 requests; a Triton configuration writes `TYPE_` before it
    dtype: npt.DTypeLike  # in numpy


CROPS = ServedTensor("crops", "UINT8", np.uint8)
"""[N, H, W, 3], RGB."""
QUALITY_THRESHOLD = ServedTensor("quality_threshold", "FP32", np.float32)
"""[N, 1]: a crop whose predicted quality is below it is refined; -inf never, +inf always."""
KEYPOINTS = ServedTensor("keypoints", "FP32", np.float32)
"""[N, J, 3]: x and y in crop pixels, the heatmap's peak; the client makes it a probability, by the model's tables."""
QUALITY = ServedTensor("quality", "FP32", np.float32)
"""[N, 1]: predicted quality, similar to OKS."""
REFINED = ServedTensor("refined", "BOOL", np.bool_)
"""[N, 1]: whether the fine stage made the keypoints."""
REGION_ORDER = ServedTensor("region_order", "INT32", np.int32)
"""[N, R]: regions, most relevant first."""

INPUTS = (CROPS, QUALITY_THRESHOLD)
OUTPUTS = (KEYPOINTS, QUALITY, REFINED, REGION_ORDER)

_MOST_PIXELS = 2048  # a side of a crop, as in a model's configuration
_WHAT_TO_DO = "name a model that sharpose-export --triton wrote, of this version"


@dataclass(frozen=True)
class ServedModel:
    """What a client needs to know of a served model."""

    bundle_sha256: str  # which poses it computes: see `bundle_sha256`
    skeleton: Skeleton
    crop_size: tuple[int, int]  # height, width in pixels
    regions: int  # R of a crop
    selected: int  # K, the regions that the fine stage looks at
    quality_threshold: float  # the bundle's own
    max_batch: int  # most crops in a request
    scores: ScoreTables | None = None  # what makes scores probabilities; they stay raw if None
    contract: int = CONTRACT

    @classmethod
    def of(cls, bundle: Bundle) -> ServedModel:
        """The model that serves a bundle."""
        manifest, model = bundle.manifest, bundle.model
        return cls(
            bundle_sha256=bundle_sha256(bundle),
            skeleton=model.skeleton,
            crop_size=model.crop_size,
            regions=model.num_regions,
            selected=model.num_selected,
            quality_threshold=manifest.gate.quality_threshold,
            max_batch=manifest.max_batch,
            scores=manifest.scores,
        )

    @property
    def version(self) -> int:
        """The model's version in the repository: the first twelve digits of its bundle's sha256, as a number.

        Every answer names it, so that a client knows which bundle made the poses, over whatever connection they came.
        """
        return int(self.bundle_sha256[:12], 16) or 1

    def dims(self, tensor: ServedTensor) -> tuple[int, ...]:
        """The shape of one crop's part of an input or output: without the batch."""
        if tensor == CROPS:
            return (*self.crop_size, 3)
        if tensor == KEYPOINTS:
            return (self.skeleton.num_keypoints, 3)
        return (self.regions,) if tensor == REGION_ORDER else (1,)

    def to_parameters(self) -> dict[str, str]:
        """The `parameters` of the model's configuration: all of it but what the tensors and `max_batch_size` say."""
        return {
            "contract": str(self.contract),
            "bundle_sha256": self.bundle_sha256,
            "skeleton": json.dumps(asdict(self.skeleton), separators=(",", ":")),
            "selected": str(self.selected),
            "quality_threshold": repr(self.quality_threshold),
            "scores": "" if self.scores is None else self.scores.model_dump_json(),
        }

    def to_config(self) -> dict[str, object]:
        """The model's configuration as `GET /v2/models/sharpose/config` gives it, as far as clients read it."""

        def described(tensors: tuple[ServedTensor, ...]) -> list[dict[str, object]]:
            return [
                {"name": item.name, "data_type": f"TYPE_{item.datatype}", "dims": list(self.dims(item))}
                for item in tensors
            ]

        return {
            "name": MODEL_NAME,
            "max_batch_size": self.max_batch,
            "input": described(INPUTS),
            "output": described(OUTPUTS),
            "parameters": {key: {"string_value": value} for key, value in self.to_parameters().items()},
        }

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> ServedModel:
        """The model that a configuration describes, in the JSON of `GET /v2/models/sharpose/config`.

        Raises:
            ServerRefusedError: it isn't a model of ours, or one of another version.
        """
        name = reprlib.repr(config.get("name"))

        def refused(expected: str, found: object) -> ServerRefusedError:
            return ServerRefusedError(f"model {name}: expected {expected}, got {reprlib.repr(found)}", _WHAT_TO_DO)

        parameters = _parameters(config.get("parameters"))
        if parameters.get("contract") != str(CONTRACT):
            raise refused(f"the parameter contract to be {CONTRACT}", parameters.get("contract"))
        sha256 = parameters.get("bundle_sha256", "")
        if re.fullmatch("[0-9a-f]{64}", sha256) is None:
            raise refused("the parameter bundle_sha256 to be 64 hexadecimal digits", sha256)
        try:
            skeleton = TypeAdapter(Skeleton).validate_json(parameters.get("skeleton", ""))
        except (ValidationError, ConfigError) as error:
            reason = describe_validation_error(error) if isinstance(error, ValidationError) else str(error)
            raise ServerRefusedError(f"model {name}: the parameter skeleton: {reason}", _WHAT_TO_DO) from error
        threshold = _float(parameters.get("quality_threshold"))
        if threshold is None or not math.isfinite(threshold):
            raise refused("the parameter quality_threshold to be a number", parameters.get("quality_threshold"))
        scores = _tables_of(parameters.get("scores"), skeleton, f"model {name}: the parameter scores")
        max_batch = _int(config.get("max_batch_size"))
        if not 1 <= max_batch <= MAX_BATCH:
            raise refused(f"a max_batch_size of 1 to {MAX_BATCH}", config.get("max_batch_size"))
        tensors = {**_tensors(config.get("input")), **_tensors(config.get("output"))}
        height, width = (*tensors.get(CROPS.name, ("", ()))[1], 0, 0)[:2]
        if not all(0 < side <= _MOST_PIXELS and side % REGION_SIZE == 0 for side in (height, width)):
            raise refused(f"crops of multiples of {REGION_SIZE} pixels up to {_MOST_PIXELS}", [height, width])
        rows, columns = region_grid((height, width))
        selected = _int(parameters.get("selected"))
        if not 1 <= selected <= rows * columns:
            raise refused(f"the parameter selected to be 1 to {rows * columns}", parameters.get("selected"))
        model = cls(sha256, skeleton, (height, width), rows * columns, selected, threshold, max_batch, scores)
        for item in (*INPUTS, *OUTPUTS):
            wanted = (f"TYPE_{item.datatype}", model.dims(item))
            if tensors.get(item.name) != wanted:
                raise refused(f"{item.name} to be {wanted[0]} {list(wanted[1])}", tensors.get(item.name))
        return model


_DECIDING = ("name", "keypoints", "limbs", "flip_pairs", "sigmas")  # of a skeleton's fields; colours decide no pose


def bundle_sha256(bundle: Bundle) -> str:
    """sha256 in hexadecimal of what decides a bundle's poses and scores: graphs, weights, threshold, skeleton, tables.

    `bundle.json` itself may change without it: results of `--verify`, for example.
    """
    manifest, skeleton = bundle.manifest, bundle.model.skeleton
    parts = {
        "graphs": {key: [bundle.graph_sha256(stage, key) for stage in STAGES] for key in bundle.precisions},
        "weights": bundle.weights_sha256,
        "quality_threshold": manifest.gate.quality_threshold,
        "skeleton": {key: getattr(skeleton, key) for key in _DECIDING},
    }
    if manifest.scores is not None:
        parts["scores"] = manifest.scores.model_dump(mode="json")
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _tables_of(text: str | None, skeleton: Skeleton, what: str) -> ScoreTables | None:
    """The score tables in a parameter; None where it is empty, as a protobuf's JSON may leave it out then."""
    if not text:
        return None
    try:
        tables = ScoreTables.model_validate_json(text)
        tables.check(skeleton)
    except (ValidationError, ConfigError) as error:
        reason = describe_validation_error(error) if isinstance(error, ValidationError) else str(error)
        raise ServerRefusedError(f"{what}: {reason}; {_WHAT_TO_DO}") from error
    return tables


def _parameters(values: object) -> dict[str, str]:
    """Those with a text, from `{"key": {"string_value": "text"}}`."""
    items = values.items() if isinstance(values, Mapping) else ()
    texts = {key: value.get("string_value") for key, value in items if isinstance(value, Mapping)}
    return {key: text for key, text in texts.items() if isinstance(text, str)}


def _tensors(values: object) -> dict[object, tuple[object, tuple[int, ...]]]:
    """Type and dims by name, from `[{"name": …, "data_type": …, "dims": […]}]`."""
    items = [item for item in values if isinstance(item, Mapping)] if isinstance(values, list) else []
    return {
        str(item.get("name")): (item.get("data_type"), tuple(map(_int, dims)))
        for item in items
        if isinstance(dims := item.get("dims"), list)
    }


def _int(value: object) -> int:
    """A whole number, or text of one: 64-bit integers are texts in protobuf's JSON. -1 for anything else."""
    if isinstance(value, str) and re.fullmatch("[0-9]{1,9}", value):
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else -1


def _float(value: str | None) -> float | None:
    try:
        return float(value or "")
    except ValueError:
        return None
