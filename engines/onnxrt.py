"""Running a graph with ONNX Runtime, on a CPU or through its CUDA, TensorRT, CoreML and DirectML providers."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import io
import json
import logging
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sharpose.bundle import PATCHES_AXIS, GraphEntry
from sharpose.engines import Untyped
from sharpose.engines.base import FixInputs, GraphError, Runner, TensorSpec, Value, check_signature, specs
from sharpose.engines.device import Device, parse_device
from sharpose.engines.gpu import DRIVER_LIBRARY, probe_gpu
from sharpose.engines.load import OnnxRuntimeSettings
from sharpose.errors import EngineError, how_to_install, one_line
from sharpose.files import cache_folder
from sharpose.onnx_file import graph_sha256

if TYPE_CHECKING:
    import onnxruntime

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "ort-tensorrt": "TensorrtExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "directml": "DmlExecutionProvider",
}
"""The provider of each kind of device."""
ON_NVIDIA = frozenset({"cuda", "ort-tensorrt"})
"""Kinds of devices whose providers need CUDA."""
_DTYPES = {"tensor(float)": "float32", "tensor(double)": "float64"} | {
    f"tensor({name})": name for name in ("uint8", "int32", "int64", "float16", "bool")
}
_TYPICAL_BATCH = 4
_NO_PROFILE = "provide all the dynamic shape inputs"  # of the parts that the TensorRT provider makes of a graph
_log = logging.getLogger("sharpose.onnxruntime")


def create_session(
    path: Path,
    device: Device,
    settings: OnnxRuntimeSettings | None = None,
    *,
    threads: int | None = None,
    profiles: Mapping[str, TensorSpec] | None = None,
    max_batch: int = 1,
    patches: int | None = None,
) -> onnxruntime.InferenceSession:
    """An ONNX Runtime session that really uses the device's provider.

    Args:
        path: The ONNX file.
        device: One whose kind is in `PROVIDERS`.
        settings: How to run on a GPU; the default ones if None.
        threads: CPU threads inside an operator; ONNX Runtime's own choice if None.
        profiles: Inputs whose dynamic axes are 1 to `max_batch` long, for TensorRT to build one engine for all sizes.
        max_batch: Likewise.
        patches: Size of a fine graph's axis `PATCHES_AXIS`; as the graph has it if None.

    Raises:
        GraphError: the graph can't be loaded.
        EngineError: ONNX Runtime, the provider or a library that it needs is not there.
    """
    if device.kind not in PROVIDERS:
        raise EngineError(f"device {device}: ONNX Runtime doesn't run there; expected one of {', '.join(PROVIDERS)}")
    try:
        import onnxruntime as ort
    except ImportError:
        raise EngineError(f"device {device} needs ONNX Runtime: {how_to_get(device.kind)}") from None
    provider = PROVIDERS[device.kind]
    if provider not in ort.get_available_providers():
        raise EngineError(
            f"device {device}: this onnxruntime has {', '.join(ort.get_available_providers())}, not {provider}; "
            f"{how_to_get(device.kind, instead=True)}"
        )
    options = ort.SessionOptions()
    options.log_severity_level = 3  # its warnings about node placement are not the user's concern
    # Two sessions take turns. Threads of the one that has run would go on spinning and take the cores from the other:
    # measured on 2 cores, that makes a frame 1.5 to 1.8 times as slow.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # Within a run, they wait actively for 20 microseconds, with pauses, instead of 1000: no slower alone, and a decoder
    # and an encoder beside them lose less time. Older versions ignore both.
    options.add_session_config_entry("session.intra_op.spin_duration_us", "20")
    options.add_session_config_entry("session.intra_op.spin_backoff_max", "8")
    if threads is not None:
        options.intra_op_num_threads = threads
    if patches is not None:  # the session is then that of a graph with a fixed number: as fast, the same to the bit
        options.add_free_dimension_override_by_name(PATCHES_AXIS, patches)
    if device.kind in ON_NVIDIA:
        preload_cuda()
    elif device.kind == "directml":
        options.enable_mem_pattern = False  # which its provider can't have
    if device.kind != "cpu":
        CpuNodes.prepare(options)
    settings = settings or OnnxRuntimeSettings()
    providers = _providers(path, device, settings, profiles or {}, max_batch, patches)
    try:
        # Else a provider that fails, now or in a run, would be replaced by the CPU's.
        session = ort.InferenceSession(str(path), options, providers=providers, enable_fallback=0)
    except Exception as error:  # ONNX Runtime's exceptions share no public base class
        if device.kind == "ort-tensorrt" and profiles and _NO_PROFILE in str(error):
            (settings.say or _log.info)(
                f"{path.name} on {device}: ONNX Runtime splits the graph, and then takes no profiles: it builds an "
                "engine for the first batch, and again for every larger or smaller one"
            )
            return create_session(path, device, settings, threads=threads, patches=patches)
        raise GraphError(f"{path}: ONNX Runtime can't load it ({one_line(error)})") from error
    if provider not in session.get_providers():
        fell_back = ", ".join(session.get_providers())
        raise EngineError(f"device {device}: ONNX Runtime fell back to {fell_back}; {_mend(device.kind)}")
    return session


def how_to_get(kind: str, *, instead: bool = False) -> str:
    """What to do for an ONNX Runtime that has the provider of a kind of device; `instead` of another one."""
    system, needed = {"coreml": ("macOS", "darwin"), "directml": ("Windows", "win32")}.get(kind, ("", sys.platform))
    if sys.platform != needed:
        return f"it is for {system} alone: use device cpu, or auto for the best here"
    extra = {"cpu": "cpu", "coreml": "cpu", "directml": "directml"}.get(kind, "gpu")
    return f"{'pip uninstall onnxruntime, then ' if instead else ''}{how_to_install(extra)}"


def _mend(kind: str) -> str:
    """What to do where a provider is there and doesn't start."""
    if kind == "coreml":
        return "it needs macOS 12 or later"
    if kind == "directml":
        return "it needs Windows 10 (1903) or later, and a GPU of that number with a driver for DirectX 12"
    return str(
        missing_library(kind) or "check the GPU driver, and the version of CUDA that onnxruntime-gpu was built for"
    )


