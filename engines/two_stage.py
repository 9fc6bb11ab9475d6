"""Both stages behind the pipeline, with the buffers that crops and patches are written into."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt

from sharpose.engines.base import Runner, Value
from sharpose.engines.precision import RunPrecision
from sharpose.errors import EngineError

CARRIED = ("region_order", "region_features", "region_embeddings")
"""Outputs of the coarse stage that are inputs of the fine one."""


class BatchBuckets:
    """Batch sizes that a stage computes; smaller batches are padded: 1, 2, 3, 4, 6, 8, 12, 16, 24 … max.

    At most half as much again is computed in vain. With `exact`, every size from `smallest` on is its own bucket.
    """

    def __init__(self, smallest: int, largest: int, *, exact: bool = False) -> None:
        sizes = set(range(smallest, largest + 1))
        if not exact:
            powers = [1 << exponent for exponent in range(largest.bit_length())]
            sizes &= {smallest, largest, *powers, *(power + power // 2 for power in powers)}
        self.sizes = tuple(sorted(sizes))  # ascending

    def fit(self, count: int) -> int:
        """The smallest bucket that holds `count`, which is at most the largest."""
        return self.sizes[bisect_left(self.sizes, count)]


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
    coarse_buckets: BatchBuckets  # batch sizes that the coarse stage computes; a smaller batch costs as much
    fine_buckets: BatchBuckets  # those of the fine stage

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
        """

    def terminate(self) -> None:
        """End the run at hand early, from another thread, where the engines can: it and all later ones then fail."""

    def close(self) -> None:
        """Free the engines and their buffers. May be called twice."""


class HostTwoStage:
    """Both stages as two runners of one backend and device that take host arrays (ONNX Runtime); see `TwoStage`."""

    def __init__(self, coarse: Runner, fine: Runner, precision: RunPrecision) -> None:
        self.precision: RunPrecision = precision
        self.device, self.max_batch = coarse.device, coarse.max_batch
        self._coarse, self._fine = coarse, fine
        self.crops, self.patches = (
            np.empty(runner.inputs[name].shape_at({"N": self.max_batch, "M": self.max_batch}), dtype=np.uint8)
            for runner, name in ((coarse, "image"), (fine, "patches"))
        )
        self.coarse_buckets = self.fine_buckets = BatchBuckets(1, self.max_batch, exact=True)
        self._carried: dict[str, Value] | None = None

    def run_coarse(self, people: int) -> CoarseOutput:
        """See `TwoStage.run_coarse`."""
        wanted = ("keypoints", "quality", *CARRIED)
        # Of what is carried, the host reads the order of the regions alone.
        outputs = self._coarse.run({"image": self.crops[:people]}, wanted, keep_on_device=CARRIED[1:])
        self._carried = {name: outputs[name] for name in CARRIED}
        return CoarseOutput(
            keypoints=cast("npt.NDArray[np.float32]", outputs["keypoints"]),
            quality=cast("npt.NDArray[np.float32]", outputs["quality"]),
            region_order=cast("npt.NDArray[np.int32]", outputs["region_order"]),
        )

    def run_fine(self, rows: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        """See `TwoStage.run_fine`."""
        if self._carried is None:
            raise EngineError("run_fine: expected a coarse batch before it, got none")
        inputs = {"rows": rows, "patches": self.patches[: len(rows)], **self._carried}
        return cast("npt.NDArray[np.float32]", self._fine.run(inputs, ("keypoints",))["keypoints"])

    def terminate(self) -> None:
        """See `TwoStage.terminate`."""
        self._coarse.terminate()
        self._fine.terminate()

    def close(self) -> None:
        """See `TwoStage.close`."""
        self._carried = None
        self._coarse.close()
        self._fine.close()
