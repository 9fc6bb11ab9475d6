"""The commands that pages and the Dockerfile give: pipes to brokers, and how Triton is started."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "scaling.md").read_text("utf-8")
PIPES = re.findall(r"^    (sharpose-run .* \| .*)$", PAGE, re.MULTILINE)


@pytest.mark.parametrize("pipe", PIPES, ids=lambda pipe: pipe.split("|")[-1].split()[0])
def test_a_broker_gets_a_line_a_frame_and_nothing_else(pipe: str, on_path: dict[str, str], tmp_path: Path) -> None:
    program = tmp_path / pipe.split("|")[-1].split()[0]
    program.write_text('#!/bin/sh\necho "$@" >arguments\ncat >lines\n', "utf-8")
    program.chmod(0o755)
    assert "--reconnect forever " in pipe  # the scene is no live source
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", pipe.replace("--reconnect forever ", "")],
        env=on_path | {"PATH": f"{tmp_path}:{on_path['PATH']}", "CAMERA": "scene:frames=3,people=2,size=180x320"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    frames = [json.loads(line) for line in (tmp_path / "lines").read_text("utf-8").splitlines()]
    assert [frame["frame"] for frame in frames] == [0, 1, 2]
    assert frames[0]["people"]
    assert "poses" in (tmp_path / "arguments").read_text("utf-8")


def test_both_brokers_have_a_pipe() -> None:
    assert [pipe.split("|")[-1].split()[0] for pipe in PIPES] == ["mosquitto_pub", "kcat"]


def _options(words: list[str]) -> dict[str, str]:
    """The options of `tritonserver`, given as `--a=b` or `--a b`."""
    assert words[0] == "tritonserver"
    text = " ".join(words[1:]).replace("=", " ")
    return dict(re.findall(r"--([\w-]+)((?: [^-\s]\S*)?)", text))


def test_the_image_and_the_page_start_triton_for_this_machine_alone() -> None:
    image = (ROOT / "docker" / "Dockerfile.triton").read_text("utf-8")
    in_image = json.loads(re.findall(r"^CMD (\[.*?\])$", image, re.MULTILINE | re.DOTALL)[0].replace("\\\n", ""))
    on_page = shlex.split(re.findall(r"^    (tritonserver .*?)\n    sharpose", PAGE, re.MULTILINE | re.DOTALL)[0])
    for words in (in_image, on_page):
        options = _options([word for word in words if word.strip()])
        assert options["model-control-mode"] == " none"
        assert options["exit-timeout-secs"] == " 5"
        assert "disable-auto-complete-config" in options
        assert [options[f"{name}-address"] for name in ("http", "grpc", "metrics")] == [" 127.0.0.1"] * 3
    assert re.findall(r"^USER (.*)$", image, re.MULTILINE)[-1] not in ("root", "0")


def test_the_table_of_cameras_is_computed_right() -> None:
    rows = re.findall(
        r"^\| ([\d,]+) \| ([\d,]+) \| (\S+) (.)bit/s \| (\S+) (.)bit/s \| ([\d,]+) \|", PAGE, re.MULTILINE
    )
    assert [row[0] for row in rows] == ["1", "10", "100", "1,000", "10,000"]
    unit = {"M": 1e6, "G": 1e9}
    for cameras, crops, wire, wire_unit, lines, lines_unit, cores in rows:
        crops_per_s = int(cameras.replace(",", "")) * 10 * 3
        assert int(crops.replace(",", "")) == crops_per_s
        assert float(wire) * unit[wire_unit] == pytest.approx(crops_per_s * 256 * 192 * 3 * 8, rel=0.03)
        assert float(lines) * unit[lines_unit] == pytest.approx(crops_per_s * 630 * 8, rel=0.03)
        assert int(cores.replace(",", "")) == pytest.approx(crops_per_s * 2 * 0.0166, rel=0.03)
