from __future__ import annotations

from typing import Any

import pytest

from sharpose.errors import InputError
from sharpose.runtime.options import Kind, SourceOptions
from sharpose.runtime.sources import open_source


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


@pytest.mark.parametrize(
    ("given", "spec", "message"),
    [
        ({"start": 3.0}, "rtsp://me:hunter2@cam/live", r"--start is for .*, but rtsp://\*\*\*@cam/live is an RTSP"),
        ({"start": 3.0}, "0", "--start is for .*, but 0 is a camera; leave it out"),
        ({"buffer": "all"}, "clip.mp4", "--buffer is for a GStreamer pipeline, a camera, .*, but clip.mp4 is a video"),
        ({"reconnect": 3}, "clip.mp4", "--reconnect is for .*, but clip.mp4 is a video file"),
        ({"timeout": 3.0}, "clip.mp4", "--timeout is for .*, but clip.mp4 is a video file"),
        ({"hwaccel": "cuda"}, "scene", "--hwaccel is for .*, but scene is the built-in scene"),
        ({"hwaccel": "auto"}, "0", "--hwaccel is for .*, but 0 is a camera"),
        ({"duration": 3.0}, "pictures", "--duration is for .*, but pictures is pictures"),
        ({"stdin_size": (4, 4)}, "scene", "--stdin-size is for standard input, but scene is the built-in scene"),
        ({"stdin_rate": 4.0}, "0", "--stdin-rate is for standard input"),
        ({"rtsp_transport": "udp"}, "http://h/v", "--rtsp-transport is for an RTSP stream, but http://h/v is a live"),
        ({"start": 1.0}, "-", "--start is for .*, but - is standard input"),
        ({"start": 1.0}, "gst:videotestsrc user-pw=hunter2 ! appsink", "but gst:.* is a GStreamer pipeline"),
    ],
)
def test_what_would_do_nothing_is_refused(tmp_path, make_video, monkeypatch, given, spec, message):
    monkeypatch.chdir(tmp_path)
    make_video(tmp_path / "clip.mp4", frames=2)
    (tmp_path / "pictures").mkdir()
    with pytest.raises(InputError, match=message) as caught:
        open_source(spec, SourceOptions(**given))
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", list(Kind))
def test_saying_nothing_fits_every_kind(kind: Kind):
    SourceOptions().check("it", kind)
    SourceOptions(reconnect=0, hwaccel="none", stride=1).check("it", kind)


def test_silence_has_a_default():
    assert (SourceOptions().silence, SourceOptions(timeout=2.5).silence) == (10.0, 2.5)
