"""TensorRT's own runtime: a plan becomes a program, and a program an engine."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import numpy as np

from sharpose.engines.base import TensorSpec, check_signature, specs
from sharpose.engines.memory import Stream
from sharpose.engines.program import ExecutionContext
from sharpose.engines.tensorrt_flavour import TensorRtFlavour
from sharpose.engines.tensorrt_logger import collect_errors, tensorrt_logger
from sharpose.engines.tensorrt_network import numpy_dtype
from sharpose.engines.untyped import Untyped
from sharpose.errors import EngineError
from sharpose.manifest import GraphEntry

__all__ = ["TensorRtProgram"]


class TensorRtProgram:
    """A plan in TensorRT's runtime; see `sharpose.engines.program.Program`. Made and used inside `Memory.active`.

    Args:
        flavour: Which TensorRT.
        plan: The serialized engine.
        entry: What the bundle declares of the graph; the engine must agree.
        what: Names the engine in errors.
        specialize: TensorRT-RTX compiles kernels for exactly the shapes that are set, before the first run with them;
            a CUDA graph would otherwise keep the general ones for ever.

    Raises:
        EngineError: the plan can't be loaded here, or isn't an engine for this graph.
    """

    def __init__(
        self, flavour: TensorRtFlavour, plan: bytes, entry: GraphEntry, what: str, *, specialize: bool = False
    ) -> None:
        self._flavour = flavour
        self._specialize = specialize
        trt = flavour.module
        with collect_errors() as messages:
            try:
                self._runtime: Untyped = trt.Runtime(tensorrt_logger(flavour))
                self._engine: Untyped = self._runtime.deserialize_cuda_engine(plan)
            except TypeError:  # pybind's way of saying that the constructor returned null
                self._engine = None
            if self._engine is None:
                raise EngineError(f"{what}: {flavour} can't load it{_because(messages)}")
        inputs, outputs = specs(entry)
        self.inputs: Mapping[str, TensorSpec] = inputs
        self.outputs: Mapping[str, TensorSpec] = outputs
        for mode, declared in ((trt.TensorIOMode.INPUT, inputs), (trt.TensorIOMode.OUTPUT, outputs)):
            check_signature(what, _signature(self._engine, mode), tuple(declared.values()))
        self.min_batch, self.max_batch = _batches(self._engine, inputs)
        self.scratch_bytes = _scratch_bytes(self._engine)

    def create_context(self) -> ExecutionContext:
        """See `Program.create_context`."""
        if self._engine is None:
            raise EngineError("this engine was closed")
        strategy = self._flavour.module.ExecutionContextAllocationStrategy.USER_MANAGED
        with collect_errors() as messages:
            context = self._engine.create_execution_context(self._configuration(strategy))
            if context is None:
                raise EngineError(f"{self._flavour} can't make an execution context{_because(messages)}")
        return _TensorRtContext(self._flavour, context)

    def close(self) -> None:
        """See `Program.close`."""
        self._engine = None
        self._runtime = None

    def _configuration(self, strategy: Untyped) -> Untyped:
        """What `create_execution_context` takes: a strategy, or with TensorRT-RTX a configuration that has one."""
        if not (self._specialize and self._flavour.is_rtx):
            return strategy
        kernels = getattr(self._flavour.module, "DynamicShapesKernelSpecializationStrategy", None)
        if kernels is None:
            return strategy
        configuration = self._engine.create_runtime_config()
        configuration.set_execution_context_allocation_strategy(strategy)
        configuration.dynamic_shapes_kernel_specialization_strategy = kernels.EAGER
        return configuration


class _TensorRtContext:
    """See `sharpose.engines.program.ExecutionContext`."""

    def __init__(self, flavour: TensorRtFlavour, context: Untyped) -> None:
        self._flavour = flavour
        self._context = context

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> None:
        with self._checked(f"shape {list(shape)} for input {name}") as check:
            check(self._context.set_input_shape(name, shape))

    def set_tensor_address(self, name: str, address: int) -> None:
        with self._checked(f"address of {name}") as check:
            check(self._context.set_tensor_address(name, address))

    def set_scratch(self, address: int, nbytes: int) -> None:
        with self._checked("scratch memory") as check:
            if hasattr(self._context, "set_device_memory"):
                self._context.set_device_memory(address, nbytes)
            else:  # older versions
                self._context.device_memory = address
            check(True)

    def can_be_captured(self, stream: Stream) -> bool:
        """TensorRT proper has no such question: engines with static or profiled shapes always can."""
        ask = getattr(self._context, "is_stream_capturable", None)
        return True if ask is None else bool(ask(stream.handle))

    def execute(self, stream: Stream) -> None:
        with self._checked("run") as check:
            check(self._context.execute_async_v3(stream.handle))

    def close(self) -> None:
        self._context = None

    @contextlib.contextmanager
    def _checked(self, what: str) -> Untyped:
        with collect_errors() as messages:
            verdict: list[bool] = []
            yield lambda result: verdict.append(bool(result))
            if verdict != [True]:
                raise EngineError(f"{self._flavour} refuses the {what}{_because(messages)}")


def _signature(engine: Untyped, mode: Untyped) -> tuple[TensorSpec, ...]:
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    return tuple(
        TensorSpec(
            name,
            np.dtype(numpy_dtype(engine.get_tensor_dtype(name))),
            tuple(
                f"axis{axis}" if size < 0 else size for axis, size in enumerate(tuple(engine.get_tensor_shape(name)))
            ),
        )
        for name in names
        if engine.get_tensor_mode(name) == mode
    )


def _batches(engine: Untyped, inputs: Mapping[str, TensorSpec]) -> tuple[int, int]:
    """The sizes that every dynamic axis may have, by the engine's only profile."""
    smallest, largest = 1, None
    for name, spec in inputs.items():
        low, _, high = engine.get_tensor_profile_shape(name, 0)
        for axis, size in enumerate(spec.shape):
            if isinstance(size, str):
                smallest = max(smallest, int(low[axis]))
                largest = int(high[axis]) if largest is None else min(largest, int(high[axis]))
    return smallest, largest or 1


def _scratch_bytes(engine: Untyped) -> int:
    for name in ("device_memory_size_v2", "device_memory_size"):
        size = getattr(engine, name, None)
        if size is not None:
            return int(size)
    raise EngineError("this TensorRT doesn't say how much scratch memory an engine wants; expected 10.3 or later")


def _because(messages: list[str]) -> str:
    return f" ({' '.join(messages[0].split())})" if messages else ""
