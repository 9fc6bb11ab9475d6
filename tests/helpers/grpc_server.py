"""A small gRPC server of KServe's v2 protocol, with message types of its own: tritonclient's need an older protobuf."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from v2_server import MODEL, simple_poses

_SERVICE = "inference.GRPCInferenceService"
_DATATYPES = {"float32": "FP32", "bool": "BOOL", "int32": "INT32"}
# Fields of each message, in order: a scalar type or a message, `*` before repeated ones, `map ` before maps from texts.
_MESSAGES = {
    "InferParameter": {"int64_param": "int64"},
    "InferTensor": {"name": "string", "datatype": "string", "shape": "*int64"},
    "ModelInferRequest": {
        "model_name": "string",
        "parameters": "map InferParameter",
        "inputs": "*InferTensor",
        "outputs": "*InferTensor",
        "raw_input_contents": "*bytes",
    },
    "ModelInferResponse": {"model_version": "string", "outputs": "*InferTensor", "raw_output_contents": "*bytes"},
    "ModelTensor": {"name": "string", "data_type": "string", "dims": "*int64"},
    "ModelParameter": {"string_value": "string"},
    "ModelConfig": {
        "name": "string",
        "max_batch_size": "int64",
        "input": "*ModelTensor",
        "output": "*ModelTensor",
        "parameters": "map ModelParameter",
    },
    "ModelConfigRequest": {"name": "string"},
    "ModelConfigResponse": {"config": "ModelConfig"},
    "StatisticDuration": {"count": "int64"},
    "InferStatistics": {"success": "StatisticDuration"},
    "ModelStatistics": {"name": "string", "inference_stats": "InferStatistics"},
    "ModelStatisticsRequest": {"name": "string"},
    "ModelStatisticsResponse": {"model_stats": "*ModelStatistics"},
}


def _message_types() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="stand_in.proto", package="inference", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (field_name, kind) in enumerate(fields.items(), 1):
            field = message.field.add(name=field_name, number=number)
            repeated = kind.startswith(("*", "map "))
            field.label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
            target = kind.removeprefix("*").removeprefix("map ")
            if kind.startswith("map "):
                entry = message.nested_type.add(name=f"{field_name.title()}Entry")
                entry.options.map_entry = True
                entry.field.add(name="key", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
                value = entry.field.add(name="value", number=2, type=field.TYPE_MESSAGE, label=field.LABEL_OPTIONAL)
                value.type_name = f".inference.{target}"
                target = f"{name}.{entry.name}"
            if target in ("string", "int64", "bytes"):
                field.type = getattr(field, f"TYPE_{target.upper()}")
            else:
                field.type, field.type_name = field.TYPE_MESSAGE, f".inference.{target}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"inference.{name}")) for name in _MESSAGES
    }


def install_messages(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Put modules in the place of tritonclient's, and give the message types."""
    types = _message_types()
    package, messages, services = (
        ModuleType(name) for name in ("tritonclient.grpc", "service_pb2", "service_pb2_grpc")
    )
    vars(messages).update(types)

    class Stub:
        def __init__(self, channel: grpc.Channel) -> None:
            for method in ("ModelConfig", "ModelInfer", "ModelStatistics"):
                call = channel.unary_unary(
                    f"/{_SERVICE}/{method}",
                    request_serializer=lambda message: message.SerializeToString(),
                    response_deserializer=types[f"{method}Response"].FromString,
                )
                setattr(self, method, call)

    vars(services)["GRPCInferenceServiceStub"] = Stub
    vars(package).update(service_pb2=messages, service_pb2_grpc=services)
    monkeypatch.setitem(sys.modules, "tritonclient", ModuleType("tritonclient"))
    monkeypatch.setitem(sys.modules, "tritonclient.grpc", package)
    monkeypatch.delitem(sys.modules, "sharpose.serving.client.over_grpc", raising=False)
    return types


class GrpcServer:
    """Answers as `V2Server` does; `acts` are statuses with their details, or None for poses."""

    def __init__(self, types: dict[str, Any], port: int = 0) -> None:
        self.model, self.version, self._types = MODEL, "", types
        self.acts: list[tuple[grpc.StatusCode, str] | None] = []
        self.requests, self.answered, self.configs, self.metadata = 0, 0, 0, dict[str, str]()
        self._server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        handlers = {
            method: grpc.unary_unary_rpc_method_handler(
                call,
                request_deserializer=types[f"{method}Request"].FromString,
                response_serializer=lambda message: message.SerializeToString(),
            )
            for method, call in (
                ("ModelConfig", self._config),
                ("ModelInfer", self._infer),
                ("ModelStatistics", self._statistics),
            )
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self.url = f"grpc://127.0.0.1:{self.port}/sharpose"
        self._server.start()

    def stop(self) -> None:
        self._server.stop(0).wait()

    def _config(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.configs += 1
        self.metadata = {str(key): str(value) for key, value in context.invocation_metadata()}
        return json_format.ParseDict({"config": self.model.to_config()}, self._types["ModelConfigResponse"]())

    def _infer(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.requests += 1
        self.metadata = {str(key): str(value) for key, value in context.invocation_metadata()}
        act = self.acts.pop(0) if self.acts else None
        if act is not None:
            context.abort(*act)
        pixels, limits = request.raw_input_contents
        crops = np.frombuffer(pixels, np.uint8).reshape(request.inputs[0].shape)
        thresholds = np.frombuffer(limits, np.float32).reshape(request.inputs[1].shape)
        assert request.parameters["timeout"].int64_param > 0
        found = simple_poses(crops, thresholds)
        answer = self._types["ModelInferResponse"](model_version=self.version or str(self.model.version))
        for name in (item.name for item in request.outputs):
            answer.outputs.add(name=name, datatype=_DATATYPES[found[name].dtype.name], shape=found[name].shape)
            answer.raw_output_contents.append(found[name].tobytes())
        self.answered += 1
        return answer

    def _statistics(self, request: Any, context: grpc.ServicerContext) -> Any:
        answer = self._types["ModelStatisticsResponse"]()
        answer.model_stats.add(name=request.name).inference_stats.success.count = self.answered
        return answer
