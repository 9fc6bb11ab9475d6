"""One kept-alive connection to a server of KServe's v2 protocol over HTTP, with binary tensors.

Python's own `http.client` is enough for it: a connection of ours is known to be new or used, which the check of the
served bundle needs, and nothing has to be installed.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import numpy as np
import numpy.typing as npt

from sharpose.errors import ServerBusyError, ServerError, ServerGoneError, ServerRefusedError, one_line
from sharpose.serving.client.address import Credentials, ServerAddress
from sharpose.serving.client.connection import ConnectionClosedError, Tensor
from sharpose.serving.contract import CROPS, QUALITY_THRESHOLD, ServedTensor

_HEADER_LENGTH = "Inference-Header-Content-Length"
_MOST_BYTES = 64 << 20  # of an answer: that of 4096 crops has 2
_BUSY = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}
_PASSING = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY}
_MENDS: dict[int, str] = {
    HTTPStatus.UNAUTHORIZED: "; give --server-token, or $SHARPOSE_SERVER_TOKEN",
    HTTPStatus.FORBIDDEN: "; is --server-token the right one?",
    HTTPStatus.NOT_FOUND: "; are the address's path and model right?",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "; raise the gateway's limit: a crop of 256x192 has 147 kB",
}


class HttpConnection:
    """See `Connection`. Connects with the first request.

    Args:
        address: Where to.
        credentials: The token is sent with every request.
        tls: For https.
    """

    def __init__(self, address: ServerAddress, credentials: Credentials, tls: ssl.SSLContext | None) -> None:
        self.used = False
        self._path = f"{address.prefix}/v2/models/{address.model}"
        self._headers = {"Accept-Encoding": "identity"}
        if credentials.token is not None:
            self._headers["Authorization"] = f"Bearer {credentials.token}"
        if tls is None:
            self._connection = http.client.HTTPConnection(address.host, address.port)
        else:
            self._connection = http.client.HTTPSConnection(address.host, address.port, context=tls)
        self._socket: socket.socket | None = None
        self._closed = False

    def config(self, timeout: float) -> Mapping[str, Any]:
        """See `Connection.config`."""
        _, body = self._exchange("GET", "/config", [], {}, timeout)
        try:
            config = json.loads(bytes(body))
        except ValueError:
            config = None
        if not isinstance(config, dict):
            raise ServerError("expected a model's configuration as JSON, got something else; is it a Triton server?")
        return config

    def infer(
        self,
        crops: npt.NDArray[np.uint8],
        thresholds: npt.NDArray[np.float32],
        wanted: Sequence[ServedTensor],
        timeout: float,
    ) -> dict[str, Tensor]:
        """See `Connection.infer`."""
        inputs = ((CROPS, crops), (QUALITY_THRESHOLD, thresholds))
        header = json.dumps(
            {
                "parameters": {"timeout": int(timeout * 1e6)},  # where the server lets requests say so, they expire
                "inputs": [
                    {
                        "name": tensor.name,
                        "shape": array.shape,
                        "datatype": tensor.datatype,
                        "parameters": {"binary_data_size": array.nbytes},
                    }
                    for tensor, array in inputs
                ],
                "outputs": [{"name": tensor.name, "parameters": {"binary_data": True}} for tensor in wanted],
            }
        ).encode()
        parts = [
            memoryview(header),
            *(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data for _, array in inputs),
        ]
        headers = {"Content-Type": "application/octet-stream", _HEADER_LENGTH: str(len(header))}
        header_length, body = self._exchange("POST", "/infer", parts, headers, timeout)
        return _split(body, header_length)

    def interrupt(self) -> None:
        """See `Connection.interrupt`."""
        self._closed = True
        sock = self._socket
        if sock is not None:
            with contextlib.suppress(OSError):  # it is closed already
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """See `Connection.close`."""
        self._closed = True
        self._connection.close()

    def _exchange(
        self, method: str, path: str, parts: Sequence[memoryview], headers: Mapping[str, str], timeout: float
    ) -> tuple[str | None, memoryview]:
        """Send a request, and read the whole answer, in so many seconds.

        Returns:
            The length of the JSON that begins the answer, as its header says, and the answer.
        """
        until = time.monotonic() + timeout
        length = {"Content-Length": str(sum(part.nbytes for part in parts))} if parts else {}
        sent = {**self._headers, **headers, **length}
        try:
            if self._connection.sock is None:
                self._connection.timeout = timeout
                self._connection.connect()
                self._socket = self._connection.sock
            if self._closed:
                raise ServerGoneError("interrupted")
            sock = self._connection.sock
            sock.settimeout(_left(until))
            try:
                self._connection.request(method, self._path + path, iter(parts) if parts else None, sent)
            except (BrokenPipeError, ConnectionResetError):
                if self.used:
                    raise
                # A gateway that refuses what is too large answers before it has read all of it.
            sock.settimeout(_left(until))
            answer = self._connection.getresponse()
            body = _read_body(answer, sock, until)
        except TimeoutError:
            raise ServerGoneError(f"no answer within {timeout:g} s") from None
        except ssl.SSLCertVerificationError as error:
            raise ServerRefusedError(
                f"its certificate isn't trusted: {error.verify_message}; give --server-ca FILE"
            ) from None
        except ssl.SSLError as error:
            if not self.used and error.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"):
                raise ServerRefusedError("speaks no TLS there; give http:// or another port") from None
            raise ServerGoneError(f"TLS failed: {error.reason or one_line(error)}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            kind = ConnectionClosedError if _is_closed(error) else ServerGoneError
            raise kind(_in_words(error)) from None
        self.used = True
        if answer.status != HTTPStatus.OK:
            raise _error_of(answer.status, answer.getheader("Location"), bytes(body))
        return answer.getheader(_HEADER_LENGTH), body


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _read_body(answer: http.client.HTTPResponse, sock: socket.socket, until: float) -> memoryview:
    """All of it; raises `IncompleteRead` where the server breaks off."""
    if answer.length is not None and answer.length > _MOST_BYTES:
        raise ServerError(f"expected an answer of at most {_MOST_BYTES} bytes, got {answer.length}")
    body = bytearray()
    missing = answer.length
    while missing is None or missing > 0:
        sock.settimeout(_left(until))
        piece = answer.read1(1 << 20)
        if not piece:
            if missing:
                raise http.client.IncompleteRead(bytes(body), missing)
            break
        body += piece
        missing = None if missing is None else missing - len(piece)
        if len(body) > _MOST_BYTES:
            raise ServerError(f"expected an answer of at most {_MOST_BYTES} bytes, got more")
    answer.read()  # the connection may be used again
    return memoryview(body)


def _split(body: memoryview, header_length: str | None) -> dict[str, Tensor]:
    """The outputs: JSON says what they are, their bytes follow."""
    try:
        at = len(body) if header_length is None else int(header_length)
        outputs = json.loads(bytes(body[:at]))["outputs"]
        tensors = {}
        for output in outputs:
            name, shape = str(output["name"]), tuple(int(size) for size in output["shape"])
            size = output.get("parameters", {}).get("binary_data_size")
            data = None if size is None else body[at : at + int(size)]
            at += 0 if size is None else int(size)
            tensors[name] = Tensor(str(output["datatype"]), shape, data)
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ServerError("expected outputs of the v2 protocol, got something else; is it a Triton server?") from None
    if at != len(body):
        raise ServerError(f"expected an answer of {at} bytes, as its header says, got {len(body)}")
    return tensors


def _error_of(status: int, location: str | None, body: bytes) -> ServerError:
    """What an answer that isn't 200 means."""
    try:
        found = json.loads(body)["error"]
        said = found if isinstance(found, str) else ""
    except (ValueError, TypeError, KeyError):  # a gateway's page
        said = ""
    said = re.sub(r"[^ -~]+", " ", said)[:300] or http.client.responses.get(status, "")
    text = f"answers {status}{f': {said}' if said else ''}"
    if status in _BUSY:
        return ServerBusyError(text)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _PASSING:
        return ServerGoneError(text)
    if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        return ServerRefusedError(f"{text}; give the address that it leads to: {(location or 'none')[:300]}")
    return ServerRefusedError(text + _MENDS.get(status, ""))


def _is_closed(error: Exception) -> bool:
    return isinstance(error, ConnectionResetError | BrokenPipeError)  # http.client's RemoteDisconnected is one


def _in_words(error: Exception) -> str:
    if isinstance(error, http.client.IncompleteRead):
        return f"broke off after {len(error.partial)} bytes"
    if _is_closed(error):
        return "closed the connection"
    if isinstance(error, http.client.HTTPException):
        return f"answers no HTTP ({type(error).__name__})"
    return one_line(error)
