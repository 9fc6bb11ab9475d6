from __future__ import annotations

import pytest

from sharpose.runtime.sources import redact_url
from sharpose.runtime.sources.urls import is_url, password_hint, redact_text, redact_urls

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
        f"rtmp://live.example/app/{SECRET}",
        f"RTMPS://live.example:443/app/{SECRET}?a={SECRET}",
        f"rtmp://live.example/app/{SECRET}/",
        f"rtmp://live.example/{SECRET}",
        f"rtmp://me:{SECRET}@live.example/app/{SECRET}",
        f"rtmp://live.example/app/{SECRET} playpath={SECRET}",
        f"rtmpt://live.example/app/?key#{SECRET}",
        f"srt://live.example:9000?streamid=#!::u=me,s={SECRET}&latency=200",
        f"srt://live.example:9000?passphrase={SECRET}",
        f"http:/user:{SECRET}@127.0.0.1/v.mp4",
        f"http:user:{SECRET}@host",
        f"HTTP:/user:{SECRET}@host",
        f"http://user:{SECRET}",
        f"http://user:{SECRET}/",
        f"http://user:12/{SECRET}@",
        f"http:/user:{SECRET}",
        f"http:///user:{SECRET}@host/x",
        f"rtsp:/user:{SECRET}@host/1",
        f"rtsp:/{SECRET}@host/1",
        f"rtsp:\\\\user:{SECRET}@host\\1",
        f"rtsp:\\user:{SECRET}@host",
        f"rtsp://\\user:{SECRET}@host",
        f"rtsp;//user:{SECRET}@host/1",
        f"rtsp//user:{SECRET}@host/1",
        f"rtsp/user:{SECRET}@host/1",
        f"htp//user:{SECRET}@host/1",
        f"//user:{SECRET}@host/x",
        f"http:/host/v.mp4?password={SECRET}",
        f"rtmp:/live.example/app/{SECRET}",
    ],
)
def test_no_secret_is_left(url: str):
    redacted = redact_url(url)
    assert SECRET not in redacted
    assert "***" in redacted
    assert redact_url(redacted) == redacted
    for line in (f"{url}: lost", f"expected a file, got '{url}'", f"({url}) is no file"):
        assert SECRET not in redact_urls(line) or " " in url
        assert "***" in redact_urls(line)


@pytest.mark.parametrize("url", ["  RTSP://u:{}@h/1", "u:{}@h/x", "http:/u:pass {}@h/x", "//u:pass {}@h", "u:p {}@h/x"])
def test_no_secret_is_left_where_blanks_are_in_the_way_or_the_scheme_is_missing(url: str):
    redacted = redact_url(url.format(SECRET))
    assert SECRET not in redacted
    assert redacted.endswith(url.rpartition("@")[2])
    assert redact_url(redacted) == redacted


def test_the_rest_stays_readable():
    assert redact_url("rtsp://me:pw@10.0.0.1:554/live?channel=2") == "rtsp://***@10.0.0.1:554/live?channel=2"
    assert redact_url("http://cam/video?pwd=x&channel=2") == "http://cam/video?pwd=***&channel=2"
    assert redact_url("rtmp://127.0.0.1:1/live/sk-1") == "rtmp://127.0.0.1:1/live/***"
    assert redact_url("rtmp://a.example/live/room/sk-1?x=1") == "rtmp://a.example/live/room/***"
    assert redact_url("srt://h:9?streamid=k/?#&latency=5") == "srt://h:9?streamid=***&latency=5"
    assert redact_url("http://h/?a=b,key=c&token_type=d;xkey-2=e") == "http://h/?a=b,key=***&token_type=d;xkey-2=***"


def test_a_long_name_takes_no_long_time():
    name = "token" * 4000  # takes 20 ms; with the cube of its length, days
    assert redact_urls(f"http://h/?{name}") == f"http://h/?{name}"
    assert redact_urls(f"http://h/?{name}_a={name}=x") == f"http://h/?{name}_a={name}=***"
    words = name * 10  # with the square of its length, minutes
    assert redact_text(f"{words} ! {name}={SECRET}") == f"{words} ! {name}=***"
    word = "a" * 100_000
    assert redact_urls(f"{word}://u:{SECRET}@h/x") == f"{word}://***@h/x"


@pytest.mark.parametrize("url", ["rtmp://h/live/hunter2", "rtsp://u:hunter2@h/1"])
def test_urls_within_a_message(url: str):
    line = f"{url}: lost (it said 'no {url}'); retrying (password = 3)"
    redacted = redact_urls(line)
    assert SECRET not in redacted
    assert redacted.endswith("; retrying (password = 3)")
    assert redact_urls(redacted) == redacted
    assert redact_urls(f"{redact_url(url)}: lost; retrying") == f"{redact_url(url)}: lost; retrying"


@pytest.mark.parametrize(
    ("url", "hinted"),
    [
        ("rtsp://u:pa#ss@h/1", True),
        ("rtsp://u:pa/ss@h/1", True),
        ("http://u:12?ss@h/1", True),
        ("rtsp://u:pa%23ss@h/1", False),
        ("rtsp://u:p@ss@h/1", False),
        ("http://h/a@b", False),
        ("http://[::1]/a@b", False),
        ("http://h:80/a", False),
    ],
)
def test_how_to_write_a_password(url: str, hinted: bool):
    hint = password_hint(url)
    assert (hint is not None) == hinted
    assert hint is None or ("# as %23, / as %2F and ? as %3F" in hint and "ss" not in hint.replace("password", ""))


@pytest.mark.parametrize(
    "spec",
    [
        "rtsp://10.0.0.1/live",
        "http://h:80/v.mp4?start=3",
        "me@home/pass=1.mp4",
        "0",
        "scene",
        "C:\\a@b.mp4",
        "udp://@:1234",
        "udp:@:5",
        "rtsp:/h:554/1",
    ],
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
        "rtmpsrc location=rtmp://cam/a/hunter2 latency=0 ! decodebin ! appsink",
        'rtmpsrc location="rtmp://cam/a/hunter2 app=a" latency=0 ! decodebin ! appsink',
        "rtmp2src stream-key=hunter2 latency=0 ! decodebin ! appsink",
        "rtspsrc location = rtsp://cam/a user-pw = hunter2 latency=0 ! appsink",
    ],
)
def test_no_secret_of_a_pipeline_is_shown(spec):
    redacted = redact_url(spec)
    assert "hunter2" not in redacted
    assert "latency=0 ! " in redacted
    assert "appsink" in redacted
    assert redact_url(redacted) == redacted
