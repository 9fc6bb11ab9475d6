"""Both stages on one GPU, as a C program would run them: one stream, every buffer allocated once, one wait a stage."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from sharpose.engines.base import HostArray, Value
from sharpose.engines.batches import BatchBuckets, BatchCache
from sharpose.engines.cuda.device import CudaDevice
from sharpose.engines.precision import RunPrecision
from sharpose.engines.tensorrt.contexts import ContextPool, DeviceResources
from sharpose.engines.tensorrt.runtime import TensorRtEngine
from sharpose.engines.two_stage import CARRIED, CoarseOutput
from sharpose.errors import EngineError, InputError

_UPLOADED = ("image", "patches", "rows")
_DOWNLOADED = ("keypoints", "quality", "region_order")


class TensorRtTwoStage:
    """See `sharpose.engines.two_stage.TwoStage`.

    A tensor has one device buffer, by its name: what the coarse stage leaves in `region_features` is where the fine
    stage reads it. `crops` and `patches` are page-locked, so that they are uploaded from where the pipeline wrote them;
    of the outputs only keypoints, quality and region order are read back. The contexts of both stages compute in the
    same scratch memory, as they run in turn.

    The fine stage always sees the carried tensors at their full length, as it reads only the rows that are asked for,
    never those behind the last person. So its shapes change with the number of rows alone.

    With CUDA graphs, batches are padded to a few sizes and each is captured once, copies included: a coarse graph for
    every N, a fine one for every M. They are padded, too, where each size costs TensorRT-RTX a compilation. Engines and
    device are closed with this object, also if it can't be made.

    Args:
        coarse: The coarse stage's engine.
        fine: The fine stage's engine.
        cuda: Where they run.
        device: As the user asked for it.
        precision: That of the engines' graphs.
        use_graphs: Capture CUDA graphs.
        mapped: The GPU reads crops, patches and rows, and writes keypoints, quality and region order, where the host
            has them, instead of in copies; for GPUs that share the host's memory.

    Raises:
        EngineError: the engines don't fit each other, or the device has too little memory.
    """

    def __init__(
        self,
        coarse: TensorRtEngine,
        fine: TensorRtEngine,
        cuda: CudaDevice,
        device: str,
        precision: RunPrecision,
        *,
        use_graphs: bool,
        mapped: bool = False,
    ) -> None:
        self.precision: RunPrecision = precision
        self.device, self.max_batch = device, min(coarse.max_batch, fine.max_batch)
        self.batch_cache: BatchCache | None = None  # measuring takes a GPU some milliseconds
        self._people, self._closed = 0, False
        self._engines = (coarse, fine)
        self._gpu = DeviceResources(cuda, self._engines)
        with self._gpu.allocate((*_UPLOADED, *_DOWNLOADED) if mapped else ()):
            for name in CARRIED:
                given, taken = coarse.outputs[name], fine.inputs[name]
                if (given.dtype, given.shape[1:]) != (taken.dtype, taken.shape[1:]):
                    raise EngineError(f"the stages don't fit each other: coarse gives {given}, fine takes {taken}")
            self._event = cuda.event()
            self._gpu.free_later(self._event.free)
            self._gpu.free_later(self._drop_arrays)
            self.crops: npt.NDArray[np.uint8] = self._pinned(coarse, "image")[: self.max_batch]
            self.patches: npt.NDArray[np.uint8] = self._pinned(fine, "patches")[: self.max_batch]
            self._rows: npt.NDArray[np.int32] = self._pinned(fine, "rows")
            self._coarse_out = {name: self._pinned(coarse, name) for name in _DOWNLOADED}
            self._fine_keypoints: npt.NDArray[np.float32] = self._pinned(fine, "keypoints")
            exact = not use_graphs and not coarse.compiles_shapes
            self.coarse_buckets = BatchBuckets(coarse.min_batch, self.max_batch, exact=exact)
            self.fine_buckets = BatchBuckets(fine.min_batch, self.max_batch, exact=exact)
            of_coarse: dict[str, HostArray] = {"image": self.crops, **self._coarse_out}
            of_fine: dict[str, HostArray] = {
                "rows": self._rows,
                "patches": self.patches,
                "region_order": self._coarse_out["region_order"],
                "keypoints": self._fine_keypoints,
            }
            self._coarse = ContextPool(coarse, self._gpu, use_graphs=use_graphs, mapped=of_coarse if mapped else None)
            self._fine = ContextPool(fine, self._gpu, use_graphs=use_graphs, mapped=of_fine if mapped else None)

    def _pinned(self, engine: TensorRtEngine, name: str) -> npt.NDArray[Any]:
        """A page-locked array for a tensor of an engine, large enough for the other engine too."""
        spec = {**engine.inputs, **engine.outputs}[name]
        largest = max(engine.max_batch for engine in self._engines)
        return self._gpu.cuda.pinned(spec.shape_at(dict.fromkeys(engine.sizes(1), largest)), spec.dtype)

    def _drop_arrays(self) -> None:
        """Let go of the page-locked arrays; who was given one may keep it."""
        self.crops = np.empty((0, 0, 0, 3), dtype=np.uint8)
        self.patches = np.empty((0, 0, 0), dtype=np.uint8)
        self._rows = np.empty(0, dtype=np.int32)
        self._fine_keypoints = np.empty((0, 0, 3), dtype=np.float32)
        self._coarse_out = {}

    def warm_up(self) -> None:
        """Run every batch size once on noise: what is compiled or captured is so before the first frame.

        Raises:
            EngineError: a run failed.
        """
        noise = np.random.default_rng(0)
        for array in (self.crops, self.patches):
            array[...] = noise.integers(0, 256, array.shape, dtype=np.uint8)
        for people in self.coarse_buckets.sizes:
            self.run_coarse(people)
        for count in self.fine_buckets.sizes:
            self.run_fine(np.arange(count, dtype=np.int32))
        self._people = 0
        for array in (self.crops, self.patches):
            array[...] = 0
        for engine in self._engines:
            engine.save_kernels()

    def run_coarse(self, people: int) -> CoarseOutput:
        """See `TwoStage.run_coarse`."""
        self._check_open()
        if not 1 <= people <= self.max_batch:
            raise InputError(f"run_coarse: expected 1 to {self.max_batch} people, got {people}")
        self._people = 0  # until it has succeeded
        batch = self.coarse_buckets.fit(people)
        outputs: dict[str, HostArray] = {name: array[:batch] for name, array in self._coarse_out.items()}
        with self._gpu.cuda.active():
            self._coarse.enqueue(batch, {"image": self.crops[:batch]}, outputs)
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

        inputs: dict[str, Value] = {"rows": self._rows[:batch], "patches": self.patches[:batch]}
        with self._gpu.cuda.active():
            self._fine.enqueue(batch, inputs, {"keypoints": self._fine_keypoints[:batch]})
            self._wait()
        return self._fine_keypoints[:count]

    def terminate(self) -> None:
        """See `TwoStage.terminate`: a batch on a GPU is short, and can't be ended."""

    def close(self) -> None:
        """See `TwoStage.close`. Arrays that were handed out stay readable until nobody holds them."""
        if self._closed:
            return
        self._closed = True
        self._gpu.close()

    def _check_open(self) -> None:
        if self._closed:
            raise EngineError("these engines were closed")

    def _wait(self) -> None:
        self._event.record(self._gpu.stream)
        self._event.synchronize()
