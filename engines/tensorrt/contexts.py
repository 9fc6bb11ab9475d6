"""Execution contexts of engines that run in turn on one GPU: the memory that they share, and their CUDA graphs."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sharpose.engines.base import HostArray, TensorSpec, Value
from sharpose.engines.cuda.device import CudaBuffer, CudaDevice, CudaGraph, CudaStream
from sharpose.engines.tensorrt.library import collect_errors
from sharpose.engines.tensorrt.runtime import ExecutionContext, TensorRtEngine
from sharpose.errors import EngineError, InputError

_log = logging.getLogger("sharpose.tensorrt")


@dataclass(frozen=True)
class DeviceView:
    """An output left on the device, until its runner runs again or is closed; a `DeviceTensor`."""

    buffer: CudaBuffer
    sizes: tuple[int, ...]

    def shape(self) -> tuple[int, ...]:
        """The tensor's sizes."""
        return self.sizes


class DeviceResources:
    """What engines that run in turn on a GPU share; the engines and the device are closed with it."""

    stream: CudaStream  # where all work is put
    buffers: dict[str, CudaBuffer]  # by the tensor's name, large enough for the engine that needs most
    scratch: CudaBuffer | None  # likewise; None if no engine needs any

    def __init__(self, cuda: CudaDevice, engines: Sequence[TensorRtEngine]) -> None:
        self.cuda, self._engines = cuda, engines
        self._stack = contextlib.ExitStack()
        for engine in engines:
            self._stack.callback(engine.close)

    @contextlib.contextmanager
    def allocate(self, mapped: Collection[str] = ()) -> Iterator[None]:
        """Allocate, then the block may allocate more; a failure here or there frees everything.

        Args:
            mapped: Names of tensors that need no buffer, as the device reads or writes the host's arrays.
        """
        try:
            with self.cuda.active():
                self.stream = self.cuda.stream()
                self.free_later(self.stream.free)
                sizes: dict[str, int] = {}
                for engine in self._engines:
                    for name, spec in (*engine.inputs.items(), *engine.outputs.items()):
                        if name not in mapped:
                            sizes[name] = max(sizes.get(name, 0), spec.max_bytes(engine.max_batch))
                self.buffers = {name: self._buffer(nbytes) for name, nbytes in sizes.items()}
                scratch_bytes = max(engine.scratch_bytes for engine in self._engines)
                self.scratch = self._buffer(scratch_bytes) if scratch_bytes else None
                yield
        except BaseException:
            self.close()
            raise

    def free_later(self, free: Callable[[], None]) -> None:
        """Call `free` at the end, last come first."""
        self._stack.callback(free)

    def close(self) -> None:
        """Free everything. May be called twice."""
        # After a device fault every call fails; what went wrong was reported, and the process's end frees the rest.
        with contextlib.suppress(EngineError), self.cuda.active():
            with contextlib.suppress(EngineError, AttributeError):  # there may be no stream yet
                self.stream.synchronize()
            self._stack.close()
        self.cuda.close()

    def _buffer(self, nbytes: int) -> CudaBuffer:
        buffer = self.cuda.buffer(nbytes)
        self.free_later(buffer.free)
        return buffer


