"""`python benchmarks/latency.py`: its report and its error messages."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import click
import latency
import numpy as np
import pytest
from latency import command, picture_with
from measuring import baselines, peak, turns
from measuring.contenders import OUTSIDE_ENGINES, STAGES
from measuring.plots import draw_plots
from measuring.turns import PERCENTILE_NAMES

from sharpose.cli import SectionedCommand, main
from sharpose.errors import EngineError

NAMES = ["cpu fp32", "torch-eager cpu fp32", "dense cpu fp32", "both-stages cpu fp32"]


@pytest.fixture(scope="module")
def quick() -> Iterator[pytest.MonkeyPatch]:
    """Turns of one period, and products of small matrices."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(turns, "_TURN_S", 0.0)
        patch.setattr(peak, "_SIZES", (64,))
        yield patch


@pytest.fixture(scope="module")
def report(
    nano_bundle: Path,
    quick_dense: Callable[..., Path],
    quick: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[dict[str, Any], str, str]:
    """The JSON, the Markdown and the printed text."""
    quick.setattr(baselines, "export_dense", quick_dense)
    folder = tmp_path_factory.mktemp("reports") / "of" / "today"
    words = [*("--bundle", nano_bundle), *("--people", "1,3"), *("--refine", "0,50,100"), *("--output", folder)]
    words += ["--precision", "fp32,int8", "--baseline", "torch-eager,dense,both-stages", "--peak-seconds", "0.01"]
    words += ["--seconds", 0, "--rounds", 3, "--warm-up", 1, "--threads", 1]
    printed, said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(said), pytest.raises(SystemExit) as stopped:
        main(command, [str(word) for word in words])
    left_out = "cpu int8, both-stages cpu int8 left out, as said above"
    assert said.getvalue() == f"error: partial report: {left_out}; {folder} holds the rest\n"
    assert stopped.value.code == 3
    text = (folder / "latency.md").read_text("utf-8")
    return json.loads((folder / "latency.json").read_text("utf-8")), text, printed.getvalue()


def test_cases_and_contenders_are_what_was_asked_for(report: tuple[dict[str, Any], str, str]) -> None:
    values, _, printed = report
    cases = values["cases"]
    assert [(case["people"], case["refine_percent"], case["refined"]) for case in cases] == [
        (1, 0, 0),
        (1, 50, 0.5),
        (1, 100, 1),
        (3, 0, 0),
        (3, 50, 1.5),
        (3, 100, 3),
    ]
    for case in cases:
        # with everybody refined, both stages always run
        assert list(case["contenders"]) == (NAMES if case["refine_percent"] < 100 else NAMES[:3])
        assert {item["rounds"] for item in case["contenders"].values()} == {4}
        assert len(case["ratios"]) == (6 if case["refine_percent"] < 100 else 3)
    assert [item["name"] for item in values["opened"]] == NAMES
    assert [line.partition(": ")[0] for line in values["left_out"]] == ["cpu int8", "both-stages cpu int8"]
    assert f"left out: {values['left_out'][0]}\n" in printed


def test_times_are_in_order_and_add_up(report: tuple[dict[str, Any], str, str]) -> None:
    for case in report[0]["cases"]:
        for name, item in case["contenders"].items():
            for stage in STAGES:
                percentiles = item["percentiles"][stage]
                assert list(percentiles) == list(PERCENTILE_NAMES)
                assert 0 <= percentiles["p50"] <= percentiles["p90"] <= percentiles["p95"]
                assert percentiles["p95"] <= percentiles["p99"] <= percentiles["max"]
            means = item["means"]
            assert sum(means[stage] for stage in STAGES[:-1]) <= means["end_to_end"] == item["mean_ms"]
            refined = {"dense cpu fp32": 0, "both-stages cpu fp32": case["people"]}.get(name, case["refined"])
            assert means["coarse"] > 0
            assert (means["fine"] > 0) == (means["gather"] > 0) == (refined > 0)
            assert item["people_per_second"] == pytest.approx(case["people"] * 1000 / item["mean_ms"])
            own = sum(means[stage] for stage in OUTSIDE_ENGINES)
            assert item["outside_engines"] == pytest.approx(own / item["mean_ms"])
            assert item["warm_up_ms"] >= item["first_frame_ms"] > 0
            assert item["frames"] >= 4
            assert sum(item["batches"]["coarse"]) == case["people"]
            assert sum(item["batches"].get("fine", [])) == math.ceil(refined)
            assert {len(times) for times in item["turn_means"].values()} == {4}
            assert item["joules_per_frame"] == {} or report[0]["energy_sensors"]


def test_ratios_are_those_of_the_turns(report: tuple[dict[str, Any], str, str]) -> None:
    for case in report[0]["cases"]:
        for item in case["ratios"]:
            first, second = (case["contenders"][item[key]]["turn_means"]["end_to_end"] for key in ("first", "second"))
            quotients = np.divide(second, first)
            assert item["median"] == pytest.approx(np.median(quotients), rel=1e-3)
            assert item["low"] <= item["median"] <= item["high"]
            assert min(quotients) * 0.999 <= item["low"]
            assert item["high"] <= max(quotients) * 1.001


def test_work_is_shared_by_the_peak(report: tuple[dict[str, Any], str, str]) -> None:
    values = report[0]
    (found,) = values["peaks"]
    assert (found["precision"], found["hardware"]) == ("fp32", "cpu")
    case = values["cases"][4]
    engine, dense = case["contenders"][NAMES[0]], case["contenders"][NAMES[2]]
    work = engine["multiply_adds"]
    assert work["fine"] / work["coarse"] == pytest.approx(
        values["cases"][5]["contenders"][NAMES[0]]["multiply_adds"]["fine"] / 2 / work["coarse"]
    )
    share = work["fine"] / (engine["means"]["fine"] / 1000) / found["multiply_adds_per_s"]
    assert engine["share_of_peak"]["fine"] == pytest.approx(share)
    assert list(dense["multiply_adds"]) == ["coarse"]


def test_machine_weights_and_command_are_named(report: tuple[dict[str, Any], str, str], nano_bundle: Path) -> None:
    values, text, _ = report
    machine = values["machine"]
    assert machine["cores"] >= 1
    assert machine["memory_gib"] > 0
    assert machine["processor"]
    assert machine["load_average"] >= 0
    flags = Path("/proc/cpuinfo").read_text("utf-8").split()
    assert set(machine["instruction_sets"].split()) <= set(flags)
    assert ("avx2" in machine["instruction_sets"]) == ("avx2" in flags)
    assert machine["python"] == platform.python_version()
    assert machine["packages"]["numpy"] == metadata.version("numpy")
    assert platform.machine() in machine["system"]
    assert values["bundle"] == "nano"
    assert values["weights"] == json.loads((nano_bundle / "bundle.json").read_text())["source"]
    assert values["alpha"] == 0.5
    assert f"weights: {values['weights']}, alpha 0.5.\n" in text
    for piece in (machine["processor"], machine["system"], f"numpy {machine['packages']['numpy']}", values["command"]):
        assert piece in text
    for option in ("--people 1,3", "--refine 0,50,100", "--precision fp32,int8", "--rounds 3", "--threads 1"):
        assert option in values["command"]
    assert "--peer" not in values["command"]
    assert text.startswith("# Latency of nano")


def test_the_page_has_the_numbers_of_the_json(report: tuple[dict[str, Any], str, str]) -> None:
    values, text, printed = report
    tables = _tables(text)
    rows = [(case, name, item) for case in values["cases"] for name, item in case["contenders"].items()]
    assert len(tables["From a decoded frame to poses"]) == len(tables["By stage"]) == len(rows)
    both = zip(rows, tables["From a decoded frame to poses"], tables["By stage"], strict=True)
    for (case, name, item), whole, stages in both:
        for cells in (whole, stages):
            assert (cells["people"], cells["refined"]) == (str(case["people"]), f"{case['refine_percent']} %")
            assert cells["contender"] == name
        assert whole["mean"] == f"{item['mean_ms']:.2f}"
        assert whole["max"] == f"{item['percentiles']['end_to_end']['max']:.2f}"
        assert whole["people/s"] == f"{item['people_per_second']:.1f}"
        for stage in STAGES[:-1]:
            assert stages[stage.replace("_", " ")] == f"{item['means'][stage]:.2f}"
    assert len(tables["Ratios"]) == sum(len(case["ratios"]) for case in values["cases"])
    said = re.findall(r"^(\d+) (?:person|people), (\d+) % refined, ([\w -]+): [\d.]+ ms", printed, re.MULTILINE)
    assert [(int(people), int(percent), name) for people, percent, name in said] == [
        (case["people"], case["refine_percent"], name) for case, name, _ in rows
    ]
    assert "latency.md" in printed.splitlines()[-1]


def _tables(text: str) -> dict[str, list[dict[str, str]]]:
    """The last table under each heading, a dict for each row; of equal column names the first counts."""
    found: dict[str, list[dict[str, str]]] = {}
    for section in text.split("\n## ")[1:]:
        blocks = [block for block in section.split("\n\n") if block.startswith("|")]
        if blocks:
            lines = [line.strip("|").split("|") for line in blocks[-1].splitlines()]
            names, _, *rows = [[cell.strip() for cell in line] for line in lines]
            found[section.splitlines()[0]] = [dict(reversed(list(zip(names, row, strict=True)))) for row in rows]
    return found


def test_plots_show_the_cases(report: tuple[dict[str, Any], str, str], tmp_path: Path) -> None:
    values = report[0]
    names = ["latency_by_refine_rate.png", "stages.png", "throughput_by_people.png"]
    assert [path.name for path in draw_plots(values, tmp_path)] == names
    assert all((tmp_path / name).stat().st_size > 10_000 for name in names)
    one = values | {"cases": values["cases"][:1]}
    assert [path.name for path in draw_plots(one, tmp_path)] == ["stages.png"]


def test_without_matplotlib_the_numbers_stay(
    nano_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith(("matplotlib", "measuring.plots"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    words = ["--people", "1", "--refine", "0", "--seconds", "0", "--rounds", "2", "--peak-seconds", "0", "--plots"]
    with pytest.raises(SystemExit) as stopped:
        main(command, ["--bundle", str(nano_bundle), "--output", str(tmp_path), *words, "--cold-starts", "1"])
    printed, said = capsys.readouterr()
    assert stopped.value.code == 0, said
    assert "no plots: they need matplotlib, which the extra [eval] brings" in printed
    values = json.loads((tmp_path / "latency.json").read_text("utf-8"))
    start = values["cold_starts"]["cpu fp32"]
    assert (start["error"], start["people"]) == ("", 1)
    assert start["seconds"] > start["load_s"]
    (row,) = _tables((tmp_path / "latency.md").read_text("utf-8"))["Start and warm-up"]
    assert (row["contender"], row["people"]) == ("cpu fp32", "1")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--people", "0"], "numbers from 1 to 1024"),
        (["--people", "many"], "expected numbers separated by commas"),
        (["--people", "1,,2"], "expected numbers separated by commas"),
        (["--people", "-1"], "numbers from 1 to 1024"),
        (["--refine", "101"], "numbers from 0 to 100"),
        (["--refine", "-1"], "numbers from 0 to 100"),
        (["--refine", "0.5"], "expected numbers separated by commas"),
        (["--rounds", "1"], "--rounds"),
        (["--seconds", "-1"], "--seconds"),
        (["--seconds", "inf"], "--seconds"),
        (["--warm-up", "0"], "--warm-up"),
        (["--device", "gpu"], "device: expected cpu"),
        (["--device", "cpu,,cuda"], "expected names separated by commas"),
        (["--precision", "int8"], "holds fp32 graphs, not int8"),
        (["--precision", "half"], "expected some of auto, fp32, fp16, bf16, int8, got 'half'"),
        (["--baseline", "tensorflow"], "expected some of torch-eager, torch-compiled, dense, both-stages"),
        (["--peer", "missing.onnx"], "--peer missing.onnx: expected an ONNX file, found nothing"),
        (["--peer", "/"], "--peer /: expected an ONNX file, found a folder"),
        (["--device", "cpu", "--device", "openvino"], "--device: given 2 times; give it once"),
        (["--baseline", ""], "--baseline"),
    ],
)
def test_bad_options_are_one_line(
    nano_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    message = _refused(nano_bundle, tmp_path / "report", capsys, *arguments)
    assert message.startswith("error: ")
    assert words in message
    assert not (tmp_path / "report" / "latency.json").exists()


def test_a_report_that_cannot_be_written_is_refused_before_measuring(
    nano_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "report").write_text("a file")
    assert "--output" in _refused(nano_bundle, tmp_path / "report", capsys)  # would take a minute


def test_where_no_pair_goes_together_nothing_is_measured(
    nano_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(command, ["--bundle", str(nano_bundle), "--output", str(tmp_path), "--precision", "int8,bf16"])
    printed = capsys.readouterr()
    assert caught.value.code == 2
    assert [line.partition(": ")[0] for line in printed.out.splitlines() if "busy" not in line] == ["left out"] * 2
    assert printed.err == "error: no device runs the bundle in any of the precisions, as said above\n"


def _refused(bundle: Path, output: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main(command, ["--bundle", str(bundle), "--output", str(output), *arguments])
    printed = capsys.readouterr()
    said = [line for line in printed.out.splitlines() if not line.startswith("the machine is busy")]
    assert (caught.value.code, said, printed.err.count("\n")) == (2, [], 1)
    return printed.err


@pytest.mark.parametrize("people", [1, 2, 5, 16, 20])
def test_the_picture_shows_as_many_people_as_asked_for(people: int) -> None:
    image, boxes = picture_with(people)
    assert image.shape == (720, 1280, 3)
    assert len(boxes) == people
    assert (boxes.xyxy[:, 2:] > boxes.xyxy[:, :2]).all()
    assert len(np.unique(boxes.xyxy[:16], axis=0)) == min(people, 16)


SHORT = ["--people", "1", "--refine", "0,100", "--seconds", "0", "--rounds", "2", "--peak-seconds", "0"]


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_keeps_the_finished_cases(
    nano_bundle: Path, tmp_path: Path, capsys, monkeypatch, number: signal.Signals, code: int, word: str
) -> None:
    steps: list[Callable[..., Any]] = [turns.take_turns, lambda *given, **settings: signal.raise_signal(number)]
    cases = iter(steps)
    monkeypatch.setattr(latency, "take_turns", lambda *given, **settings: next(cases)(*given, **settings))
    monkeypatch.setattr(turns, "_TURN_S", 0.0)
    with pytest.raises(SystemExit) as stopped:
        main(command, ["--bundle", str(nano_bundle), "--output", str(tmp_path), "--threads", "1", *SHORT])
    said = capsys.readouterr().err.strip()
    assert (stopped.value.code, said) == (code, f"error: {word} after 1 case; {tmp_path} holds it")
    values = json.loads((tmp_path / "latency.json").read_text("utf-8"))
    assert [(case["people"], case["refine_percent"]) for case in values["cases"]] == [(1, 0)]
    assert values["left_out"] == ["1 case: not measured"]
    assert len(_tables((tmp_path / "latency.md").read_text("utf-8"))["By stage"]) == 1


def test_an_error_keeps_the_finished_cases(nano_bundle: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    def fail(*given: object, **settings: object) -> None:
        raise EngineError("out of memory")

    steps: list[Callable[..., Any]] = [turns.take_turns, fail]
    cases = iter(steps)
    monkeypatch.setattr(latency, "take_turns", lambda *given, **settings: next(cases)(*given, **settings))
    monkeypatch.setattr(turns, "_TURN_S", 0.0)
    with pytest.raises(SystemExit) as stopped:
        main(command, ["--bundle", str(nano_bundle), "--output", str(tmp_path), "--threads", "1", *SHORT])
    said = capsys.readouterr().err.strip()
    expected = f"error: partial report: out of memory; ended after 1 case; {tmp_path} holds it"
    assert (stopped.value.code, said) == (3, expected)
    values = json.loads((tmp_path / "latency.json").read_text("utf-8"))
    assert [case["refine_percent"] for case in values["cases"]] == [0]
    assert values["left_out"] == ["1 case: not measured"]


def test_a_signal_before_the_first_case_leaves_an_earlier_report(
    nano_bundle: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    (tmp_path / "latency.json").write_text("earlier")
    monkeypatch.setattr(latency, "take_turns", lambda *given, **settings: signal.raise_signal(signal.SIGINT))
    with pytest.raises(SystemExit) as stopped:
        main(command, ["--bundle", str(nano_bundle), "--output", str(tmp_path), "--overwrite", *SHORT])
    assert (stopped.value.code, capsys.readouterr().err.strip()) == (130, "error: interrupted")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("latency.json", "earlier")]


@pytest.mark.parametrize(
    ("script", "file"),
    [
        ("latency", "latency.md"),
        ("scaling", "scaling.json"),
        ("overhead", "overhead.json"),
        ("deadline", "deadline.json"),
    ],
)
def test_an_earlier_report_is_replaced_only_when_asked_for(
    tmp_path: Path, capsys, monkeypatch, script: str, file: str
) -> None:
    module = import_module(script)
    monkeypatch.setattr(module, "open_bundle", lambda path: sys.exit(99))  # the folder was accepted
    monkeypatch.setattr(module, "make_video", lambda folder, frames: sys.exit(99), raising=False)
    (tmp_path / file).write_text("earlier")
    words = ["--output", str(tmp_path), "--bundle", str(tmp_path)]
    with pytest.raises(SystemExit) as stopped:
        main(module.command, words)
    existing = f"{file} already exists there; give another folder, or --overwrite to replace it"
    assert (stopped.value.code, capsys.readouterr().err) == (2, f"error: --output {tmp_path}: {existing}\n")
    assert (tmp_path / file).read_text() == "earlier"
    with pytest.raises(SystemExit) as stopped:
        main(module.command, [*words, "--overwrite"])
    assert stopped.value.code == 99


SCRIPTS = ["latency", "scaling", "overhead", "deadline", "quantisation", "compare"]


@pytest.mark.parametrize("script", [*SCRIPTS, "gpu_day"])
def test_help_ends_with_examples(script: str) -> None:
    shown: SectionedCommand = import_module(script).command
    assert len(shown.examples) >= 2
    assert shown.get_help(click.Context(shown)).endswith(
        "\n\nExamples:\n" + "\n".join(f"  {line}" for line in shown.examples)
    )
    for example in shown.examples:
        program, path, *arguments = shlex.split(example)
        assert (program, path) == ("python", f"benchmarks/{script}.py")
        shown.make_context(program, arguments)  # every option is one, with a value that it takes


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_signal_while_modules_are_imported(tmp_path: Path, script: str) -> None:
    (tmp_path / "click.py").write_text("import os, signal, time\nsignal.raise_signal(signal.SIGINT)\ntime.sleep(9)\n")
    path = Path(latency.__file__).with_name(f"{script}.py")
    places = os.pathsep.join(filter(None, [str(tmp_path), str(path.parents[1]), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, str(path)],
        env=os.environ | {"PYTHONPATH": places},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "error: interrupted\n")
