"""Runs of OpenVINO that are ended before they are done: from another thread, or by Ctrl-C."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from chain_graph import chain, chained
from onnx import TensorProto, helper

from sharpose.engines.openvino import OpenVinoRunner
from sharpose.errors import EngineError

pytestmark = pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO is not installed")


def multiplying(path: Path, width: int, steps: int, rows: int) -> OpenVinoRunner:
    """Multiplies `values` by a matrix of ones on the diagonal, again and again."""
    names = ["values", *[f"step{step}" for step in range(1, steps)], "made"]
    nodes = [helper.make_node("MatMul", [names[step], "matrix"], [names[step + 1]]) for step in range(steps)]
    made = helper.make_tensor_value_info("made", TensorProto.FLOAT, ["N", width])
    return OpenVinoRunner(chain(path, nodes, [made], width), chained("made", width), rows, threads=1)


def test_a_run_is_ended_from_another_thread(tmp_path: Path) -> None:
    runner = multiplying(tmp_path / "chain.onnx", 1024, 60, 2048)
    said: list[str] = []

    def run() -> None:
        try:
            runner.run({"values": np.zeros((2048, 1024), np.float32)}, ["made"])  # seconds long
        except EngineError as error:
            said.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    while thread.is_alive() and runner._running is None:
        time.sleep(0.001)
    runner.terminate()
    thread.join()
    assert said == ["OpenVINO failed on openvino:CPU: Infer Request was canceled"]
    with pytest.raises(EngineError, match="terminated"):
        runner.run({"values": np.zeros((1, 1024), np.float32)}, ["made"])


def test_ctrl_c_before_a_run_is_waited_for_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = multiplying(tmp_path / "chain.onnx", 512, 20, 512)
    requests = []

    class Interrupting(threading.Event):
        def is_set(self) -> bool:
            if runner._running is not None:
                requests.append(runner._running)
                raise KeyboardInterrupt
            return False

    monkeypatch.setattr(runner, "_ended", Interrupting())
    values = {"values": np.ones((512, 512), np.float32)}
    with pytest.raises(KeyboardInterrupt):
        runner.run(values, ["made"])
    (request,) = requests
    with suppress(RuntimeError):  # that it was cancelled
        assert request.wait_for(0)
    monkeypatch.undo()
    np.testing.assert_array_equal(runner.run(values, ["made"])["made"], values["values"])
