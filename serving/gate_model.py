"""The gate between two graphs that Triton serves as models of their own: a model for its Python backend.

`sharpose-export --triton DIR --triton-layout graphs` copies this file into the repository, where it needs nothing but
numpy. `sharpose.serving.product_model` takes from it how requests become batches.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Crops = npt.NDArray[np.uint8]
Thresholds = npt.NDArray[np.float32]
Outputs = dict[str, npt.NDArray[Any]]
Untyped = Any  # of `triton_python_backend_utils`, which is there in Triton alone

_CARRIED = ("region_order", "region_features", "region_embeddings")  # from the coarse graph to the fine one
_PATCH, _PER_SIDE = 16, 2  # pixels of a patch's side; fine patches along a region's


class BatchingModel(ABC):
    """A Triton model of the Python backend whose requests, of whatever clients, share batches.

    Attributes:
        parameters: The texts of `parameters` in `config.pbtxt`.
        max_batch: Most crops in a batch.
    """

    parameters: Mapping[str, str]
    max_batch: int

    @abstractmethod
    def load(self, folder: str) -> None:
        """Get ready to run; `folder` is the model's version folder. Any error keeps Triton from serving the model."""

    @abstractmethod
    def run(self, crops: Sequence[Crops], thresholds: Thresholds) -> Outputs:
        """The outputs of one batch.

        Args:
            crops: uint8 [n, H, W, 3] of each request, `max_batch` in all at most.
            thresholds: float32 [N] of all their crops: a quality below it is refined.

        Returns:
            `keypoints` [N, J, 3], `quality` [N, 1], `refined` [N, 1] and `region_order` [N, R].
        """

    def initialize(self, args: Mapping[str, str]) -> None:
        """Called by Triton, once.

        Raises:
            TritonModelException: the model can't be served, in one line.
        """
        import triton_python_backend_utils  # type: ignore[import-not-found]

        self._triton: Untyped = triton_python_backend_utils
        config = json.loads(args["model_config"])
        # Protobuf's JSON may leave out an empty text.
        self.parameters = {key: value.get("string_value", "") for key, value in config["parameters"].items()}
        self.max_batch = int(config["max_batch_size"])
        self._crop_shape = tuple(int(side) for side in config["input"][0]["dims"])
        self._check_numpy()
        self.load(f"{args['model_repository']}/{args['model_version']}")
        self._make_counters(args["model_name"])

    def execute(self, requests: Sequence[Untyped]) -> list[Untyped]:
        """Called by Triton with the requests of a batch; a response for each, in order."""
        responses: list[Untyped] = [None] * len(requests)
        batch: list[tuple[int, Crops, Thresholds]] = []
        for number, request in enumerate(requests):
            try:
                crops, thresholds = self._read(request)
            except ValueError as error:
                responses[number] = self._refuse(str(error), "INVALID_ARG")
                continue
            if sum(len(item[1]) for item in batch) + len(crops) > self.max_batch:
                self._run_batch(batch, responses)
                batch = []
            batch.append((number, crops, thresholds))
        self._run_batch(batch, responses)
        return responses

    def _check_numpy(self) -> None:
        """Refuse a numpy that this Triton can't read: its inputs would be wrong, and its outputs empty, unnoticed.

        A tensor that the backend itself wraps shows that; one that was made from an array gives the array back.
        """
        values = np.array([3.0, 5.0, 7.0], np.float32)
        tensor = self._triton.Tensor
        if not np.array_equal(tensor.from_dlpack("probe", tensor("probe", values)).as_numpy(), values):
            raise self._triton.TritonModelException(
                f"expected a numpy that this Triton's Python backend can read, found numpy {np.__version__}, whose "
                'tensors it takes for empty; install an older one where this model runs: pip install "numpy<2"'
            )

    def _make_counters(self, model: str) -> None:
        """Count crops in Triton's metrics; the families must live as long as their metrics."""
        self._families: list[Untyped] = []
        self._counters: dict[str, Untyped] = {}
        try:
            for name, what in (("crops", "Crops of people"), ("refined", "Crops that the fine stage refined")):
                family = self._triton.MetricFamily(
                    name=f"sharpose_served_{name}_total", description=what, kind=self._triton.MetricFamily.COUNTER
                )
                self._families.append(family)
                self._counters[name] = family.Metric(labels={"model": model})
        except Exception as error:  # where the server was started without metrics
            self._counters = {}
            self._triton.Logger.log_info(f"{model}: no metrics of its own ({error})")

    def _read(self, request: Untyped) -> tuple[Crops, Thresholds]:
        """A request's crops and their thresholds [n]; `ValueError` where they can't be used."""
        tensors = {tensor.name(): tensor for tensor in request.inputs()}
        crops, thresholds = (
            tensors[name].as_numpy() if name in tensors else None for name in ("crops", "quality_threshold")
        )
        if crops is None or crops.dtype != np.uint8 or crops.shape[1:] != self._crop_shape or not len(crops):
            shape = ", ".join(["n", *map(str, self._crop_shape)])
            raise ValueError(f"crops: expected uint8 [{shape}], got {_described(crops)}")
        if len(crops) > self.max_batch:
            raise ValueError(f"crops: expected at most {self.max_batch} in a request, got {len(crops)}")
        if thresholds is None or thresholds.dtype != np.float32 or thresholds.shape != (len(crops), 1):
            raise ValueError(f"quality_threshold: expected float32 [{len(crops)}, 1], got {_described(thresholds)}")
        if np.isnan(thresholds).any():
            raise ValueError("quality_threshold: expected numbers, or infinities, got NaN")
        return crops, thresholds[:, 0]

    def _run_batch(self, batch: Sequence[tuple[int, Crops, Thresholds]], responses: list[Untyped]) -> None:
        """Run some requests as one batch, and put a response for each in its place."""
        if not batch:
            return
        numbers, crops, thresholds = zip(*batch, strict=True)
        try:
            outputs = self.run(crops, np.concatenate(thresholds))
        except Exception as error:  # of an engine: it concerns the batch, the server goes on
            words = f"{type(error).__name__}: {error}"
            self._triton.Logger.log_error(f"a batch of {sum(map(len, crops))} crops failed: {words}")
            for number in numbers:
                responses[number] = self._refuse(f"the batch failed: {words}", "INTERNAL")
            return
        start = 0
        for number, part in zip(numbers, crops, strict=True):
            end = start + len(part)
            responses[number] = self._triton.InferenceResponse(
                [self._triton.Tensor(name, np.ascontiguousarray(values[start:end])) for name, values in outputs.items()]
            )
            start = end
        if self._counters:
            self._counters["crops"].increment(start)
            self._counters["refined"].increment(int(outputs["refined"].sum()))

    def _refuse(self, message: str, code: str) -> Untyped:
        """A response that is an error; earlier Tritons have no codes."""
        error = self._triton.TritonError
        codes = (getattr(error, code),) if hasattr(error, code) else ()
        return self._triton.InferenceResponse(output_tensors=[], error=error(message, *codes))


