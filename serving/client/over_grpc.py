"""The same over gRPC, by the extra `triton-grpc`: tritonclient's message types on a channel of our own."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
from google.protobuf.json_format import MessageToDict
from tritonclient.grpc import service_pb2, service_pb2_grpc

from sharpose.errors import ServerBusyError, ServerError, ServerGoneError, ServerRefusedError
from sharpose.serving.client.address import Credentials, ServerAddress
from sharpose.serving.client.connection import (
    NO_SUCH_NAME,
    NO_WAY_THERE,
    NOT_LISTENING,
    Answer,
    Tensor,
    WrongServerError,
)
from sharpose.serving.contract import CROPS, QUALITY_THRESHOLD, ServedTensor

_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),  # else channels to one server share a connection
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_send_message_length", -1),
)
_BUSY_HINTS = ("queue", "exceeds maximum")  # in what Triton says with UNAVAILABLE; connections fail with it too

# What gRPC says with UNAVAILABLE where it couldn't connect, what that means, and what to do.
_NOT_CONNECTED = re.compile(r"failed to connect to all addresses(.*?ipv[46]:\S+: )?|errors resolving |DNS resolution ")
_CONNECTING: tuple[tuple[str, type[ServerError], str], ...] = (
    ("connection refused", ServerGoneError, NOT_LISTENING),
    ("resolving|resolution|lookup", ServerGoneError, NO_SUCH_NAME),
    ("CERTIFICATE_VERIFY_FAILED", ServerRefusedError, "give --server-ca FILE, and the host by its certificate's name"),
    ("handshake failed", ServerRefusedError, "give grpc:// for a port without TLS, or the port that has it"),
    ("HTTP/2|ALPN", WrongServerError, "give the port of a Triton server's gRPC, by default 8001"),
    (
        "socket closed|reset",
        ServerGoneError,
        "give grpcs:// for a port with TLS, --server-cert if it asks for one",
    ),
    ("", ServerGoneError, NO_WAY_THERE),
)


class GrpcConnection:
    """See `Connection`: a channel that never shares its connection. Connects with the first request.

    Args:
        address: Where to.
        credentials: Token and certificates.
    """

    def __init__(self, address: ServerAddress, credentials: Credentials) -> None:
        self.used = False
        self._model = address.model
        self._metadata = [("authorization", f"Bearer {credentials.token}")] if credentials.token else []
        if address.secure:
            self._channel = grpc.secure_channel(address.netloc, _channel_credentials(credentials), _OPTIONS)
        else:
            self._channel = grpc.insecure_channel(address.netloc, _OPTIONS)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._lock = threading.Lock()
        self._call: Any = None
        self._closed = False

    def config(self, timeout: float) -> Mapping[str, Any]:
        """See `Connection.config`."""
        answer = self._ask(self._stub.ModelConfig, service_pb2.ModelConfigRequest(name=self._model), timeout)
        found: dict[str, Any] = MessageToDict(answer.config, preserving_proto_field_name=True)
        return found

    def infer(
        self,
        crops: npt.NDArray[np.uint8],
        thresholds: npt.NDArray[np.float32],
        wanted: Sequence[ServedTensor],
        timeout: float,
    ) -> Answer:
        """See `Connection.infer`. A channel connects anew by itself, to whatever is there."""
        request = service_pb2.ModelInferRequest(model_name=self._model)
        request.parameters["timeout"].int64_param = int(timeout * 1e6)
        for tensor, array in ((CROPS, crops), (QUALITY_THRESHOLD, thresholds)):
            request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=array.shape)
            request.raw_input_contents.append(np.ascontiguousarray(array).tobytes())
        for tensor in wanted:
            request.outputs.add(name=tensor.name)
        answer = self._ask(self._stub.ModelInfer, request, timeout)
        contents = list(answer.raw_output_contents)
        contents += [b""] * (len(answer.outputs) - len(contents))
        tensors = {
            output.name: Tensor(output.datatype, tuple(output.shape), memoryview(content))
            for output, content in zip(answer.outputs, contents, strict=True)
        }
        return Answer(answer.model_version, tensors)

    def answered(self, timeout: float) -> int:
        """See `Connection.answered`."""
        answer = self._ask(self._stub.ModelStatistics, service_pb2.ModelStatisticsRequest(name=self._model), timeout)
        return sum(model.inference_stats.success.count for model in answer.model_stats)

    def interrupt(self) -> None:
        """See `Connection.interrupt`."""
        with self._lock:
            self._closed = True
            if self._call is not None:
                self._call.cancel()

    def close(self) -> None:
        """See `Connection.close`."""
        self.interrupt()
        self._channel.close()

    def _ask(self, method: Any, request: object, timeout: float) -> Any:  # noqa: ANN401 (generated types)
        """The answer of a method."""
        with self._lock:
            if self._closed:
                raise ServerGoneError("interrupted")
            call = self._call = method.future(request, timeout=timeout, metadata=self._metadata)
        try:
            answer = call.result()
        except grpc.FutureCancelledError:
            raise ServerGoneError("interrupted") from None
        except grpc.RpcError as error:
            raise _error_of(error.code(), error.details() or "", timeout) from None
        self.used = True
        return answer


def _channel_credentials(credentials: Credentials) -> grpc.ChannelCredentials:
    own = None if credentials.certificate is None else credentials.certificate.read_bytes()
    ca = None if credentials.ca is None else credentials.ca.read_bytes()
    return grpc.ssl_channel_credentials(root_certificates=ca, private_key=own, certificate_chain=own)


def _error_of(code: grpc.StatusCode, details: str, timeout: float) -> ServerError:
    """What a status that isn't OK means."""
    details = " ".join(details.split())
    text = f"answers {code.name}: {details[:300]}"
    kinds = grpc.StatusCode
    if code is kinds.DEADLINE_EXCEEDED:
        return ServerGoneError(f"no answer within {timeout:g} s", "look at the server's load and log, or the way to it")
    if code is kinds.UNAVAILABLE and (found := _NOT_CONNECTED.match(details)):
        said = f"no connection: {details[found.end(1) if found[1] else 0 :][:300]}"
        for hint, kind, remedy in _CONNECTING:
            if re.search(hint, details, re.IGNORECASE):
                return kind(said, remedy)
    if code is kinds.RESOURCE_EXHAUSTED or (
        code is kinds.UNAVAILABLE and any(hint in details.lower() for hint in _BUSY_HINTS)
    ):
        return ServerBusyError(text)
    if code in (kinds.UNAUTHENTICATED, kinds.PERMISSION_DENIED):
        return ServerRefusedError(text, "give --server-token, or $SHARPOSE_SERVER_TOKEN")
    if code in (kinds.NOT_FOUND, kinds.UNIMPLEMENTED):
        return ServerRefusedError(text, "give the port of Triton's gRPC, by default 8001, and the model's name")
    if code in (kinds.INVALID_ARGUMENT, kinds.FAILED_PRECONDITION):
        return ServerRefusedError(text)
    return ServerGoneError(text)
