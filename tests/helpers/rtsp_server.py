"""A local RTSP server whose pictures carry the time at which they were made.

Tests use `RtspServer`, which runs this file with Debian's Python in a process of its own: it needs GStreamer's RTSP
server and its Python bindings (Debian: `python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-base
gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly`). The top of each picture shows
`time.monotonic()` in milliseconds as 32 black or white fields, which survive H.264; below them a bright bar moves.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import select
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

_PYTHON = "/usr/bin/python3"
_BITS = 32
_LOGIN = ("me", "hunter2@x")


class RtspServer:
    """The server's process; its stream is at `url`.

    Attributes:
        port: TCP port, on 127.0.0.1; free when this object was made.
        url: Where the stream is.
    """

    def __init__(self, port: int | None = None) -> None:
        self.port = _free_port() if port is None else port
        self.url = f"rtsp://127.0.0.1:{self.port}/live"
        self._process: subprocess.Popen[str] | None = None

    @staticmethod
    @functools.cache
    def missing() -> str | None:
        """Why it can't run on this machine, or None."""
        if not Path(_PYTHON).exists():
            return f"no {_PYTHON}"
        probe = (
            "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import Gst, GstRtspServer;"
            "Gst.init(None); print(' '.join(e for e in ('x264enc', 'rtph264pay', 'appsrc') "
            "if not Gst.ElementFactory.find(e)))"
        )
        done = subprocess.run([_PYTHON, "-c", probe], capture_output=True, text=True, check=False)
        if done.returncode:
            return "no GStreamer RTSP server with Python bindings (gir1.2-gst-rtsp-server-1.0, python3-gi)"
        return f"GStreamer lacks {done.stdout.strip()}" if done.stdout.strip() else None

    def start(
        self, size: tuple[int, int] = (240, 320), rate: int = 25, *, login: bool = False, tls: Path | None = None
    ) -> None:
        """Serve pictures of that height and width, at that rate; returns when the server listens.

        With `login`, only those get in who come by `secret_url`. With a certificate and its key in a PEM file `tls`,
        the stream is at `rtsps://`.
        """
        self.kill()
        height, width = size
        self._process = subprocess.Popen(
            [
                _PYTHON,
                __file__,
                str(self.port),
                str(height),
                str(width),
                str(rate),
                *(["--login"] if login else []),
                *(["--tls", str(tls)] if tls else []),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], 30)
        line = self._process.stdout.readline() if ready else ""
        if line.strip() != "ready":
            self.kill()
            raise RuntimeError(f"the RTSP server did not start on port {self.port}")

    @property
    def secret_url(self) -> str:
        """The address with the login in it."""
        name, password = _LOGIN
        return self.url.replace("//", f"//{name}:{password.replace('@', '%40')}@")

    def kill(self) -> None:
        """End the process at once, as a power cut would; nothing happens where none runs."""
        if self._process is None:
            return
        self.resume()
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._process = None

    def pause(self) -> None:
        """Go silent: connections stay open, new ones are accepted by the system, and nothing answers."""
        if self._process is not None:
            os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Go on after `pause`."""
        if self._process is not None:
            os.kill(self._process.pid, signal.SIGCONT)


def read_stamp(image: Any) -> float:
    """`time.monotonic()` in seconds when the server made this picture (uint8 [H, W, 3]); modulo 2**32 ms."""
    height, width = image.shape[:2]
    row = image[height // 32, :, :].mean(axis=-1)
    centres = [(2 * bit + 1) * width // (2 * _BITS) for bit in range(_BITS)]
    return sum(1 << bit for bit, centre in enumerate(centres) if row[centre] > 128) / 1000.0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _picture(height: int, width: int, count: int) -> bytes:
    """I420: the stamp in the top sixteenth, then grey with a moving bar."""
    stamp = int(time.monotonic() * 1000) % (1 << _BITS)
    edges = [bit * width // _BITS for bit in range(_BITS + 1)]
    top = b"".join(bytes([235 if stamp >> bit & 1 else 16]) * (edges[bit + 1] - edges[bit]) for bit in range(_BITS))
    at = count * 4 % (width - 16)
    row = bytes([90]) * at + bytes([200]) * 16 + bytes([90]) * (width - 16 - at)
    rows = height // 16
    return top * rows + row * (height - rows) + bytes([128]) * (height * width // 2)


def _serve(port: int, height: int, width: int, rate: int, login: bool, tls: str | None) -> None:
    import gi  # type: ignore[import-not-found, unused-ignore]

    gi.require_version("Gst", "1.0")
    gi.require_version("GstRtspServer", "1.0")
    from gi.repository import Gio, GLib, Gst, GstRtspServer  # type: ignore[import-not-found, unused-ignore]

    Gst.init(None)

    def configure(factory: Any, media: Any) -> None:
        source = media.get_element().get_by_name_recurse_up("pictures")
        started, count = time.monotonic(), 0

        def push() -> bool:
            nonlocal count
            while count <= (time.monotonic() - started) * rate:
                buffer = Gst.Buffer.new_wrapped(_picture(height, width, count))
                if source.emit("push-buffer", buffer) != Gst.FlowReturn.OK:
                    return False
                count += 1
            return True

        GLib.timeout_add(max(1, 500 // rate), push)

    server = GstRtspServer.RTSPServer.new()
    server.set_address("127.0.0.1")
    server.set_service(str(port))
    factory = GstRtspServer.RTSPMediaFactory.new()
    caps = f"video/x-raw,format=I420,width={width},height={height},framerate={rate}/1"
    factory.set_launch(
        f"( appsrc name=pictures is-live=true do-timestamp=true format=time caps={caps} ! "
        f"x264enc tune=zerolatency speed-preset=ultrafast key-int-max={rate} bitrate=2000 ! "
        "video/x-h264,profile=baseline ! rtph264pay name=pay0 pt=96 config-interval=1 )"
    )
    factory.set_shared(True)
    factory.connect("media-configure", configure)
    if login or tls:
        name, password = _LOGIN
        auth = GstRtspServer.RTSPAuth.new()
        token = GstRtspServer.RTSPToken.new()
        token.set_string("media.factory.role", "user")
        if login:
            auth.add_basic(GstRtspServer.RTSPAuth.make_basic(name, password), token)
        else:
            auth.set_default_token(token)
        if tls:
            auth.set_tls_certificate(Gio.TlsCertificate.new_from_file(tls))
        server.set_auth(auth)
        for permission in ("media.factory.access", "media.factory.construct"):
            factory.add_role_from_structure(Gst.Structure.from_string(f"user,{permission}=true")[0])
        structure = Gst.Structure.from_string("user,media.factory.access=true,media.factory.construct=true")[0]
        factory.add_role_from_structure(structure)
    server.get_mount_points().add_factory("/live", factory)
    if server.attach(None) == 0:
        raise SystemExit("the port is taken")
    print("ready", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        GLib.MainLoop().run()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name in ("port", "height", "width", "rate"):
        parser.add_argument(name, type=int)
    parser.add_argument("--login", action="store_true")
    parser.add_argument("--tls")
    given = parser.parse_args()
    _serve(given.port, given.height, given.width, given.rate, given.login, given.tls)
