"""Running a graph with ONNX Runtime, on a CPU or through its CUDA and TensorRT providers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from sharpose.bundle import GraphEntry
from sharpose.engines.base import DeviceTensor, HostArray, TensorSpec, Value, check_inputs, check_outputs, specs
from sharpose.engines.load import Device, parse_device
from sharpose.errors import EngineError, one_line

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["OnnxRuntimeRunner", "create_session"]

_PROVIDER = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "ort-tensorrt": "TensorrtExecutionProvider",
}
_NUMPY_NAMES = {
    "tensor(uint8)": "uint8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(float16)": "float16",
    "tensor(float)": "float32",
    "tensor(double)": "float64",
}


def create_session(path: Path, device: Device, *, threads: int | None = None) -> onnxruntime.InferenceSession:
    """An ONNX Runtime session that really uses the device's provider.

    Args:
        path: An ONNX file.
        device: Where to run.
        threads: Threads inside an operator; ONNX Runtime's own choice if None.

    Raises:
        EngineError: ONNX Runtime or the provider is not there, or the graph can't be loaded.
    """
    if device.kind not in _PROVIDER:
        raise EngineError(f"device {device}: ONNX Runtime doesn't run there; expected one of {', '.join(_PROVIDER)}")
    try:
        import onnxruntime as ort
    except ImportError:
        extra = "cpu" if device.kind == "cpu" else "gpu"
        raise EngineError(f'device {device} needs ONNX Runtime: pip install "sharpose[{extra}]"') from None
    provider = _PROVIDER[device.kind]
    if provider not in ort.get_available_providers():
        raise EngineError(
            f"device {device}: this onnxruntime has {', '.join(ort.get_available_providers())}, not {provider}; "
            'pip uninstall onnxruntime, then pip install "sharpose[gpu]"'
        )
    options = ort.SessionOptions()
    options.log_severity_level = 3  # its warnings about node placement are not the user's concern
    # Two sessions take turns. Threads of the one that has run would go on spinning and take the cores from the other:
    # measured on 2 cores, that makes a frame 1.5 to 1.8 times as slow.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        # Else a provider that fails, now or in a run, would be replaced by the CPU's.
        session = ort.InferenceSession(str(path), options, providers=_providers(device), enable_fallback=0)
    except Exception as error:  # ONNX Runtime's exceptions share no public base class
        raise EngineError(f"{path}: ONNX Runtime can't load it ({one_line(error)})") from error
    if provider not in session.get_providers():
        raise EngineError(
            f"device {device}: ONNX Runtime fell back to {', '.join(session.get_providers())}; "
            "check the GPU driver and that CUDA and cuDNN are the versions that onnxruntime-gpu was built for"
        )
    return session


def _providers(device: Device) -> list[Any]:
    if device.kind == "cpu":
        return [_PROVIDER["cpu"]]
    on_gpu = {"device_id": str(device.index)}
    chain: list[Any] = [(_PROVIDER["cuda"], on_gpu), _PROVIDER["cpu"]]
    if device.kind == "ort-tensorrt":
        chain.insert(0, (_PROVIDER["ort-tensorrt"], on_gpu))
    return chain


def _quiet_run() -> onnxruntime.RunOptions:
    import onnxruntime as ort

    options = ort.RunOptions()
    options.log_severity_level = 4  # what goes wrong is in the exception
    return options


class OnnxRuntimeRunner:
    """A graph of a bundle in an ONNX Runtime session; see `sharpose.engines.base.Runner`.

    Args:
        path: The ONNX file.
        entry: What the bundle declares of it; the file must agree.
        max_batch: The largest size of a dynamic axis.
        device: `cpu`, `cuda[:i]` or `ort-tensorrt[:i]`.
        threads: Threads inside an operator; ONNX Runtime's own choice if None.

    Raises:
        EngineError: see `create_session`; or the graph's inputs and outputs are not the declared ones.
    """

    def __init__(
        self, path: Path, entry: GraphEntry, max_batch: int, *, device: str = "cpu", threads: int | None = None
    ) -> None:
        where = parse_device(device)
        self.device = str(where)
        self.max_batch = max_batch
        declared_inputs, declared_outputs = specs(entry)
        self.inputs: Mapping[str, TensorSpec] = declared_inputs
        self.outputs: Mapping[str, TensorSpec] = declared_outputs
        self._memory = ("cpu", 0) if where.kind == "cpu" else ("cuda", where.index)
        self._session: onnxruntime.InferenceSession | None = create_session(path, where, threads=threads)
        self._quiet = _quiet_run()
        _check_declared(path, self._session.get_inputs(), declared_inputs)
        _check_declared(path, self._session.get_outputs(), declared_outputs)

    def run(
        self, inputs: Mapping[str, Value], outputs: Sequence[str], *, keep_on_device: Collection[str] = ()
    ) -> dict[str, Value]:
        """Run the graph; see `Runner.run`."""
        if self._session is None:
            raise EngineError("this engine was closed")
        check_inputs(inputs, self.inputs, self.max_batch)
        check_outputs(outputs, self.outputs)
        binding = self._session.io_binding()
        for name, value in inputs.items():
            if isinstance(value, np.ndarray):
                binding.bind_cpu_input(name, value)
            else:
                binding.bind_ortvalue_input(name, value)
        for name in outputs:
            place, index = self._memory if name in keep_on_device else ("cpu", 0)
            binding.bind_output(name, place, index)
        try:
            self._session.run_with_iobinding(binding, self._quiet)
        except Exception as error:  # ONNX Runtime's exceptions share no public base class
            raise EngineError(f"ONNX Runtime failed on {self.device}: {one_line(error)}") from error
        values = binding.get_outputs()
        return {
            name: cast(DeviceTensor, value) if name in keep_on_device else cast(HostArray, value.numpy())
            for name, value in zip(outputs, values, strict=True)
        }

    def close(self) -> None:
        """Free the session. May be called twice."""
        self._session = None


def _check_declared(path: Path, actual: Sequence[Any], declared: Mapping[str, TensorSpec]) -> None:
    """Raise `EngineError` where a graph's own signature is not what its bundle declares."""
    found = [TensorSpec(item.name, np.dtype(_NUMPY_NAMES.get(item.type, "O")), tuple(item.shape)) for item in actual]
    if found != list(declared.values()):
        expected_text = "; ".join(map(str, declared.values()))
        raise EngineError(f"{path}: expected {expected_text}; the graph has {'; '.join(map(str, found))}")
