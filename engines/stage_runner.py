"""Running one program at changing batch sizes: a context and perhaps a CUDA graph for every size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sharpose.engines.memory import DeviceBuffer, DeviceGraph, Memory, Stream
from sharpose.engines.program import ExecutionContext, Program, shape_at

__all__ = ["StageRunner"]


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
