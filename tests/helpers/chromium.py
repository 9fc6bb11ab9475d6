"""A headless Chromium, driven over its DevTools pipe: no port, no library."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_chromium() -> str | None:
    return next(filter(None, map(shutil.which, NAMES)), None)


class PageLeftError(Exception):
    """The page that was asked is being replaced by another."""


class Browser:
    """A browser with one page at a time.

    Attributes:
        complaints: What its console and the page's policy complained of.
    """

    def __init__(self, program: str, profile: Path) -> None:
        here_read, there_write = os.pipe()
        there_read, here_write = os.pipe()

        def keep_pipes() -> None:  # Chromium reads descriptor 3 and writes descriptor 4
            reading, writing = os.dup(there_read), os.dup(there_write)
            os.dup2(reading, 3)
            os.dup2(writing, 4)

        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        flags += ["--disable-background-networking", "--disable-component-update", "--no-proxy-server", "--lang=en"]
        flags += ["--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(
            [program, *flags],
            preexec_fn=keep_pipes,
            close_fds=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(there_read)
        os.close(there_write)
        self._reader, self._writer = os.fdopen(here_read, "rb"), os.fdopen(here_write, "wb")
        self._last = 0
        self._rest = b""
        self._session: str | None = None
        self._context: str | None = None
        self.complaints: list[str] = []

    def renew(self) -> None:
        """Take an empty page, which shares nothing with those before: no cookie, no cache, no size."""
        self._session = None
        if self._context is not None:
            self.ask("Target.disposeBrowserContext", browserContextId=self._context)
        self._context = self.ask("Target.createBrowserContext")["browserContextId"]
        page = self.ask("Target.createTarget", url="about:blank", browserContextId=self._context)["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        self.complaints = []
        for domain in ("Page", "Runtime", "Log"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters: object) -> Any:
        self._last += 1
        message: dict[str, object] = {"id": self._last, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._writer.write(json.dumps(message).encode() + b"\0")
        self._writer.flush()
        while True:
            answer = self._read()
            if answer.get("id") == self._last:
                if "context" in answer.get("error", {}).get("message", ""):
                    raise PageLeftError(answer["error"]["message"])
                assert "error" not in answer, answer
                return answer["result"]
            if answer.get("method") in {"Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled"}:
                self.complaints.append(json.dumps(answer["params"]))

    def _read(self) -> Any:
        while b"\0" not in self._rest:
            assert select.select([self._reader], [], [], 120)[0], "Chromium says nothing"
            more = os.read(self._reader.fileno(), 1 << 20)
            assert more, "Chromium ended"
            self._rest += more
        message, self._rest = self._rest.split(b"\0", 1)
        return json.loads(message)

    def size(self, width: int, height: int, *, phone: bool = False, dark: bool = False) -> None:
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, url: str) -> None:
        self.ask("Page.navigate", url=url)

    def run(self, expression: str) -> Any:
        result = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def until(self, expression: str, holds: Callable[[Any], bool] = bool, seconds: float = 60) -> Any:
        """What `expression` gives once `holds` is true of it."""
        end = time.monotonic() + seconds
        while True:
            try:
                value = self.run(expression)
            except PageLeftError:
                value = None
            else:
                if holds(value):
                    return value
            assert time.monotonic() < end, f"{expression} is {value!r}; complaints: {self.complaints}"
            time.sleep(0.1)

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"]))

    def close(self) -> None:
        self._writer.close()  # Chromium ends when its pipe does
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.close()
