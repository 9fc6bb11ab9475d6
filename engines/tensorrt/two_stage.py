"""Both stages on one GPU, as a C program would run them: one stream, every buffer allocated once, one wait a stage."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from sharpose.engines.base import TensorSpec
from sharpose.engines.cuda.device import CudaDevice
from sharpose.engines.tensorrt.runtime import ContextPool, DeviceResources, TensorRtEngine
from sharpose.engines.two_stage import CARRIED, BatchBuckets, CoarseOutput
from sharpose.errors import EngineError, InputError


class TensorRtTwoStage:
    """See `sharpose.engines.two_stage.TwoStage`.

    A tensor has one device buffer, by its name: what the coarse stage leaves in `region_features` is where the fine
    stage reads it. `crops` and `patches` are page-locked, so that they are uploaded from where the pipeline wrote them;
    of the outputs only keypoints, quality and region order are read back. The contexts of both stages compute in the
    same scratch memory, as they run in turn.

    The fine stage always sees the carried tensors at their full length, as it reads only the rows that are asked for,
    never those behind the last person. So its shapes change with the number of rows alone.

    With CUDA graphs, batches are padded to a few sizes and each is captured once, copies included: a coarse graph for
    every N, a fine one for every M. Engines and device are closed with this object, also if it can't be made.

    Raises:
        EngineError: the engines don't fit each other, or the device has too little memory.
    """

    def __init__(
        self, coarse: TensorRtEngine, fine: TensorRtEngine, cuda: CudaDevice, device: str, *, use_graphs: bool
    ) -> None:
        self.device, self.max_batch = device, min(coarse.max_batch, fine.max_batch)
        self._people, self._closed = 0, False
        self._gpu = DeviceResources(cuda, [coarse, fine])
        with self._gpu.allocate(self.max_batch):
            for name in CARRIED:
                given, taken = coarse.outputs[name], fine.inputs[name]
                if (given.dtype, given.shape[1:]) != (taken.dtype, taken.shape[1:]):
                    raise EngineError(f"the stages don't fit each other: coarse gives {given}, fine takes {taken}")
            self._event = cuda.event()
            self._gpu.free_later(self._event.free)
            self.crops: npt.NDArray[np.uint8] = self._pinned(coarse.inputs["image"])
            self.patches: npt.NDArray[np.uint8] = self._pinned(fine.inputs["patches"])
            self._rows: npt.NDArray[np.int32] = self._pinned(fine.inputs["rows"])
            self._coarse_out = {
                name: self._pinned(coarse.outputs[name]) for name in ("keypoints", "quality", "region_order")
            }
            self._fine_keypoints: npt.NDArray[np.float32] = self._pinned(fine.outputs["keypoints"])
            self.coarse_buckets = BatchBuckets(coarse.min_batch, self.max_batch, exact=not use_graphs)
            self.fine_buckets = BatchBuckets(fine.min_batch, self.max_batch, exact=not use_graphs)
            self._coarse = ContextPool(coarse, self._gpu, use_graphs=use_graphs)
            self._fine = ContextPool(fine, self._gpu, use_graphs=use_graphs)

    def _pinned(self, spec: TensorSpec) -> npt.NDArray[Any]:
        return self._gpu.cuda.pinned(spec.shape_at({"N": self.max_batch, "M": self.max_batch}), spec.dtype)

    def run_coarse(self, people: int) -> CoarseOutput:
        """See `TwoStage.run_coarse`."""
        self._check_open()
        if not 1 <= people <= self.max_batch:
            raise InputError(f"run_coarse: expected 1 to {self.max_batch} people, got {people}")
        self._people = 0  # until it has succeeded
        batch = self.coarse_buckets.fit(people)

        def download() -> None:
            for name, target in self._coarse_out.items():
                self._gpu.download(target[:batch], name)

        with self._gpu.cuda.active():
            self._coarse.enqueue({"N": batch}, lambda: self._gpu.upload("image", self.crops[:batch]), download)
            self._wait()
        self._people = people
        out = self._coarse_out
        return CoarseOutput(out["keypoints"][:people], out["quality"][:people], out["region_order"][:people])

    def run_fine(self, rows: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        """See `TwoStage.run_fine`."""
        self._check_open()
        if not self._people:
            raise EngineError("run_fine: expected a coarse batch before it, got none")
        count = len(rows)
        if not 1 <= count <= self.max_batch:
            raise InputError(f"run_fine: expected 1 to {self.max_batch} rows, got {count}")
        if rows.min() < 0 or rows.max() >= self._people:  # the device would read past the batch
            raise InputError(f"run_fine: expected rows in [0, {self._people}), got {rows.tolist()}")
        batch = self.fine_buckets.fit(count)
        self._rows[:count] = rows
        self._rows[count:batch] = 0  # padding refines the first person again: there always is one

        def upload() -> None:
            self._gpu.upload("rows", self._rows[:batch])
            self._gpu.upload("patches", self.patches[:batch])

        with self._gpu.cuda.active():
            self._fine.enqueue(
                {"N": self.max_batch, "M": batch},
                upload,
                lambda: self._gpu.download(self._fine_keypoints[:batch], "keypoints"),
            )
            self._wait()
        return self._fine_keypoints[:count]

    def close(self) -> None:
        """See `TwoStage.close`. Arrays that were handed out stay readable until nobody holds them."""
        if self._closed:
            return
        self._closed = True
        self.crops = np.empty((0, 0, 0, 3), dtype=np.uint8)
        self.patches = np.empty((0, 0, 0), dtype=np.uint8)
        self._rows = np.empty(0, dtype=np.int32)
        self._fine_keypoints = np.empty((0, 0, 3), dtype=np.float32)
        self._coarse_out = {}
        self._gpu.close()

    def _check_open(self) -> None:
        if self._closed:
            raise EngineError("these engines were closed")

    def _wait(self) -> None:
        self._event.record(self._gpu.stream)
        self._event.synchronize()
