"""The page in a real browser: the picture is shown and changes, and so do the numbers."""

from __future__ import annotations

import functools
import http.server
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from chromium import Browser, find_chromium

from sharpose.runtime.frames import SourceHealth

pytest.importorskip("prometheus_client")

# The colour of a point of the picture as it is shown, red first.
COLOUR = """(() => {
  const picture = document.querySelector("#picture"), canvas = document.createElement("canvas");
  if (!picture?.naturalWidth) return null;
  canvas.width = picture.naturalWidth; canvas.height = picture.naturalHeight;
  const brush = canvas.getContext("2d"); brush.drawImage(picture, 0, 0);
  return [canvas.width, canvas.height, ...brush.getImageData(4, 4, 1, 1).data.slice(0, 3)];
})()"""


def text(selector: str) -> str:
    return f"document.querySelector({selector!r})?.textContent"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    browser = Browser(program, tmp_path_factory.mktemp("chromium") / "profile")
    yield browser
    browser.close()


@pytest.fixture
def browser(chromium: Browser) -> Browser:
    """With an empty page that shares nothing with other tests'."""
    chromium.renew()
    return chromium


@pytest.fixture
def running(serve, show, make_record):
    """A server with a token and two streams whose frames keep coming: a red one and a blue one."""
    server = serve(token="sesame")
    health = SourceHealth(reconnects=4)
    red = show(server, "rtsp://***@cam/1", live=True, health=health, clock=time.monotonic)
    blue = show(server, "<b>blue</b> & ü", clock=time.monotonic)
    done = threading.Event()

    def write() -> None:
        index = 0
        while not done.wait(0.05):
            level = 120 + index % 2 * 100
            image = np.zeros((360, 640, 3), np.uint8)
            image[..., 2] = level
            health.dropped = index
            stages = {"read": 0.001, "coarse": 0.020, "fine": 0.010}
            red.write(make_record(index, people=5, refined=2, wanted=3, age=0.03, stages=stages, image=image))
            image = np.zeros((480, 480, 3), np.uint8)
            image[..., 0] = 200
            blue.write(make_record(index, people=1, refined=0, image=image))
            index += 1

    writer = threading.Thread(target=write)
    writer.start()
    yield server, red, blue, done
    done.set()
    writer.join()


def test_the_page_shows_the_picture_and_the_numbers(browser: Browser, running) -> None:
    server, red, _, done = running
    browser.size(1440, 900)
    browser.open(f"{server.url}?token=sesame")
    colours = [browser.until(COLOUR, lambda value: value is not None and value[2] > 150)]
    colours.append(browser.until(COLOUR, lambda value: value[2] < 150))  # the picture is live
    for width, height, _, green, blue in colours:
        assert (width, height) == (640, 360)
        assert green < 30
        assert blue < 30
    assert browser.until(text("#status")) == "running"
    assert browser.run(text("#people")) == "5"
    assert browser.run(text("#refined")) == "2"
    assert browser.run(text("#deferred")) == "1 deferred"
    assert browser.run(text("#refine-rate")) == "40 %"
    assert browser.run(text("#reconnects")) == "4"
    assert browser.run(text("#size")) == "640 × 360 · live"
    rows = browser.run("[...document.querySelectorAll('#stages tr')].map(row => row.innerText.split(/\\s+/))")
    assert rows == [["read", "1.0", "1.0"], ["coarse", "20.0", "20.0"], ["fine", "10.0", "10.0"]]
    dropped = int(browser.run(text("#dropped")))
    browser.until(text("#dropped"), lambda value: int(value) > dropped)
    assert "sesame" not in browser.run("location.href")
    assert "sesame" not in browser.run("document.documentElement.outerHTML")
    assert browser.run("document.cookie") == ""  # no script can read it
    done.set()
    red.close()
    browser.until(text("#status"), lambda value: value == "ended")
    assert browser.run(COLOUR)[2] > 100  # the last picture stays
    browser.run("performance.clearResourceTimings()")
    asked = "performance.getEntriesByType('resource').filter(one => /frame.jpg/.test(one.name))"
    asked += ".map(one => one.startTime)"
    times = browser.until(asked, lambda times: len(times) >= 3)
    assert times[2] - times[1] > 900  # milliseconds: it is told at once that no other picture comes
    server.close()
    browser.until(text("#status"), lambda value: value == "no connection")


