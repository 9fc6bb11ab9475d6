"""Int8 graphs: what is quantised, what isn't, and that the result still finds poses."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx
import pytest
from reference_model import reference_crops

from sharpose.bundle import Bundle
from sharpose.engines.onnxrt import OnnxRuntimeRunner
from sharpose.engines.stages import EngineStages
from sharpose.export.parity import compare, failures, run_stages, tolerance_for
from sharpose.export.quantisation import quantise_graphs


def _quantised(graph: onnx.GraphProto) -> set[str]:
    """Outputs of the linear nodes that take dequantised inputs."""
    makers = {output: node.op_type for node in graph.node for output in node.output}
    linear = [node for node in graph.node if node.op_type in ("MatMul", "Gemm")]
    return {node.output[0] for node in linear if {makers.get(name) for name in node.input[:2]} == {"DequantizeLinear"}}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_linear_layers_and_nothing_else_are_quantised(two_precisions: Bundle, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(two_precisions.path, tmp_path / "bundle"))
    entries = [two_precisions.graph(stage)[1] for stage in ("coarse", "fine")]
    exact = EngineStages(
        two_precisions.model,
        "fp32",
        *(OnnxRuntimeRunner(folder / entry.file, entry, 4, threads=1) for entry in entries),
    )
    config = two_precisions.model
    crops = reference_crops(4, config.crop_size)
    models = quantise_graphs(folder / "coarse.onnx", folder / "fine.onnx", exact, crops)

    blocks, head, reuse = 4 * config.depth, 1, 2
    assert len(_quantised(models[0].graph)) == blocks + head
    assert len(_quantised(models[1].graph)) == blocks + head + reuse
    for model in models:
        assert not any(node.output[0] in _quantised(model.graph) for node in model.graph.node if node.op_type == "Gemm")

    files = [tmp_path / "coarse.onnx", tmp_path / "fine.onnx"]
    for file, model in zip(files, models, strict=True):
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, file)
    rough = EngineStages(
        config,
        "int8",
        *(OnnxRuntimeRunner(file, entry, 4, threads=1) for file, entry in zip(files, entries, strict=True)),
    )
    reference = run_stages(exact, crops, (4,))
    runs = run_stages(rough, crops, (4,), reference)
    tolerance = tolerance_for("int8")
    report = compare(reference, runs, config, 0.99, tolerance, pictures="crops", judged="int8", sizes=(4,))
    assert report.experimental
    assert failures(report, tolerance) == []
    heatmaps = next(item for item in report.outputs if (item.graph, item.output) == ("fine", "heatmaps"))
    assert 1e-4 < heatmaps.max_abs_difference / heatmaps.reference_range < 0.1
