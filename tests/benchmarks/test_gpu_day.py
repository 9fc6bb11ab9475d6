"""`python benchmarks/gpu_day.py`: steps that go wrong in every way, results that survive a kill, and its options."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import gpu_day
import pytest
from gpu_day import Report, Result, Step, read_results, run_steps
from gpu_steps.__main__ import CHECKS
from gpu_steps.notes import Notes, Setup
from report import Machine

from sharpose.cli import main
from sharpose.errors import InputError

MACHINE = Machine("a CPU", 8, 31.6, "a GPU", "Linux 6 x86_64", "3.12.1", {"numpy": "2.0", "tensorrt": "10.13.0"})
STEPS = {
    "good": "finish('as expected', 'all | is well')",
    "other": "finish('not as expected', 'two of three')",
    "cannot": "finish('could not run', 'there is no GPU')",
    "raises": "print('starting'); raise ValueError('the engine is upside down')",
    "hangs": "finish('running', ''); subprocess.Popen(['sleep', '612']); time.sleep(600)",
    "dies": "print('CUDA error 700: illegal address', flush=True); signal.raise_signal(signal.SIGSEGV)",
    "silent": "sys.exit(7)",
    "last": "finish('as expected', 'still here')",
}
SCRIPT = """
import json, os, signal, subprocess, sys, time
from pathlib import Path
name, setup, path = sys.argv[1:]
def finish(verdict, text):
    Path(path).write_text(json.dumps({"verdict": verdict, "text": text, "values": {"people": 3}}))
"""


@pytest.fixture
def fake_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Step, ...]:
    """Steps that need nothing but Python."""
    script = tmp_path / "steps.py"
    script.write_text(SCRIPT + "".join(f"if name == {name!r}: {code}\n" for name, code in STEPS.items()))
    steps = tuple(Step(name, 1.0 if name == "hangs" else 30, f"{name} is well") for name in STEPS)
    monkeypatch.setattr(gpu_day, "STEPS_COMMAND", (sys.executable, str(script)))
    monkeypatch.setattr(gpu_day, "STEPS", steps)
    monkeypatch.setattr(gpu_day, "device_text", lambda device: ("Stand-in 9000, driver 1", "stand-in-9000"))
    return steps


def _report(folder: Path, steps: tuple[Step, ...]) -> Report:
    folder.mkdir(exist_ok=True)
    results = {step.name: Result(step.name, step.expectation) for step in steps}
    return Report(folder, "Stand-in 9000, driver 1", MACHINE, "python benchmarks/gpu_day.py --output DIR", results)


def _processes(words: str) -> list[int]:
    """Ids of the processes with these words in their command lines."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended
            if words in path.read_text("utf-8", "replace").replace("\0", " "):
                found.append(int(path.parent.name))
    return found


def test_every_step_gets_its_verdict_whatever_happens_in_it(fake_steps, tmp_path) -> None:
    report = _report(tmp_path / "out", fake_steps)
    run_steps(fake_steps, Setup(tmp_path, tmp_path / "out"), report, 30)
    assert {name: (item.verdict, item.text) for name, item in report.results.items()} == {
        "good": ("as expected", "all | is well"),
        "other": ("not as expected", "two of three"),
        "cannot": ("could not run", "there is no GPU"),
        "raises": ("not as expected", "ended with exit code 1; ValueError: the engine is upside down"),
        "hangs": ("not as expected", "stopped at its limit of 1.0 s; nothing was printed"),
        "dies": ("not as expected", "ended by SIGSEGV; CUDA error 700: illegal address"),
        "silent": ("not as expected", "ended with exit code 7; nothing was printed"),
        "last": ("as expected", "still here"),
    }
    assert [item.values for item in report.results.values()] == [{"people": 3}] * 3 + [{}, {"people": 3}, {}, {}] + [
        {"people": 3}
    ]
    assert not _processes("sleep 612")  # what a step started goes with it
    assert read_results(tmp_path / "out" / "results.json") == report.results


