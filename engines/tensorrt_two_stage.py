"""Both stages on one GPU, as a C program would run them: one stream, every buffer allocated once, one wait a stage."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import numpy.typing as npt

from sharpose.engines.base import TensorSpec
from sharpose.engines.batch_buckets import BatchBuckets
from sharpose.engines.memory import DeviceBuffer, Memory
from sharpose.engines.program import Program, max_bytes
from sharpose.engines.stage_runner import StageRunner
from sharpose.engines.two_stage import CoarseHost
from sharpose.errors import EngineError, InputError

__all__ = ["DeviceTwoStage"]

_CARRIED = ("region_order", "region_features", "region_embeddings")


class DeviceTwoStage:
    """See `sharpose.engines.two_stage.TwoStage`.

    A tensor has one device buffer, by its name: what the coarse stage leaves in `region_features` is where the fine
    stage reads it. `crops` and `patches` are page-locked, so that they are uploaded from where the pipeline wrote them;
    of the outputs only keypoints, quality and region order are read back. The contexts of both stages compute in the
    same scratch memory, as they run in turn.

    The fine stage always sees the carried tensors at their full length, as it takes only the rows it is told to: the
    rows behind the last person are never looked at. So its shapes change with the number of rows alone.

    With CUDA graphs, batches are padded to a few sizes and each is captured once, copies included: a coarse graph for
    every N, a fine one for every M.

    Args:
        coarse: The coarse program.
        fine: The fine program.
        memory: The device; closed with this object, as the programs are, also if it can't be made.
        device: The device as the user asked for it.
        use_graphs: Capture CUDA graphs.

    Raises:
        EngineError: the programs don't fit each other, or the device has too little memory.
    """

    def __init__(self, coarse: Program, fine: Program, memory: Memory, device: str, *, use_graphs: bool) -> None:
        self.device = device
        self.max_batch = min(coarse.max_batch, fine.max_batch)
        self._memory = memory
        self._people = 0
        self._closed = False
        self._resources = contextlib.ExitStack()
        self._resources.callback(coarse.close)
        self._resources.callback(fine.close)
        try:
            with memory.active():
                self._allocate(coarse, fine, use_graphs)
        except BaseException:
            self.close()
            raise

    def _allocate(self, coarse: Program, fine: Program, use_graphs: bool) -> None:
        _check_fit(coarse, fine)
        memory, free = self._memory, self._resources.callback
        self._stream = memory.stream()
        free(self._stream.free)
        self._event = memory.event()
        free(self._event.free)
        self._buffers: dict[str, DeviceBuffer] = {}
        for name, nbytes in _buffer_sizes((coarse, fine), self.max_batch).items():
            self._buffers[name] = memory.device_buffer(nbytes)
            free(self._buffers[name].free)
        scratch_bytes = max(coarse.scratch_bytes, fine.scratch_bytes)
        scratch = memory.device_buffer(scratch_bytes) if scratch_bytes else None
        if scratch is not None:
            free(scratch.free)
        self.crops: npt.NDArray[np.uint8] = self._pinned(coarse.inputs["image"])
        self.patches: npt.NDArray[np.uint8] = self._pinned(fine.inputs["patches"])
        self._rows: npt.NDArray[np.int32] = self._pinned(fine.inputs["rows"])
        self._coarse_out = {
            name: self._pinned(coarse.outputs[name]) for name in ("keypoints", "quality", "region_order")
        }
        self._fine_keypoints: npt.NDArray[np.float32] = self._pinned(fine.outputs["keypoints"])
        self.coarse_buckets = BatchBuckets(coarse.min_batch, self.max_batch, exact=not use_graphs)
        self.fine_buckets = BatchBuckets(fine.min_batch, self.max_batch, exact=not use_graphs)
        self._coarse = StageRunner(coarse, self._buffers, scratch, memory, self._stream, use_graphs=use_graphs)
        free(self._coarse.close)
        self._fine = StageRunner(fine, self._buffers, scratch, memory, self._stream, use_graphs=use_graphs)
        free(self._fine.close)

    def _pinned(self, spec: TensorSpec) -> npt.NDArray[Any]:
        return self._memory.pinned((self.max_batch, *(int(size) for size in spec.shape[1:])), spec.dtype)

    def run_coarse(self, people: int) -> CoarseHost:
        """See `TwoStage.run_coarse`."""
        self._check_open()
        if not 1 <= people <= self.max_batch:
            raise InputError(f"run_coarse: expected 1 to {self.max_batch} people, got {people}")
        self._people = 0  # until it has succeeded
        batch = self.coarse_buckets.fit(people)
        with self._memory.active():
            self._coarse.run(
                {"N": batch},
                lambda: self._upload("image", self.crops[:batch]),
                lambda: self._download_coarse(batch),
            )
            self._wait()
        self._people = people
        out = self._coarse_out
        return CoarseHost(out["keypoints"][:people], out["quality"][:people], out["region_order"][:people])

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
        self._rows[count:batch] = 0  # padding refines the first person again, whom there always is
        with self._memory.active():
            self._fine.run(
                {"N": self.max_batch, "M": batch},
                lambda: self._upload_fine(batch),
                lambda: self._download(self._fine_keypoints[:batch], "keypoints"),
            )
            self._wait()
        return self._fine_keypoints[:count]

    def close(self) -> None:
        """See `TwoStage.close`. Arrays that were handed out stay readable until they are let go."""
        if self._closed:
            return
        self._closed = True
        self.crops = np.empty((0, 0, 0, 3), dtype=np.uint8)
        self.patches = np.empty((0, 0, 0), dtype=np.uint8)
        self._rows = np.empty(0, dtype=np.int32)
        self._fine_keypoints = np.empty((0, 0, 3), dtype=np.float32)
        self._coarse_out = {}
        # After a device fault every call fails; what went wrong has been said, and the process's end frees the rest.
        with contextlib.suppress(EngineError), self._memory.active():
            with contextlib.suppress(EngineError, AttributeError):  # there may be no stream yet
                self._stream.synchronize()
            self._resources.close()
        self._memory.close()

    def _check_open(self) -> None:
        if self._closed:
            raise EngineError("these engines were closed")

    def _wait(self) -> None:
        self._event.record(self._stream)
        self._event.synchronize()

    def _upload(self, name: str, source: npt.NDArray[np.generic]) -> None:
        self._memory.upload(self._buffers[name], source, self._stream)

    def _download(self, target: npt.NDArray[np.generic], name: str) -> None:
        self._memory.download(target, self._buffers[name], self._stream)

    def _upload_fine(self, batch: int) -> None:
        self._upload("rows", self._rows[:batch])
        self._upload("patches", self.patches[:batch])

    def _download_coarse(self, batch: int) -> None:
        for name, target in self._coarse_out.items():
            self._download(target[:batch], name)


def _buffer_sizes(programs: tuple[Program, ...], max_batch: int) -> dict[str, int]:
    """Bytes of every tensor by name, enough for whichever program wants most."""
    sizes: dict[str, int] = {}
    for program in programs:
        for name, spec in (*program.inputs.items(), *program.outputs.items()):
            sizes[name] = max(sizes.get(name, 0), max_bytes(spec, max_batch))
    return sizes


def _check_fit(coarse: Program, fine: Program) -> None:
    for name in _CARRIED:
        given, taken = coarse.outputs[name], fine.inputs[name]
        if (given.dtype, given.shape[1:]) != (taken.dtype, taken.shape[1:]):
            raise EngineError(f"the stages don't fit each other: coarse gives {given}, fine takes {taken}")
