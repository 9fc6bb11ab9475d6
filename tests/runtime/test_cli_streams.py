"""`sharpose-run` with several sources, several outputs, and without a screen."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from cli_files import PROGRAM, Run, frames_of, lines_of, people_of, write_video

from sharpose.runtime.biomechanics.facing import note_of_facing
from sharpose.skeleton import COCO17

SCENES = [f"scene:seed={seed},frames=6,size=240x320,people={people}" for seed, people in ((1, 3), (2, 2), (3, 4))]


def keypoints_of(path: Path) -> list[np.ndarray]:
    return [np.array([person["keypoints"] for person in people]) for people in people_of(path)]


def test_streams_give_the_poses_of_processes_of_their_own(sharpose_run: Run, tmp_path: Path) -> None:
    scenes = SCENES[:2]
    together = sharpose_run(*scenes, "--json", "together/{source}.jsonl", "--output", "together/{source}.mp4")
    assert (together.returncode, together.stderr) == (0, ""), together.stderr
    files = sorted((tmp_path / "together").glob("*.jsonl"))
    for scene, path in zip(scenes, files, strict=True):
        alone = sharpose_run(scene, "--json", "alone.jsonl", "--overwrite")
        assert alone.returncode == 0, alone.stderr
        lines, expected = lines_of(path), lines_of(tmp_path / "alone.jsonl")
        assert [line["frame"] for line in lines] == [line["frame"] for line in expected] == list(range(6))
        for ours, theirs in zip(lines, expected, strict=True):
            assert [p["bbox"] for p in ours["people"]] == [p["bbox"] for p in theirs["people"]]
            assert [p["refined"] for p in ours["people"]] == [p["refined"] for p in theirs["people"]]
        for here, there in zip(keypoints_of(path), keypoints_of(tmp_path / "alone.jsonl"), strict=True):
            assert np.abs(here - there).max(initial=0) < 0.02  # batches of other sizes round otherwise
        assert frames_of(path.with_suffix(".mp4")) == 6
    head = [line for line in together.stdout.splitlines() if line.startswith("scene:")]
    assert [line.split(": frames 6,")[0] for line in head] == scenes
    assert "frames 12, people " in together.stdout
    assert together.stdout.count("wrote together/") == 4


def test_one_stream_that_breaks_leaves_the_others_whole(sharpose_run: Run, tmp_path: Path) -> None:
    data = bytearray(write_video(tmp_path / "broken.mp4", 60, faststart=True).read_bytes())
    middle = len(data) // 2
    data[middle : middle + 6000] = bytes(6000)
    (tmp_path / "broken.mp4").write_bytes(data)
    for name in ("one", "two"):
        write_video(tmp_path / f"{name}.mp4", 20)
    done = sharpose_run(
        *("one.mp4", "broken.mp4", "two.mp4", "--full-frame", "--refine", "never", "--strict"),
        *("--json", "out/{source}.jsonl"),
    )
    assert done.returncode == 3, done.stderr
    (said,) = [line for line in done.stderr.splitlines() if "broken near frame" in line]
    assert said.startswith("warning: broken.mp4: broken near frame ")
    assert said.endswith("the other streams go on")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"one.jsonl", "broken.partial.jsonl", "two.jsonl"}
    assert len(lines_of(tmp_path / "out" / "one.jsonl")) == len(lines_of(tmp_path / "out" / "two.jsonl")) == 20
    assert "wrote out/one.jsonl" in done.stdout
    assert "wrote out/two.jsonl" in done.stdout


def test_several_sources_need_their_own_outputs(sharpose_run: Run) -> None:
    done = sharpose_run(*SCENES, "--json", "all.jsonl")
    assert done.returncode == 2
    assert done.stderr.startswith("error: --json all.jsonl: 3 sources can't share one output; put {source} into")


def test_tracks_have_ids_that_stay(sharpose_run: Run, tmp_path: Path) -> None:
    done = sharpose_run(
        "scene:seed=0,frames=20,size=360x640,people=3", "--track", "--smooth", "--json", "t.jsonl", "--mot", "t.txt",
        "--angles", "t.csv", "--kpt-thr", "0.6", "--trc", "markers",
    )  # fmt: skip
    said = done.stderr.splitlines()
    assert done.returncode == 0, done.stderr
    assert note_of_facing(COCO17, "auto") in said
    assert all(line.startswith("note: ") for line in said), done.stderr
    people = people_of(tmp_path / "t.jsonl")
    late = [sorted(person["id"] for person in frame) for frame in people[8:]]
    assert late
    assert len({identity for frame in late for identity in frame}) <= 4
    rows = [line.split(",") for line in (tmp_path / "t.txt").read_text().splitlines()]
    written = {(int(row[0]) - 1, int(row[1])) for row in rows}
    assert written == {(index, p["id"]) for index, frame in enumerate(people) for p in frame if p["id"]}
    with (tmp_path / "t.csv").open(newline="") as file:
        angles = list(csv.DictReader(file, strict=True))
    assert [(int(row["frame"]), int(row["id"] or 0)) for row in angles] == [
        (index, p["id"] or 0) for index, frame in enumerate(people) for p in frame
    ]
    for track in {int(row[1]) for row in rows}:
        (path,) = (tmp_path / "markers").glob(f"*_person{track:02d}.trc")
        header, *lines = [line.split("\t") for line in path.read_text().splitlines() if line[:1].isdigit()]
        assert header[:5] == ["25", "25", str(len(lines)), "19", "px"]
        for line in lines:
            seen = [p for p in people[int(line[0]) - 1] if p["id"] == track]
            x, y, score = seen[0]["keypoints"][0] if seen else (0, 0, 0)
            expected = [x, 360 - y, 0] if score >= 0.6 else [np.nan] * 3
            np.testing.assert_allclose([float(cell) for cell in line[2:5]], expected, atol=0.002)
    knees = [[point[2] for point in p["keypoints"][11:17:2]] for frame in people for p in frame]
    assert [row["left_knee"] != "" for row in angles] == [min(scores) >= 0.6 for scores in knees]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--smooth"], "give --track as well"),
        (["--mot", "m.txt"], "give --track as well"),
        (["--trc", "a.txt"], "--trc a.txt: expected a name ending in .trc, or a folder"),
        (["--trc", "a.trc", "--track"], "--trc a.trc: a .trc file holds one person; with --track give a folder"),
        (["--angles", "a.mot", "--track"], "--angles a.mot: a .mot file holds one person; with --track give a folder"),
        (["--trc", "a.trc"], "a.trc: frame 0: expected one person a frame, as nobody has an id, found"),
        (["--trc", "-"], "--trc -: standard output takes"),
        (["--detect-every", "3"], "--detect-every is for --detector"),
        (["--quiet", "--json-logs"], "exclude each other"),
        (["--reconnect", "often"], "expected a number of attempts or `forever`"),
        (["--stdin-size", "720"], "expected HEIGHTxWIDTH"),
        (["--deadline", "0"], "--deadline"),
        (["--serve", "here:there"], "--serve"),
        (["--encoder", "h263_best", "--output", "o.mp4"], "h263_best"),
        (["--output", "ftp://host/x"], "expected an address that begins with one of rtsp://"),
        (["--reconnect", "3"], "--reconnect"),
    ],
)
def test_options_that_make_no_sense_are_refused(sharpose_run: Run, arguments: list[str], words: str) -> None:
    done = sharpose_run(SCENES[0], *arguments)
    assert done.returncode == 2, done.stderr
    (error,) = done.stderr.splitlines()
    assert words in error


def test_json_logs_are_json_to_the_last_line(sharpose_run: Run, tmp_path: Path) -> None:
    done = sharpose_run(SCENES[0], "--json", "o.jsonl", "--json-logs")
    assert (done.returncode, done.stdout) == (0, "")
    entries = [json.loads(line) for line in done.stderr.splitlines()]
    assert [entry["message"] for entry in entries] == ["run done", "wrote o.jsonl"]
    assert entries[0]["frames"] == 6
    broken = sharpose_run("nowhere.mp4", "--full-frame", "--json-logs")
    assert broken.returncode == 2
    (entry,) = [json.loads(line) for line in broken.stderr.splitlines()]
    assert (entry["level"], entry["message"][:12]) == ("error", "nowhere.mp4:")


def test_quiet_says_nothing_where_all_is_well(sharpose_run: Run) -> None:
    done = sharpose_run(SCENES[0], "--json", "o.jsonl", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_deadline_is_accounted_for(sharpose_run: Run, tmp_path: Path) -> None:
    done = sharpose_run(SCENES[2], "--deadline", "0.001", "--json", "o.jsonl")
    assert done.returncode == 0, done.stderr
    people = sum(len(frame) for frame in people_of(tmp_path / "o.jsonl"))
    assert f"refinements wanted {people}, done 0, deferred {people}, frames on time 0.0%" in done.stdout


def test_raw_frames_on_standard_input(environment: dict[str, str], nano_bundle: Path, tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 48, 64, 3), dtype=np.uint8)
    done = subprocess.run(
        [PROGRAM, "-", "--stdin-size", "48x64", "--stdin-rate", "10", "--full-frame", "--refine", "never",
         "--json", "o.jsonl", "--bundle", nano_bundle, "--threads", "1"],
        input=frames.tobytes()[:-100], cwd=tmp_path, env=environment, capture_output=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [line["time"] for line in lines_of(tmp_path / "o.jsonl")] == [0, 0.1, 0.2, 0.3]
    assert b"warning: " in done.stderr  # the last frame is cut


@pytest.mark.parametrize(
    "kills", [pytest.param(1, id="once"), pytest.param(20, id="twenty times", marks=pytest.mark.soak)]
)
def test_killed_at_any_moment_all_outputs_can_be_read(
    environment: dict[str, str], nano_bundle: Path, tmp_path: Path, kills: int
) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    chance = random.Random(0)
    for attempt in range(kills):
        folder = tmp_path / str(attempt)
        options = ["--track", "--refine", "never", "--output", folder / "o.mp4", "--json", folder / "o.jsonl",
                   "--coco", folder / "o.json", "--csv", folder / "o.csv", "--mot", folder / "o.txt",
                   "--openpose", folder / "openpose", "--frames", folder / "frames"]  # fmt: skip
        process = subprocess.Popen(
            [PROGRAM, "scene:frames=100000,size=240x320,people=2", "--bundle", nano_bundle, "--threads", "1",
             *map(str, options)],
            env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            until = time.monotonic() + 120
            while len(list((folder / "frames").glob("*.jpg"))) < 10 and time.monotonic() < until:
                time.sleep(0.02)
            time.sleep(chance.uniform(0.0, 3.0 if kills > 1 else 1.0))
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        text = (folder / "o.jsonl").read_bytes()
        lines = [json.loads(line) for line in text[: text.rfind(b"\n") + 1].splitlines()]
        frames = len(lines)
        assert frames > 5
        # the scene has 25 frames a second of its own time; what is slower by the clock must not lose more
        assert frames - 26 <= frames_of(folder / "o.mp4") <= frames + 1
        truth = coco.COCO()
        truth.dataset = {"images": [{"id": i} for i in range(frames + 2)], "annotations": [],
                         "categories": [{"id": 1, "name": "person"}]}  # fmt: skip
        truth.createIndex()
        found = truth.loadRes(str(folder / "o.json")).anns.values()
        assert max(entry["image_id"] for entry in found) >= frames - 2
        assert len(list((folder / "openpose").glob("*_keypoints.json"))) >= frames - 1
        for path in (folder / "openpose").glob("*_keypoints.json"):
            assert json.loads(path.read_text())["version"] == 1.3
        assert len(list((folder / "frames").glob("*.jpg"))) >= frames - 1
        assert (folder / "o.csv").read_text().startswith("frame,time,id,")


def test_what_serves_is_there_while_it_runs(environment: dict[str, str], nano_bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("prometheus_client")
    import re
    import urllib.request

    process = subprocess.Popen(
        [PROGRAM, *(f"scene:seed={s},frames=100000,size=240x320,people=2" for s in (1, 2)), "--bundle", nano_bundle,
         "--threads", "1", "--refine", "never", "--serve", "0"],
        env=environment | {"SHARPOSE_SERVE_TOKEN": "sesame"}, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+/", line)
        assert found, line
        assert "sesame" not in line

        def get(path: str) -> bytes:
            request = urllib.request.Request(found.group() + path, headers={"Authorization": "Bearer sesame"})
            with urllib.request.urlopen(request, timeout=30) as answer:
                return bytes(answer.read())

        until = time.monotonic() + 60
        while time.monotonic() < until:
            state = json.loads(get("state.json"))
            if all(stream["frames"] >= 3 for stream in state["streams"]) and len(state["streams"]) == 2:
                break
            time.sleep(0.2)
        assert [stream["frames"] >= 3 for stream in state["streams"]] == [True, True]
        assert get("snapshot.jpg").startswith(b"\xff\xd8")
        assert b"sharpose_frames_total" in get("metrics")
        assert get("healthz")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143
    finally:
        process.kill()
        os.waitpid(-1, os.WNOHANG) if process.poll() is None else None
