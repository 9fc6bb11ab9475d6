"""A model becomes a bundle, all or nothing."""

import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from reference_model import reference_crops

from sharpose.bundle import open_bundle
from sharpose.errors import ExportError, ParityError
from sharpose.export import bundle as bundle_export
from sharpose.export.bundle import ExportOptions, ParityReportError, export_bundle
from sharpose.export.pictures import ParityPictures
from sharpose.model import random_model


@pytest.fixture(scope="module")
def loaded(tiny_bundle):
    return random_model(open_bundle(tiny_bundle).model, seed=0)


@pytest.fixture
def pictures():
    return ParityPictures(reference_crops(2, (256, 192)), "blocks")


@pytest.fixture
def traced(tiny_bundle, monkeypatch):
    """Spares the tracing: the tiny bundle's own graphs come out of it, after `change` was done to them."""

    def prepare(change=lambda coarse, fine: None):
        def export_graphs(model, *, max_batch, opset):
            graphs = [onnx.load(str(tiny_bundle / f"{stage}.onnx")) for stage in ("coarse", "fine")]
            change(*graphs)
            return tuple(graphs)

        monkeypatch.setattr(bundle_export, "export_graphs", export_graphs)

    return prepare


def corrupt(coarse, fine):
    """Negate one weight matrix of the fine graph."""
    tensor = max(fine.graph.initializer, key=lambda item: len(item.raw_data))
    values = numpy_helper.to_array(tensor)
    assert values.dtype == np.float32
    tensor.CopyFrom(numpy_helper.from_array(-values, tensor.name))


def test_the_bundle_says_where_it_came_from(tiny_bundle, loaded):
    manifest = open_bundle(tiny_bundle).manifest
    assert sorted(file.name for file in tiny_bundle.iterdir()) == [
        "bundle.json",
        "coarse.onnx",
        "fine.onnx",
        "weights.bin",
    ]
    assert manifest.source == "random weights, seed 0"
    assert manifest.model == loaded.config
    assert manifest.gate.quality_threshold == 0.99
    assert manifest.gate.chosen_by == "the tests"
    assert manifest.max_batch == 16
    assert manifest.parity["fp32"].failures == ()
    assert manifest.parity["fp32"].pictures == "blocks of colour"
    assert manifest.parity["fp32"].crops == 4


def test_what_is_returned_is_what_was_written(loaded, pictures, traced, tmp_path):
    traced()
    steps = []
    options = ExportOptions(max_batch=4, gate_chosen_by="hand")
    manifest = export_bundle(loaded, tmp_path / "bundle", pictures, options, say=steps.append)
    assert open_bundle(tmp_path / "bundle").manifest == manifest
    assert (manifest.max_batch, manifest.gate.chosen_by) == (4, "hand")
    assert manifest.parity["fp32"].batch_sizes == (1, 3)
    assert len(steps) >= 3
    assert "blocks" in steps[-1]


def test_failed_parity_leaves_nothing(loaded, pictures, traced, tmp_path):
    traced(corrupt)
    with pytest.raises(ParityReportError, match="fine heatmaps off by") as failed:
        export_bundle(loaded, tmp_path / "bundle", pictures)
    assert failed.value.exit_code == 1
    assert isinstance(failed.value, ParityError)
    assert failed.value.reports["fp32"].failures
    assert list(tmp_path.iterdir()) == []


def test_failed_parity_keeps_the_bundle_that_was_there(loaded, pictures, traced, tmp_path, tiny_bundle):
    shutil.copytree(tiny_bundle, tmp_path / "bundle")
    traced(corrupt)
    with pytest.raises(ParityError):
        export_bundle(loaded, tmp_path / "bundle", pictures, ExportOptions(overwrite=True))
    assert open_bundle(tmp_path / "bundle").manifest == open_bundle(tiny_bundle).manifest
    assert [entry.name for entry in tmp_path.iterdir()] == ["bundle"]


def test_an_existing_output_is_refused_before_anything_is_done(loaded, pictures, traced, tmp_path):
    traced(lambda coarse, fine: pytest.fail("traced all the same"))
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "mine.txt").write_text("dear")
    with pytest.raises(ExportError, match="already exists"):
        export_bundle(loaded, tmp_path / "bundle", pictures)
    with pytest.raises(ExportError, match="is not a bundle"):
        export_bundle(loaded, tmp_path / "bundle", pictures, ExportOptions(overwrite=True))
    assert (tmp_path / "bundle" / "mine.txt").read_text() == "dear"


def test_overwrite_replaces_a_bundle(loaded, pictures, traced, tmp_path, tiny_bundle):
    shutil.copytree(tiny_bundle, tmp_path / "bundle")
    (tmp_path / "bundle" / "left over").write_text("")
    traced()
    export_bundle(loaded, tmp_path / "bundle", pictures, ExportOptions(overwrite=True, gate_chosen_by="hand"))
    assert open_bundle(tmp_path / "bundle").manifest.gate.chosen_by == "hand"
    assert not (tmp_path / "bundle" / "left over").exists()


def test_a_graph_that_breaks_onnxs_rules_is_refused(loaded, pictures, traced, tmp_path):
    def break_it(coarse, fine):
        fine.graph.node[0].op_type = "NoSuchOperator"

    traced(break_it)
    with pytest.raises(ExportError, match=r"fine\.onnx: not a valid ONNX graph"):
        export_bundle(loaded, tmp_path / "bundle", pictures)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "words"), [({"max_batch": 0}, "at least 1, got 0"), ({"precisions": ()}, "precisions")]
)
def test_options_that_make_no_sense(options, words):
    with pytest.raises(ExportError, match=words):
        ExportOptions(**options)


KILLED = """
import pathlib, sys, time
import onnx
from reference_model import reference_crops
from sharpose.bundle import open_bundle
from sharpose.export import bundle as bundle_export
from sharpose.export.pictures import ParityPictures
from sharpose.model import random_model

tiny, output = map(pathlib.Path, sys.argv[1:])
graphs = tuple(onnx.load(str(tiny / f"{stage}.onnx")) for stage in ("coarse", "fine"))
bundle_export.export_graphs = lambda *arguments, **options: graphs

def say(step):
    print(step, flush=True)
    if step.startswith("comparing"):
        time.sleep(60)

loaded = random_model(open_bundle(tiny).model)
bundle_export.export_bundle(loaded, output, ParityPictures(reference_crops(2, (256, 192)), "blocks"), say=say)
"""


def test_a_killed_export_leaves_no_bundle(tiny_bundle, tmp_path):
    import reference_model

    environment = os.environ | {"PYTHONPATH": str(tmp_path / "lib")}
    (tmp_path / "lib").mkdir()
    shutil.copy(reference_model.__file__, tmp_path / "lib")
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tiny_bundle), str(tmp_path / "out" / "bundle")],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    steps = []
    for line in process.stdout:
        steps.append(line)
        if line.startswith("comparing"):
            break
    (unfinished,) = (tmp_path / "out").iterdir()
    written = {file.name for file in unfinished.iterdir()}
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)
    process.stdout.close()
    assert len(steps) >= 3
    assert {"coarse.onnx", "fine.onnx", "weights.bin"} <= written  # it was far on
    assert not (tmp_path / "out" / "bundle").exists()
    assert unfinished.name.startswith(".bundle.unfinished-")
