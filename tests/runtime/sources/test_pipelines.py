from __future__ import annotations

import pytest

from sharpose.errors import InputError
from sharpose.runtime.sources import redact_url
from sharpose.runtime.sources.camera import is_pipeline, jetson_pipeline, pipeline_of


def test_what_is_a_pipeline():
    specs = {
        "gst:videotestsrc": True,
        "videotestsrc ! videoconvert ! appsink": True,
        "videotestsrc ! appsink name=sink drop=true": True,
        "videotestsrc ! appsink ! fakesink": False,
        "appsink.mp4": False,
        "rtsp://cam/appsink": False,
    }
    assert {spec: is_pipeline(spec) for spec in specs} == specs


def test_an_appsink_is_added_where_there_is_none():
    assert pipeline_of("gst:a ! appsink max-buffers=3") == "a ! appsink max-buffers=3"
    assert pipeline_of("a ! appsink") == "a ! appsink"
    assert pipeline_of("gst:videotestsrc") == (
        "videotestsrc ! videoconvert ! video/x-raw,format=BGR ! appsink drop=true max-buffers=1 sync=false"
    )
    with pytest.raises(InputError, match="gst: expected a pipeline after it"):
        pipeline_of("gst: ")


def test_a_csi_camera():
    assert is_pipeline("csi://0")
    assert pipeline_of("csi://1?width=1920&height=1080&rate=60&flip=2") == (
        "nvarguscamerasrc sensor-id=1 ! video/x-raw(memory:NVMM),width=1920,height=1080,framerate=60/1 ! "
        "nvvidconv flip-method=2 ! video/x-raw,format=BGRx ! videoconvert ! video/x-raw,format=BGR ! "
        "appsink drop=true max-buffers=1 sync=false"
    )
    assert "width=1280,height=720,framerate=30/1 ! nvvidconv flip-method=0" in pipeline_of("csi://0")


@pytest.mark.parametrize("spec", ["csi://", "csi://a", "csi://0?size=3", "csi://0?rate=x", "csi://0/x"])
def test_a_csi_camera_written_otherwise(spec):
    with pytest.raises(InputError, match=r"expected a Jetson's camera as csi://SENSOR"):
        pipeline_of(spec)


def test_a_jetsons_decoder():
    assert jetson_pipeline("rtsp://me:pw@cam/a", "tcp").startswith(
        'rtspsrc location="rtsp://me:pw@cam/a" protocols=tcp latency=100 ! parsebin ! nvv4l2decoder ! nvvidconv ! '
    )
    file = jetson_pipeline('it "is" a\\b.mp4', "tcp")
    assert file.startswith('filesrc location="it \\"is\\" a\\\\b.mp4" ! parsebin ! nvv4l2decoder ! ')
    assert file.endswith("! appsink sync=false")  # of a file every picture is wanted
    with pytest.raises(InputError, match="--hwaccel jetson: expected a file or an rtsp"):
        jetson_pipeline("http://cam/a", "tcp")


@pytest.mark.parametrize(
    "spec",
    [
        "gst:rtspsrc location=rtsp://me:hunter2@cam/a latency=0 ! decodebin ! appsink",
        'gst:rtspsrc location="rtsp://me:hunter2 hunter2@cam/a" latency=0 ! appsink',
        "rtspsrc location=rtsp://cam/a user-id=me user-pw=hunter2 latency=0 ! decodebin ! appsink",
        'rtspsrc location=rtsp://cam/a user-pw="hunter2 hunter2" latency=0 ! decodebin ! appsink',
        "rtspsrc location=rtsp://cam/a user-pw='hunter2 hunter2' latency=0 ! appsink",
        "souphttpsrc location=http://cam/a?token=hunter2 latency=0 ! appsink",
        "rtspsrc location = rtsp://cam/a user-pw = hunter2 latency=0 ! appsink",
    ],
)
def test_no_secret_of_a_pipeline_is_shown(spec):
    redacted = redact_url(spec)
    assert "hunter2" not in redacted
    assert "latency=0 ! " in redacted
    assert "appsink" in redacted
    assert redact_url(redacted) == redacted