@functools.cache
def preload_cuda() -> None:
    """Load the CUDA and cuDNN libraries that pip installed, which ONNX Runtime's own search doesn't find.

    Once a process, before its first session on a GPU. Without effect before ONNX Runtime 1.21 and where they are
    elsewhere: a library that is missing after all is named by `missing_library`.
    """
    import onnxruntime as ort

    preload = getattr(ort, "preload_dlls", None)
    if preload is not None:
        # It prints what it can't load; standard output is for results.
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(Exception):
            preload()


@dataclass(frozen=True)
class MissingLibrary:
    """A library that a provider needs."""

    problem: str  # its name, and why it can't be loaded
    mend: str  # what to do

    def __str__(self) -> str:
        return f"{self.problem}; {self.mend}"


def missing_library(kind: str) -> MissingLibrary | None:
    """The first library that the provider of a kind of device needs and that can't be loaded; None if all can.

    Those of CUDA are tried in the version that ONNX Runtime was built for, 12 where it doesn't say.
    """
    import onnxruntime as ort

    cuda = str(getattr(ort, "cuda_version", "") or "12").partition(".")[0]
    versions = {"cudart": cuda, "cublasLt": cuda, "cublas": cuda, "curand": "10"}
    versions |= {"cufft": "11" if cuda == "12" else "12", "cudnn": "9"}
    names = [_library(name, version) for name, version in versions.items()]
    extra = "gpu-cu12" if cuda == "12" else "gpu"
    mends = {DRIVER_LIBRARY: "install NVIDIA's driver"}
    mends |= dict.fromkeys(names, f"{how_to_install(extra)} brings CUDA {cuda} and cuDNN")
    if kind == "ort-tensorrt":
        names = [_library(name, "10") for name in ("nvinfer", "nvonnxparser")]
        mends |= dict.fromkeys(names, "install TensorRT 10 from NVIDIA")
    for name, mend in mends.items():
        try:
            ctypes.CDLL(name)
        except OSError as error:
            return MissingLibrary(f"{name} can't be loaded ({one_line(error)})", mend)
    return None


def _library(name: str, version: str) -> str:
    """The file of a library of NVIDIA's, as the system's loader finds it: `libcudart.so.12`, `cudart64_12.dll`."""
    on_windows = f"{name}{'_' if name.startswith('nv') else '64_'}{version}.dll"
    return on_windows if sys.platform == "win32" else f"lib{name}.so.{version}"


