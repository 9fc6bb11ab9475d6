"""The folder of a bundle: what opening checks of its files, and the shipped one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import onnx
import pytest

from sharpose.bundle import SHIPPED_BUNDLE, open_bundle, shipped_bundle
from sharpose.bundle import folder as bundle_folder
from sharpose.config import load_config
from sharpose.errors import BundleError
from tests.sharpose.bundle.conftest import WEIGHTS, edit, refused, rehash

LIMIT_MB = 25


def test_an_exported_bundle_opens(nano_bundle):
    bundle = open_bundle(str(nano_bundle))
    assert bundle.path == nano_bundle
    assert bundle.model.name == "nano"
    assert bundle.precisions == ("fp32",)
    path, entry = bundle.graph("fine")
    assert path == nano_bundle / "fine.onnx"
    assert [item.name for item in entry.inputs][:2] == ["rows", "patches"]
    with pytest.raises(BundleError, match="holds fp32 graphs, not fp16"):
        bundle.graph("fine", "fp16")


def test_a_link_to_a_whole_bundle_opens(nano_bundle, tmp_path):
    (tmp_path / "link").symlink_to(nano_bundle)
    assert open_bundle(tmp_path / "link").manifest == open_bundle(nano_bundle).manifest


@pytest.mark.parametrize("position", [0, 1000, -1])
def test_one_byte_of_the_weights_changed(bundle, position):
    content = bytearray(WEIGHTS)
    content[position] ^= 1
    (bundle / "weights.bin").write_bytes(content)
    refused(bundle, "weights.bin is damaged or was changed", "export it again")


def test_one_byte_of_an_exported_bundles_weights_changed(nano_bundle, tmp_path):
    shutil.copytree(nano_bundle, tmp_path / "bundle")
    with (tmp_path / "bundle" / "weights.bin").open("r+b") as file:
        file.seek(123_456)
        byte = file.read(1)
        file.seek(123_456)
        file.write(bytes([byte[0] ^ 1]))
    refused(tmp_path / "bundle", "weights.bin is damaged or was changed")


def test_one_byte_of_a_graph_changed_and_weights_cut_short(bundle):
    (bundle / "weights.bin").write_bytes(WEIGHTS[:-1])
    refused(bundle, "weights.bin is damaged")
    (bundle / "weights.bin").write_bytes(WEIGHTS)
    graph = bytearray((bundle / "fine.onnx").read_bytes())
    graph[1000] ^= 0x40
    (bundle / "fine.onnx").write_bytes(graph)
    refused(bundle, "fine.onnx is damaged")


@pytest.mark.parametrize("location", ["../../x", "/etc/passwd", "..", "sub/weights.bin"])
def test_weights_outside_in_bundle_json(bundle, location):
    def change(values):
        values["files"][location] = values["files"].pop("weights.bin")
        values["weights"] = location

    (bundle.parent.parent / "x").write_bytes(b"there")
    edit(bundle, change)
    refused(bundle, f"'{location}' leaves the bundle's folder")


@pytest.mark.parametrize("graph", ["coarse.onnx", "fine.onnx"])
@pytest.mark.parametrize("location", ["../../x", "/etc/passwd", "other.bin", "./weights.bin", "weights.bin\0"])
def test_weights_outside_inside_a_graph(bundle, graph, location):
    model = onnx.load(str(bundle / graph), load_external_data=False)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.external_data)
    next(entry for entry in tensor.external_data if entry.key == "location").value = location
    (bundle / graph).write_bytes(model.SerializeToString())
    rehash(bundle, graph)
    refused(bundle, f"{graph} takes weights from {location!r}")


@pytest.mark.parametrize("place", [1, 2])
def test_a_node_that_lacks_an_input(bundle, place):
    model = onnx.load(str(bundle / "fine.onnx"), load_external_data=False)
    node = next(node for node in model.graph.node if node.op_type == "LayerNormalization")
    node.input[place] = ""
    (bundle / "fine.onnx").write_bytes(model.SerializeToString())
    rehash(bundle, "fine.onnx")
    refused(bundle, "fine.onnx: a node of type 'LayerNormalization' lacks an input")


def _set_axis(bundle, name, axis, size):
    model = onnx.load(str(bundle / "fine.onnx"), load_external_data=False)
    (value,) = (item for item in model.graph.input if item.name == name)
    value.type.tensor_type.shape.dim[axis].dim_value = size  # in the place of a name
    (bundle / "fine.onnx").write_bytes(model.SerializeToString())
    rehash(bundle, "fine.onnx")


def test_an_input_of_another_shape_is_refused_before_an_engine_computes_with_it(bundle):
    """ONNX Runtime takes minutes and 2 GiB for the first, as it folds what has that size."""
    regions = open_bundle(bundle).model.num_regions
    _set_axis(bundle, "region_order", 1, 2**31 - 1)
    words = f"fine.onnx: input region_order: expected [N, {regions}], as bundle.json has it, found [any, 2147483647]"
    refused(bundle, words)
    _set_axis(bundle, "region_order", 1, regions)
    open_bundle(bundle)
    _set_axis(bundle, "rows", 0, 16)
    refused(bundle, "fine.onnx: input rows: expected [M], as bundle.json has it, found [16]")


def test_a_graph_that_is_none(bundle):
    (bundle / "coarse.onnx").write_bytes(b"not a graph at all\n")
    rehash(bundle, "coarse.onnx")
    refused(bundle, "coarse.onnx: not an ONNX file")


@pytest.mark.parametrize("name", ["weights.bin", "coarse.onnx"])
def test_a_link_that_leaves_the_folder(bundle, nano_bundle, name):
    (bundle / name).unlink()
    (bundle / name).symlink_to(nano_bundle / name)
    refused(bundle, f"{name} is a link that leaves the folder")


@pytest.mark.parametrize("name", ["weights.bin", "coarse.onnx", "fine.onnx"])
def test_a_missing_file(bundle, name):
    (bundle / name).unlink()
    refused(bundle, f"{name} is missing")
    (bundle / name).symlink_to("nowhere")
    refused(bundle, f"{name} is missing")
    (bundle / name).unlink()
    (bundle / name).mkdir()
    refused(bundle, f"{name} is missing")


def test_no_bundle(tmp_path, bundle):
    refused(tmp_path / "absent", "found nothing")
    refused(tmp_path, "no bundle.json in it")
    refused(bundle / "weights.bin", "expected a folder", "found a file")
    (bundle / "bundle.json").unlink()
    (bundle / "bundle.json").mkdir()
    refused(bundle, "no bundle.json in it")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b"{", "JSON"),
        (b"\xff\xfe", "JSON"),
        (b"[" * 200_000, "JSON"),
        (b"[]", "bundle.json: expected a JSON object, got []"),
        (b"null", "expected a JSON object, got None"),
        (b"1", "expected a JSON object, got 1"),
        (b'{"schema_version": 1}', "missing key"),
    ],
)
def test_a_description_that_is_none(bundle, content, words):
    (bundle / "bundle.json").write_bytes(content)
    refused(bundle, words)


def test_a_sparse_description_is_refused_by_its_size(bundle):
    os.truncate(bundle / "bundle.json", 6 << 30)
    refused(bundle, "bundle.json: expected at most 1048576 bytes, got 6442450944")


def test_it_opens_and_is_what_it_says() -> None:
    bundle = open_bundle(shipped_bundle())
    config = load_config(SHIPPED_BUNDLE)
    assert bundle.model.replace({"quality_threshold": config.quality_threshold}) == config
    assert bundle.manifest.parity["fp32"].failures == ()
    assert "random" not in bundle.manifest.source


def test_it_is_small_and_has_a_model_card() -> None:
    files = {path.name: path.stat().st_size for path in shipped_bundle().iterdir() if path.is_file()}
    graphs = {f"{stage}{precision}.onnx" for stage in ("coarse", "fine") for precision in ("", ".int8")}
    assert set(files) == {"bundle.json", *graphs, "weights.bin", "MODEL_CARD.md"}
    assert sum(files.values()) < LIMIT_MB * 1e6


def test_a_package_without_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bundle_folder, "SHIPPED_BUNDLE", "not_there")
    with pytest.raises(BundleError, match=r"not_there, found no bundle.json there; install the package again"):
        shipped_bundle()
