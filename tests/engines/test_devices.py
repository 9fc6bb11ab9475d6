"""Devices as users write them."""

from __future__ import annotations

import pytest

from sharpose.engines.load import Device, parse_device
from sharpose.errors import EngineError


@pytest.mark.parametrize(
    ("text", "device", "printed"),
    [
        ("cpu", Device("cpu"), "cpu"),
        ("cuda", Device("cuda", 0), "cuda:0"),
        ("cuda:1", Device("cuda", 1), "cuda:1"),
        ("cuda:12", Device("cuda", 12), "cuda:12"),
        ("ort-tensorrt", Device("ort-tensorrt", 0), "ort-tensorrt:0"),
        ("ort-tensorrt:3", Device("ort-tensorrt", 3), "ort-tensorrt:3"),
    ],
)
def test_a_device_is_read_and_printed(text: str, device: Device, printed: str) -> None:
    assert parse_device(text) == device
    assert str(device) == printed
    assert parse_device(printed) == device


@pytest.mark.parametrize(
    "text",
    [
        "",
        "cpu:0",
        "CPU",
        "gpu",
        "cuda:",
        "cuda:-1",
        "cuda:x",
        "cuda:0:1",
        " cuda",
        "cuda\n",
        "0",
        "ort-tensorrt:a",
        "xpu",
    ],
)
def test_anything_else_is_refused_with_what_is_expected(text: str) -> None:
    with pytest.raises(EngineError) as caught:
        parse_device(text)
    message = str(caught.value)
    assert message.startswith("device: expected cpu, cuda[:i]")
    assert message.endswith(f"got {text!r}")
    assert "\n" not in message
