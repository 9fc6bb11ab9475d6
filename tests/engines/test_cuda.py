"""The CUDA bindings themselves, over a driver that isn't one: compiled from fake_libcuda.c, on host cuda."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sharpose.engines.cuda import cuda_python, pycuda
from sharpose.engines.cuda import device as cuda_device
from sharpose.engines.cuda.device import installed_bindings, open_cuda_device
from sharpose.errors import EngineError

HERE = Path(__file__).parent

PRELUDE = """
import ctypes, gc, importlib.util, os, sys, threading
sys.setdlopenflags(os.RTLD_LAZY)  # a real driver has every function that pycuda is linked with; ours, those it calls
import numpy as np
from sharpose.engines.cuda.device import open_cuda_device
from sharpose.errors import EngineError

def refused(function, text):
    try:
        function()
    except EngineError as error:
        assert text in str(error), error
        return
    raise AssertionError(f"expected an error with {text!r}")

library = ctypes.CDLL("libcuda.so.1")
def live():
    counts = (ctypes.c_long * 8)()
    library.fake_live(counts)
    names = "buffers pinned streams events graphs executables contexts pushed".split()
    return {name: count for name, count in zip(names, counts) if count}

cuda = open_cuda_device(0, sys.argv[1])
assert cuda.name == sys.argv[1]
kept = {"contexts": 1} if cuda.name == "pycuda" else {}  # pycuda's is kept to the end
"""

COPIES = """
with cuda.active():
    first, second = cuda.buffer(64), cuda.buffer(64)
    source, target = cuda.pinned((2, 8), np.float32), cuda.pinned((2, 8), np.float32)
    assert not source.any() and source.flags.c_contiguous and source.shape == (2, 8) and source.dtype == np.float32
    assert first.address % 256 == 0 and first.nbytes == 64
    stream, event = cuda.stream(), cuda.event()
    assert stream.handle > 0
    assert live() == dict(buffers=2, pinned=2, streams=1, events=1, contexts=1, pushed=1), live()
    source[:] = np.arange(16).reshape(2, 8)
    cuda.upload(first, source, stream)
    cuda.copy(second, first, 64, stream)
    cuda.download(target, second, stream)
    event.record(stream)
    event.synchronize()
    np.testing.assert_array_equal(target, source)
    cuda.upload(first, source[1:] * 2, stream)  # not pinned, and shorter
    cuda.download(target, first, stream)
    stream.synchronize()
    np.testing.assert_array_equal(target, np.concatenate([source[1:] * 2, source[1:]]))
    refused(lambda: cuda.buffer(1 << 31), "use a smaller --max-batch")

def elsewhere():
    with cuda.active():
        cuda.upload(first, source, stream)
        stream.synchronize()
thread = threading.Thread(target=elsewhere)
thread.start()
thread.join()
held = []
with cuda.active():
    cuda.download(target, first, stream)
    stream.synchronize()
    np.testing.assert_array_equal(target, source)
    held.append(cuda.pinned((4,), np.float32))
    assert live()["pinned"] == 3
    assert not cuda.shares_memory
thread = threading.Thread(target=held.clear)
thread.start()
thread.join()
assert live()["pinned"] == 2, live()  # freed by a thread that has no context of its own
with cuda.active():
    for thing in (first, second, stream, event):
        thing.free()
        thing.free()
del first, second, stream, event, thing, elsewhere, thread
cuda.close()
cuda.close()
refused(lambda: cuda.active().__enter__(), "closed")
view = source[1:]
del source, target
gc.collect()
assert live() == dict(pinned=1, contexts=1), live()
assert view.sum() == 92  # pinned memory lives as long as a view of it
del view, cuda
gc.collect()
assert live() == kept, live()
"""

MAPPED = """
assert cuda.shares_memory
with cuda.active():
    array = cuda.pinned((2, 3), np.int32)
    address = cuda.device_address(array)
    assert address % 8 == 0
    ctypes.memset(address, 1, 4)  # as the device does it
    assert array[0, 0] == 0x01010101 and not array[0, 1:].any()
    assert live()["pinned"] == 1
    del array
    assert "pinned" not in live()
"""

GRAPHS = """
with cuda.active():
    buffer, stream = cuda.buffer(16), cuda.stream()
    source, target = cuda.pinned((4,), np.float32), cuda.pinned((4,), np.float32)
    def work():
        cuda.upload(buffer, source, stream)
        cuda.download(target, buffer, stream)
    if not cuda.has_graphs:
        refused(lambda: cuda.capture(stream, work), "pycuda has no CUDA graphs")
        sys.exit()
    graph = cuda.capture(stream, work)
    source[:] = 1
    assert not target.any()  # captured, not done
    for value in (2, 3):
        source[:] = value
        graph.launch(stream)
        stream.synchronize()
        assert (target == value).all()
    def fail():
        work()
        raise ValueError("inside")
    try:
        cuda.capture(stream, fail)
    except ValueError:
        pass
    cuda.upload(buffer, source, stream)  # the stream is no longer being captured
    stream.synchronize()
    assert live()["executables"] == 1 and "graphs" not in live()
    graph.free()
    assert "executables" not in live()
