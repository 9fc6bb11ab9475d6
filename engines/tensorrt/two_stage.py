"""Both stages on one GPU, as a C program would run them: one stream, every buffer allocated once, one wait a stage."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from sharpose.engines.base import TensorSpec
from sharpose.engines.cuda.memory import DeviceBuffer, DeviceGraph, Memory, Stream
from sharpose.engines.two_stage import BatchBuckets, CoarseOutput
from sharpose.errors import EngineError, InputError

__all__ = ["ExecutionContext", "Program", "StageRunner", "TensorRtTwoStage", "max_bytes", "shape_at"]


class ExecutionContext(Protocol):
    """One state of a program: shapes, addresses and scratch memory. All failures are `EngineError`."""

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> None:
        """Set an input's shape for the runs to come."""
        ...

    def set_tensor_address(self, name: str, address: int) -> None:
        """Say where on the device an input or output lies."""
        ...

    def set_scratch(self, address: int, nbytes: int) -> None:
        """Lend it memory to compute in; contexts that run in turn on one stream may share it."""
        ...

    def can_be_captured(self, stream: Stream) -> bool:
        """Whether `execute` may be captured into a CUDA graph."""
        ...

    def execute(self, stream: Stream) -> None:
        """Put a run into the stream."""
        ...

    def close(self) -> None:
        """Free it. May be called twice."""
        ...


class Program(Protocol):
    """A compiled graph on a device.

    Attributes:
        inputs: Declared inputs by name.
        outputs: Declared outputs by name.
        min_batch: Smallest size of a dynamic axis.
        max_batch: Largest.
        scratch_bytes: What a context computes in.
    """

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    min_batch: int
    max_batch: int
    scratch_bytes: int

    def create_context(self) -> ExecutionContext:
        """A new context without shapes, addresses and scratch memory."""
        ...

    def close(self) -> None:
        """Free it, after its contexts. May be called twice."""
        ...


def shape_at(spec: TensorSpec, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """A tensor's shape where the dynamic axes have these sizes."""
    return tuple(sizes[size] if isinstance(size, str) else size for size in spec.shape)


def max_bytes(spec: TensorSpec, max_batch: int) -> int:
    """The most bytes that a tensor takes."""
    sizes = (max_batch if isinstance(size, str) else size for size in spec.shape)
    return int(np.prod(list(sizes), dtype=np.int64)) * spec.dtype.itemsize


@dataclass
class _Prepared:
    context: ExecutionContext
    graph: DeviceGraph | None = None


class StageRunner:
    """One stage on the device. Made and used inside `Memory.active`.

    Without CUDA graphs there is one context, whose input shapes are set when the sizes change. With them every
    combination of sizes has a context of its own, because a captured graph remembers what its context was when it was
    captured; they share scratch memory, as they run in turn.

    Args:
        program: What to run.
        buffers: Where every input and output lies, by name.
        scratch: At least the program's `scratch_bytes`; None if that is 0.
        memory: The device.
        stream: Where runs are put.
        use_graphs: Capture a graph for every combination of sizes.
    """

    def __init__(
        self,
        program: Program,
        buffers: Mapping[str, DeviceBuffer],
        scratch: DeviceBuffer | None,
        memory: Memory,
        stream: Stream,
        *,
        use_graphs: bool,
    ) -> None:
        self._program = program
        self._buffers = buffers
        self._scratch = scratch
        self._memory = memory
        self._stream = stream
        self._use_graphs = use_graphs
        self._prepared: dict[tuple[tuple[str, int], ...], _Prepared] = {}
        self._single: ExecutionContext | None = None
        self._sizes: tuple[tuple[str, int], ...] | None = None
        if not use_graphs:
            self._single = self._new_context()

    def run(self, sizes: Mapping[str, int], upload: Callable[[], None], download: Callable[[], None]) -> None:
        """Put copies in, the run, and copies out into the stream.

        Args:
            sizes: Size of every dynamic axis.
            upload: Puts the copies of inputs into the stream. With CUDA graphs it is captured: for given sizes it must
                always copy between the same places.
            download: The same for outputs.

        Raises:
            EngineError: the run can't be put into the stream.
        """
        key = tuple(sorted(sizes.items()))
        if self._single is not None:
            if key != self._sizes:
                self._sizes = None
                self._set_shapes(self._single, sizes)
                self._sizes = key
            self._put(self._single, upload, download)
            return
        prepared = self._prepared.get(key)
        if prepared is not None and prepared.graph is not None:
            prepared.graph.launch(self._stream)
            return
        if prepared is None:
            prepared = _Prepared(self._new_context())
            self._prepared[key] = prepared
            self._set_shapes(prepared.context, sizes)
        context = prepared.context
        # TensorRT finishes its own preparations in the first run after a change of shapes; only then is it captured.
        self._put(context, upload, download)
        if context.can_be_captured(self._stream):
            self._stream.synchronize()
            prepared.graph = self._memory.capture(self._stream, lambda: self._put(context, upload, download))

    def close(self) -> None:
        """Free graphs and contexts. May be called twice."""
        prepared, self._prepared = self._prepared, {}
        for item in prepared.values():
            if item.graph is not None:
                item.graph.free()
            item.context.close()
        if self._single is not None:
            self._single.close()

    def _put(self, context: ExecutionContext, upload: Callable[[], None], download: Callable[[], None]) -> None:
        upload()
        context.execute(self._stream)
        download()

    def _set_shapes(self, context: ExecutionContext, sizes: Mapping[str, int]) -> None:
        for name, spec in self._program.inputs.items():
            context.set_input_shape(name, shape_at(spec, sizes))

    def _new_context(self) -> ExecutionContext:
        context = self._program.create_context()
        try:
            if self._scratch is not None:
                context.set_scratch(self._scratch.address, self._scratch.nbytes)
            for name in (*self._program.inputs, *self._program.outputs):
                context.set_tensor_address(name, self._buffers[name].address)
        except BaseException:
            context.close()
            raise
        return context


_CARRIED = ("region_order", "region_features", "region_embeddings")


class TensorRtTwoStage:
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

    def run_coarse(self, people: int) -> CoarseOutput:
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
