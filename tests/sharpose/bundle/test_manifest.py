"""What `bundle.json` must say."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError
from score_tables import score_tables

from sharpose.bundle import MANIFEST_NAME, Manifest, ParityReport, open_bundle
from sharpose.config import ModelConfig
from sharpose.errors import ConfigError, describe_validation_error
from sharpose.skeleton import MPII16, Skeleton
from tests.sharpose.bundle.conftest import at, copy, edit, refused


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
    entries = verified(values)["verified"]
    entries[1]["times"] = [{"people": 8, "coarse": 10.0, "fine": 25.5}]
    edit(bundle, lambda written: written.update(verified=entries))
    manifest = open_bundle(bundle).manifest
    first, second = manifest.verified
    assert (first.precision, first.average_precision_change, second.average_precision_change) == ("bf16", None, -0.25)
    assert first.time_against(second) == 2.0  # over the batches of both
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


def containers(value, path=()):
    """Every mapping of the file, and the path to it."""
    if isinstance(value, dict):
        yield path
        for key, item in value.items():
            yield from containers(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from containers(item, (*path, index))


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
    # What has a default in code; open_bundle refuses a bundle without it, see test_a_changed_description. Skeletons of
    # older ones have no colours.
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