def test_results_are_readable_after_a_kill_in_the_middle(fake_steps, tmp_path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    driver = f"""
import sys
sys.path[:0] = {[str(Path(gpu_day.__file__).parent)]!r}
import gpu_day
from gpu_steps.notes import Setup
from pathlib import Path
gpu_day.STEPS_COMMAND = {gpu_day.STEPS_COMMAND!r}
steps = [gpu_day.Step(name, 60, "well") for name in ("good", "hangs", "last")]
machine = gpu_day.Machine("a CPU", 1, 1.0, "", "Linux", "3", {{}})
results = {{step.name: gpu_day.Result(step.name, "well") for step in steps}}
report = gpu_day.Report(Path({str(out)!r}), "a GPU", machine, "python", results)
gpu_day.run_steps(steps, Setup(Path("."), Path({str(out)!r})), report, 30)
"""
    process = subprocess.Popen([sys.executable, "-c", driver], stdout=subprocess.PIPE, text=True)
    note = out / "hangs.note.json"
    while not note.exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    found = read_results(out / "results.json")
    assert [item.verdict for item in found.values()] == ["as expected", "running", "left over"]
    assert [item.is_done for item in found.values()] == [True, False, False]
    assert "| hangs | running |" in (out / "results.md").read_text("utf-8")
    for number in _processes(str(note)):  # nobody was left to stop it, but it may be at its end
        with contextlib.suppress(ProcessLookupError):
            os.killpg(number, signal.SIGKILL)


def _run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(gpu_day.command, [str(word) for word in words])
    assert isinstance(stopped.value.code, int)
    printed = capsys.readouterr()
    return stopped.value.code, printed.out, printed.err


def test_a_second_call_runs_what_is_not_done(fake_steps, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(gpu_day, "RESULTS", tmp_path / "results")
    out = tmp_path / "results" / "stand-in-9000"
    code, said, _ = _run(capsys, "--steps", "cannot,good")
    assert code == 0
    assert said.splitlines()[1::2] == [
        "1/2 good: good is well (at most 30 s)",
        "2/2 cannot: cannot is well (at most 30 s)",
        "1 as expected, 0 not as expected, 1 could not run, 6 left over",
    ]
    assert _run(capsys)[::2] == (
        2,
        f"error: --output {out}: holds results; give --continue, or another --output\n",
    )
    code, said, _ = _run(capsys, "--continue")
    assert code == 1
    assert [line.split(":")[0] for line in said.splitlines() if re.match(r"\d/", line)] == [
        f"{number}/6 {name}" for number, name in enumerate(("other", "raises", "hangs", "dies", "silent", "last"), 1)
    ]
    assert said.splitlines()[-1] == "2 as expected, 5 not as expected, 1 could not run, 0 left over"
    code, said, _ = _run(capsys, "--continue")  # there is nothing left to run, and the verdicts are the same
    assert (code, len(said.splitlines())) == (1, 2)
    code, said, _ = _run(capsys, "--continue", "--steps", "last")  # named: once more
    assert "1/1 last" in said
    content = json.loads((out / "results.json").read_text("utf-8"))
    assert content["device"] == "Stand-in 9000, driver 1"
    assert (
        content["command"] == "python benchmarks/gpu_day.py --device tensorrt --steps last --minutes 30.0 --output DIR"
    )
    assert [item["step"] for item in content["results"]] == list(STEPS)


def test_steps_that_do_not_fit_into_the_minutes_are_left_over(fake_steps, tmp_path) -> None:
    steps = (fake_steps[0], Step("other", 120, "more than a minute"), fake_steps[-1])
    report = _report(tmp_path / "out", steps)
    run_steps(steps, Setup(tmp_path, tmp_path / "out"), report, 1)
    assert [item.verdict for item in report.results.values()] == ["as expected", "left over", "as expected"]


def test_the_page_shows_the_values(tmp_path) -> None:
    report = _report(tmp_path / "out", (Step("calls", 60, "all are quick"), Step("video", 60, "decoded")))
    rows = [{"people": 1, "first ms": 12.3456, "error": ""}, {"people": 2, "first ms": None, "error": "a|b"}]
    report.put(Result("calls", "all are quick", "as expected", "a | b\nc", 3.4, {"largest px": 0.01234, "calls": rows}))
    assert (tmp_path / "out" / "results.md").read_text("utf-8") == "\n".join(
        [
            "# On Stand-in 9000, driver 1",
            "",
            "a CPU, 8 cores, 32 GiB; Linux 6 x86_64; Python 3.12.1; numpy 2.0, tensorrt 10.13.0",
            "",
            "`python benchmarks/gpu_day.py --output DIR`",
            "",
            "| step | verdict | seconds | what came out |",
            "| --- | --- | --- | --- |",
            "| calls | as expected | 3 | a \\| b c |",
            "| video | left over | 0 |  |",
            "",
            "## calls",
            "",
            "Expected: all are quick.",
            "",
            "* largest px: 0.01234",
            "calls:",
            "",
            "| people | first ms | error |",
            "| --- | --- | --- |",
            "| 1 | 12.35 |  |",
            "| 2 | None | a\\|b |",
            "",
            "",
        ]
    )


def test_half_an_hour_is_enough_and_every_step_is_there() -> None:
    assert sum(step.limit_s for step in gpu_day.STEPS) <= 30 * 60
    assert max(step.limit_s for step in gpu_day.STEPS) <= 7 * 60  # in one of two calls of seven minutes
    assert {step.name for step in gpu_day.STEPS} == set(CHECKS)
    assert Setup(Path(), Path()).long_run_s < next(step.limit_s for step in gpu_day.STEPS if step.name == "frames")


def test_the_list_and_wrong_options(fake_steps, tmp_path, capsys) -> None:
    code, said, _ = _run(capsys, "--list")
    assert (code, said.splitlines()[0]) == (0, "good           30 s  good is well")
    assert len(said.splitlines()) == len(STEPS)
    code, _, error = _run(capsys, "--steps", "good,bad", "--output", tmp_path / "out")
    assert (code, error.count("\n")) == (2, 1)
    assert "'bad': expected some of good, other" in error
    code, _, error = _run(capsys, "--minutes", "0", "--output", tmp_path / "out")
    assert (code, "--minutes" in error) == (2, True)


@pytest.mark.parametrize("content", ["", "[]", '{"results": [{"step": "x"}]}', '{"results": [{"other": 1}]}'])
def test_a_damaged_results_file_is_refused(tmp_path, content) -> None:
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(InputError, match=rf"{path}: .*give another --output"):
        read_results(path)


def test_the_setup_travels_as_json(tmp_path) -> None:
    for setup in (Setup(tmp_path / "b", tmp_path), Setup(tmp_path, tmp_path, "tensorrt:1", tmp_path / "d.onnx", 7)):
        assert Setup.from_dict(json.loads(json.dumps(setup.as_dict()))) == setup


def test_notes_are_complete_after_every_one(tmp_path) -> None:
    notes = Notes(tmp_path / "notes.json")
    notes.row("calls", first_ms=1.5, error="")
    notes.row("calls", first_ms=2.5, error="late")
    notes.add("people", 3)
    assert json.loads((tmp_path / "notes.json").read_text()) == {
        "verdict": "running",
        "text": "",
        "values": {
            "calls": [{"first ms": 1.5, "error": ""}, {"first ms": 2.5, "error": "late"}],
            "people": 3,
        },
    }
    assert [path.name for path in tmp_path.iterdir()] == ["notes.json"]
