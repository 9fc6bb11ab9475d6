"""Running a graph with ONNX Runtime, on a CPU or through its CUDA and TensorRT providers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sharpose.bundle import GraphEntry
from sharpose.engines import Untyped
from sharpose.engines.base import Runner, TensorSpec, Value, check_signature, specs
from sharpose.engines.load import Device, parse_device
from sharpose.errors import EngineError, one_line

if TYPE_CHECKING:
    import onnxruntime

_PROVIDER = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "ort-tensorrt": "TensorrtExecutionProvider",
}
_DTYPES = {"tensor(float)": "float32", "tensor(double)": "float64"} | {
    f"tensor({name})": name for name in ("uint8", "int32", "int64", "float16")
}


def create_session(path: Path, device: Device, *, threads: int | None = None) -> onnxruntime.InferenceSession:
    """An ONNX Runtime session that really uses the device's provider; `threads` as for `OnnxRuntimeRunner`.

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


def _providers(device: Device) -> list[Untyped]:
    """The device's provider and those that take what it leaves, with their options."""
    if device.kind == "cpu":
        return [_PROVIDER["cpu"]]
    on_gpu = {"device_id": str(device.index)}
    kinds = ("ort-tensorrt", "cuda") if device.kind == "ort-tensorrt" else ("cuda",)
    return [*((_PROVIDER[kind], on_gpu) for kind in kinds), _PROVIDER["cpu"]]


class OnnxRuntimeRunner(Runner):
    """A graph of a bundle in an ONNX Runtime session.

    Args:
        path: The ONNX file.
        entry: What the bundle declares of it; the file must agree.
        max_batch: Largest size of a dynamic axis.
        device: `cpu`, `cuda[:i]` or `ort-tensorrt[:i]`.
        threads: Threads inside an operator; ONNX Runtime's own choice if None.

    Raises:
        EngineError: see `create_session`; or the graph's inputs and outputs are not the declared ones.
    """

    def __init__(
        self, path: Path, entry: GraphEntry, max_batch: int, *, device: str = "cpu", threads: int | None = None
    ) -> None:
        where = parse_device(device)
        super().__init__(str(where), *specs(entry), max_batch)
        self._memory = ("cpu", 0) if where.kind == "cpu" else ("cuda", where.index)
        self._session = create_session(path, where, threads=threads)
        import onnxruntime as ort

        self._quiet = ort.RunOptions()
        self._quiet.log_severity_level = 4  # what goes wrong is in the exception
        for items, declared in ((self._session.get_inputs(), self.inputs), (self._session.get_outputs(), self.outputs)):
            found = [TensorSpec(item.name, np.dtype(_DTYPES.get(item.type, "O")), tuple(item.shape)) for item in items]
            check_signature(str(path), found, list(declared.values()))

    def _run(
        self, inputs: Mapping[str, Value], sizes: Mapping[str, int], outputs: Sequence[str], kept: Collection[str]
    ) -> dict[str, Value]:
        binding = self._session.io_binding()
        for name, value in inputs.items():
            if isinstance(value, np.ndarray):
                binding.bind_cpu_input(name, value)
            else:
                binding.bind_ortvalue_input(name, value)
        for name in outputs:
            binding.bind_output(name, *(self._memory if name in kept else ("cpu", 0)))
        try:
            self._session.run_with_iobinding(binding, self._quiet)
        except Exception as error:  # ONNX Runtime's exceptions share no public base class
            raise EngineError(f"ONNX Runtime failed on {self.device}: {one_line(error)}") from error
        values = zip(outputs, binding.get_outputs(), strict=True)
        return {name: value if name in kept else value.numpy() for name, value in values}

    def _free(self) -> None:
        del self._session
