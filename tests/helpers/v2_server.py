"""A small server of KServe's v2 protocol over HTTP that does as it is told: busy, failing, answering half or late."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sharpose.serving.contract import ServedModel
from sharpose.skeleton import COCO17

Outputs = dict[str, npt.NDArray[np.generic]]
_DATATYPES = {"float32": "FP32", "bool": "BOOL", "int32": "INT32", "uint8": "UINT8", "float64": "FP64"}

MODEL = ServedModel(
    bundle_sha256="5" * 64,
    skeleton=COCO17,
    crop_size=(64, 32),
    regions=2,
    selected=1,
    quality_threshold=0.5,
    max_batch=4,
)
"""A model of small crops."""


def simple_poses(crops: npt.NDArray[np.uint8], thresholds: npt.NDArray[np.float32]) -> Outputs:
    """Keypoints at (red, green) of the crop's first pixel; its blue is the quality in hundredths."""
    count = len(crops)
    keypoints = np.full((count, 17, 3), 0.75, np.float32)
    keypoints[:, :, :2] = crops[:, 0, 0, None, :2]
    quality = crops[:, 0, 0, 2:].astype(np.float32) / np.float32(100)
    order = np.tile(np.array([[1, 0]], np.int32), (count, 1))
    return {"keypoints": keypoints, "quality": quality, "refined": quality < thresholds, "region_order": order}


def served_by_engines(bundle: Path, *, device: str = "cpu") -> dict[str, Any]:
    """Settings of a server that runs a bundle, as its own process would."""
    from sharpose.bundle import open_bundle
    from sharpose.engines.load import load_two_stage
    from sharpose.tokens import gather_patches

    opened = open_bundle(bundle)
    stages, lock = load_two_stage(opened, device, threads=1), threading.Lock()

    def poses(crops: npt.NDArray[np.uint8], thresholds: npt.NDArray[np.float32]) -> Outputs:
        with lock:
            count = len(crops)
            stages.crops[:count] = crops
            coarse = stages.run_coarse(count)
            keypoints, quality = coarse.keypoints.copy(), coarse.quality.copy()
            rows = np.flatnonzero(quality < thresholds[:, 0]).astype(np.int32)
            refined, order = np.zeros((count, 1), np.bool_), coarse.region_order.copy()
            if len(rows):
                gather_patches(stages.crops, rows, order, opened.model.num_selected, stages.patches)
                keypoints[rows] = stages.run_fine(rows)
                refined[rows] = True
        return {"keypoints": keypoints, "quality": quality[:, None], "refined": refined, "region_order": order}

    return {"model": ServedModel.of(opened), "poses": poses}


