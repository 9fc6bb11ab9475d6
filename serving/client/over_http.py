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
from sharpose.serving.client.connection import (
    NO_SUCH_NAME,
    NO_WAY_THERE,
    NOT_LISTENING,
    Answer,
    ConnectionClosedError,
    Tensor,
    WrongServerError,
)
from sharpose.serving.contract import CROPS, QUALITY_THRESHOLD, ServedTensor

_HEADER_LENGTH = "Inference-Header-Content-Length"
_MOST_BYTES = 64 << 20  # of an answer: that of 4096 crops has 2
_BUSY = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}
_PASSING = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY}
_IS_TRITON = "give the address of a Triton server's HTTP, by default port 8000"
_IS_TLS = "give https:// if that port wants TLS, else the port of a Triton server's HTTP, by default 8000"
_NO_CERTIFICATE = "give --server-cert FILE, a certificate that it trusts and its key, if it asks for one"
_NO_TLS = "give http:// for a port without TLS, or the port that has it"
_NO_BACKEND = "start the server behind the gateway, or give its log a look"
_REMEDIES: dict[int, str] = {
    HTTPStatus.UNAUTHORIZED: "give --server-token, or $SHARPOSE_SERVER_TOKEN",
    HTTPStatus.FORBIDDEN: "give the right --server-token, or $SHARPOSE_SERVER_TOKEN",
    HTTPStatus.NOT_FOUND: "give the address with the gateway's path, if there is one, and the model's name at its end",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "raise the gateway's limit: a crop of 256x192 has 147 kB",
    HTTPStatus.BAD_GATEWAY: _NO_BACKEND,
    HTTPStatus.GATEWAY_TIMEOUT: _NO_BACKEND,
}
_OWN_ERRORS = (HTTPStatus.INTERNAL_SERVER_ERROR, HTTPStatus.NOT_IMPLEMENTED)  # of whoever answers, not of a gateway
_TLS_ALERT = b"\x15\x03".decode()  # how the answer of a port with TLS to plain HTTP begins
_WRONG_NAME = (62, 64)  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH


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
        self._tls = tls is not None
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
            raise WrongServerError("expected a model's configuration as JSON, got something else", _IS_TRITON)
        return config

    def infer(
        self,
        crops: npt.NDArray[np.uint8],
        thresholds: npt.NDArray[np.float32],
        wanted: Sequence[ServedTensor],
        timeout: float,
    ) -> Answer:
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

    def answered(self, timeout: float) -> int:
        """See `Connection.answered`."""
        _, body = self._exchange("GET", "/stats", [], {}, timeout)
        try:
            models = json.loads(bytes(body))["model_stats"]
            return sum(int(model["inference_stats"]["success"]["count"]) for model in models)
        except (ValueError, TypeError, KeyError):
            raise ServerError("expected a model's statistics as JSON, got something else", _IS_TRITON) from None

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
                self._socket, self._connection.timeout = None, timeout
                self._connection.connect()
                self._socket = self._connection.sock
            if self._closed:
                raise ServerGoneError("interrupted")
            sock = self._connection.sock
            sock.settimeout(_left(until))
            broken: OSError | None = None
            try:
                self._connection.request(method, self._path + path, iter(parts) if parts else None, sent)
            except (BrokenPipeError, ConnectionResetError) as error:
                broken = error  # or a gateway that refuses what is too large has answered before it had read all of it
            sock.settimeout(_left(until))
            try:
                answer = self._connection.getresponse()
            except (OSError, http.client.HTTPException) as error:
                raise broken if self.used and broken is not None else error from None
            body = _read_body(answer, sock, until)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._meaning(error, timeout) from None
        self.used = self._connection.sock is not None  # else the server keeps none, and the next one is a new one
        if answer.status != HTTPStatus.OK:
            raise _error_of(answer.status, answer.getheader("Location"), bytes(body))
        return answer.getheader(_HEADER_LENGTH), body

    def _meaning(self, error: Exception, timeout: float) -> ServerError:
        """What a request that was not answered ended on, in our words."""
        connected = self._socket is not None
        if isinstance(error, TimeoutError):
            if connected:
                return ServerGoneError(f"no answer within {timeout:g} s", "look at the server's load and log")
            return ServerGoneError(f"no connection within {timeout:g} s", NO_WAY_THERE)
        if isinstance(error, ssl.SSLCertVerificationError):
            said = f"its certificate isn't trusted: {error.verify_message.rstrip('.')}"
            by_name = "give the host by a name that its certificate has"
            return ServerRefusedError(said, by_name if error.verify_code in _WRONG_NAME else "give --server-ca FILE")
        if self._tls and not self.used and (_is_closed(error) or isinstance(error, ssl.SSLEOFError)):
            if not connected:
                return WrongServerError("closed the connection in the TLS handshake", _NO_TLS)
            return WrongServerError("closed the connection after the TLS handshake", _NO_CERTIFICATE)
        if isinstance(error, ssl.SSLError):
            return self._meaning_of_tls(error, connected=connected)
        if _is_closed(error):
            return ConnectionClosedError("closed the connection", "" if self.used else _IS_TLS)
        if isinstance(error, http.client.IncompleteRead):
            return ServerGoneError(f"broke off after {len(error.partial)} bytes")
        if isinstance(error, http.client.BadStatusLine) and str(error).startswith(_TLS_ALERT):
            return ServerRefusedError("speaks TLS there", "give https://")
        if isinstance(error, http.client.HTTPException):
            return WrongServerError(f"answers no HTTP ({type(error).__name__})", _IS_TRITON)
        if isinstance(error, socket.gaierror):
            return ServerGoneError(f"the host's name isn't known here ({one_line(error)})", NO_SUCH_NAME)
        if isinstance(error, ConnectionRefusedError):
            return ServerGoneError(one_line(error), NOT_LISTENING)
        return ServerGoneError(one_line(error), "" if connected else NO_WAY_THERE)

    def _meaning_of_tls(self, error: ssl.SSLError, *, connected: bool) -> ServerError:
        """An alert comes from a server with TLS, which, with TLS 1.3, looks at certificates after the handshake."""
        reason = error.reason or one_line(error)
        if not self.used and re.search("CERTIFICATE|UNKNOWN_CA", reason):
            return ServerRefusedError(
                f"doesn't take the client's certificate, or lack of one ({reason})",
                _NO_CERTIFICATE,
            )
        if not connected and "ALERT" not in reason:
            return ServerRefusedError(f"speaks no TLS there ({reason})", _NO_TLS)
        return ServerGoneError(f"TLS failed: {reason}")


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


