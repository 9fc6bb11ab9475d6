"""One TensorRT graph as an `Engine`: any outputs, for comparing and verifying. The pipeline uses `DeviceTwoStage`."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sharpose.engines.base import TensorSpec, Value, check_inputs, check_outputs
from sharpose.engines.memory import DeviceBuffer, Memory
from sharpose.engines.program import Program, max_bytes, shape_at
from sharpose.engines.stage_runner import StageRunner
from sharpose.errors import EngineError, InputError

__all__ = ["DeviceEngine", "DeviceValue"]


@dataclass(frozen=True)
class DeviceValue:
    """An output left on the device, until its engine runs again or is closed; see `DeviceTensor`."""

    buffer: DeviceBuffer
    sizes: tuple[int, ...]

    def shape(self) -> tuple[int, ...]:
        """The tensor's sizes."""
        return self.sizes


class DeviceEngine:
    """See `sharpose.engines.base.Engine`.

    Args:
        program: What to run.
        memory: The device; closed with this object, as the program is, also if it can't be made.
        device: The device as the user asked for it.

    Raises:
        EngineError: the device has too little memory.
    """

    def __init__(self, program: Program, memory: Memory, device: str) -> None:
        self.device = device
        self.inputs: Mapping[str, TensorSpec] = program.inputs
        self.outputs: Mapping[str, TensorSpec] = program.outputs
        self.max_batch = program.max_batch
        self._min_batch = program.min_batch
        self._memory = memory
        self._closed = False
        self._resources = contextlib.ExitStack()
        self._resources.callback(program.close)
        try:
            with memory.active():
                self._allocate(program)
        except BaseException:
            self.close()
            raise

    def _allocate(self, program: Program) -> None:
        memory, free = self._memory, self._resources.callback
        self._stream = memory.stream()
        free(self._stream.free)
        self._buffers: dict[str, DeviceBuffer] = {}
        for name, spec in (*program.inputs.items(), *program.outputs.items()):
            self._buffers[name] = memory.device_buffer(max_bytes(spec, program.max_batch))
            free(self._buffers[name].free)
        scratch = memory.device_buffer(program.scratch_bytes) if program.scratch_bytes else None
        if scratch is not None:
            free(scratch.free)
        self._runner = StageRunner(program, self._buffers, scratch, memory, self._stream, use_graphs=False)
        free(self._runner.close)

    def run(
        self, inputs: Mapping[str, Value], outputs: Sequence[str], *, keep_on_device: Collection[str] = ()
    ) -> dict[str, Value]:
        """Run the graph; see `Engine.run`. A batch below the engine's smallest is refused."""
        if self._closed:
            raise EngineError("this engine was closed")
        check_inputs(inputs, self.inputs, self.max_batch)
        check_outputs(outputs, self.outputs)
        sizes: dict[str, int] = {}
        for name, spec in self.inputs.items():
            value = inputs[name]
            shape = value.shape if isinstance(value, np.ndarray) else tuple(value.shape())
            sizes |= {axis: size for axis, size in zip(spec.shape, shape, strict=True) if isinstance(axis, str)}
        for axis, size in sizes.items():
            if size < self._min_batch:
                raise InputError(f"engine axis {axis}: this engine was built for {self._min_batch} or more, got {size}")
        results: dict[str, Value] = {}
        for name in outputs:
            shape = shape_at(self.outputs[name], sizes)
            if name in keep_on_device:
                results[name] = DeviceValue(self._buffers[name], shape)
            else:
                results[name] = np.empty(shape, self.outputs[name].dtype)
        with self._memory.active():
            self._runner.run(sizes, lambda: self._upload(inputs), lambda: self._download(results))
            self._stream.synchronize()
        return results

    def close(self) -> None:
        """Free the engine. May be called twice."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(EngineError), self._memory.active():  # after a device fault every call fails
            self._resources.close()
        self._memory.close()

    def _upload(self, inputs: Mapping[str, Value]) -> None:
        for name, value in inputs.items():
            if isinstance(value, np.ndarray):
                self._memory.upload(self._buffers[name], value, self._stream)
            elif isinstance(value, DeviceValue):
                spec = self.inputs[name]
                nbytes = int(np.prod(value.sizes)) * spec.dtype.itemsize
                self._memory.copy(self._buffers[name], value.buffer, nbytes, self._stream)
            else:
                raise InputError(f"engine input {name}: expected a host array or an output of a TensorRT engine")

    def _download(self, results: Mapping[str, Value]) -> None:
        for name, value in results.items():
            if isinstance(value, np.ndarray):
                self._memory.download(value, self._buffers[name], self._stream)