def _providers(
    path: Path,
    device: Device,
    settings: OnnxRuntimeSettings,
    profiles: Mapping[str, TensorSpec],
    max_batch: int,
    patches: int | None,
) -> list[Untyped]:
    """The device's provider and those that take what it leaves, with their options."""
    if device.kind == "cpu":
        return [PROVIDERS["cpu"]]
    if device.kind == "coreml":
        # The other format of models, its default, computes float32 graphs in half precision.
        return [(PROVIDERS["coreml"], {"ModelFormat": "MLProgram", "MLComputeUnits": "ALL"}), PROVIDERS["cpu"]]
    if device.kind == "directml":
        return [(PROVIDERS["directml"], {"device_id": str(device.index)}), PROVIDERS["cpu"]]
    on_gpu = {"device_id": str(device.index)}
    cuda = on_gpu | {
        "use_tf32": str(int(settings.tf32)),  # on by default
        "cudnn_conv_algo_search": "HEURISTIC",  # EXHAUSTIVE, the default, tries all algorithms for every new batch size
    }
    others = [(PROVIDERS["cuda"], cuda), PROVIDERS["cpu"]]
    if device.kind == "cuda":
        return others
    if not settings.tf32:
        # The provider has no option for it. TensorRT reads this as it builds an engine, cuBLAS as it starts.
        os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")
    folder = _engine_folder(path, device, settings, patches)
    tensorrt = on_gpu | {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(folder.parent),
    }
    # Without profiles, TensorRT would build an engine for the first batch and again for every larger or smaller one.
    sizes = {"min": 1, "opt": min(_TYPICAL_BATCH, max_batch), "max": max_batch}
    for which, size in sizes.items() if profiles else ():
        shapes = {
            name: [size if isinstance(axis, str) else axis for axis in spec.shape] for name, spec in profiles.items()
        }
        tensorrt[f"trt_profile_{which}_shapes"] = ",".join(
            f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items()
        )
    return [(PROVIDERS["ort-tensorrt"], tensorrt), *others]


def _engine_folder(path: Path, device: Device, settings: OnnxRuntimeSettings, patches: int | None) -> Path:
    """Where the TensorRT provider keeps a graph's engines, made if it isn't there.

    The provider itself tells engines apart by the graph's file name and structure. It takes one that was built from
    other weights, for other patches, by another TensorRT or for another GPU, so each of them has a folder of its own.
    """
    import onnxruntime as ort

    key = [graph_sha256(path), patches, ort.__version__, _tensorrt_version()]
    key += [repr(probe_gpu(device.index)), settings.tf32]
    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24]
    folder = (settings.engine_cache or cache_folder()) / "onnxruntime" / f"{path.stem}-{name}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EngineError(
            f"engine cache {folder}: can't be made ({error.strerror}); give a writable --engine-cache"
        ) from error
    return folder


def _tensorrt_version() -> int | None:
    try:
        return int(ctypes.CDLL(_library("nvinfer", "10")).getInferLibVersion())
    except (OSError, AttributeError):
        return None


class CpuNodes:
    """The nodes of a session on a GPU that ONNX Runtime gave to the CPU, by their operators.

    ONNX Runtime says it from 1.24 on. Earlier versions write it into the profile of the session's first run.
    """

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session

    @staticmethod
    def prepare(options: onnxruntime.SessionOptions) -> None:
        """Have a session keep where its nodes are; before it is made."""
        import onnxruntime as ort

        if hasattr(ort.InferenceSession, "get_provider_graph_assignment_info"):
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        else:
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(tempfile.mkdtemp(prefix="sharpose-")) / "profile")

    def count(self) -> tuple[Counter[str], int]:
        """Operators on the CPU, and how many nodes there are in all. After a run; only once."""
        placed = self._assigned() if hasattr(self._session, "get_provider_graph_assignment_info") else self._profiled()
        on_cpu = Counter[str]()
        for (provider, operator), count in placed.items():
            if provider == PROVIDERS["cpu"]:
                on_cpu[operator] += count
        return on_cpu, placed.total()

    def describe(self, what: str) -> str | None:
        """One line; None where the GPU has all nodes."""
        on_cpu, nodes = self.count()
        if not on_cpu:
            return None
        operators = ", ".join(f"{operator} {count}" for operator, count in on_cpu.most_common())
        return f"{what}: {on_cpu.total()} of {nodes} nodes run on the CPU ({operators})"

    def close(self) -> None:
        """Remove the profile of a session that never ran."""
        if self._session.get_session_options().enable_profiling:
            self._profiled()

    def _assigned(self) -> Counter[tuple[str, str]]:
        parts = self._session.get_provider_graph_assignment_info()
        return Counter((part.ep_name, node.op_type) for part in parts for node in part.get_nodes())

    def _profiled(self) -> Counter[tuple[str, str]]:
        file = Path(self._session.end_profiling())
        events = json.loads(file.read_text("utf-8"))
        shutil.rmtree(file.parent, ignore_errors=True)
        nodes = {
            event["args"]["node_index"]: (event["args"]["provider"], event["args"]["op_name"])
            for event in events
            if event.get("cat") == "Node" and "provider" in event["args"]
        }
        return Counter(nodes.values())


