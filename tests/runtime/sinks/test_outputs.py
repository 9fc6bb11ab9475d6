from __future__ import annotations

from pathlib import Path

import pytest

from sharpose.errors import InputError
from sharpose.runtime.sinks.coco import CocoSink
from sharpose.runtime.sinks.folders import OpenPoseSink, PicturesSink
from sharpose.runtime.sinks.outputs import Output, SinkSettings, make_sink, outputs_of_streams
from sharpose.runtime.sinks.restream import RestreamSink
from sharpose.runtime.sinks.tables import CsvSink, JsonLinesSink, MotSink
from sharpose.runtime.sinks.video import VideoSink
from sharpose.skeleton import COCO17

STREAM = SinkSettings("walk", COCO17, tracked=True)


@pytest.mark.parametrize(
    ("option", "target", "kind"),
    [
        ("--output", "a.mp4", VideoSink),
        ("--output", "a.MKV", VideoSink),
        ("--output", "rtsp://u:secret@127.0.0.1:1/a", RestreamSink),
        ("--output", "udp://127.0.0.1:1", RestreamSink),
        ("--json", "a.jsonl", JsonLinesSink),
        ("--coco", "a.json", CocoSink),
        ("--csv", "a.csv", CsvSink),
        ("--openpose", "poses", OpenPoseSink),
        ("--mot", "a.txt", MotSink),
        ("--frames", "pictures", PicturesSink),
    ],
)
def test_every_option_has_its_sink_and_nothing_is_made_yet(tmp_path, monkeypatch, option, target, kind):
    monkeypatch.chdir(tmp_path)
    sink = make_sink(Output(option, target), STREAM)
    assert type(sink) is kind
    assert "secret" not in sink.name
    assert sink.abandon() is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", ["a.avi", "a", "ftp://x/a.mp4"])
def test_what_nothing_writes_to(target):
    with pytest.raises(InputError, match=r"expected (a video's name ending in \.mp4|an address that begins with)"):
        make_sink(Output("--output", target), STREAM)


def test_many_sources_need_names_of_their_own():
    outputs = [Output("--json", "out/{source}.jsonl"), Output("--output", "rtsp://h/{source}")]
    assert outputs_of_streams(outputs, ["cam", "cam-2"]) == [
        [Output("--json", "out/cam.jsonl"), Output("--output", "rtsp://h/cam")],
        [Output("--json", "out/cam-2.jsonl"), Output("--output", "rtsp://h/cam-2")],
    ]
    assert outputs_of_streams(outputs[:1], ["a"]) == [[Output("--json", "out/a.jsonl")]]
    with pytest.raises(InputError, match=r"--csv out\.csv: 2 sources can't share one output; put {source} into its"):
        outputs_of_streams([Output("--csv", "out.csv")], ["a", "b"])


def test_no_password_in_a_refusal():
    with pytest.raises(InputError, match="sources can't share") as refused:
        outputs_of_streams([Output("--output", "rtsp://u:secret@h/a")], ["a", "b"])
    assert "secret" not in str(refused.value)


def test_two_outputs_into_one(tmp_path):
    with pytest.raises(InputError, match=r"--coco .*x/\.\./a\.json and --json .*a\.json are the same"):
        outputs_of_streams([Output("--json", f"{tmp_path}/a.json"), Output("--coco", f"{tmp_path}/x/../a.json")], ["a"])
    outputs_of_streams([Output("--json", "/dev/null"), Output("--csv", "/dev/null")], ["a"])


def test_what_is_written_where():
    assert Output("--output", "rtsp://u:secret@h/a").path is None
    assert Output("--output", "rtsp://u:secret@h/a").name == "rtsp://***@h/a"
    assert Output("--output", "a.mp4").path == Path("a.mp4")
