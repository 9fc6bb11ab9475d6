"""Both stages behind the pipeline, with the buffers that crops and patches are written into."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt

from sharpose.engines.base import HostArray, Runner, Value
from sharpose.engines.batches import BatchBuckets, BatchCache
from sharpose.engines.precision import RunPrecision
from sharpose.errors import EngineError, InputError

CARRIED = ("region_order", "region_features", "region_embeddings")
"""Outputs of the coarse stage that are inputs of the fine one."""


@dataclass(frozen=True)
class CoarseOutput:
    """What the host reads of a coarse run; valid until the next one."""

    keypoints: npt.NDArray[np.float32]  # [N, J, 3], x and y in crop pixels, score
    quality: npt.NDArray[np.float32]  # [N]
    region_order: npt.NDArray[np.int32]  # [N, R]


class TwoStage(Protocol):
    """Both stages on one device. The coarse stage's features never leave it."""

    device: str  # as the user asked for it
    precision: RunPrecision  # what both stages compute in
    max_batch: int  # most people in a run
    crops: npt.NDArray[np.uint8]  # [max_batch, H, W, 3], RGB; write the first n before `run_coarse(n)`
    patches: npt.NDArray[np.uint8]  # [max_batch, s*s*K, P*P*3]; write the first m before `run_fine` with m rows
    coarse_buckets: BatchBuckets  # batch sizes that the coarse stage computes, and their costs where they are known
    fine_buckets: BatchBuckets  # those of the fine stage
    batch_cache: BatchCache | None  # where the costs are kept

    def run_coarse(self, people: int) -> CoarseOutput:
        """Run the coarse stage on the first `people` crops. Raises `EngineError` where it fails."""

    def run_fine(self, rows: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        """Run the fine stage on rows of the last coarse batch, with their patches. May be called again, for others.

        Args:
            rows: int32 [M], at least one.

        Returns:
            float32 [M, J, 3], keypoints in crop pixels; valid until the next run.

        Raises:
            EngineError: no coarse batch was run, or the run failed.
            InputError: a row is none of that batch.
        """

    def terminate(self) -> None:
        """End the run at hand early, from another thread, where the engines can: it and all later ones then fail."""

    def close(self) -> None:
        """Free the engines and their buffers. May be called twice."""


class HostTwoStage:
    """Both stages as two runners of one backend and device that take host arrays (ONNX Runtime); see `TwoStage`.

    Args:
        coarse: The coarse stage.
        fine: The fine stage.
        precision: What they compute in.
        divisible: Whether a run may be cut into batches of sizes that are known to be cheaper, as on a CPU. What goes
            from stage to stage then travels through the host.
        batch_cache: Where the costs of batches are kept.
    """

    def __init__(
        self,
        coarse: Runner,
        fine: Runner,
        precision: RunPrecision,
        *,
        divisible: bool = False,
        batch_cache: BatchCache | None = None,
    ) -> None:
        self.precision: RunPrecision = precision
        self.device, self.max_batch = coarse.device, min(coarse.max_batch, fine.max_batch)
        self._coarse, self._fine = coarse, fine
        self.crops, self.patches = (
            np.empty(runner.inputs[name].shape_at({"N": self.max_batch, "M": self.max_batch}), dtype=np.uint8)
            for runner, name in ((coarse, "image"), (fine, "patches"))
        )
        self.coarse_buckets, self.fine_buckets = (
            BatchBuckets(1, self.max_batch, exact=True, divisible=divisible, parts=runner.parts)
            for runner in (coarse, fine)
        )
        self.batch_cache = batch_cache
        self._carried: dict[str, Value] | None = None
        self._people = 0  # in the last coarse batch
        self._joined: dict[str, HostArray] = {}  # outputs of several batches, of max batch people

    def run_coarse(self, people: int) -> CoarseOutput:
        """See `TwoStage.run_coarse`."""
        wanted = ("keypoints", "quality", *CARRIED)
        batches = self.coarse_buckets.cut(people)
        if len(batches) == 1:
            # Of what is carried, the host reads the order of the regions alone.
            outputs = self._coarse.run({"image": self.crops[:people]}, wanted, keep_on_device=CARRIED[1:])
        else:
            self._carried = None  # until all batches have succeeded
            end = 0
            for size in batches:
                start, end = end, end + size
                for name, value in self._coarse.run({"image": self.crops[start:end]}, wanted).items():
                    self._join(f"coarse {name}", value, start)
            outputs = {name: self._joined[f"coarse {name}"][:people] for name in wanted}
        self._carried, self._people = {name: outputs[name] for name in CARRIED}, people
        return CoarseOutput(
            keypoints=cast("npt.NDArray[np.float32]", outputs["keypoints"]),
            quality=cast("npt.NDArray[np.float32]", outputs["quality"]),
            region_order=cast("npt.NDArray[np.int32]", outputs["region_order"]),
        )

    def run_fine(self, rows: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        """See `TwoStage.run_fine`."""
        if self._carried is None:
            raise EngineError("run_fine: expected a coarse batch before it, got none")
        if len(rows) and (rows.min() < 0 or rows.max() >= self._people):  # OpenVINO would take zeros for their features
            raise InputError(f"run_fine: expected rows in [0, {self._people}), got {rows.tolist()}")
        batches = self.fine_buckets.cut(len(rows))
        end = 0
        for size in batches:
            start, end = end, end + size
            inputs = {"rows": rows[start:end], "patches": self.patches[start:end], **self._carried}
            keypoints = self._fine.run(inputs, ("keypoints",))["keypoints"]
            if len(batches) == 1:
                return cast("npt.NDArray[np.float32]", keypoints)
            self._join("fine keypoints", keypoints, start)
        return cast("npt.NDArray[np.float32]", self._joined["fine keypoints"][: len(rows)])

    def _join(self, name: str, value: Value, start: int) -> None:
        """Put an output of one of several batches, whose first person is `start`, with those before it."""
        array = cast("HostArray", value)
        if name not in self._joined:
            self._joined[name] = np.empty((self.max_batch, *array.shape[1:]), array.dtype)
        self._joined[name][start : start + len(array)] = array

    def terminate(self) -> None:
        """See `TwoStage.terminate`."""
        self._coarse.terminate()
        self._fine.terminate()

    def close(self) -> None:
        """See `TwoStage.close`."""
        self._carried, self._joined = None, {}
        self._coarse.close()
        self._fine.close()
