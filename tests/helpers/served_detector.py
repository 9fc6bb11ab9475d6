"""A stand-in for the default detector, downloaded from a server on this machine."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from cli_files import write_detector

PERSON = [10.0, 5.0, 50.0, 85.0]
"""The box that it finds in every picture of 96x128, `x1, y1, x2, y2`."""


@contextlib.contextmanager
def default_detector_served(folder: Path) -> Iterator[dict[str, str]]:
    """The variables of an environment whose `yolox-tiny` is a graph that a mirror has, `served/tiny.onnx`."""
    served = folder / "served"
    served.mkdir()
    boxes, labels = np.array([[[*PERSON, 0.5]]], np.float32), np.array([[0]], np.int64)
    file = write_detector(served / "tiny.onnx", dets=boxes, labels=labels)
    table = folder / "config" / "sharpose" / "detectors.yaml"
    table.parent.mkdir(parents=True)
    table.write_text(
        "detectors: {yolox-tiny: {url: 'https://example.invalid/far/tiny.onnx', family: end-to-end, licence: none, "
        f"sha256: {hashlib.sha256(file.read_bytes()).hexdigest()}, sha256_source: me}}}}\n"
    )
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(served))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield {
            "XDG_CACHE_HOME": str(folder / "cache"),
            "XDG_CONFIG_HOME": str(folder / "config"),
            "SHARPOSE_DETECTOR_MIRROR": f"http://127.0.0.1:{server.server_port}/",
        }
        server.shutdown()
