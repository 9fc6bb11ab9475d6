"""Stands in for `triton_python_backend_utils`, which Triton's Python backend has, and for the server that calls it."""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


class TritonModelException(Exception):  # noqa: N818 (Triton's name)
    pass


class Tensor:
    """Whose array is its own; `broken` makes it as a backend does that doesn't understand this numpy."""

    broken = False

    def __init__(self, name: str, values: np.ndarray) -> None:
        assert values.flags.c_contiguous, f"{name}: the backend would copy it"
        self._name = name
        self._values: np.ndarray = values.copy()

    @classmethod
    def from_dlpack(cls, name: str, other: Tensor) -> Tensor:
        return cls(name, np.zeros_like(other._values) if cls.broken else other._values)

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> np.ndarray:
        return self._values


class TritonError:
    INTERNAL, INVALID_ARG = "INTERNAL", "INVALID_ARG"

    def __init__(self, message: str, code: str = INTERNAL) -> None:
        self._message, self._code = message, code

    def message(self) -> str:
        return self._message

    def code(self) -> str:
        return self._code


class InferenceResponse:
    def __init__(self, output_tensors: Sequence[Tensor], error: TritonError | None = None) -> None:
        self._tensors, self._error = list(output_tensors), error

    def output_tensors(self) -> list[Tensor]:
        return self._tensors

    def has_error(self) -> bool:
        return self._error is not None

    def error(self) -> TritonError | None:
        return self._error

    def arrays(self) -> dict[str, np.ndarray]:
        """For tests."""
        assert self._error is None, self._error.message()
        return {tensor.name(): tensor.as_numpy() for tensor in self._tensors}


class Request:
    """A client's, or one that a model makes of another model."""

    models: Mapping[str, Callable[[Request], InferenceResponse]] = {}

    def __init__(
        self,
        inputs: Sequence[Tensor],
        model_name: str = "",
        requested_output_names: Sequence[str] = (),
        preferred_memory: str = "",
    ) -> None:
        self._inputs, self.model_name, self.wanted = list(inputs), model_name, list(requested_output_names)
        self.preferred_memory = preferred_memory

    @classmethod
    def of(cls, **arrays: np.ndarray) -> Request:
        return cls([Tensor(name, values) for name, values in arrays.items()])

    def inputs(self) -> list[Tensor]:
        return self._inputs

    def exec(self) -> InferenceResponse:
        assert self.preferred_memory == "CPU", "numpy can't read what is left on a GPU"
        return self.models[self.model_name](self)


class MetricFamily:
    """Its metrics fail once it was collected, as Triton's do."""

    COUNTER = 0

    def __init__(self, name: str, description: str, kind: int) -> None:
        self.name = name

    def Metric(self, labels: Mapping[str, str]) -> _Metric:
        import weakref

        return _Metric(weakref.ref(self))


class _Metric:
    def __init__(self, family: Any) -> None:
        self._family = family

    def increment(self, number: int) -> None:
        family = self._family()
        assert family is not None, "the family was collected"
        counted[family.name] = counted.get(family.name, 0) + number


counted: dict[str, int] = {}
logged: list[tuple[str, str]] = []


class Logger:
    log_info = staticmethod(lambda text: logged.append(("info", text)))
    log_warn = staticmethod(lambda text: logged.append(("warn", text)))
    log_error = staticmethod(lambda text: logged.append(("error", text)))


def make_backend() -> types.ModuleType:
    """The module, for `sys.modules`."""
    counted.clear()
    logged.clear()
    module = types.ModuleType("triton_python_backend_utils")
    names = {
        "Tensor": type("Tensor", (Tensor,), {}),
        "TritonError": TritonError,
        "TritonModelException": TritonModelException,
        "InferenceResponse": InferenceResponse,
        "InferenceRequest": type("InferenceRequest", (Request,), {"models": {}}),
        "MetricFamily": MetricFamily,
        "Logger": Logger,
        "PreferredMemory": lambda memory: memory,
        "TRITONSERVER_MEMORY_CPU": "CPU",
    }
    vars(module).update(names)
    return module


def load_model(folder: Path, config: str) -> Any:
    """The `TritonPythonModel` of a model's folder, initialized as Triton does it; `config` is its JSON."""
    (path,) = folder.glob("*/model.py")
    spec = importlib.util.spec_from_file_location(f"model_of_{folder.name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    model = module.TritonPythonModel()
    model.initialize(
        {
            "model_name": folder.name,
            "model_config": config,
            "model_repository": str(folder),
            "model_version": path.parent.name,
            "model_instance_kind": "CPU",
        }
    )
    return model