def _split(body: memoryview, header_length: str | None) -> Answer:
    """The outputs: JSON says what they are, their bytes follow."""
    try:
        at = len(body) if header_length is None else int(header_length)
        header = json.loads(bytes(body[:at]))
        version, tensors = str(header.get("model_version")), {}
        for output in header["outputs"]:
            name, shape = str(output["name"]), tuple(int(size) for size in output["shape"])
            size = output.get("parameters", {}).get("binary_data_size")
            data = None if size is None else body[at : at + int(size)]
            at += 0 if size is None else int(size)
            tensors[name] = Tensor(str(output["datatype"]), shape, data)
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ServerError("expected outputs of the v2 protocol, got something else", _IS_TRITON) from None
    if at != len(body):
        raise ServerError(f"expected an answer of {at} bytes, as its header says, got {len(body)}")
    return Answer(version, tensors)


def _error_of(status: int, location: str | None, body: bytes) -> ServerError:
    """What an answer that isn't 200 means."""
    try:
        found = json.loads(body)["error"]
        own = found if isinstance(found, str) else ""
    except (ValueError, TypeError, KeyError):  # another server's page
        own = ""
    said = re.sub(r"[^ -~]+", " ", own)[:300] or http.client.responses.get(status, "")
    text, remedy = f"answers {status}{f': {said}' if said else ''}", _REMEDIES.get(status, "")
    if status in _BUSY:
        return ServerBusyError(text)
    if status in _OWN_ERRORS and not own:
        return WrongServerError(text, _IS_TRITON)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _PASSING:
        return ServerGoneError(text, remedy)
    if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        return ServerRefusedError(text, f"give the address that it leads to: {(location or 'none')[:300]}")
    if status == HTTPStatus.BAD_REQUEST and not own and b"HTTPS" in body:
        return ServerRefusedError(text, "give https://")
    return ServerRefusedError(text, remedy)


def _is_closed(error: Exception) -> bool:
    return isinstance(error, ConnectionResetError | BrokenPipeError)  # http.client's RemoteDisconnected is one
