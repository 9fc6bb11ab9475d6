"""What is timed: the bundle on a device in a precision, the baselines, and a peer, each from decoded frame to poses."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt
from flops import count_cost

from measuring.turns import Frame
from sharpose.bundle import Bundle
from sharpose.config import ModelConfig
from sharpose.engines.base import Runner, TensorSpec
from sharpose.engines.device import parse_device
from sharpose.engines.load import load_graph
from sharpose.engines.precision import PrecisionChoice, choose_precision
from sharpose.errors import EngineError, InputError, require_packages
from sharpose.geometry import crop_frames, extract_crops
from sharpose.runtime import Boxes, PoseEstimator

STAGES = ("crop", "coarse", "gate", "gather", "fine", "map_back", "end_to_end")
OUTSIDE_ENGINES = ("crop", "gate", "gather", "map_back")
BASELINES = ("torch-eager", "torch-compiled", "dense", "both-stages")

Image = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Entry:
    """What to open. A baseline in PyTorch runs on the GPU if `device` is one, in float16 where `precision` is."""

    kind: str  # `engine`, one of `BASELINES`, or `peer`
    device: str = "cpu"
    precision: PrecisionChoice = "fp32"  # never `auto`
    file: str = ""  # the peer's ONNX file

    @property
    def name(self) -> str:
        """As reports have it: `cpu fp32`, `torch-eager cpu fp32`, `peer NAME cpu`."""
        if self.kind == "peer":
            return f"peer {Path(self.file).stem} {self.device}"
        return f"{'' if self.kind == 'engine' else self.kind + ' '}{self.device} {self.precision}"


def list_entries(
    bundle: Bundle,
    devices: Sequence[str],
    precisions: Sequence[PrecisionChoice],
    baselines: Sequence[str],
    peers: Sequence[Path],
) -> list[Entry]:
    """All that is compared: each device in each precision, then baselines, then peers on each device.

    `auto` becomes the precision that it stands for. PyTorch runs on the first device's kind of hardware.
    """
    engines = [
        Entry("engine", device, choose_precision(bundle, parse_device(device)) if precision == "auto" else precision)
        for device in devices
        for precision in precisions
    ]
    entries = list(dict.fromkeys(engines))
    for kind in baselines:
        if kind in ("torch-eager", "torch-compiled"):
            first = parse_device(devices[0])
            on_gpu = first.kind in ("cuda", "tensorrt", "ort-tensorrt")
            entries.append(Entry(kind, f"cuda:{first.index}", "fp16") if on_gpu else Entry(kind, "cpu", "fp32"))
        elif kind == "dense":  # int8 would have to be calibrated
            entries += [
                replace(entry, kind=kind) for entry in entries if entry.kind == "engine" and entry.precision != "int8"
            ]
        else:
            entries += [replace(entry, kind=kind) for entry in entries if entry.kind == "engine"]
    return entries + [Entry("peer", device, file=str(path)) for path in peers for device in devices]


class Contender:
    """Something opened that turns a picture with boxes into poses; see `open_contender`."""

    opened_s = 0.0  # seconds that opening it took

    def __init__(self, entry: Entry) -> None:
        self.entry = entry

    @property
    def name(self) -> str:
        """As reports have it."""
        return self.entry.name

    def frame(self, image: Image, boxes: Boxes) -> Frame:
        """A function that runs the picture with so many people refined, and gives seconds by stage."""
        raise NotImplementedError

    def multiply_adds(self, people: float, refined: float) -> dict[str, float]:
        """Work of a frame by stage; empty where it isn't known."""
        return {}

    def batches(self, people: int, refined: int) -> dict[str, list[int]]:
        """How many people each batch of a stage holds; empty where it isn't known."""
        return {}

    def close(self) -> None:
        """Free it."""


class _Estimator(Contender):
    """The pipeline around engines; the dense model is its coarse stage."""

    def __init__(self, entry: Entry, estimator: PoseEstimator) -> None:
        super().__init__(entry)
        self.estimator = estimator

    def _refined(self, people: int, refined: int) -> int:
        return {"dense": 0, "both-stages": people}.get(self.entry.kind, refined)

    def frame(self, image: Image, boxes: Boxes) -> Frame:
        def run(refined: int) -> dict[str, float]:
            rows = range(self._refined(len(boxes), refined))
            began = time.perf_counter()
            timings = asdict(self.estimator(image, boxes, rows=rows).timings)
            timings["end_to_end"] = time.perf_counter() - began
            return {stage: timings[stage] for stage in STAGES}

        return run

    def multiply_adds(self, people: float, refined: float) -> dict[str, float]:
        cost = count_cost(self.estimator.bundle.model, folded=self.entry.precision == "int8")
        if self.entry.kind == "dense":
            return {"coarse": people * cost.vitpose}
        refined = people if self.entry.kind == "both-stages" else refined
        return {"coarse": people * cost.coarse, "fine": refined * cost.fine}

    def batches(self, people: int, refined: int) -> dict[str, list[int]]:
        stages = self.estimator._stages
        sizes: dict[str, list[int]] = {}
        for start in range(0, people, stages.max_batch):  # chunks, as the pipeline runs them
            chunk = min(people - start, stages.max_batch)
            fine = min(max(self._refined(people, refined) - start, 0), chunk)
            sizes.setdefault("coarse", []).extend(stages.coarse_buckets.cut(chunk))
            if fine:
                sizes.setdefault("fine", []).extend(stages.fine_buckets.cut(fine))
        return sizes

    def close(self) -> None:
        self.estimator.close()


