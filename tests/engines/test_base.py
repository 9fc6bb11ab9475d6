"""Inputs are checked once, here, before any backend sees them."""

from __future__ import annotations

import numpy as np
import pytest

from sharpose.bundle import GraphEntry, TensorEntry
from sharpose.engines.base import TensorSpec, Value, check_inputs, specs
from sharpose.errors import InputError

MAX_BATCH = 4
ROWS = TensorSpec("rows", np.dtype(np.int32), ("M",))
PATCHES = TensorSpec("patches", np.dtype(np.uint8), ("M", 2, 3))
FEATURES = TensorSpec("features", np.dtype(np.float32), ("N", 5))
ORDER = TensorSpec("order", np.dtype(np.int32), ("N", 2))
DECLARED = {spec.name: spec for spec in (ROWS, PATCHES, FEATURES, ORDER)}


class OnDevice:
    """A tensor that an engine kept: only its shape is known."""

    def __init__(self, *sizes: int) -> None:
        self._sizes = sizes

    def shape(self) -> list[int]:
        return list(self._sizes)


def good(people: int = 3, rows: int = 2) -> dict[str, Value]:
    return {
        "rows": np.zeros(rows, np.int32),
        "patches": np.zeros((rows, 2, 3), np.uint8),
        "features": np.zeros((people, 5), np.float32),
        "order": np.zeros((people, 2), np.int32),
    }


def refused(inputs: dict[str, Value]) -> str:
    with pytest.raises(InputError) as caught:
        check_inputs(inputs, DECLARED, MAX_BATCH)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("people", "rows"), [(1, 1), (3, 2), (4, 4), (1, 4)])
def test_good_inputs_pass(people: int, rows: int) -> None:
    check_inputs(good(people, rows), DECLARED, MAX_BATCH)


def test_tensors_on_a_device_pass_by_their_shape() -> None:
    check_inputs(good() | {"features": OnDevice(3, 5)}, DECLARED, MAX_BATCH)
    assert "expected features float32 [N, 5], got shape [3, 6]" in refused(good() | {"features": OnDevice(3, 6)})
    assert "axis N is 2, but another input has 3" in refused(good() | {"order": OnDevice(2, 2)})


def test_missing_and_unknown_names_are_said() -> None:
    inputs = good()
    inputs["row"] = inputs.pop("rows")
    message = refused(inputs)
    assert "missing ['rows']" in message
    assert "unknown ['row']" in message
    assert "missing ['features', 'order', 'patches', 'rows']" in refused({})
    assert "missing" not in refused(good() | {"more": np.zeros(1, np.int32)})


@pytest.mark.parametrize("dtype", [np.int64, np.uint32, np.float32, np.dtype(">i4")])
def test_another_dtype_is_refused(dtype: type) -> None:
    message = refused(good() | {"rows": np.zeros(2, dtype)})
    assert message == f"engine input rows: expected dtype int32, got {np.dtype(dtype)}"


@pytest.mark.parametrize("shape", [(2, 3), (2, 2, 4), (2, 3, 2), (2, 2, 3, 1), ()])
def test_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    message = refused(good() | {"patches": np.zeros(shape, np.uint8)})
    assert message == f"engine input patches: expected patches uint8 [M, 2, 3], got shape {list(shape)}"


def test_arrays_that_are_not_contiguous_are_refused() -> None:
    strided = np.zeros((3, 10), np.float32)[:, ::2]
    assert strided.shape == (3, 5)
    assert "expected a C-contiguous array" in refused(good() | {"features": strided})
    fortran = np.asfortranarray(np.zeros((2, 2, 3), np.uint8))
    assert "engine input patches: expected a C-contiguous array" in refused(good() | {"patches": fortran})


@pytest.mark.parametrize("rows", [0, MAX_BATCH + 1])
def test_a_dynamic_axis_is_one_to_max_batch(rows: int) -> None:
    assert refused(good(rows=rows)) == f"engine input rows: axis M must be 1 to {MAX_BATCH}, got {rows}"


def test_inputs_that_share_an_axis_agree() -> None:
    message = refused(good() | {"patches": np.zeros((3, 2, 3), np.uint8)})
    assert message == "engine input patches: axis M is 3, but another input has 2"


def test_specs_are_what_the_bundle_declares() -> None:
    entry = GraphEntry(
        file="coarse.onnx",
        opset=20,
        inputs=(TensorEntry(name="image", dtype="uint8", shape=("N", 4, 4, 3)),),
        outputs=(
            TensorEntry(name="quality", dtype="float32", shape=("N",)),
            TensorEntry(name="features", dtype="float16", shape=("N", 2)),
        ),
    )
    inputs, outputs = specs(entry)
    assert inputs == {"image": TensorSpec("image", np.dtype(np.uint8), ("N", 4, 4, 3))}
    assert list(outputs) == ["quality", "features"]
    assert outputs["features"].dtype == np.float16
    assert str(inputs["image"]) == "image uint8 [N, 4, 4, 3]"
