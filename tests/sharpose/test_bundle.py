"""Bundles that open, and the many that must not."""

import json
import shutil

import onnx
import pytest

from sharpose.bundle import file_sha256, open_bundle
from sharpose.errors import BundleError

WEIGHTS = bytes(range(256)) * 8


@pytest.fixture
def bundle(tiny_bundle, tmp_path):
    """The tiny bundle with less to copy as its weights: what is opened here is hashed, not run."""
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, folder, ignore=shutil.ignore_patterns("weights.bin"))
    (folder / "weights.bin").write_bytes(WEIGHTS)
    rehash(folder, "weights.bin")
    assert open_bundle(folder).manifest.files["weights.bin"] == file_sha256(folder / "weights.bin")
    return folder


def edit(bundle, change):
    values = json.loads((bundle / "bundle.json").read_text())
    change(values)
    (bundle / "bundle.json").write_text(json.dumps(values))


def rehash(bundle, *names):
    edit(bundle, lambda values: values["files"].update({name: file_sha256(bundle / name) for name in names}))


def refused(path, *words):
    with pytest.raises(BundleError) as found:
        open_bundle(path)
    message = str(found.value)
    assert "\n" not in message
    assert str(path) in message
    for word in words:
        assert word in message


def test_an_exported_bundle_opens(tiny_bundle):
    bundle = open_bundle(str(tiny_bundle))
    assert bundle.path == tiny_bundle
    assert bundle.model.name == "sharpose_tiny_coco_256x192"
    assert bundle.precisions == ("fp32",)
    path, entry = bundle.graph("fine")
    assert path == tiny_bundle / "fine.onnx"
    assert [item.name for item in entry.inputs][:2] == ["rows", "patches"]
    with pytest.raises(BundleError, match="holds fp32 graphs, not fp16"):
        bundle.graph("fine", "fp16")


def test_a_link_to_a_whole_bundle_opens(tiny_bundle, tmp_path):
    (tmp_path / "link").symlink_to(tiny_bundle)
    assert open_bundle(tmp_path / "link").manifest == open_bundle(tiny_bundle).manifest


def test_file_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert file_sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    (tmp_path / "a").write_bytes(b"")
    assert file_sha256(tmp_path / "a").startswith("e3b0c44298fc1c14")


@pytest.mark.parametrize("position", [0, 1000, -1])
def test_one_byte_of_the_weights_changed(bundle, position):
    content = bytearray(WEIGHTS)
    content[position] ^= 1
    (bundle / "weights.bin").write_bytes(content)
    refused(bundle, "weights.bin is damaged or was changed", "export it again")


def test_one_byte_of_an_exported_bundles_weights_changed(tiny_bundle, tmp_path):
    shutil.copytree(tiny_bundle, tmp_path / "bundle")
    with (tmp_path / "bundle" / "weights.bin").open("r+b") as file:
        file.seek(12_345_678)
        byte = file.read(1)
        file.seek(12_345_678)
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


def test_a_graph_that_is_none(bundle):
    (bundle / "coarse.onnx").write_bytes(b"not a graph at all\n")
    rehash(bundle, "coarse.onnx")
    refused(bundle, "coarse.onnx: not an ONNX file")


@pytest.mark.parametrize("name", ["weights.bin", "coarse.onnx"])
def test_a_link_that_leaves_the_folder(bundle, tiny_bundle, name):
    (bundle / name).unlink()
    (bundle / name).symlink_to(tiny_bundle / name)
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
    ("change", "words"),
    [
        (lambda values: values.update(colour="red"), "colour: unknown key"),
        (lambda values: values["model"].update(colour="red"), "model.colour: unknown key"),
        (lambda values: values["graphs"]["fp32"]["fine"].update(colour="red"), "graphs.fp32.fine.colour: unknown key"),
        (lambda values: values.pop("gate"), "gate: missing key"),
        (lambda values: values["model"].pop("alpha"), "model.alpha: missing key"),
        (lambda values: values["model"].pop("pixel_std"), "model.pixel_std: missing key"),
        (lambda values: values["model"].pop("head"), "model.head: missing key"),
        (lambda values: values["parity"]["fp32"].pop("failures"), "parity.fp32.failures: missing key"),
        (lambda values: values["graphs"]["fp32"]["fine"].pop("opset"), "graphs.fp32.fine.opset: missing key"),
        (lambda values: values.update(schema_version=2), "expected schema_version 1, got 2"),
        (lambda values: values.update(schema_version="1"), "expected schema_version 1, got '1'"),
        (lambda values: values.update(schema_version=True), "expected schema_version 1, got True"),
        (lambda values: values.update(schema_version=1.0), "expected schema_version 1, got 1.0"),
        (lambda values: values.pop("schema_version"), "expected schema_version 1, got None"),
        (lambda values: values["model"].update(quality_activation="abs"), "'abs'"),
        (lambda values: values["model"]["skeleton"]["sigmas"].pop(), "expected 17 sigmas"),
        (lambda values: values["files"].update({"weights.bin": "00"}), "weights.bin is damaged"),
    ],
)
def test_a_changed_description(bundle, change, words):
    edit(bundle, change)
    refused(bundle, words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "JSON"),
        (b"{", "JSON"),
        (b"\xff\xfe", "JSON"),
        (b"[" * 200_000, "JSON"),
        (b"[]", "schema_version"),
        (b"null", "schema_version"),
        (b"1", "schema_version"),
        (b'{"schema_version": 1}', "missing key"),
    ],
)
def test_a_description_that_is_none(bundle, content, words):
    (bundle / "bundle.json").write_bytes(content)
    refused(bundle, words)