"""

ENGINES = """
from sharpose.engines.tensorrt.two_stage import TensorRtTwoStage
spec = importlib.util.spec_from_file_location("helpers", sys.argv[2])
helpers = importlib.util.module_from_spec(spec)
sys.modules["helpers"] = helpers
spec.loader.exec_module(helpers)

class RawContext(helpers.HostContext):
    def execute(self, stream):
        arrays = {}
        engine = self.engine
        for name, item in (*engine.inputs.items(), *engine.outputs.items()):
            shape = item.shape_at(self.sizes)
            count = int(np.prod(shape)) * item.dtype.itemsize
            raw = (ctypes.c_uint8 * count).from_address(self.addresses[name])
            arrays[name] = np.frombuffer(raw, item.dtype).reshape(shape)
        for name, value in engine.function({name: arrays[name] for name in engine.inputs}).items():
            arrays[name][...] = value

class Engine(helpers.HostEngine):
    def create_context(self, profile, stream):
        self.contexts += 1
        return RawContext(self, profile)

class Log:
    log = []

def make(name, items, function):
    inputs, outputs = ({item.name: item for item in part} for part in items)
    return Engine(name, Log, inputs, outputs, function, max_batch=8)

"""

TWO_STAGES = """
coarse = make("coarse", helpers.COARSE, helpers.coarse_sum)
fine = make("fine", helpers.FINE, helpers.fine_sum)
stages = TensorRtTwoStage(coarse, fine, cuda, "tensorrt:0", "fp32", use_graphs=False, mapped=cuda.shares_memory)
for people in range(1, 9):  # makes all contexts
    stages.run_coarse(people)
allocated = live()
for people in (3, 8, 1):
    stages.crops[:people] = np.arange(people * 12, dtype=np.uint8).reshape(people, 2, 2, 3)
    stages.patches[:people] = 1
    totals = stages.crops[:people].astype(np.float32).sum(axis=(1, 2, 3))
    np.testing.assert_array_equal(stages.run_coarse(people).keypoints[:, 0, 0], totals)
    refined = stages.run_fine(np.arange(people, dtype=np.int32))
    np.testing.assert_array_equal(refined[:, 0, 0], 5 * totals + 48 + totals.astype(int) % 4)
    assert live() == allocated
stages.close()
assert live() == dict(pinned=1, contexts=1), live()  # `refined` is a view of it
del stages, cuda, refined
gc.collect()
assert live() == kept, live()
"""


# The engines compute when they are put into the stream, captured or not: a graph has the copies alone.
EMPTY_GRAPHS = """
coarse = make("coarse", helpers.COARSE, helpers.coarse_sum)
fine = make("fine", helpers.FINE, helpers.fine_sum)
stages = TensorRtTwoStage(coarse, fine, cuda, "tensorrt:0", "fp32", use_graphs=True, mapped=cuda.shares_memory)
for people in (3, 3, 8, 3, 1):
    stages.crops[:people] = np.arange(people * 12, dtype=np.uint8).reshape(people, 2, 2, 3) + people
    stages.patches[:people] = 1
    totals = stages.crops[:people].astype(np.float32).sum(axis=(1, 2, 3))
    np.testing.assert_array_equal(stages.run_coarse(people).keypoints[:, 0, 0], totals)
    refined = stages.run_fine(np.arange(people, dtype=np.int32))
    np.testing.assert_array_equal(refined[:, 0, 0], 5 * totals + 48 + totals.astype(int) % 4)
    assert not {"graphs", "executables"} & set(live()), live()
stages.close()
del stages, cuda, refined
gc.collect()
assert live() == kept, live()
"""


BESIDE = """
from sharpose.engines.tensorrt.runner import TensorRtRunner

spec = helpers.TensorSpec
items = (spec("picture", np.dtype("f4"), (1, 4)),), (spec("boxes", np.dtype("f4"), (1, 2)),)
def function(arrays):
    return {"boxes": arrays["picture"][:, :2] + arrays["picture"][:, 2:]}

coarse = make("coarse", helpers.COARSE, helpers.coarse_sum)
fine = make("fine", helpers.FINE, helpers.fine_sum)
stages = TensorRtTwoStage(coarse, fine, cuda, "tensorrt:0", "fp32", use_graphs=False)
alone = live()
device = open_cuda_device(0, sys.argv[1])
detector = TensorRtRunner(make("detector", items, function), device, "tensorrt:0")
both = live()
assert (both["streams"], alone["streams"]) == (2, 1), (both, alone)
assert detector._gpu.stream.handle != stages._gpu.stream.handle
wrong = []
def detect():
    for number in range(200):
        boxes = detector.run({"picture": np.array([[number, 1, 2, 3]], np.float32)}, ["boxes"])["boxes"]
        if boxes.tolist() != [[number + 2, 4]]:
            wrong.append(boxes)
