"""The contract between a server of poses and its clients."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from score_tables import score_tables

from sharpose.bundle import Bundle, Manifest, shipped_bundle
from sharpose.errors import ServerRefusedError
from sharpose.serving.contract import (
    CROPS,
    INPUTS,
    KEYPOINTS,
    OUTPUTS,
    QUALITY_THRESHOLD,
    REGION_ORDER,
    ServedModel,
    bundle_sha256,
)
from sharpose.skeleton import COCO17, MPII16


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """The shipped one, from its `bundle.json` alone."""
    folder = shipped_bundle()
    return Bundle(folder, Manifest.model_validate_json((folder / "bundle.json").read_text("utf-8")))


@pytest.fixture(scope="module")
def served(bundle: Bundle) -> ServedModel:
    return ServedModel.of(bundle)


def changed(bundle: Bundle, **values: object) -> Bundle:
    return Bundle(Path("elsewhere"), bundle.manifest.model_copy(update=values))


def test_the_tensors_are_named_once() -> None:
    assert [item.name for item in INPUTS] == ["crops", "quality_threshold"]
    assert [item.name for item in OUTPUTS] == ["keypoints", "quality", "refined", "region_order"]
    assert [item.datatype for item in (*INPUTS, *OUTPUTS)] == ["UINT8", "FP32", "FP32", "FP32", "BOOL", "INT32"]


def test_a_bundle_says_what_it_serves(served: ServedModel, bundle: Bundle) -> None:
    assert served.crop_size == (256, 192)
    assert (served.regions, served.selected) == (48, bundle.model.num_selected)
    assert served.skeleton == COCO17
    assert served.max_batch == bundle.manifest.max_batch
    assert served.quality_threshold == bundle.manifest.gate.quality_threshold
    assert [served.dims(item) for item in (CROPS, QUALITY_THRESHOLD, KEYPOINTS, REGION_ORDER)] == [
        (256, 192, 3),
        (1,),
        (17, 3),
        (48,),
    ]


def test_a_client_reads_back_what_was_served(served: ServedModel) -> None:
    other = dataclasses.replace(
        served, skeleton=MPII16, quality_threshold=-0.1, crop_size=(384, 288), regions=108, scores=score_tables(MPII16)
    )
    for model in (served, other, dataclasses.replace(served, scores=None)):
        assert ServedModel.from_config(json.loads(json.dumps(model.to_config()))) == model


def test_protobuf_writes_large_numbers_as_text(served: ServedModel) -> None:
    config = served.to_config()
    config["input"][0]["dims"] = ["256", "192", "3"]  # type: ignore[index]
    assert ServedModel.from_config(config) == served


def test_what_a_user_edits_counts(served: ServedModel) -> None:
    config = served.to_config() | {"max_batch_size": 4, "backend": "python"}
    config["parameters"]["device"] = {"string_value": "cpu"}  # type: ignore[index]
    assert ServedModel.from_config(config) == dataclasses.replace(served, max_batch=4)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("parameters", None, "expected the parameter contract to be 2, got None"),
        ("parameters.contract", "1", "expected the parameter contract to be 2, got '1'"),
        ("parameters.bundle_sha256", "ab", "bundle_sha256 to be 64 hexadecimal digits, got 'ab'"),
        ("parameters.skeleton", "{}", "the parameter skeleton: name: missing key"),
        ("parameters.skeleton", "nonsense", "the parameter skeleton: "),
        ("parameters.quality_threshold", "nan", "quality_threshold to be a number, got 'nan'"),
        ("parameters.quality_threshold", "", "quality_threshold to be a number, got ''"),
        ("parameters.scores", "{}", "the parameter scores: coarse: missing key"),
        ("parameters.scores", score_tables(MPII16).model_dump_json(), "once, but not so: head_top, left_ear, left_eye"),
        ("parameters.selected", "49", "selected to be 1 to 48, got '49'"),
        ("max_batch_size", 0, "a max_batch_size of 1 to 4096, got 0"),
        ("max_batch_size", True, "a max_batch_size of 1 to 4096, got True"),
        ("max_batch_size", "9" * 5000, "a max_batch_size of 1 to 4096, got '9"),
        ("input", [], "crops of multiples of 32 pixels up to 2048, got [0, 0]"),
        ("input.0.dims", [1 << 40, 192, 3], "crops of multiples of 32 pixels up to 2048"),
        ("input.0.dims", [256, 192, 4], "crops to be TYPE_UINT8 [256, 192, 3]"),
        ("input.0.data_type", "TYPE_FP32", "crops to be TYPE_UINT8"),
        ("output.0.dims", [16, 3], "keypoints to be TYPE_FP32 [17, 3]"),
        ("output.3.dims", [-1], "region_order to be TYPE_INT32 [48]"),
        ("output", [None, {"name": "keypoints", "dims": "17"}], "keypoints to be TYPE_FP32 [17, 3], got None"),
    ],
)
def test_a_model_that_is_another_is_refused_in_one_line(
    served: ServedModel, key: str, value: object, message: str
) -> None:
    config: object = copy.deepcopy(served.to_config())
    *path, last = key.split(".")
    place = config
    for step in path:
        place = place[int(step) if step.isdigit() else step]  # type: ignore[index]
    place[last] = {"string_value": value} if path == ["parameters"] else value  # type: ignore[index]
    with pytest.raises(ServerRefusedError) as error:
        ServedModel.from_config(config)  # type: ignore[arg-type]
    text = str(error.value)
    assert text.startswith("model 'sharpose': ")
    assert message in text
    assert "sharpose-export --triton" in text
    assert "\n" not in text
    assert len(text) < 500


def test_a_bundle_is_known_by_what_computes_its_poses(bundle: Bundle) -> None:
    manifest = bundle.manifest
    same = bundle_sha256(bundle)
    assert len(same) == 64
    for values in ({"verified": ()}, {"source": "another text"}, {"sharpose_version": "9"}):
        assert bundle_sha256(changed(bundle, **values)) == same
    assert (
        len({bundle_sha256(changed(bundle, scores=tables)) for tables in (None, score_tables(), manifest.scores)}) > 1
    )
    recoloured = dataclasses.replace(COCO17, keypoint_colours=("#123456",) * 17, upper_body=(0,), sigmas_from="here")
    assert bundle_sha256(changed(bundle, model=manifest.model.model_copy(update={"skeleton": recoloured}))) == same
    skeleton = dataclasses.replace(COCO17, keypoints=("tip", *COCO17.keypoints[1:]))
    for name in manifest.files:
        assert bundle_sha256(changed(bundle, files=manifest.files | {name: "0" * 64})) != same
    assert bundle_sha256(changed(bundle, gate=manifest.gate.model_copy(update={"quality_threshold": 0.1}))) != same
    assert bundle_sha256(changed(bundle, model=manifest.model.model_copy(update={"skeleton": skeleton}))) != same


def places(value: object, path: tuple[object, ...] = ()) -> Iterator[tuple[object, ...]]:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


def test_whatever_a_server_says_is_read_or_refused(served: ServedModel) -> None:
    """Every value of a configuration in turn is something else."""
    strange: tuple[object, ...] = (
        None,
        True,
        -1,
        1 << 70,
        1.5,
        math.nan,
        "",
        "9" * 5000,
        "\ud800",
        [],
        [[]],
        [None],
        {},
        {"dims": {}},
    )
    refused = []
    for path in places(served.to_config()):
        for value in strange:
            config: Any = copy.deepcopy(served.to_config())
            if path:
                place = config
                for key in path[:-1]:
                    place = place[key]
                place[path[-1]] = value
            try:
                ServedModel.from_config(config)
            except ServerRefusedError as error:
                refused.append(str(error))
    assert len(refused) > 300
    assert not any("\n" in text or len(text) > 500 for text in refused)