class V2Server:
    """The server; use it in a `with`.

    Attributes:
        model: What `/config` says; may be changed.
        acts: What is done with the next requests for poses, one each: a status (503), `nothing` (the connection is
            closed), `half` an answer, `late`, `empty` (outputs of zero bytes), or a function that changes the outputs.
        requests: Those for poses so far: the number of crops, and who asked (its port).
        answered: How many of those were answered with poses, as `/stats` says.
        headers: Of the last request.
    """

    def __init__(
        self,
        model: ServedModel = MODEL,
        poses: Callable[[npt.NDArray[np.uint8], npt.NDArray[np.float32]], Outputs] = simple_poses,
        *,
        port: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.model, self.poses = model, poses
        self.acts: list[Any] = []
        self.config_status = 200
        self.late_seconds = 0.5
        self.requests: list[tuple[int, int]] = []
        self.answered = 0
        self.configs = 0
        self.headers: dict[str, str] = {}
        self.sockets: set[socket.socket] = set()
        self.lock = threading.Lock()
        owner = self

        class Handler(_Handler):
            server_of_tests = owner

        self.handler = Handler
        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.port}/sharpose"
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)

    def __enter__(self) -> V2Server:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *failure: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop, and cut all connections."""
        self._server.shutdown()
        self._server.server_close()
        self.cut()

    def cut(self) -> None:
        """Close the connections that are open, as a restart does."""
        with self.lock:
            sockets, self.sockets = self.sockets, set()
        for sock in sockets:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def serve_another(self, **changes: Any) -> None:
        """Restart with another model."""
        self.model = replace(self.model, **changes)
        self.cut()

    def config(self) -> dict[str, object]:
        """As Triton writes it."""
        return self.model.to_config()


class _Handler(BaseHTTPRequestHandler):
    server_of_tests: V2Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def setup(self) -> None:
        super().setup()
        with self.server_of_tests.lock:
            self.server_of_tests.sockets.add(self.connection)

    def handle(self) -> None:
        with suppress(OSError):  # the client has gone
            super().handle()

    def finish(self) -> None:
        with suppress(OSError):
            super().finish()

    def log_message(self, format: str, *args: object) -> None:
        """Tests are quiet."""

    def do_GET(self) -> None:
        owner = self.server_of_tests
        owner.headers = dict(self.headers)
        if self.path == "/v2/models/sharpose/stats":
            count = owner.answered
            model = {"inference_stats": {"success": {"count": count}}, "execution_count": count}
            self._answer(200, json.dumps({"model_stats": [model]}).encode())
            return
        owner.configs += 1
        if self.path != "/v2/models/sharpose/config":
            self._answer(404, b'{"error":"Request for unknown model"}')
        else:
            self._answer(owner.config_status, json.dumps(owner.config()).encode())

    def do_POST(self) -> None:
        owner = self.server_of_tests
        owner.headers = dict(self.headers)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        at = int(self.headers["Inference-Header-Content-Length"])
        header = json.loads(body[:at])
        arrays = {}
        for item in header["inputs"]:
            kind = {"UINT8": np.uint8, "FP32": np.float32}[item["datatype"]]
            end = at + item["parameters"]["binary_data_size"]
            arrays[item["name"]] = np.frombuffer(body[at:end], kind).reshape(item["shape"])
            at = end
        assert at == len(body)
        with owner.lock:
            owner.requests.append((len(arrays["crops"]), self.client_address[1]))
            act = owner.acts.pop(0) if owner.acts else "poses"
        if isinstance(act, int):
            self._answer(act, json.dumps({"error": f"told to say {act}"}).encode())
            return
        if act == "nothing":
            self.close_connection = True
            return
        if act == "late":
            time.sleep(owner.late_seconds)
        outputs = owner.poses(arrays["crops"], arrays["quality_threshold"])
        if callable(act):
            outputs = act(outputs)
        wanted = [item["name"] for item in header["outputs"]]
        self._answer_with({name: outputs[name] for name in wanted if name in outputs}, act)

    def _answer_with(self, outputs: Outputs, act: object) -> None:
        contents = [b"" if act == "empty" else array.tobytes() for array in outputs.values()]
        described = [
            {
                "name": name,
                "datatype": _DATATYPES[array.dtype.name],
                "shape": array.shape,
                "parameters": {"binary_data_size": len(content)},
            }
            for (name, array), content in zip(outputs.items(), contents, strict=True)
        ]
        with self.server_of_tests.lock:
            self.server_of_tests.answered += 1
        version = str(self.server_of_tests.model.version)
        head = json.dumps({"model_name": "sharpose", "model_version": version, "outputs": described}).encode()
        self._answer(200, head + b"".join(contents), len(head), half=act == "half")

    def _answer(self, status: int, body: bytes, header_length: int | None = None, *, half: bool = False) -> None:
        try:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            if header_length is not None:
                self.send_header("Inference-Header-Content-Length", str(header_length))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if half else body)
        except OSError:  # the client has gone
            self.close_connection = True
        if half:
            self.close_connection = True


@contextmanager
def v2_server(**settings: Any) -> Iterator[V2Server]:
    """A server that runs."""
    with V2Server(**settings) as server:
        yield server
