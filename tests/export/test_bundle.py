"""A bundle is written whole or not at all."""

import dataclasses
import os
import shutil
import signal
import time

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from reference_model import reference_crops
from score_tables import score_tables

from sharpose.bundle import GainCurve, Gate, open_bundle
from sharpose.cli import Terminated, interruptible
from sharpose.errors import ExportError, ParityError
from sharpose.export import bundle as bundle_export
from sharpose.export.bundle import ExportOptions, ParityReportError, export_bundle
from sharpose.export.output import atomic_folder, check_output
from sharpose.export.pictures import ParityPictures
from sharpose.model import random_model

GAIN = GainCurve(quality=(0.25, 0.75), gain=(0.125, -0.0625), measured_on="a test")


@pytest.fixture(scope="module")
def loaded(nano_config):
    return random_model(nano_config, seed=0)


@pytest.fixture
def pictures(nano_config):
    return ParityPictures(reference_crops(2, nano_config.crop_size), "blocks")


@pytest.fixture
def traced(nano_bundle, monkeypatch):
    """Spares the tracing: the nano bundle's own graphs come out of it, after `change` was done to them."""

    def prepare(change=lambda coarse, fine: None):
        def export_graphs(model, *, max_batch, opset, translations):
            graphs = [onnx.load(str(nano_bundle / f"{stage}.onnx")) for stage in ("coarse", "fine")]
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


def test_the_bundle_says_where_it_came_from(nano_bundle, loaded):
    manifest = open_bundle(nano_bundle).manifest
    assert sorted(file.name for file in nano_bundle.iterdir()) == [
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
    of_a_bundle = dataclasses.replace(loaded, gate=Gate(quality_threshold=0.5, chosen_by="a choice", gain=GAIN))
    manifest = export_bundle(of_a_bundle, tmp_path / "bundle", pictures, options, say=steps.append)
    assert open_bundle(tmp_path / "bundle").manifest == manifest
    assert manifest.max_batch == 4
    assert manifest.gate == Gate(quality_threshold=0.99, chosen_by="hand", gain=GAIN)  # another threshold was given
    assert manifest.parity["fp32"].batch_sizes == (1, 3)
    assert len(steps) >= 3
    assert "blocks" in steps[-1]


def test_score_tables_and_the_gate_are_carried_over(loaded, pictures, traced, tmp_path, nano_bundle):
    traced()
    gate = Gate(quality_threshold=loaded.config.quality_threshold, chosen_by="a choice", gain=GAIN)
    fitted = dataclasses.replace(loaded, scores=score_tables(), gate=gate)
    manifest = export_bundle(fitted, tmp_path / "bundle", pictures, ExportOptions(max_batch=1))
    assert open_bundle(tmp_path / "bundle").manifest.scores == manifest.scores == score_tables()
    assert manifest.gate == gate
    assert '"scores"' not in (nano_bundle / "bundle.json").read_text()


def test_failed_parity_leaves_nothing(loaded, pictures, traced, tmp_path):
    traced(corrupt)
    with pytest.raises(ParityReportError, match="fine heatmaps off by") as failed:
        export_bundle(loaded, tmp_path / "bundle", pictures)
    assert failed.value.exit_code == 1
    assert isinstance(failed.value, ParityError)
    assert failed.value.reports["fp32"].failures
    assert list(tmp_path.iterdir()) == []


def test_failed_parity_keeps_the_bundle_that_was_there(loaded, pictures, traced, tmp_path, nano_bundle):
    shutil.copytree(nano_bundle, tmp_path / "bundle")
    traced(corrupt)
    with pytest.raises(ParityError):
        export_bundle(loaded, tmp_path / "bundle", pictures, ExportOptions(overwrite=True))
    assert open_bundle(tmp_path / "bundle").manifest == open_bundle(nano_bundle).manifest
    assert [entry.name for entry in tmp_path.iterdir()] == ["bundle"]


def test_weights_that_are_too_large_fail_with_a_number(loaded, pictures, traced, tmp_path):
    traced()
    huge = random_model(loaded.config, seed=0)
    with torch.no_grad():
        huge.model.backbone.norm.weight.fill_(1e38)
    words = r"NaN or infinity in \d+ of \d+ values of coarse \w+; the largest weight is 1e\+38, in backbone.norm.weight"
    with pytest.raises(ParityError, match=words):
        export_bundle(huge, tmp_path / "bundle", pictures)
    assert list(tmp_path.iterdir()) == []


def test_more_crops_than_an_engine_can_hold(loaded, pictures, tmp_path):
    large = dataclasses.replace(loaded, config=loaded.config.replace({"crop_size": (2048, 2048)}))
    with pytest.raises(ExportError, match="expected at most 85 crops of 2048x2048, got 86"):
        export_bundle(large, tmp_path / "bundle", pictures, ExportOptions(max_batch=86))


def test_an_existing_output_is_refused_before_anything_is_done(loaded, pictures, traced, tmp_path):
    traced(lambda coarse, fine: pytest.fail("traced all the same"))
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "mine.txt").write_text("dear")
    with pytest.raises(ExportError, match="already exists"):
        export_bundle(loaded, tmp_path / "bundle", pictures)
    with pytest.raises(ExportError, match="is not a bundle"):
        export_bundle(loaded, tmp_path / "bundle", pictures, ExportOptions(overwrite=True))
    assert (tmp_path / "bundle" / "mine.txt").read_text() == "dear"


