"""`python benchmarks/deadline.py`: its report and its error messages."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import deadline
import pytest
from deadline import command, scenes_with

from sharpose.cli import main
from sharpose.skeleton import get_skeleton

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "deadline.py"


@pytest.fixture(scope="module")
def bundle(nano_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """At most two people in a run."""
    bundle = tmp_path_factory.mktemp("bundle")
    shutil.copytree(nano_bundle, bundle, dirs_exist_ok=True)
    values = json.loads((bundle / "bundle.json").read_text("utf-8"))
    values["max_batch"] = 2  # fewer batch sizes to calibrate, for each of the five policies
    (bundle / "bundle.json").write_text(json.dumps(values))
    return bundle


@pytest.fixture(scope="module")
def report(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """The JSON and the printed text."""
    folder = tmp_path_factory.mktemp("reports") / "of" / "today"
    arguments = [*("--bundle", bundle), *("--people", "1,3"), *("--time", "0,1000"), *("--output", folder)]
    arguments += ["--threads", 1, "--clock", "processor", "--frames", 3, "--scenes", 1]
    call = [sys.executable, str(SCRIPT), *map(str, arguments)]
    done = subprocess.run(call, capture_output=True, text=True, check=False, timeout=500, cwd=SCRIPT.parent)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads((folder / "deadline.json").read_text("utf-8")), done.stdout


def test_cases_are_what_was_asked_for(report: tuple[dict[str, Any], str]) -> None:
    values, printed = report
    assert [(case["people"], case["share"]) for case in values["cases"]] == [(1, 0), (1, 1000), (3, 0), (3, 1000)]
    assert set(values["without_deadline"]) == {"1", "3"}
    assert values["machine"]["processor"] in printed
    for option in ("--people 1,3", "--time 0,1000", "--frames 3", "--scenes 1", "--threads 1", "--device cpu"):
        assert option in values["command"]


def test_counts_add_up(report: tuple[dict[str, Any], str]) -> None:
    for case in report[0]["cases"]:
        assert case["frames"] == 3
        assert case["deadline_ms"] > 0
        for policy in case["policies"].values():
            assert policy["done"] + policy["carried"] + policy["deferred"] == policy["wanted"] <= 3 * case["people"]
            assert 0 <= policy["met"] <= 1
            assert policy["oks"]["low"] <= policy["oks"]["mean"] <= policy["oks"]["high"]
            assert 0 < policy["p50_ms"] <= policy["p95_ms"] <= policy["p99_ms"]


def test_with_ten_times_the_time_all_are_refined(report: tuple[dict[str, Any], str]) -> None:
    values, _ = report
    for case in values["cases"]:
        if case["share"] == 1000:
            gate = values["without_deadline"][str(case["people"])]["gate"]
            assert case["policies"].pop("nobody")["wanted"] == 0
            for policy in case["policies"].values():
                assert (policy["done"], policy["deferred"]) == (gate["wanted"], 0)
                assert policy["oks"]["mean"] == pytest.approx(gate["oks"]["mean"], abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--people", "0"], "numbers from 1 to 64"),
        (["--time", "-1"], "numbers from 0 to 1000"),
        (["--clock", "processor"], "--threads 1"),
        (["--device", "gpu"], "device: expected cpu"),
    ],
)
def test_bad_options_are_one_line(
    nano_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(command, ["--bundle", str(nano_bundle), "--output", str(tmp_path), *arguments])
    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert words in message


def test_scenes_have_the_keypoints_of_the_bundle(bundle: Path, tmp_path: Path, capsys) -> None:
    ((of_coco,),) = scenes_with(1, 1, 1, get_skeleton("coco17"))
    ((of_halpe,),) = scenes_with(1, 1, 1, get_skeleton("halpe26"))
    assert of_halpe.keypoints.shape[1:] == (26, 3)
    assert (of_halpe.keypoints[:, :17] == of_coco.keypoints).all()
    other = shutil.copytree(bundle, tmp_path / "other")
    text = (other / "bundle.json").read_text("utf-8")
    (other / "bundle.json").write_text(text.replace("left_wrist", "left_paw"), "utf-8")
    with pytest.raises(SystemExit) as stopped:
        main(command, ["--bundle", str(other), "--output", str(tmp_path / "out")])
    said = capsys.readouterr().err
    assert (stopped.value.code, said.count("\n")) == (2, 1)
    assert said.startswith("error: the drawn scene has no left_paw, which skeleton coco17 has")


def test_a_signal_keeps_the_finished_cases(bundle: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    steps: list[Callable[..., Any]] = [deadline.Benchmark.measure, lambda *given: signal.raise_signal(signal.SIGINT)]
    cases = iter(steps)
    monkeypatch.setattr(deadline.Benchmark, "measure", lambda *given: next(cases)(*given))
    words = ["--bundle", str(bundle), "--threads", "1", "--people", "1", "--time", "0,10", "--frames", "2"]
    with pytest.raises(SystemExit) as stopped:
        main(command, [*words, "--scenes", "1", "--output", str(tmp_path)])
    said = capsys.readouterr().err.strip()
    assert (stopped.value.code, said) == (130, f"error: interrupted after 1 case; {tmp_path} holds it")
    values = json.loads((tmp_path / "deadline.json").read_text("utf-8"))
    assert [(case["people"], case["share"]) for case in values["cases"]] == [(1, 0)]
