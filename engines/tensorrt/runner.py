"""One TensorRT engine that takes and gives host arrays, for comparisons, evaluations and detectors."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from sharpose.engines.base import HostArray, Runner, Value
from sharpose.engines.cuda.device import CudaDevice
from sharpose.engines.tensorrt.contexts import ContextPool, DeviceResources, DeviceView
from sharpose.engines.tensorrt.runtime import TensorRtEngine


class TensorRtRunner(Runner):
    """One engine that takes and gives host arrays; see `Runner`. `TensorRtTwoStage` is the fast way to run both.

    A batch below the engine's smallest is padded. It closes the engine and `cuda`, also if it can't be made:
    `EngineError` where the device has too little memory.
    """

    def __init__(self, engine: TensorRtEngine, cuda: CudaDevice, device: str) -> None:
        super().__init__(device, engine.inputs, engine.outputs, engine.max_batch)
        self._batch_axis, self._min_batch = engine.batch_axis, engine.min_batch
        self._gpu = DeviceResources(cuda, [engine])
        with self._gpu.allocate():
            self._contexts = ContextPool(engine, self._gpu, use_graphs=False)

    def _run(
        self, inputs: Mapping[str, Value], sizes: Mapping[str, int], outputs: Sequence[str], kept: Collection[str]
    ) -> dict[str, Value]:
        batch = 1 if self._batch_axis is None else sizes[self._batch_axis]
        results: dict[str, Value] = {}
        arrays: dict[str, HostArray] = {}
        for name in outputs:
            shape = self.outputs[name].shape_at(sizes)
            if name in kept:
                results[name] = DeviceView(self._gpu.buffers[name], shape)
            else:
                results[name] = arrays[name] = np.empty(shape, self.outputs[name].dtype)
        if batch < self._min_batch:
            inputs = {name: self._padded(name, value) for name, value in inputs.items()}
        with self._gpu.cuda.active():
            self._contexts.enqueue(max(batch, self._min_batch), inputs, arrays)
            self._gpu.stream.synchronize()
        return results

    def _padded(self, name: str, value: Value) -> Value:
        """An input of the smallest batch, its last row repeated; the outputs' rows for those aren't read."""
        if self.inputs[name].shape[0] != self._batch_axis or not isinstance(value, np.ndarray):
            return value
        return np.concatenate([value, np.repeat(value[-1:], self._min_batch - len(value), axis=0)])

    def _free(self) -> None:
        self._gpu.close()
