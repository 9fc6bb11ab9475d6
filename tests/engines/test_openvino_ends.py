"""Runs of OpenVINO that are ended before they are done: from another thread, or by Ctrl-C."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chain_graph import chain, chained
from onnx import TensorProto, helper

from sharpose.engines.openvino import OpenVinoRunner
from sharpose.errors import EngineError

pytestmark = pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO is not installed")


def multiplying(path: Path, width: int, steps: int, rows: int, threads: int = 1) -> OpenVinoRunner:
    """Multiplies `values` by a matrix of ones on the diagonal, again and again."""
    names = ["values", *[f"step{step}" for step in range(1, steps)], "made"]
    nodes = [helper.make_node("MatMul", [names[step], "matrix"], [names[step + 1]]) for step in range(steps)]
    made = helper.make_tensor_value_info("made", TensorProto.FLOAT, ["N", width])
    return OpenVinoRunner(chain(path, nodes, [made], width), chained("made", width), rows, threads=threads)


@pytest.mark.parametrize("threads", [1, 2])  # of two, on two cores, each has half of the batch
def test_a_run_is_ended_from_another_thread(tmp_path: Path, threads: int) -> None:
    runner = multiplying(tmp_path / "chain.onnx", 1024, 60, 2048, threads)
    said: list[str] = []

    def run() -> None:
        try:
            runner.run({"values": np.zeros((2048, 1024), np.float32)}, ["made"])  # seconds long
        except EngineError as error:
            said.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    while thread.is_alive() and not runner._running:
        time.sleep(0.001)
    runner.terminate()
    thread.join()
    assert said == ["OpenVINO failed on openvino:CPU: Infer Request was canceled"]
    with pytest.raises(EngineError, match="terminated"):
        runner.run({"values": np.zeros((1, 1024), np.float32)}, ["made"])


@pytest.mark.parametrize("threads", [1, 2])
def test_ctrl_c_before_a_run_is_waited_for_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    runner = multiplying(tmp_path / "chain.onnx", 512, 20, 512, threads)
    requests: list[Any] = []

    class Interrupting(threading.Event):
        def is_set(self) -> bool:
            if runner._running:
                requests.extend(runner._running)
                raise KeyboardInterrupt
            return False

    monkeypatch.setattr(runner, "_ended", Interrupting())
    values = {"values": np.ones((512, 512), np.float32)}
    with pytest.raises(KeyboardInterrupt):
        runner.run(values, ["made"])
    assert len(requests) == runner.parts
    for request in requests:
        with suppress(RuntimeError):  # that it was cancelled
            assert request.wait_for(0)
    monkeypatch.undo()
    np.testing.assert_array_equal(runner.run(values, ["made"])["made"], values["values"])
