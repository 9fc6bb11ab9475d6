from __future__ import annotations

from typing import Any

import pytest

from sharpose.errors import InputError
from sharpose.runtime.options import Kind, SourceOptions, is_scene


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"buffer": "newest"}, "buffer: expected latest or all, got 'newest'"),
        ({"reconnect": -2}, "reconnect: expected a number of attempts"),
        ({"timeout": 0.0}, "timeout: expected a positive number, got 0.0"),
        ({"timeout": float("nan")}, "timeout: expected a positive number"),
        ({"stride": 0}, "stride: expected at least 1, got 0"),
        ({"start": -1.0}, "start: expected seconds, 0 or more"),
        ({"start": float("inf")}, "start: expected seconds"),
        ({"duration": 0.0}, "duration: expected a positive number"),
        ({"stdin_rate": -1.0}, "stdin-rate: expected a positive number"),
        ({"stdin_size": (0, 4)}, "stdin-size: expected a height and a width"),
        ({"rtsp_transport": "http"}, "rtsp-transport: expected tcp or udp"),
        ({"queue_size": 0}, "queue size: expected at least 1"),
    ],
)
def test_values_out_of_range(given: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        SourceOptions(**given)


@pytest.mark.parametrize("kind", list(Kind))
def test_saying_nothing_fits_every_kind(kind: Kind):
    SourceOptions().check("it", kind)
    SourceOptions(reconnect=0, hwaccel="none", stride=1).check("it", kind)


def test_silence_has_a_default():
    assert (SourceOptions().silence, SourceOptions(timeout=2.5).silence) == (10.0, 2.5)


def test_what_is_a_scene():
    assert is_scene("scene")
    assert is_scene("scene:people=3")
    assert not is_scene("./scene")
    assert not is_scene("scenery.mp4")
