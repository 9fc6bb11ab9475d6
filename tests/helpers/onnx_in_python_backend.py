"""A `model.py` that runs its `model.onnx`: in place of Triton's ONNX Runtime, which no wheel has."""

import json
from typing import Any

import onnxruntime
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        path = f"{args['model_repository']}/{args['model_version']}/model.onnx"
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._inputs = [item["name"] for item in json.loads(args["model_config"])["input"]]

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        feed = {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self._inputs}
        wanted = list(request.requested_output_names())
        values = self._session.run(wanted, feed)
        return pb_utils.InferenceResponse([pb_utils.Tensor(*pair) for pair in zip(wanted, values, strict=True)])