def test_choosing_a_stream(browser: Browser, running, show) -> None:
    server = running[0]
    browser.open(f"{server.url}?token=sesame")
    names = "Array.from(document.querySelectorAll('#streams option'), one => one.textContent)"
    assert browser.until(names) == ["rtsp://***@cam/1", "<b>blue</b> & ü"]
    assert browser.run("document.querySelectorAll('b b, option b').length") == 0  # names are text
    browser.run(
        "(() => { const one = document.querySelector('#streams'); one.selectedIndex = 1;"
        " one.dispatchEvent(new Event('change')); })()"
    )
    colour = browser.until(COLOUR, lambda value: value is not None and value[0] == 480)
    assert colour[4] > 150
    browser.until(text("#people"), lambda value: value == "1")
    assert browser.run("document.title") == "<b>blue</b> & ü – SHaRPose"
    show(server, "third")  # another one comes
    browser.until(names, lambda value: len(value) == 3)
    assert browser.run("document.querySelector('#streams').value") == "<b>blue</b> & ü"
    browser.ask("Page.reload")  # the address names the stream
    browser.until(COLOUR, lambda value: value is not None and value[0] == 480)
    assert browser.complaints == []  # its policy blocked nothing, no script failed


def test_changing_streams_again_and_again(browser: Browser, running) -> None:
    """At any moment of a picture's way: asked for, loading, being decoded."""
    browser.open(f"{running[0].url}?token=sesame")
    browser.until(COLOUR)
    at = "document.querySelector('#streams').options"
    for turn in range(16):
        index, width = ((1, 480), (0, 640))[turn % 2]
        choice = f"choose({at}[{index}].value); done();"
        browser.run(f"new Promise(done => setTimeout(() => {{ {choice} }}, {turn * 7 % 60}))")
        browser.until(f"{COLOUR}?.[0] === {width}")


@pytest.mark.parametrize(("width", "phone"), [(320, True), (390, True), (768, True), (1024, False), (2560, False)])
def test_nothing_is_wider_than_the_window(browser: Browser, running, width: int, phone: bool) -> None:
    server = running[0]
    browser.size(width, 800, phone=phone)
    browser.open(f"{server.url}?token=sesame")
    browser.until("document.querySelectorAll('#stages tr').length === 3")
    assert browser.run("document.documentElement.scrollWidth") <= width
    left, right, tall = browser.run(
        "(({left, right, height}) => [left, right, height])(document.querySelector('#picture').getBoundingClientRect())"
    )
    assert 0 <= left < right <= width
    assert tall > 100


def test_without_the_token_nothing_is_shown(browser: Browser, running) -> None:
    browser.open(running[0].url)
    assert "this server needs its token" in browser.until("document.body?.innerText")


def test_another_site_can_not_show_the_picture(browser: Browser, serve, ask, show, make_record, tmp_path: Path) -> None:
    """A page of somebody else, open in the same browser, while the server has no token."""
    server = serve()
    show(server, "a").write(make_record(0))
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "index.html").write_text("<p>elsewhere")
    (folder / "own.jpg").write_bytes(ask(server, "/snapshot.jpg").body)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    shown = """new Promise(done => {
      const picture = new Image();
      picture.onload = () => done("shown"); picture.onerror = () => done("refused");
      picture.src = "%s";
    })"""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as elsewhere:
        thread = threading.Thread(target=elsewhere.serve_forever, args=(0.02,))
        thread.start()
        browser.open(f"http://localhost:{elsewhere.server_port}/")
        browser.until("document.body?.innerText === 'elsewhere'")
        answers = [browser.run(shown % address) for address in ("own.jpg", f"{server.url}snapshot.jpg")]
        read = browser.run(f"fetch('{server.url}state.json').then(() => 'read', () => 'refused')")
        elsewhere.shutdown()
        thread.join()
    assert answers == ["shown", "refused"]
    assert read == "refused"
