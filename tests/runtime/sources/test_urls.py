from __future__ import annotations

import pytest

from sharpose.runtime.sources import redact_url
from sharpose.runtime.sources.urls import is_url

SECRET = "hunter2"


@pytest.mark.parametrize(
    "url",
    [
        f"rtsp://admin:{SECRET}@10.0.0.1:554/h264",
        f"rtsp://admin:{SECRET}@x/y@10.0.0.1/h264",
        f"rtsp://admin:12/{SECRET}@10.0.0.1/h264",
        f"rtsp://admin:#{SECRET}@10.0.0.1/h264",
        f"RTSP://{SECRET}@10.0.0.1/h264",
        f"http://10.0.0.1/video?user=admin&PASSWORD={SECRET}&channel=2",
        f"http://10.0.0.1/video?pwd={SECRET}",
        f"http://10.0.0.1/live.m3u8?access_token={SECRET}#t=3",
        f"rtsp://10.0.0.1/user=admin_password={SECRET}_channel=1_stream=0.sdp",
        f"https://bucket.example/a.mp4?X-Amz-Signature={SECRET}&X-Amz-Credential={SECRET}",
    ],
)
def test_no_secret_is_left(url: str):
    redacted = redact_url(url)
    assert SECRET not in redacted
    assert "***" in redacted
    assert redact_url(redacted) == redacted


def test_the_rest_stays_readable():
    assert redact_url("rtsp://me:pw@10.0.0.1:554/live?channel=2") == "rtsp://***@10.0.0.1:554/live?channel=2"
    assert redact_url("http://cam/video?pwd=x&channel=2") == "http://cam/video?pwd=***&channel=2"


@pytest.mark.parametrize(
    "spec", ["rtsp://10.0.0.1/live", "http://h:80/v.mp4?start=3", "me@home/pass=1.mp4", "0", "scene"]
)
def test_what_holds_no_secret_stays(spec: str):
    assert redact_url(spec) == spec


def test_what_is_a_url():
    assert is_url("udp://@:1234")
    assert not is_url("scene:people=3")
    assert not is_url("C:\\video.mp4")


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
