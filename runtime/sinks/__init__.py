"""Where results go."""

from sharpose.runtime.sinks.coco import CocoSink
from sharpose.runtime.sinks.json_lines import JsonLinesSink
from sharpose.runtime.sinks.partial import mark_partial
from sharpose.runtime.sinks.video import VIDEO_SUFFIXES, VideoSink

__all__ = ["VIDEO_SUFFIXES", "CocoSink", "JsonLinesSink", "VideoSink", "mark_partial"]
