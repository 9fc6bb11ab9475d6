import json

import pytest
from pydantic import ValidationError

from sharpose.bundle import MANIFEST_NAME, Manifest, ParityReport
from sharpose.config import ModelConfig, describe_validation_error


@pytest.fixture(scope="module")
def values(tiny_bundle):
    return json.loads((tiny_bundle / MANIFEST_NAME).read_text())


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
    assert json.loads(manifest.model_dump_json()) == values


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
    # What has a default in code; open_bundle refuses a bundle without it, see test_bundle.
    defaults = {*ModelConfig.model_fields, *ParityReport.model_fields, "gain"}
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
