"""Windows and macOS, as far as Linux can stand in: nothing needs what they haven't, and what is missing is said."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import av
import other_platforms
import pytest

PLATFORMS = ("win32", "darwin")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """How the first day went, by platform."""
    folder = tmp_path_factory.mktemp("platforms")
    command = [sys.executable, other_platforms.__file__, str(folder)]
    process = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (process.returncode, process.stderr) == (0, "")
    results = {name: json.loads((folder / f"{name}.json").read_text()) for name in PLATFORMS}
    results["win32"]["folder"] = folder
    return results


@pytest.mark.parametrize("platform", PLATFORMS)
def test_every_module_can_be_imported(done: dict[str, dict[str, Any]], platform: str) -> None:
    assert done[platform]["failures"] == {}


def test_the_scene_runs_on_windows_with_every_kind_of_output(done: dict[str, dict[str, Any]]) -> None:
    run, folder = done["win32"]["run"], done["win32"]["folder"]
    assert (run["code"], run["err"]) == (0, "")
    lines = (folder / "scene_people_3_frames_2_size_360x640.jsonl").read_text("utf-8").splitlines()
    people = [person for line in lines for person in json.loads(line)["people"]]
    assert len(lines) == 2
    assert len(people) > 0
    assert all(person["refined"] for person in people)
    assert len(json.loads((folder / "coco.json").read_text("utf-8"))) == len(people)  # whole, though without its twin
    assert len(list((folder / "frames").glob("*.jpg"))) == 2
    with av.open(folder / "out.mp4") as video:
        assert sum(1 for _ in video.decode(video=0)) == 2
    assert [path.name for path in folder.glob(".*")] == []
    assert done["win32"]["again"]["err"].startswith("error: output coco.json already exists")


def test_the_doctor_knows_both(done: dict[str, dict[str, Any]]) -> None:
    doctor = done["win32"]["doctor"]
    assert (doctor["code"], doctor["err"]) == (0, "")
    assert doctor["out"].endswith("\n--device cpu: can run here\n")
    assert "no GPU driver (nvcuda.dll can't be loaded)" in doctor["out"]
    assert "apt install" not in doctor["out"]
    assert doctor["out"].splitlines()[0].endswith("; nothing of sharpose was tried on this system yet")


def test_windows_locks_are_held_and_let_go(done: dict[str, dict[str, Any]]) -> None:
    found = done["win32"]
    taken = "is being written by another run; give another name, or wait until that has ended"
    assert (found["held"], found["let go"]) == (f"held.txt: {taken}", "taken")
    assert (found["held folder"], found["left in folder"]) == (f"folder: {taken}", [])
    assert found["position"] == 0  # the file goes on where it was
    (place,) = found["locked at"]
    assert place > 1 << 42  # others can't read what is locked there, so it is no byte of a result
    assert place & 0xFFFFFFFF > 1 << 31  # also where the C library takes half of the number


def test_an_archives_results_are_claimed_on_windows(done: dict[str, dict[str, Any]]) -> None:
    assert done["win32"]["claimed"].startswith("claimed.jsonl: is being written by another run, process ")
    assert done["win32"]["published"] == ["claimed.jsonl"]
    assert (done["win32"]["folder"] / "claimed.jsonl").read_text() == "whole"


def test_ctrl_break_stops_a_run_as_sigterm_does(done: dict[str, dict[str, Any]]) -> None:
    assert done["win32"]["break"] == [143, 143]


def test_what_is_missing_is_said_in_one_line(done: dict[str, dict[str, Any]]) -> None:
    expected = "expected the index of a camera that can be opened, 0 for the first; is it in use, and may"
    for camera, name in ((done["win32"]["stream"], "/dev/video0"), (done["darwin"]["camera"], "camera 0")):
        assert camera["code"] == 2
        (line,) = camera["err"].splitlines()
        assert line.startswith(f"error: {name}: {expected}")


def test_auto_names_the_systems_own_device_and_takes_the_cpu(done: dict[str, dict[str, Any]]) -> None:
    for platform, device in (("win32", "directml"), ("darwin", "coreml")):
        (line,) = done[platform]["auto"]
        assert line.startswith("device auto takes cpu; not tensorrt, cuda: no ")
        assert line.endswith(f"; not {device}: not known to be right, nor to be faster; name it to try it")


def test_a_processor_is_told_where_the_system_lists_no_instruction_sets(done: dict[str, dict[str, Any]]) -> None:
    name, text = done["darwin"]["processor"]
    assert text.endswith(f" {name}")
    assert done["darwin"]["cores"] >= 1