def _described(values: npt.NDArray[Any] | None) -> str:
    return "nothing" if values is None else f"{values.dtype} {list(values.shape)}"


class TritonPythonModel(BatchingModel):
    """The gate: calls `sharpose_coarse`, and `sharpose_fine` for the crops whose quality is below their threshold.

    What goes from graph to graph travels through the host's memory, where numpy can read it.
    """

    def load(self, folder: str) -> None:
        """See `BatchingModel.load`."""
        self._selected = int(self.parameters["selected"])
        # Of an engine that takes the features of so many crops alone; the others' are zeros.
        self._fine_batch = int(self.parameters.get("fine_batch") or 0)

    def run(self, crops: Sequence[Crops], thresholds: Thresholds) -> Outputs:
        """See `BatchingModel.run`."""
        image = np.concatenate(crops)
        coarse = self._call("sharpose_coarse", {"image": image}, ("keypoints", "quality", *_CARRIED))
        keypoints, quality, order = coarse["keypoints"].copy(), coarse["quality"], coarse["region_order"]
        refined = quality < thresholds
        rows = np.flatnonzero(refined).astype(np.int32)
        if len(rows):
            carried = {name: self._padded(coarse[name]) for name in _CARRIED}
            patches = gather_patches(image, rows, order, self._selected)
            fine = self._call("sharpose_fine", {"rows": rows, "patches": patches, **carried}, ("keypoints",))
            keypoints[rows] = fine["keypoints"]
        return {
            "keypoints": keypoints,
            "quality": quality[:, None],
            "refined": refined[:, None],
            "region_order": order,
        }

    def _padded(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        missing = max(self._fine_batch - len(values), 0)
        return np.concatenate([values, np.zeros((missing, *values.shape[1:]), values.dtype)]) if missing else values

    def _call(self, model: str, inputs: Mapping[str, npt.NDArray[Any]], outputs: Sequence[str]) -> Outputs:
        """What another model gives."""
        triton = self._triton
        response = triton.InferenceRequest(
            model_name=model,
            requested_output_names=list(outputs),
            inputs=[triton.Tensor(name, values) for name, values in inputs.items()],
            preferred_memory=triton.PreferredMemory(triton.TRITONSERVER_MEMORY_CPU),
        ).exec()
        if response.has_error():
            raise RuntimeError(f"{model}: {response.error().message()}")
        return {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}


def gather_patches(
    crops: Crops, rows: npt.NDArray[np.int32], region_order: npt.NDArray[np.int32], selected: int
) -> Crops:
    """The pixels of each row's most relevant regions, as `sharpose.tokens.gather_patches` gives them.

    Args:
        crops: uint8 [N, H, W, 3].
        rows: int32 [M].
        region_order: int32 [N, R].
        selected: K, how many regions a crop.

    Returns:
        uint8 [M, 4K, 768].
    """
    people, height, width, _ = crops.shape
    side = _PATCH * _PER_SIDE
    columns = width // side
    regions = crops.reshape(people, height // side, _PER_SIDE, _PATCH, columns, _PER_SIDE, _PATCH, 3)
    regions = regions.transpose(0, 1, 4, 2, 5, 3, 6, 7)  # [N, row, column, s, s, P, P, 3]
    top = region_order[rows, :selected]
    patches = regions[rows[:, None], top // columns, top % columns]
    return np.ascontiguousarray(patches).reshape(len(rows), -1, _PATCH * _PATCH * 3)
