"""The hardware that decodes."""

from __future__ import annotations

import pytest

from sharpose.errors import InputError
from sharpose.runtime.sources import SourceOptions, decoding, open_source
from sharpose.runtime.sources.decoding import Hardware


def test_none_says_nothing():
    for choice in (None, "none"):
        chosen = Hardware(choice, "a.mp4", pytest.fail)
        assert chosen.device is None
        assert chosen.accelerator() is None


def test_a_device_that_this_ffmpeg_does_not_have_lists_those_it_has(monkeypatch):
    monkeypatch.setattr(decoding, "hwdevices_available", lambda: ["cuda", "vaapi"])
    with pytest.raises(
        InputError, match="--hwaccel metal: expected one of those that this FFmpeg has: none, auto, cuda, vaapi, jetson"
    ):
        Hardware("metal", "a.mp4", pytest.fail)


def test_a_device_that_this_machine_does_not_have():
    from av.codec.hwaccel import hwdevices_available

    if "cuda" not in hwdevices_available():
        pytest.skip("this FFmpeg has no cuda")
    if decoding._why_unusable("cuda") is None:
        pytest.skip("this machine can decode with cuda")
    with pytest.raises(InputError, match=r"--hwaccel cuda: this FFmpeg has it, but it can't be used here \(.+\); is"):
        Hardware("cuda", "a.mp4", pytest.fail)


def test_auto_says_what_it_took(tmp_path, make_video, shown, monkeypatch):
    monkeypatch.setattr(decoding, "_why_unusable", lambda device: "not here")
    said: list[str] = []
    path = str(make_video(tmp_path / "a.mp4", frames=10))
    assert shown(list(open_source(path, SourceOptions(hwaccel="auto"), say=said.append))) == list(range(10))
    (line,) = said
    assert line.startswith(f"{path}: decoding on the CPU: no hardware decoder can be used here (tried ")


def test_auto_takes_the_first_that_works(monkeypatch):
    monkeypatch.setattr(decoding, "hwdevices_available", lambda: ["qsv", "cuda", "vaapi"])
    monkeypatch.setattr(decoding, "_why_unusable", lambda device: "not here" if device == "qsv" else None)
    assert Hardware("auto", "a.mp4", print).device == "cuda"


@pytest.mark.gpu
def test_a_gpu_decodes_the_same_pictures(tmp_path, make_video, shown):
    if decoding._why_unusable("cuda") is not None:
        pytest.skip("no GPU that FFmpeg can use")
    path = str(make_video(tmp_path / "a.mp4", frames=40, size=(256, 256)))
    assert shown(list(open_source(path, SourceOptions(hwaccel="cuda")))) == list(range(40))