class _Peer(Contender):
    """Any ONNX model that takes crops: cropping, normalising and the graph are timed; its output isn't decoded."""

    def __init__(self, entry: Entry, config: ModelConfig) -> None:
        super().__init__(entry)
        self._config = config
        self._runner, self._batch = self._load(1)

    def _load(self, people: int) -> tuple[Runner, int]:
        batch = 1

        def fix(inputs: Sequence[TensorSpec]) -> Sequence[TensorSpec]:
            nonlocal batch
            shape = list(inputs[0].shape) if inputs else []
            channels = len(shape) == 4 and 3 in (shape[1], shape[3])
            if len(inputs) != 1 or not channels or inputs[0].dtype.name not in _PEER_DTYPES:
                found = ", ".join(map(str, inputs))
                raise InputError(
                    f"--peer {self.entry.file}: expected one input, [N, 3, H, W] or [N, H, W, 3], of float32, float16 "
                    f"or uint8, found {found}"
                )
            batch = shape[0] if isinstance(shape[0], int) else people
            shape[0] = batch
            sides = (1, 2) if shape[3] == 3 else (2, 3)
            for axis, size in zip(sides, self._config.crop_size, strict=True):
                shape[axis] = shape[axis] if isinstance(shape[axis], int) else size
            return [TensorSpec(inputs[0].name, inputs[0].dtype, tuple(shape))]

        return load_graph(Path(self.entry.file), fix, (self.entry.device,)), batch

    def frame(self, image: Image, boxes: Boxes) -> Frame:
        if self._batch != len(boxes):
            self._runner.close()
            self._runner, self._batch = self._load(len(boxes))
        (spec,) = self._runner.inputs.values()
        shape = cast("tuple[int, int, int, int]", spec.shape)
        last = shape[3] == 3
        size = (shape[1], shape[2]) if last else (shape[2], shape[3])
        crops = np.empty((-(-len(boxes) // self._batch) * self._batch, *size, 3), np.uint8)
        wanted = list(self._runner.outputs)

        def run(refined: int) -> dict[str, float]:
            began = time.perf_counter()
            extract_crops(image, crop_frames(boxes.xyxy, size), crops)
            inputs = _as_inputs(crops, spec.dtype, channels_last=last)
            cropped = time.perf_counter()
            for start in range(0, len(crops), self._batch):
                self._runner.run({spec.name: inputs[start : start + self._batch]}, wanted)
            ended = time.perf_counter()
            times = dict.fromkeys(STAGES, 0.0)
            return times | {"crop": cropped - began, "coarse": ended - cropped, "end_to_end": ended - began}

        return run

    def close(self) -> None:
        self._runner.close()


_PEER_DTYPES = ("float32", "float16", "uint8")


def _as_inputs(crops: Image, dtype: np.dtype[np.generic], *, channels_last: bool) -> npt.NDArray[np.generic]:
    if dtype == np.uint8:
        return crops if channels_last else np.ascontiguousarray(crops.transpose(0, 3, 1, 2))
    mean, scale = 127.5, 1 / 58.0  # of no account for the time
    if channels_last:
        return ((crops.astype(np.float32) - mean) * scale).astype(dtype)
    size = crops.shape[2], crops.shape[1]
    blob = cv2.dnn.blobFromImages(list(crops), scale, size, (mean, mean, mean))
    return np.ascontiguousarray(blob, dtype=dtype)


def check_packages(baselines: Sequence[str]) -> None:
    """Raises `EngineError` where a baseline needs PyTorch or the exporter and it isn't installed."""
    for kind in baselines:
        needed = {"dense": ("torch", "onnx", "onnxscript"), "both-stages": ()}.get(kind, ("torch",))
        require_packages(f"--baseline {kind}", needed, "export", EngineError)


def open_contender(entry: Entry, bundle: Bundle, folder: Path, threads: int | None) -> Contender:
    """Load an entry's engines.

    Args:
        entry: What to open.
        bundle: Whose model it is.
        folder: Where the dense model's bundle is written, or was written before.
        threads: CPU threads inside an operator; the engine's choice if None.

    Raises:
        SharposeError: the device, the precision, PyTorch or a compiler isn't there, or a graph can't be loaded.
    """
    path = bundle.path
    if entry.kind == "dense":
        path = folder
        if not folder.exists():
            from measuring.baselines import export_dense

            export_dense(bundle.model, folder, half="fp16" in bundle.precisions, max_batch=bundle.manifest.max_batch)
    began = time.perf_counter()
    contender: Contender
    if entry.kind == "peer":
        contender = _Peer(entry, bundle.model)
    elif entry.kind.startswith("torch"):
        from measuring.baselines import TorchTwoStage

        stages = TorchTwoStage(
            bundle.model,
            entry.device,
            bundle.manifest.max_batch,
            compiled=entry.kind == "torch-compiled",
            half=entry.precision == "fp16",
            threads=threads,
        )
        contender = _Estimator(entry, PoseEstimator.from_stages(bundle, stages))
    else:
        alpha = None if entry.kind == "dense" else bundle.model.alpha
        estimator = PoseEstimator(path, device=entry.device, precision=entry.precision, alpha=alpha, threads=threads)
        contender = _Estimator(entry, estimator)
    contender.opened_s = time.perf_counter() - began
    return contender
