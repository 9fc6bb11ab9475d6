"""Bundles: what `bundle.json` must say, what opening checks, and the shipped one."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
from pydantic import ValidationError
from score_tables import score_tables

from sharpose.bundle import MANIFEST_NAME, SHIPPED_BUNDLE, Manifest, ParityReport, open_bundle, shipped_bundle
from sharpose.bundle import folder as bundle_folder
from sharpose.config import ModelConfig, load_config
from sharpose.errors import BundleError, ConfigError, describe_validation_error
from sharpose.files import file_sha256
from sharpose.skeleton import MPII16, Skeleton

WEIGHTS = bytes(range(256)) * 8


@pytest.fixture
def bundle(nano_bundle, tmp_path):
    """The nano bundle with less to copy as its weights: what is opened here is hashed, not run."""
    folder = tmp_path / "bundle"
    shutil.copytree(nano_bundle, folder, ignore=shutil.ignore_patterns("weights.bin"))
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


def test_score_tables_are_optional_and_must_be_the_skeletons(bundle):
    assert open_bundle(bundle).manifest.scores is None
    for name, value in (("scores", None), ("scores", score_tables().model_dump(mode="json"))):
        edit(bundle, lambda values, name=name, value=value: values.update({name: value}))
        assert open_bundle(bundle).manifest.scores == (score_tables() if value else None)
    edit(bundle, lambda values: values.update(scores=score_tables(MPII16).model_dump(mode="json")))
    refused(bundle, "scores.coarse: expected each keypoint of coco17 once, but not so: head_top")
    edit(bundle, lambda values: values["scores"]["person"].update(probability=[0.5, 0.4]))
    refused(bundle, "scores.person: expected probabilities that never fall")
    scores = score_tables().model_dump(mode="json")
    edit(bundle, lambda values: values.update(scores=scores | {"more": 1}))
    refused(bundle, "scores.more: unknown key")
    scores.pop("fitted_on")
    edit(bundle, lambda values: values.update(scores=scores))
    refused(bundle, "scores.fitted_on: missing key")


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
        (lambda values: values.update(max_batch=10_000_000), "max_batch: expected at most 4096, got 10000000"),
        (lambda values: values.update(max_batch=10**400), "max_batch: "),
        (
            lambda values: values["model"].update(crop_size=[1 << 40, 192]),
            "model.crop_size.0: expected at most 2048, got 1099511627776",
        ),
        (
            lambda values: values["model"].update(crop_size=[512, 384]),
            "coarse.inputs: not those of a nano (crop_size, width, alpha, keypoints): "
            "image: expected ('N', 512, 384, 3), got ('N', 128, 96, 3)",
        ),
        (
            lambda values: values["graphs"]["fp32"]["fine"]["inputs"][1].update(shape=["M", 10**9, 768]),
            "patches: expected ('M', 24, 768), got ('M', 1000000000, 768)",
        ),
        (lambda values: values["graphs"]["fp32"]["coarse"]["inputs"].clear(), "got None"),
        (lambda values: values["model"].update(width=192 * 1000), "model.width: expected at most 8192, got 192000"),
        (lambda values: values["model"].update(depth=256, width=7680), "at most 4294967296 weights"),
        (lambda values: values["model"].update(name="x" * 1000), "model.name: "),
        (lambda values: values.update(weights="x" * 300), "expected a plain name"),
        (
            lambda values: values["model"]["skeleton"].update(keypoints=[str(n) for n in range(2000)]),
            "keypoints: expected 1 to 1024, got 2000",
        ),
        (lambda values: values["model"]["skeleton"].update(keypoints=[]), "keypoints: expected 1 to 1024, got 0"),
    ],
)
def test_a_changed_description(bundle, change, words):
    edit(bundle, change)
    refused(bundle, words)


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


def test_more_crops_than_an_engine_can_hold(values):
    changed = copy(values)
    changed["model"]["crop_size"] = [2048, 2048]
    changed["max_batch"] = 86
    with pytest.raises(ValidationError) as refused:
        Manifest.model_validate(changed)
    words = "max_batch: expected at most 85 crops of 2048x2048 (1024 MiB), got 86"
    assert describe_validation_error(refused.value) == words


def verified(values):
    """`bundle.json` with a result of `--verify`."""
    entry = {
        "device": "cpu",
        "hardware": "x86_64 avx2",
        "engine": "onnxruntime",
        "engine_version": "1.26.0",
        "precision": "bf16",
        "graphs_sha256": "0" * 64,
        "parity": values["parity"]["fp32"],
        "average_precision_change": None,
        "times": [{"people": 1, "coarse": 29.5, "fine": 39.5}, {"people": 8, "coarse": 22.5, "fine": 48.5}],
    }
    return copy(values) | {
        "verified": [copy(entry), copy(entry) | {"precision": "fp32", "average_precision_change": -0.25}]
    }


def test_a_verified_bundle_opens(bundle, values):
    edit(bundle, lambda written: written.update(verified=verified(values)["verified"]))
    manifest = open_bundle(bundle).manifest
    first, second = manifest.verified
    assert (first.precision, first.average_precision_change, second.average_precision_change) == ("bf16", None, -0.25)
    assert first.milliseconds == 29.5 + 39.5 + 22.5 + 48.5
    assert json.loads(manifest.to_json()) == json.loads((bundle / MANIFEST_NAME).read_text())


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("precision",), "fp8", "verified.0.precision"),
        (("graphs_sha256",), None, "verified.0.graphs_sha256"),
        (("average_precision_change",), float("nan"), "verified.0.average_precision_change"),
        (("times",), [], "verified.0.times"),
        (("times", 0, "coarse"), 0, "verified.0.times.0.coarse"),
        (("times", 0, "people"), 0, "verified.0.times.0.people"),
        (("times", 0, "people"), "1", "verified.0.times.0.people"),
        (("times", 0, "coarse"), "5", "verified.0.times.0.coarse"),
        (("times", 1, "people"), 1, "verified.0: times: expected each number of people once, got [1, 1]"),
        (("precision",), "fp32", "verified.1: a second result of cpu, x86_64 avx2, onnxruntime, fp32; verify it again"),
        (("graphs_sha256",), "0" * 63, "verified.0: graphs_sha256: expected 64 hexadecimal digits, got '000"),
        (("graphs_sha256",), "G" * 64, "verified.0: graphs_sha256: expected 64 hexadecimal digits, got 'GGG"),
        (("parity", "crops"), 0, "verified.0.parity.crops"),
        (("parity", "crops"), "16", "verified.0.parity.crops"),
        (("parity", "gate_flips"), 17, "verified.0: parity.gate_flips: expected at most"),
        (("parity", "keypoint_pixels_p99"), "0.1", "verified.0.parity.keypoint_pixels_p99"),
        (("parity", "outputs"), [], "verified.0: parity.outputs: coarse heatmaps: missing"),
        (("surprise",), 1, "verified.0.surprise: unknown key"),
    ],
)
def test_a_result_of_verifying_is_strict(bundle, values, path, value, words):
    changed = verified(values)
    at(changed["verified"][0], path[:-1])[path[-1]] = value
    edit(bundle, lambda written: written.update(verified=changed["verified"]))
    refused(bundle, words)


def test_what_an_engine_computed_may_be_no_number(bundle, values):
    manifest = Manifest.model_validate(verified(values))
    entry = manifest.verified[0]
    report = entry.parity.model_copy(update={"keypoint_pixels_max": float("nan"), "failures": ("NaN",)})
    broken = manifest.model_copy(update={"verified": (entry.model_copy(update={"parity": report}),)})
    edit(bundle, lambda written: written.update(verified=json.loads(broken.to_json())["verified"]))
    (found,) = open_bundle(bundle).manifest.verified
    assert math.isnan(found.parity.keypoint_pixels_max)


def test_a_result_of_verifying_lacks_nothing(bundle, values):
    changed = verified(values)
    del changed["verified"][1]["parity"]["judged"]
    edit(bundle, lambda written: written.update(verified=changed["verified"]))
    refused(bundle, "verified.1.parity.judged: missing key")
    del changed["verified"][1]["engine"]
    edit(bundle, lambda written: written.update(verified=changed["verified"]))
    refused(bundle, "verified.1.engine: missing key")


@pytest.fixture(scope="module")
def values(nano_bundle):
    return json.loads((nano_bundle / MANIFEST_NAME).read_text())


def containers(value, path=()):
    """Every mapping of the file, and the path to it."""
    if isinstance(value, dict):
        yield path
        for key, item in value.items():
            yield from containers(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from containers(item, (*path, index))


def at(values, path):
    for part in path:
        values = values[part]
    return values


def copy(values):
    return json.loads(json.dumps(values))


def test_it_survives_json(values):
    manifest = Manifest.model_validate(values)
    assert json.loads(manifest.to_json()) == values


def test_an_unknown_key_anywhere_is_refused(values):
    free = {("files",), ("graphs",), ("parity",)}  # their keys are names
    checked = 0
    for path in containers(values):
        if path in free:
            continue
        changed = copy(values)
        at(changed, path)["surprise"] = 1
        with pytest.raises(ValidationError) as refused:
            Manifest.model_validate(changed)
        assert "surprise" in describe_validation_error(refused.value), path
        checked += 1
    assert checked > 20


def test_a_missing_key_is_refused(values):
    # What has a default in code; open_bundle refuses a bundle without it, see test_bundle. Older ones have no colours.
    of_skeletons = {field.name for field in dataclasses.fields(Skeleton) if not field.compare}
    defaults = {*ModelConfig.model_fields, *ParityReport.model_fields, "gain", *of_skeletons}
    accepted, named = [], {}
    for path in containers(values):
        if path in {("files",), ("graphs",), ("parity",)}:
            continue
        for key in at(values, path):
            changed, key_path = copy(values), (*path, key)
            inner = at(changed, path)
            del inner[key]
            try:
                Manifest.model_validate(changed)
            except ValidationError as error:
                named[key_path] = describe_validation_error(error)
            else:
                accepted.append(key_path)
    assert [path for path in accepted if path[-1] not in defaults] == []
    assert [path for path, message in named.items() if f"{path[-1]}: missing key" not in message] == []
    assert len(named) > 40


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("schema_version",), 2, "schema_version"),
        (("max_batch",), 0, "max_batch"),
        (("gate", "quality_threshold"), float("nan"), "quality_threshold"),
        (("graphs", "fp13"), {}, "fp13"),
        (("graphs",), {}, "graphs"),
        (("model", "width"), 193, "width must be a multiple of heads"),
        (("graphs", "fp32", "coarse", "inputs", 0, "dtype"), "int64", "dtype"),
        (("graphs", "fp32", "coarse", "file"), "../coarse.onnx", "leaves the bundle's folder"),
        (("weights",), "../../x", "leaves the bundle's folder"),
        (("weights",), "other.bin", "files lists"),
        (("files", "extra.bin"), "00", "files lists"),
        (("parity", "fp32", "region_set_agreement"), 1.5, "region_set_agreement"),
    ],
)
def test_wrong_values_are_refused(values, path, value, words):
    changed = copy(values)
    at(changed, path[:-1])[path[-1]] = value
    with pytest.raises(ValidationError) as refused:
        Manifest.model_validate(changed)
    assert words in describe_validation_error(refused.value)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../../x", "/etc/passwd", "a/b", "a\\b", "C:x", "x\0", "bundle.json", "weights.bin/"]
)
def test_only_plain_names_of_files(values, name):
    changed = copy(values)
    changed["files"][name] = changed["files"].pop("weights.bin")
    changed["weights"] = name
    with pytest.raises(ValidationError, match="expected a plain name"):
        Manifest.model_validate(changed)


LIMIT_MB = 25


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


def places_in(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The first of every list, and all of every mapping."""
    if path:
        yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, item in inside:
        yield from places_in(item, (*path, key))


def test_whatever_is_wrong_is_said_in_our_words(nano_bundle: Path) -> None:
    good = json.loads((nano_bundle / "bundle.json").read_text())
    said: set[str] = set()
    for path in places_in(good):
        wrong: object
        for wrong in (None, "x", -1, 1e30, [], {}, [1, 2, 3], True):
            values = json.loads((nano_bundle / "bundle.json").read_text())
            place = values
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = wrong
            try:
                Manifest.model_validate(values)
            except ValidationError as error:
                said.add(describe_validation_error(error))
            except ConfigError:
                pass
    assert len(said) > 200
    assert [line for line in said if re.search(r"Input|should|valid |pydantic|ensure", line)] == []


def test_int8_of_a_version_that_enforced_no_limits_opens_and_counts_as_wrong(nano_bundle: Path) -> None:
    values = json.loads((nano_bundle / "bundle.json").read_text())
    for report in values["parity"].values():
        del report["region_slot_agreement"]
        report["experimental"] = False
    assert Manifest.model_validate(values).parity["fp32"].failures == ()
    values["parity"]["fp32"]["experimental"] = True
    (failure,) = Manifest.model_validate(values).parity["fp32"].failures
    assert failure.startswith("int8 of an earlier version")
