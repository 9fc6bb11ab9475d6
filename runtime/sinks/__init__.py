"""Where results go."""

from sharpose.files import mark_partial
from sharpose.runtime.options import VideoSettings
from sharpose.runtime.sinks.coco import CocoSink
from sharpose.runtime.sinks.folders import OpenPoseSink, PicturesSink
from sharpose.runtime.sinks.outputs import Output, SinkSettings, make_sink, outputs_of_streams
from sharpose.runtime.sinks.restream import RestreamSink
from sharpose.runtime.sinks.tables import CsvSink, JsonLinesSink, MotSink
from sharpose.runtime.sinks.video import VIDEO_SUFFIXES, VideoSink
from sharpose.runtime.sinks.window import WindowSink

__all__ = [
    "VIDEO_SUFFIXES",
    "CocoSink",
    "CsvSink",
    "JsonLinesSink",
    "MotSink",
    "OpenPoseSink",
    "Output",
    "PicturesSink",
    "RestreamSink",
    "SinkSettings",
    "VideoSettings",
    "VideoSink",
    "WindowSink",
    "make_sink",
    "mark_partial",
    "outputs_of_streams",
]