class OnnxRuntimeRunner(Runner):
    """An ONNX file in an ONNX Runtime session.

    Args:
        path: The ONNX file.
        declared: What a bundle declares of it; the file must agree. Or, for any other file, what gives every input a
            fixed shape.
        max_batch: Largest size of a dynamic axis.
        device: One whose kind is in `PROVIDERS`.
        threads: CPU threads inside an operator; ONNX Runtime's own choice if None.
        settings: How to run on a GPU; the default ones if None.

    Raises:
        EngineError: see `create_session`; or the graph's inputs and outputs are not the declared ones.
    """

    def __init__(
        self,
        path: Path,
        declared: GraphEntry | FixInputs,
        max_batch: int,
        *,
        device: str = "cpu",
        threads: int | None = None,
        settings: OnnxRuntimeSettings | None = None,
    ) -> None:
        where = parse_device(device)
        # What stays on a device of CoreML or DirectML waits in the host's memory.
        self._memory = ("cuda", where.index) if where.kind in ON_NVIDIA else ("cpu", 0)
        profiles = specs(declared)[0] if isinstance(declared, GraphEntry) else None
        patches = declared.patches if isinstance(declared, GraphEntry) else None
        self._session = create_session(
            path,
            where,
            settings,
            threads=threads,
            profiles=profiles,
            max_batch=max_batch,
            patches=patches if isinstance(patches, int) else None,
        )
        found_inputs, found_outputs = (
            [_spec(path, item) for item in items] for items in (self._session.get_inputs(), self._session.get_outputs())
        )
        if isinstance(declared, GraphEntry):
            inputs, outputs = specs(declared)
            check_signature(str(path), found_inputs, list(inputs.values()))
            check_signature(str(path), found_outputs, list(outputs.values()))
        else:
            inputs = {spec.name: spec for spec in declared(found_inputs)}
            outputs = {spec.name: spec for spec in found_outputs}
        super().__init__(str(where), inputs, outputs, max_batch)
        import onnxruntime as ort

        self._quiet = ort.RunOptions()
        self._quiet.log_severity_level = 4  # what goes wrong is in the exception
        self._name = path.name
        self._say = _log.info if settings is None or settings.say is None else settings.say
        self._cpu_nodes = None if where.kind == "cpu" else CpuNodes(self._session)

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
        if self._cpu_nodes is not None:
            line, self._cpu_nodes = self._cpu_nodes.describe(f"{self._name} on {self.device}"), None
            if line is not None:
                self._say(line)
        values = zip(outputs, binding.get_outputs(), strict=True)
        return {name: value if name in kept else value.numpy() for name, value in values}

    def terminate(self) -> None:
        """See `Runner.terminate`: ONNX Runtime looks between two operators."""
        self._quiet.terminate = True

    def _free(self) -> None:
        if self._cpu_nodes is not None:
            self._cpu_nodes.close()
        del self._session


def _spec(path: Path, item: onnxruntime.NodeArg) -> TensorSpec:
    if not item.type.startswith("tensor("):
        raise GraphError(f"{path}: expected tensors as inputs and outputs, found {item.name} {item.type}")
    # A dynamic axis is a name, None, or a number that is none.
    shape = (
        axis if isinstance(axis, str) or (axis is not None and axis > 0) else f"axis{place}"
        for place, axis in enumerate(item.shape)
    )
    return TensorSpec(item.name, np.dtype(_DTYPES.get(item.type, "O")), tuple(shape))