def test_overwrite_replaces_a_bundle(loaded, pictures, traced, tmp_path, nano_bundle):
    shutil.copytree(nano_bundle, tmp_path / "bundle")
    (tmp_path / "bundle" / "left over.onnx").write_text("")
    traced()
    export_bundle(loaded, tmp_path / "bundle", pictures, ExportOptions(overwrite=True, gate_chosen_by="hand"))
    assert open_bundle(tmp_path / "bundle").manifest.gate.chosen_by == "hand"
    assert not (tmp_path / "bundle" / "left over.onnx").exists()


def test_a_graph_that_breaks_onnxs_rules_is_refused(loaded, pictures, traced, tmp_path):
    def break_it(coarse, fine):
        fine.graph.node[0].op_type = "NoSuchOperator"

    traced(break_it)
    with pytest.raises(ExportError, match=r"fine\.onnx: not a valid ONNX graph"):
        export_bundle(loaded, tmp_path / "bundle", pictures)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "words"), [({"max_batch": 0}, "1 to 4096, got 0"), ({"precisions": ()}, "precisions")]
)
def test_options_that_make_no_sense(options, words):
    with pytest.raises(ExportError, match=words):
        ExportOptions(**options)


def forked(work):
    """The id of a fork of this process that does some work, and the text that it passes to `say` first."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            interruptible()
            work(lambda text: os.write(writing, text.encode()))
        finally:
            os._exit(1)
    os.close(writing)
    text = os.read(reading, 1000).decode()
    os.close(reading)
    return pid, text


def test_a_killed_export_leaves_no_bundle(loaded, pictures, traced, tmp_path):
    traced()
    steps = []

    def export(tell):
        def say(step):
            steps.append(step)
            if step.startswith("comparing"):
                tell(str(len(steps)))
                time.sleep(60)

        export_bundle(loaded, tmp_path / "out" / "bundle", pictures, say=say)

    pid, count = forked(export)
    (unfinished,) = (tmp_path / "out").iterdir()
    written = {file.name for file in unfinished.iterdir()}
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert int(count) >= 3
    assert {"coarse.onnx", "fine.onnx", "weights.bin"} <= written  # it was far on
    assert not (tmp_path / "out" / "bundle").exists()
    assert unfinished.name.startswith(".bundle.unfinished-")


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def write(output, text="new", overwrite=False):
    with atomic_folder(output, overwrite=overwrite) as folder:
        (folder / "bundle.json").write_text(text)


def test_it_appears_when_the_block_ends(tmp_path):
    output = tmp_path / "a" / "b" / "bundle"
    with atomic_folder(output, overwrite=False) as folder:
        (folder / "bundle.json").write_text("new")
        assert not output.exists()
        assert folder.parent == output.parent  # so that the last step is a rename
    assert (output / "bundle.json").read_text() == "new"
    assert names(output.parent) == ["bundle"]
    assert output.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("error", [ParityError, ExportError, ValueError, KeyboardInterrupt, Terminated])
def test_an_error_inside_leaves_nothing(tmp_path, error):
    def fail():
        with atomic_folder(tmp_path / "bundle", overwrite=False) as folder:
            (folder / "weights.bin").write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert names(tmp_path) == []


def test_an_error_inside_keeps_what_was_there(tmp_path):
    write(tmp_path / "bundle", "old")

    def fail():
        with atomic_folder(tmp_path / "bundle", overwrite=True):
            raise ParityError

    with pytest.raises(ParityError):
        fail()
    assert (tmp_path / "bundle" / "bundle.json").read_text() == "old"
    assert names(tmp_path) == ["bundle"]


def test_an_existing_output_is_refused(tmp_path):
    write(tmp_path / "bundle", "old")
    with pytest.raises(ExportError, match="already exists; give another folder or --overwrite"):
        write(tmp_path / "bundle")
    assert (tmp_path / "bundle" / "bundle.json").read_text() == "old"


def test_overwrite_replaces_all_of_a_bundle(tmp_path):
    write(tmp_path / "bundle", "old")
    (tmp_path / "bundle" / "engines").mkdir()
    for name in ("coarse.fp16.onnx", "weights.bin", ".bundle.json.7-0a1b2c3d.unfinished", "engines/coarse.plan"):
        (tmp_path / "bundle" / name).write_text("old")
    write(tmp_path / "bundle", overwrite=True)
    assert names(tmp_path / "bundle") == ["bundle.json"]
    assert (tmp_path / "bundle" / "bundle.json").read_text() == "new"
    assert names(tmp_path) == ["bundle"]


def test_overwrite_takes_an_empty_folder_and_an_absent_one(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("empty", "absent"):
        write(tmp_path / name, overwrite=True)
        assert (tmp_path / name / "bundle.json").read_text() == "new"


def test_overwrite_replaces_nothing_but_bundles(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("dear")
    (tmp_path / "file").write_text("dear")
    write(tmp_path / "bundle")
    (tmp_path / "link").symlink_to("bundle")
    (tmp_path / "dangling").symlink_to("nowhere")
    for name in ("photos", "file", "link", "dangling"):
        with pytest.raises(ExportError, match="is not a bundle, so --overwrite won't replace it"):
            write(tmp_path / name, overwrite=True)
        with pytest.raises(ExportError, match="already exists"):
            check_output(tmp_path / name, overwrite=False)
    assert (tmp_path / "photos" / "a.jpg").read_text() == (tmp_path / "file").read_text() == "dear"


def test_what_a_file_manager_left_may_go(tmp_path):
    write(tmp_path / "bundle", "old")
    (tmp_path / "bundle" / ".DS_Store").write_text("")
    write(tmp_path / "bundle", "new", overwrite=True)
    assert not (tmp_path / "bundle" / ".DS_Store").exists()


@pytest.mark.parametrize("name", ["best.pth", "labels/train.json", "MODEL_CARD.md"])
def test_overwrite_removes_nothing_that_no_export_writes(tmp_path, name):
    write(tmp_path / "bundle", "old")
    other = tmp_path / "bundle" / name
    other.parent.mkdir(exist_ok=True)
    other.write_text("dear")
    words = f"holds {name.partition('/')[0]} too, which --overwrite would remove; move it elsewhere"
    with pytest.raises(ExportError, match=words):
        write(tmp_path / "bundle", overwrite=True)
    assert (other.read_text(), (tmp_path / "bundle" / "bundle.json").read_text()) == ("dear", "old")


def test_ctrl_c_between_the_two_renames_leaves_the_old_bundle(tmp_path, monkeypatch):
    write(tmp_path / "bundle", "old")
    rename = type(tmp_path).rename

    def interrupted(path, target):
        renamed = rename(path, target)
        if path == tmp_path / "bundle":
            raise KeyboardInterrupt
        return renamed

    monkeypatch.setattr(type(tmp_path), "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "bundle", overwrite=True)
    assert (tmp_path / "bundle" / "bundle.json").read_text() == "old"
    assert names(tmp_path) == ["bundle"]


def test_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="can't be written"):
        write(tmp_path / "file" / "bundle")


def test_the_old_bundle_comes_back_where_the_new_one_cant_take_its_place(tmp_path):
    write(tmp_path / "bundle", "old")

    def lose_the_new_one():
        with atomic_folder(tmp_path / "bundle", overwrite=True) as folder:
            folder.rename(tmp_path / "elsewhere")

    with pytest.raises(ExportError, match="can't be written"):
        lose_the_new_one()
    assert (tmp_path / "bundle" / "bundle.json").read_text() == "old"


@pytest.mark.parametrize(("sent", "leaves"), [(signal.SIGKILL, True), (signal.SIGTERM, False), (signal.SIGINT, False)])
def test_a_killed_process_leaves_no_folder_of_that_name(tmp_path, sent, leaves):
    def begin(say):
        with atomic_folder(tmp_path / "bundle", overwrite=False) as folder:
            (folder / "weights.bin").write_bytes(b"half")
            (folder / "bundle.json").write_text("{}")
            say("ready")
            time.sleep(60)

    pid, said = forked(begin)
    assert said == "ready"
    os.kill(pid, sent)
    assert os.waitpid(pid, 0)[1] != 0
    assert not (tmp_path / "bundle").exists()
    assert bool(names(tmp_path)) is leaves  # nothing can clean up after SIGKILL
    write(tmp_path / "bundle")  # and what it left is in nobody's way