class ContextPool:
    """Execution contexts of one engine. Made and used inside `CudaDevice.active`; the `DeviceResources` free it.

    Without CUDA graphs there is one context for each profile, whose input shapes are set when the batch changes. With
    them every batch has a context of its own, because a captured graph remembers what its context was when it was
    captured. All share scratch memory, as they run in turn.

    A graph is believed after its first launch has given what the run before it gave. Where a capture fails, or gives
    something else, one warning says so, and what isn't captured yet runs without graphs from then on.

    Args:
        engine: The engine.
        gpu: Where it runs.
        use_graphs: Capture CUDA graphs.
        mapped: Page-locked arrays at their largest, by the tensor's name, which the device itself reads or writes.
    """

    def __init__(
        self,
        engine: TensorRtEngine,
        gpu: DeviceResources,
        *,
        use_graphs: bool,
        mapped: Mapping[str, HostArray] | None = None,
    ) -> None:
        self._engine, self._gpu, self._use_graphs = engine, gpu, use_graphs
        self._mapped = mapped or {}
        self._own: dict[int, ExecutionContext] = {}  # by batch
        self._graphs: dict[int, CudaGraph] = {}
        self._shared: dict[int, ExecutionContext] = {}  # by profile
        self._shared_batch: dict[int, int] = {}  # that a shared context's shapes are set for
        gpu.free_later(self._free)

    def enqueue(self, batch: int, inputs: Mapping[str, Value], outputs: Mapping[str, HostArray]) -> None:
        """Put copies in, the run, and copies out into the stream.

        Args:
            batch: Size of the engine's batch axis.
            inputs: Inputs to copy to the device. With CUDA graphs, host arrays that are in the same place for every run
                of a batch.
            outputs: Host arrays to copy outputs to, likewise.

        Raises:
            EngineError: the run can't be put into the stream.
        """
        graph = self._graphs.get(batch)
        if graph is not None:
            graph.launch(self._gpu.stream)
            return
        context = self._context(batch)

        def put() -> None:
            self._upload(inputs)
            context.execute(self._gpu.stream)
            for name, array in outputs.items():
                if name not in self._mapped:
                    self._gpu.cuda.download(array, self._gpu.buffers[name], self._gpu.stream)

        put()
        if self._use_graphs:
            # TensorRT ends its own preparations in the first run after a change of shapes; only then is it captured.
            self._gpu.stream.synchronize()
            problem = self._capture(batch, context, put, inputs, outputs)
            if problem is not None:
                self._use_graphs = False
                _log.warning("%s: runs without CUDA graphs: for a batch of %d, %s", self._engine.name, batch, problem)

    def _capture(
        self,
        batch: int,
        context: ExecutionContext,
        put: Callable[[], None],
        inputs: Mapping[str, Value],
        outputs: Mapping[str, HostArray],
    ) -> str | None:
        """Capture a run that was just done, and launch it once to compare; returns what is wrong with it."""
        stream = self._gpu.stream
        if not context.can_be_captured(stream):
            return "TensorRT says that it can't be captured"
        expected = self._results(batch, outputs)
        graph = None
        try:
            with collect_errors() as messages:
                graph = self._gpu.cuda.capture(stream, put)
            if messages:  # a run that logs an error may still say that it succeeded
                raise EngineError(" ".join(messages[0].split()))
            self._blank(batch, inputs, outputs)  # what the graph doesn't write must be seen
            graph.launch(stream)
            stream.synchronize()
            found = self._results(batch, outputs)
            wrong = [name for name, array in expected.items() if not _agree(array, found[name])]
            if wrong:
                raise EngineError(f"the captured graph gives another {', '.join(wrong)} than the run that was captured")
        except EngineError as error:
            if graph is not None:
                graph.free()
            self._put_again(put)
            return str(error)
        self._graphs[batch] = graph
        return None

    def _put_again(self, put: Callable[[], None]) -> None:
        """Run over what the failed graph left. CUDA may report the failed capture once more, in this call."""
        try:
            put()
            self._gpu.stream.synchronize()
        except EngineError:
            put()

    def _upload(self, inputs: Mapping[str, Value]) -> None:
        gpu = self._gpu
        for name, value in inputs.items():
            if name in self._mapped:
                continue
            if isinstance(value, np.ndarray):
                gpu.cuda.upload(gpu.buffers[name], value, gpu.stream)
            elif isinstance(value, DeviceView):
                nbytes = int(np.prod(value.sizes)) * self._engine.inputs[name].dtype.itemsize
                gpu.cuda.copy(gpu.buffers[name], value.buffer, nbytes, gpu.stream)
            else:
                raise InputError(f"engine input {name}: expected a host array or an output of a TensorRT engine")

    def _results(self, batch: int, outputs: Mapping[str, HostArray]) -> dict[str, HostArray]:
        """Every output of the last run, also those that stay on the device. Waits for the stream."""
        gpu, results = self._gpu, {name: array.copy() for name, array in outputs.items()}
        for name, spec in self._engine.outputs.items():
            if name not in results:
                results[name] = np.empty(self._shape(spec, batch), spec.dtype)
                gpu.cuda.download(results[name], gpu.buffers[name], gpu.stream)
        gpu.stream.synchronize()
        return results

    def _blank(self, batch: int, inputs: Mapping[str, Value], outputs: Mapping[str, HostArray]) -> None:
        """Forget the last run's inputs on the device, and its outputs everywhere. Waits for the stream."""
        gpu, blanks = self._gpu, dict[str, npt.NDArray[Any]]()
        for name in inputs:
            spec = self._engine.inputs[name]
            blanks[name] = np.zeros(self._shape(spec, batch), spec.dtype)
        for name, spec in self._engine.outputs.items():
            blanks[name] = np.full(self._shape(spec, batch), _blank_value(spec.dtype), spec.dtype)
        for name, blank in blanks.items():
            if name not in self._mapped:
                gpu.cuda.upload(gpu.buffers[name], blank, gpu.stream)
        gpu.stream.synchronize()
        for array in outputs.values():
            array[...] = _blank_value(array.dtype)

    def _shape(self, spec: TensorSpec, batch: int) -> tuple[int, ...]:
        return spec.shape_at(self._engine.sizes(batch))

    def _context(self, batch: int) -> ExecutionContext:
        """A context with the shapes set for a batch."""
        if batch in self._own:
            return self._own[batch]
        profile = self._engine.profile(batch)
        if self._use_graphs:
            self._own[batch] = self._new_context(profile, batch)
            return self._own[batch]
        if profile not in self._shared:
            self._shared[profile] = self._new_context(profile, None)
        context = self._shared[profile]
        if self._shared_batch.get(profile) != batch:
            self._shared_batch.pop(profile, None)  # until all are set
            self._set_shapes(context, batch)
            self._shared_batch[profile] = batch
        return context

    def _set_shapes(self, context: ExecutionContext, batch: int) -> None:
        for name, spec in self._engine.inputs.items():
            context.set_input_shape(name, self._shape(spec, batch))

    def _new_context(self, profile: int, batch: int | None) -> ExecutionContext:
        gpu = self._gpu
        context = self._engine.create_context(profile, gpu.stream)
        try:
            if gpu.scratch is not None:
                context.set_scratch(gpu.scratch.address, gpu.scratch.nbytes)
            for name in (*self._engine.inputs, *self._engine.outputs):
                array = self._mapped.get(name)
                address = gpu.buffers[name].address if array is None else gpu.cuda.device_address(array)
                context.set_tensor_address(name, address)
            if batch is not None:
                self._set_shapes(context, batch)
        except BaseException:
            context.close()
            raise
        return context

    def _free(self) -> None:
        for graph in self._graphs.values():
            graph.free()
        for context in (*self._own.values(), *self._shared.values()):
            context.close()
        self._mapped = {}  # they are freed while the device's context is active


def _blank_value(dtype: np.dtype[Any]) -> float | int:
    return float("nan") if np.issubdtype(dtype, np.floating) else int(np.iinfo(dtype).max)


_MOST_WRONG = 0.05  # share of an output's elements that may differ
_CLOSE = 0.01  # of an output's largest magnitude


def _agree(expected: HostArray, found: HostArray) -> bool:
    """Whether two runs on the same inputs gave the same output, apart from rounding.

    A kernel may add in another order in every run. In half precision that moves a result by up to a hundredth, and
    then two regions or two peaks of a heatmap that are almost alike may change places. A graph that lacks a kernel
    leaves a whole output blank.
    """
    if not np.issubdtype(expected.dtype, np.floating):
        return float(np.mean(expected != found)) <= _MOST_WRONG
    one, other = (np.asarray(array, dtype=np.float64) for array in (expected, found))
    limit = _CLOSE * float(np.max(np.abs(np.nan_to_num(one)), initial=0.0))
    close = (np.abs(one - other) <= limit) | (np.isnan(one) & np.isnan(other))
    return float(np.mean(~close)) <= _MOST_WRONG