thread = threading.Thread(target=detect)
thread.start()
for number in range(200):
    stages.crops[:2] = number
    if stages.run_coarse(2).keypoints[:, 0, 0].tolist() != [number * 12] * 2:
        wrong.append(number)
thread.join()
assert not wrong, wrong
detector.close()
stages.crops[:1] = 3
assert stages.run_coarse(1).keypoints[0, 0, 0] == 36  # its stream and memory are still there
assert live() == alone, live()
stages.close()
del stages, cuda, device, detector
gc.collect()
assert live() == kept, live()
"""


@pytest.fixture(scope="module")
def fake_driver(tmp_path_factory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("driver")
    library = folder / "libcuda.so.1"
    command = [compiler, "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", library, HERE / "fake_libcuda.c", "-ldl"]
    subprocess.run(command, check=True)
    return folder


@pytest.mark.parametrize(
    ("script", "integrated"),
    [
        (COPIES, False),
        (MAPPED, True),
        (GRAPHS, False),
        (ENGINES + TWO_STAGES, False),
        (ENGINES + TWO_STAGES, True),
        (ENGINES + BESIDE, False),
    ],
    ids=["copies", "mapped memory", "graphs", "two stages", "two stages in mapped memory", "a detector beside"],
)
@pytest.mark.parametrize("binding", ["cuda-python", "pycuda"])
def test_a_binding(fake_driver, binding, script, integrated):
    if binding not in installed_bindings():
        pytest.skip(f"{binding} is not installed")
    environment = {**os.environ, "LD_LIBRARY_PATH": f"{fake_driver}:{os.environ.get('LD_LIBRARY_PATH', '')}"}
    environment["PYTHONPATH"] = f"{HERE.parent / 'helpers'}:{os.environ.get('PYTHONPATH', '')}"
    if integrated:
        environment["FAKE_INTEGRATED"] = "1"
    command = [sys.executable, "-c", PRELUDE + script, binding, str(HERE / "conftest.py")]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "WARNING" not in result.stderr  # as pycuda begins what it says of a context that it can't let go of


@pytest.mark.parametrize("integrated", [False, True], ids=["copies", "mapped memory"])
@pytest.mark.parametrize(
    ("fails", "reason"),
    [
        (True, "for a batch of 3, CUDA cuStreamEndCapture failed: CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"),
        (False, "for a batch of 3, the captured graph gives another keypoints"),
    ],
    ids=["capture fails", "empty graph"],
)
def test_frames_are_right_where_a_capture_fails_or_a_graph_is_empty(fake_driver, fails, reason, integrated):
    if "cuda-python" not in installed_bindings():
        pytest.skip("cuda-python is not installed")
    environment = {**os.environ, "LD_LIBRARY_PATH": f"{fake_driver}:{os.environ.get('LD_LIBRARY_PATH', '')}"}
    environment["PYTHONPATH"] = f"{HERE.parent / 'helpers'}:{os.environ.get('PYTHONPATH', '')}"
    environment |= {"FAKE_CAPTURE_FAILS": "1"} if fails else {}
    environment |= {"FAKE_INTEGRATED": "1"} if integrated else {}
    command = [sys.executable, "-c", PRELUDE + ENGINES + EMPTY_GRAPHS, "cuda-python", str(HERE / "conftest.py")]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    lines = result.stderr.splitlines()
    assert [line.split(": ")[0] for line in lines] == ["coarse", "fine"]
    assert all(reason in line for line in lines)


def test_the_probe_finds_the_drivers_gpu(fake_driver):
    code = "from sharpose.engines.gpu import probe_gpus; print(probe_gpus())"
    environment = {**os.environ, "LD_LIBRARY_PATH": str(fake_driver), "FAKE_INTEGRATED": "1"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert "name='Fake GPU 0', compute_capability='9.0'" in result.stdout
    assert "multiprocessors=8, integrated=True" in result.stdout


def test_bindings_are_chosen_by_what_is_installed(monkeypatch):
    opened = []
    monkeypatch.setattr(cuda_python, "CudaPythonDevice", lambda index: opened.append(("cuda-python", index)))
    monkeypatch.setattr(pycuda, "PycudaDevice", lambda index: opened.append(("pycuda", index)))

    def installed(*names):
        monkeypatch.setattr(cuda_device, "installed_bindings", lambda: names)

    installed("cuda-python", "pycuda")
    open_cuda_device(1)
    open_cuda_device(0, "pycuda")
    installed("pycuda")
    open_cuda_device(2)
    assert opened == [("cuda-python", 1), ("pycuda", 0), ("pycuda", 2)]
    with pytest.raises(EngineError, match="cuda-python is not installed; pip install cuda-bindings"):
        open_cuda_device(0, "cuda-python")
    with pytest.raises(EngineError, match="expected cuda-python or pycuda, got 'numba'"):
        open_cuda_device(0, "numba")
    installed()
    with pytest.raises(EngineError, match="neither cuda-python nor pycuda is installed"):
        open_cuda_device()
