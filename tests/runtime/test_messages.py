"""What a run says, plain, quiet or as JSON, and how signals stop it."""

from __future__ import annotations

import datetime
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from run_stand_ins import StubSource

from sharpose.cli import Terminated
from sharpose.runtime.messages import Messages, StopRequest, stop_on_signals, watching_signals
from sharpose.runtime.statistics import StreamSnapshot


def say_all(messages: Messages) -> None:
    messages.info("a [bold]note")
    messages.warning("a warning")
    messages.error("an error")
    messages.result("wrote out.mp4")
    messages.summary(StreamSnapshot(frames=3, people=4, refined=1, seconds=2.0), stream="door")
    total = StreamSnapshot(frames=3, people=4, refined=1, seconds=2.0)
    total.durations["coarse"].add(0.002)
    messages.summary(total)


def test_plain(capsys: pytest.CaptureFixture[str]) -> None:
    text = io.StringIO()
    say_all(Messages(stream=text))
    assert text.getvalue() == "a [bold]note\nwarning: a warning\nerror: an error\n"
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "wrote out.mp4"
    assert out[1].startswith("door: frames 3, people 4, refined 1 (25%), 1.5 frames a second")
    assert out[2].startswith("frames 3, people 4")


def test_threads_do_not_mix_lines_and_no_secret_is_said() -> None:
    written: list[str] = []

    class Stream(io.StringIO):
        def write(self, text: str) -> int:
            written.append(text)
            return len(text)

    messages = Messages(json_logs=True, stream=Stream())
    messages.warning("rtmp://h/live/hunter2: lost (no rtsp://me:hunter2@h/1); retrying")
    assert "hunter2" not in written[0]
    assert "rtmp://h/live/***: lost (no rtsp://***@h/1); retrying" in written[0]
    threads = [threading.Thread(target=messages.info, args=["x" * 100]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(written) == 9
    assert all(json.loads(line) and line.endswith("\n") for line in written)  # each in one piece


def test_quiet_leaves_only_trouble(capsys: pytest.CaptureFixture[str]) -> None:
    text = io.StringIO()
    say_all(Messages(quiet=True, stream=text))
    assert text.getvalue() == "warning: a warning\nerror: an error\n"
    assert capsys.readouterr().out == ""


def test_json_is_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    text = io.StringIO()
    say_all(Messages(json_logs=True, stream=text))
    entries = [json.loads(line) for line in text.getvalue().splitlines()]
    assert [(entry["level"], entry["message"]) for entry in entries] == [
        ("info", "a [bold]note"),
        ("warning", "a warning"),
        ("error", "an error"),
        ("info", "wrote out.mp4"),
        ("info", "stream done"),
        ("info", "run done"),
    ]
    assert all(datetime.datetime.fromisoformat(entry["time"]).tzinfo is not None for entry in entries)
    assert entries[4]["stream"] == "door"
    assert (entries[5]["frames"], entries[5]["people"], entries[5]["seconds"]) == (3, 4, 2.0)
    assert entries[4]["stages"] == {}
    assert entries[5]["stages"] == {"coarse": {"p50_ms": 2.0, "p95_ms": 2.0, "p99_ms": 2.0}}  # and none that never ran
    assert capsys.readouterr().out == ""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "settings", "shown"),
    [
        (Terminal(), {}, True),
        (Terminal(), {"quiet": True}, False),
        (Terminal(), {"json_logs": True}, False),
        (io.StringIO(), {}, False),
    ],
)
def test_progress_is_for_people_at_a_terminal(stream: io.StringIO, settings: dict[str, bool], shown: bool) -> None:
    source = StubSource()
    source.info.name = "take[bold]1.mp4"
    with Messages(stream=stream, **settings).progress([source].__getitem__) as on_frame:
        for frame in source:
            on_frame(0, frame)
    assert ("take[bold]1.mp4" in stream.getvalue()) == shown
    assert ("5/5" in stream.getvalue()) == shown


