from __future__ import annotations

from typing import Any

import click
import pytest

from sharpose.errors import InputError
from sharpose.runtime.cli import command
from sharpose.runtime.options import Kind, RunOptions, SourceOptions, VideoSettings, is_scene


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
        ({"stride": "x"}, "stride: expected a whole number, got 'x'"),
        ({"stride": None}, "stride: expected a whole number, got None"),
        ({"reconnect": 1.5}, "reconnect: expected a whole number, got 1.5"),
        ({"start": "1"}, "start: expected a number, got '1'"),
        ({"stdin_size": 5}, "stdin-size: expected a height and a width, both positive, got 5"),
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


def test_how_a_detectors_input_is_prepared():
    given = ["a.mp4", "--detector-mean", "103.53,116.28, 123.675", "--detector-std", "57.375,57.12,58.395"]
    values = command.make_context("sharpose-run", given).params
    assert (values["detector_mean"], values["detector_std"]) == ((103.53, 116.28, 123.675), (57.375, 57.12, 58.395))
    assert (values["detector_rgb"], values["audio"]) == (None, "copy")
    assert command.make_context("sharpose-run", ["a.mp4", "--detector-bgr"]).params["detector_rgb"] is False
    for wrong in ("1,2", "1,2,x", "1,2,inf", "1,2,3,4"):
        with pytest.raises(click.BadParameter, match="expected three numbers with commas between"):
            command.make_context("sharpose-run", ["a.mp4", "--detector-mean", wrong])


def test_a_batch_is_a_size_that_a_bundle_may_have_or_auto():
    for given, batch in ([], None), (["--batch", "auto"], None), (["--batch", "4096"], 4096):
        assert command.make_context("sharpose-run", ["a.mp4", *given]).params["batch"] == batch
    for wrong in ("0", "4097"):
        with pytest.raises(click.BadParameter, match=f"expected 1 to 4096, got '{wrong}'"):
            command.make_context("sharpose-run", ["a.mp4", "--batch", wrong])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"video": VideoSettings(audio="none")}, "--audio is for --output, which isn't given"),
        ({"detector": "motion", "detector_mean": (1.0, 2.0, 3.0)}, "--detector-mean is for --detector"),
        ({"full_frame": True, "detector_std": (1.0, 2.0, 3.0)}, "--detector-std is for --detector"),
        ({"boxes": "b.json", "detector_rgb": False}, "--detector-rgb is for --detector"),
    ],
)
def test_options_that_would_do_nothing(given: dict[str, Any], said: str):
    with pytest.raises(click.UsageError, match=said):
        RunOptions(sources=("a.mp4",), **given)


@pytest.mark.parametrize(
    ("variable", "given", "token"),
    [(None, [], None), ("sesame", [], "sesame"), ("", ["--serve-token", "mine"], "mine"), ("", [], "refused")],
)
def test_an_empty_token_is_not_taken_for_none(
    variable: str | None, given: list[str], token: str | None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("SHARPOSE_SERVE_TOKEN", raising=False)
    if variable is not None:
        monkeypatch.setenv("SHARPOSE_SERVE_TOKEN", variable)
    found = command.make_context("sharpose-run", ["a.mp4", "--serve", "0.0.0.0:8080", *given]).params["serve_token"]
    if token == "refused":
        with pytest.raises(click.UsageError, match="SHARPOSE_SERVE_TOKEN: expected a token, got an empty one; unset"):
            RunOptions(sources=("a.mp4",), serve="0.0.0.0:8080", serve_token=found)
        assert RunOptions(sources=("a.mp4",)).serve_token is None  # nothing is served
    else:
        assert RunOptions(sources=("a.mp4",), serve="0.0.0.0:8080", serve_token=found).serve_token == token
