"""Parity: do the exported graphs say what the PyTorch model says, on pictures?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from sharpose.config import ModelConfig
from sharpose.engines.base import Engine
from sharpose.engines.onnxrt import OnnxRuntimeEngine
from sharpose.export.graphs import CoarseGraph, FineGraph
from sharpose.export.onnx_export import COARSE_OUTPUTS, FINE_INPUTS, FINE_OUTPUTS
from sharpose.export.pictures import ParityPictures
from sharpose.manifest import GraphPair, OutputParity, ParityReport
from sharpose.model import SHaRPose
from sharpose.runtime.gather import gather_patches

__all__ = ["FP32_TOLERANCE", "measure_parity", "strict_failures"]

FP32_TOLERANCE = 1e-3
"""Share of its range that a heatmap or a quality may be off by."""

_STRICT_PIXELS_MEDIAN, _STRICT_PIXELS_P99 = 0.01, 0.1
_BATCH_SIZES = (1, 3, 8)
_ROUNDING = 1e-5  # an output that hardly varies (untrained quality) may still round differently

Arrays = dict[str, npt.NDArray[np.generic]]


def measure_parity(
    model: SHaRPose, folder: Path, pair: GraphPair, max_batch: int, pictures: ParityPictures
) -> ParityReport:
    """Compare PyTorch with ONNX Runtime on the CPU, output by output.

    The fine graph is given PyTorch's coarse outputs where its own arithmetic is judged (heatmaps), and the coarse
    graph's where the whole is (keypoints), so that a flipped region shows as that and not as a wrong heatmap. Crops
    are run in batches of 1, 3 and 8 in turn.

    Args:
        model: The model that was exported.
        folder: Where the graphs lie.
        pair: Their description.
        max_batch: The bundle's.
        pictures: Crops to run.
    """
    config = model.config
    sizes = tuple(size for size in _BATCH_SIZES if size <= max_batch)
    coarse_engine = OnnxRuntimeEngine(folder / pair.coarse.file, pair.coarse, max_batch)
    fine_engine = OnnxRuntimeEngine(folder / pair.fine.file, pair.fine, max_batch)
    coarse_torch, fine_torch = CoarseGraph(model).eval(), FineGraph(model).eval()
    collected: dict[str, list[Arrays]] = {"torch coarse": [], "torch fine": [], "coarse": [], "fine": [], "whole": []}
    for crops in _batches(pictures.crops, sizes):
        rows = np.arange(len(crops), dtype=np.int32)
        with torch.inference_mode():
            reference = _named(COARSE_OUTPUTS, coarse_torch(torch.from_numpy(crops)))
            patches = _patches(crops, rows, reference, config)
            fine_inputs: Arrays = {
                "rows": rows,
                "patches": patches,
                **{name: reference[name] for name in FINE_INPUTS[2:]},
            }
            tensors = [torch.from_numpy(fine_inputs[name]) for name in FINE_INPUTS]
            fine_reference = _named(FINE_OUTPUTS, fine_torch(*tensors))
        coarse = _run(coarse_engine, {"image": crops}, COARSE_OUTPUTS)
        fine = _run(fine_engine, fine_inputs, FINE_OUTPUTS)
        own = {name: coarse[name] for name in FINE_INPUTS[2:]}
        whole = _run(fine_engine, {"rows": rows, "patches": _patches(crops, rows, coarse, config), **own}, FINE_OUTPUTS)
        for name, arrays in zip(collected, (reference, fine_reference, coarse, fine, whole), strict=True):
            collected[name].append(arrays)
    joined = {name: _join(arrays) for name, arrays in collected.items()}
    return _report(joined, config, pictures, sizes)


def _report(
    runs: dict[str, Arrays], config: ModelConfig, pictures: ParityPictures, sizes: tuple[int, ...]
) -> ParityReport:
    outputs = [
        *_differences("coarse", runs["torch coarse"], runs["coarse"]),
        *_differences("fine", runs["torch fine"], runs["fine"]),
    ]
    selected = config.num_selected
    order, reference_order = runs["coarse"]["region_order"], runs["torch coarse"]["region_order"]
    same_set = (np.sort(order[:, :selected]) == np.sort(reference_order[:, :selected])).all(axis=1)
    gates = [run["quality"] < np.float32(config.quality_threshold) for run in (runs["torch coarse"], runs["coarse"])]
    pixels = np.concatenate(
        [
            _pixels(runs["torch coarse"]["keypoints"], runs["coarse"]["keypoints"]),
            _pixels(runs["torch fine"]["keypoints"], runs["whole"]["keypoints"]),
        ]
    )
    failures = [
        f"{item.graph} {item.output} off by {item.max_abs_difference:.3g}, "
        f"more than {FP32_TOLERANCE:g} of its range {item.reference_range:.3g}"
        for item in outputs
        if item.output in ("heatmaps", "quality")
        and not item.max_abs_difference <= max(FP32_TOLERANCE * item.reference_range, _ROUNDING)
    ]
    return ParityReport(
        pictures=pictures.origin,
        crops=len(pictures.crops),
        batch_sizes=sizes,
        outputs=tuple(outputs),
        region_set_agreement=float(same_set.mean()),
        gate_agreement=float((gates[0] == gates[1]).mean()),
        keypoint_pixels_median=float(np.median(pixels)),
        keypoint_pixels_p99=float(np.percentile(pixels, 99)),
        keypoint_pixels_max=float(pixels.max()),
        tolerance=FP32_TOLERANCE,
        failures=tuple(failures),
    )


def strict_failures(report: ParityReport) -> list[str]:
    """What `--strict-parity` also refuses: differing regions, flipped gates, keypoints that moved."""
    checks = [
        (report.region_set_agreement == 1, f"region sets agree on {report.region_set_agreement:.1%} of the crops"),
        (report.gate_agreement == 1, f"gate decisions agree on {report.gate_agreement:.1%} of the crops"),
        (
            report.keypoint_pixels_median <= _STRICT_PIXELS_MEDIAN,
            f"keypoints moved {report.keypoint_pixels_median:.3g} px at the median (limit {_STRICT_PIXELS_MEDIAN})",
        ),
        (
            report.keypoint_pixels_p99 <= _STRICT_PIXELS_P99,
            f"keypoints moved {report.keypoint_pixels_p99:.3g} px at the 99th percentile (limit {_STRICT_PIXELS_P99})",
        ),
    ]
    return [*report.failures, *(message for passed, message in checks if not passed)]


def _differences(graph: Literal["coarse", "fine"], reference: Arrays, actual: Arrays) -> Iterator[OutputParity]:
    for name, expected in reference.items():
        wide = expected.astype(np.float64)
        difference = np.abs(wide - actual[name].astype(np.float64))
        yield OutputParity(
            graph=graph,
            output=name,
            max_abs_difference=float(difference.max()),
            mean_abs_difference=float(difference.mean()),
            reference_range=float(wide.max() - wide.min()),
        )


def _pixels(reference: npt.NDArray[np.generic], actual: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    """Distances in crop pixels between two sets of keypoints [n, J, 3], flat."""
    offset = reference[..., :2].astype(np.float64) - actual[..., :2].astype(np.float64)
    distance: npt.NDArray[np.float64] = np.hypot(offset[..., 0], offset[..., 1]).ravel()
    return distance


def _batches(crops: npt.NDArray[np.uint8], sizes: tuple[int, ...]) -> Iterator[npt.NDArray[np.uint8]]:
    start, turn = 0, 0
    while start < len(crops):
        size = sizes[turn % len(sizes)]
        yield np.ascontiguousarray(crops[start : start + size])
        start, turn = start + size, turn + 1


def _patches(
    crops: npt.NDArray[np.uint8], rows: npt.NDArray[np.int32], coarse: Arrays, config: ModelConfig
) -> npt.NDArray[np.uint8]:
    return gather_patches(crops, rows, coarse["region_order"].astype(np.int32), config.num_selected)


def _named(names: list[str], tensors: tuple[torch.Tensor, ...]) -> Arrays:
    return {name: tensor.contiguous().numpy() for name, tensor in zip(names, tensors, strict=True)}


def _run(engine: Engine, inputs: Arrays, outputs: list[str]) -> Arrays:
    found = engine.run(inputs, outputs)
    return {name: value for name, value in found.items() if isinstance(value, np.ndarray)}


def _join(batches: list[Arrays]) -> Arrays:
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