def test_nothing_asked_for() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with stop_on_signals() as stop:
        assert not stop
    assert stop.exit_code == 0
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_the_first_signal_is_noted(number: signal.Signals, code: int) -> None:
    with stop_on_signals() as stop:
        signal.raise_signal(number)
        assert stop
    assert stop.signal == number
    assert stop.exit_code == code


@pytest.mark.parametrize("signalled", [False, True])
def test_a_forked_process_neither_holds_its_parent_up_nor_wakes_its_watcher(signalled: bool) -> None:
    """As a worker that loads data does."""
    woken = threading.Event()
    ready = os.pipe()
    with warnings.catch_warnings(), watching_signals(lambda over: woken.set()):
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside a thread
        previous = signal.signal(signal.SIGTERM, lambda number, frame: None)
        child = os.fork()
        if not child:  # it lives on after the block
            os.write(ready[1], b".")
            for _ in range(1000):
                time.sleep(0.01)
            os._exit(0)
        os.read(ready[0], 1)
        if signalled:
            os.kill(child, signal.SIGTERM)
            time.sleep(0.1)
    signal.signal(signal.SIGTERM, previous)
    assert os.waitpid(child, os.WNOHANG) == (0, 0)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    for descriptor in ready:
        os.close(descriptor)
    assert not woken.is_set()


@pytest.mark.parametrize(
    ("first", "second", "error"),
    [
        (signal.SIGINT, signal.SIGINT, KeyboardInterrupt),
        (signal.SIGTERM, signal.SIGINT, KeyboardInterrupt),
        (signal.SIGINT, signal.SIGTERM, Terminated),
        (signal.SIGHUP, signal.SIGTERM, Terminated),
    ],
)
def test_the_second_ends_it_at_once(first: signal.Signals, second: signal.Signals, error: type[BaseException]) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    stop = StopRequest()

    def block() -> None:
        nonlocal stop
        with stop_on_signals() as stop:
            signal.raise_signal(first)
            signal.raise_signal(second)

    with pytest.raises(error):
        block()
    assert stop.signal == first
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_terminal_that_closes_may_say_so_twice_and_nohup_is_heeded() -> None:
    with stop_on_signals() as stop:
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)
    assert stop.exit_code == 129
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signals() as stop:
            signal.raise_signal(signal.SIGHUP)
        assert not stop
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_is_overdue_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [50.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    stop = StopRequest()
    assert not stop.is_overdue
    stop.note(signal.SIGINT)
    assert (bool(stop), stop.is_overdue) == (True, False)
    now[0] += 0.3
    assert stop.is_overdue


_ENDED = """
import os, signal, sys, threading
from pathlib import Path
import numpy as np
from sharpose.engines.onnxrt import OnnxRuntimeRunner
from sharpose.errors import EngineError
from sharpose.runtime.messages import stop_on_signals
runner = OnnxRuntimeRunner(Path(sys.argv[1]), lambda inputs: inputs, 1, threads=1)
with stop_on_signals() as stop:
    stop.when_overdue(runner.terminate)
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        runner.run({"x0": np.ones((1024, 1024), np.float32)}, ("x300",))
    except EngineError as error:
        print(error, file=sys.stderr)
        print(signal.Signals(stop.signal).name, stop.is_overdue)
"""


def test_a_signal_ends_a_batch_that_runs(tmp_path: Path) -> None:
    """300 products of 1024x1024 matrices take seconds; the main thread, which has Python's handlers, is inside. In a
    process of its own, as others' threads could keep the one that ends it from running.
    """
    nodes = [helper.make_node("MatMul", [f"x{index}", "w"], [f"x{index + 1}"]) for index in range(300)]
    weights = numpy_helper.from_array(np.eye(1024, dtype=np.float32), "w")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1024, 1024]) for name in ("x0", "x300")]
    graph = helper.make_graph(nodes, "long", ends[:1], ends[1:], [weights])
    path = tmp_path / "long.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    done = subprocess.run([sys.executable, "-c", _ENDED, path], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "SIGINT True\n"), done.stderr
    assert "terminate" in done.stderr
