"""TensorRT's Python module, as far as loading an engine needs it: objects live and die as the real ones, nothing runs.

Real objects hold each other weakly: a context whose runtime configuration is gone, or a configuration whose cache is,
crashes. Here it fails an assertion.
"""

from __future__ import annotations

import weakref
from enum import IntEnum
from types import ModuleType, SimpleNamespace

from sharpose.engines.base import TensorSpec

_NAMES = {"float32": "FLOAT", "float16": "HALF"}


class Validity(IntEnum):
    VALID = 0
    SUBOPTIMAL = 1
    INVALID = 2


class Diagnostics(IntEnum):
    VERSION_MISMATCH = 1
    UNSUPPORTED_CC = 2
    OLD_CUDA_DRIVER = 4
    INSUFFICIENT_GPU_MEMORY = 16
    MALFORMED_ENGINE = 32


class FakeTensorRt(ModuleType):
    """The module.

    Args:
        inputs, outputs: The engine's, by name.
        ranges: Smallest and largest batch of each profile.
        fixed: Axes that have one size in all profiles.
    """

    ILogger = object
    TensorIOMode = SimpleNamespace(INPUT="input", OUTPUT="output")
    ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="user managed")
    DynamicShapesKernelSpecializationStrategy = SimpleNamespace(LAZY="lazy", EAGER="eager")
    EngineValidity = Validity
    EngineInvalidityDiagnostics = Diagnostics

    def __init__(self, inputs, outputs, ranges, fixed=None):
        super().__init__("tensorrt")
        self.inputs: dict[str, TensorSpec] = inputs
        self.outputs: dict[str, TensorSpec] = outputs
        self.ranges, self.fixed = ranges, fixed or {}
        self.validity: tuple[Validity, int] = (Validity.VALID, 0)
        self.has_host_code = False
        self.driver = b"driver 580;"
        self.runtimes: list[FakeRuntime] = []
        self.contexts: list[FakeContext] = []
        self.compiled: list[tuple[int, ...]] = []
        self.configurations = 0

    def Runtime(self, logger):
        self.runtimes.append(FakeRuntime(self))
        return self.runtimes[-1]


class FakeRuntime:
    def __init__(self, module):
        self.module = module
        self.engine_host_code_allowed = False

    def get_engine_validity(self, plan):
        return self.module.validity

    def deserialize_cuda_engine(self, plan):
        if self.module.has_host_code and not self.engine_host_code_allowed:
            return None
        return FakeEngine(self.module)


class FakeEngine:
    device_memory_size_v2 = 1024

    def __init__(self, module):
        self.module = module
        self._specs = list({**module.inputs, **module.outputs}.values())
        self.num_io_tensors = len(self._specs)
        self.num_optimization_profiles = len(module.ranges)

    def get_tensor_name(self, index):
        return self._specs[index].name

    def _spec(self, name):
        return next(spec for spec in self._specs if spec.name == name)

    def get_tensor_mode(self, name):
        return "input" if name in self.module.inputs else "output"

    def get_tensor_shape(self, name):
        return tuple(-1 if isinstance(size, str) else size for size in self._spec(name).shape)

    def get_tensor_dtype(self, name):
        text = str(self._spec(name).dtype)
        return SimpleNamespace(name=_NAMES.get(text, text.upper()))

    def get_tensor_profile_shape(self, name, profile):
        def shape(size):
            return self._spec(name).shape_at({"N": size, "M": size} | self.module.fixed)

        low, high = self.module.ranges[profile]
        return shape(low), shape(high), shape(high)

    def create_runtime_config(self):
        self.module.configurations += 1
        return FakeConfiguration(self.module)

    def create_execution_context(self, configuration):
        self.module.contexts.append(FakeContext(self.module, configuration))
        return self.module.contexts[-1]


class FakeConfiguration:
    def __init__(self, module):
        self._module = module
        self.strategy = self.cache = None
        self.dynamic_shapes_kernel_specialization_strategy = "lazy"

    def set_execution_context_allocation_strategy(self, strategy):
        self.strategy = strategy

    def create_runtime_cache(self):
        return FakeCache(self._module)

    def set_runtime_cache(self, cache):
        self.cache = weakref.ref(cache)
        return True


class FakeCache:
    """Its bytes are the driver and what was compiled."""

    def __init__(self, module):
        self._module = module
        self.shapes: list[tuple[int, ...]] = []

    def deserialize(self, content):
        if not content.startswith(self._module.driver):
            return False
        self.shapes = [tuple(item) for item in eval(content[len(self._module.driver) :])]
        return True

    def serialize(self):
        return self._module.driver + repr(sorted(self.shapes)).encode()


class FakeContext:
    def __init__(self, module, configuration):
        self._module = module
        self._configuration = configuration if isinstance(configuration, str) else weakref.ref(configuration)
        self.profile = 0
        self.shapes: dict[str, tuple[int, ...]] = {}

    def set_optimization_profile_async(self, profile, stream):
        assert not self.shapes, "the profile comes before the shapes"
        if profile >= len(self._module.ranges):
            raise RuntimeError("Error in set optimization profile async.")  # unlike other functions
        self.profile = profile
        return True

    def set_input_shape(self, name, shape):
        self.shapes[name] = shape
        return True

    def execute_async_v3(self, stream):
        if isinstance(self._configuration, str):
            return True
        configuration = self._configuration()
        assert configuration is not None, "the runtime configuration is gone"
        assert configuration.strategy == "user managed"
        cache = configuration.cache()
        assert cache is not None, "the runtime cache is gone"
        shape = next(iter(self.shapes.values()))
        if shape not in cache.shapes:
            self._module.compiled.append(shape)
            cache.shapes.append(shape)
        return True
