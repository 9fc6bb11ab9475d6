"""`sharpose-run` from its sources to its files: whole runs, broken sources."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from cli_files import SCENE, STAGES, Run, frames_of, lines_of, outputs, people_of, table_of, write_boxes, write_video
from sound_files import sound_of, write_sounded


def test_help(sharpose_run: Run) -> None:
    done = sharpose_run("--help", bundle=None)
    assert (done.returncode, done.stderr) == (0, "")
    assert "SOURCE" in done.stdout
    assert "--quality-threshold" in done.stdout


def test_the_scene(sharpose_run: Run, tmp_path: Path) -> None:
    done = sharpose_run(SCENE, *outputs(tmp_path / "[red]results"), "--timings")  # no markup
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    folder = tmp_path / "[red]results"
    lines = lines_of(folder / "o.jsonl")
    assert [line["frame"] for line in lines] == [0, 1, 2, 3]
    assert [line["time"] for line in lines] == pytest.approx([0, 0.04, 0.08, 0.12])
    assert {(line["width"], line["height"]) for line in lines} == {(320, 240)}
    everybody = [person for line in lines for person in line["people"]]
    assert 1 <= len(everybody) <= 12
    for person in everybody:
        assert set(person) == {"bbox", "score", "keypoints", "quality", "refined"}
        assert np.shape(person["keypoints"]) == (17, 3)
        assert person["refined"] is (person["quality"] < 0.99)
        confident = [score for _, _, score in person["keypoints"] if score > 0.2]
        assert person["score"] == pytest.approx(np.mean(confident), abs=1e-4)
    assert frames_of(folder / "o.mp4") == 4
    assert len(json.loads((folder / "o.json").read_text())) == len(everybody)
    head = done.stdout.splitlines()[0]
    refined = sum(person["refined"] for person in everybody)
    assert head.startswith(f"frames 4, people {len(everybody)}, refined {refined} ({refined / len(everybody):.0%}), ")
    table = table_of(done.stdout)
    assert list(table) == STAGES
    assert all(p50 <= p95 <= p99 for p50, p95, p99 in table.values())
    assert table["coarse"][0] > table["gate"][0] > 0
    assert done.stdout.splitlines()[-3:] == [f"wrote {folder / name}" for name in ("o.mp4", "o.jsonl", "o.json")]


@pytest.mark.parametrize(
    ("options", "refined"),
    [
        (["--refine", "never"], False),
        (["--refine", "always", "--alpha", "0.2"], True),
        (["--quality-threshold", "-100"], False),
        (["--quality-threshold", "100"], True),
    ],
)
def test_who_is_refined(sharpose_run: Run, tmp_path: Path, options: list[str], refined: bool) -> None:
    done = sharpose_run("scene:frames=1,size=240x320,people=3", *options, "--json", "o.jsonl")
    assert done.returncode == 0, done.stderr
    (people,) = people_of(tmp_path / "o.jsonl")
    assert people
    assert {person["refined"] for person in people} == {refined}
    assert f"refined {len(people) if refined else 0} " in done.stdout


def test_pictures_named_by_numbers(sharpose_run: Run, tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    (tmp_path / "pictures").mkdir()
    sizes = {7: (90, 120), 12: (120, 90), 100: (61, 47)}
    for image_id, size in sizes.items():
        noise = np.random.default_rng(image_id).integers(0, 256, (*size, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / "pictures" / f"{image_id:05d}.png"), noise)
    boxes = write_boxes(
        tmp_path / "b.json", [(100, (3, 4, 20, 30), 0.5), (7, (1, 2, 50, 60), 0.9), (7, (40, 0, 50, 80), 0.8)]
    )
    done = sharpose_run("pictures", "--boxes", boxes, *outputs(tmp_path), "--frames", "drawn", "--openpose", "poses")
    assert done.returncode == 0, done.stderr
    (note,) = done.stderr.splitlines()  # COCO's points have no feet
    assert note.startswith("poses: skeleton coco17 has no left_big_toe, left_small_toe, left_heel, right_big_toe, ")
    assert note.endswith(": zeros in OpenPose's JSON")
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == ["00007.jpg", "00012.jpg", "00100.jpg"]
    assert (tmp_path / "poses" / "00100_keypoints.json").is_file()
    lines = lines_of(tmp_path / "o.jsonl")
    assert [(line["width"], line["height"]) for line in lines] == [(120, 90), (90, 120), (47, 61)]
    assert [(line["file_name"], line["time"]) for line in lines] == [
        ("00007.png", None),
        ("00012.png", None),
        ("00100.png", None),
    ]
    assert [len(line["people"]) for line in lines] == [2, 0, 1]
    assert frames_of(tmp_path / "o.mp4") == 3

    truth = coco.COCO()
    truth.dataset = {
        "images": [{"id": image_id} for image_id in sizes],
        "annotations": [],
        "categories": [{"id": 1, "name": "person"}],
    }
    truth.createIndex()
    loaded = truth.loadRes(str(tmp_path / "o.json"))
    assert sorted(entry["image_id"] for entry in loaded.anns.values()) == [7, 7, 100]
    (only,) = (entry for entry in loaded.anns.values() if entry["image_id"] == 100)
    assert only["keypoints"] == [value for point in lines[2]["people"][0]["keypoints"] for value in point]
    assert only["score"] == lines[2]["people"][0]["score"]
    assert lines[2]["people"][0]["score"] == pytest.approx(
        0.5 * np.mean([p[2] for p in lines[2]["people"][0]["keypoints"]]), abs=1e-4
    )


def test_the_full_frame(sharpose_run: Run, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "picture.png"), np.zeros((60, 45, 3), np.uint8))
    # A name that the terminal's encoding can't show is no reason to fail.
    done = sharpose_run("picture.png", "--full-frame", "--json", "ø.jsonl", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    ((person,),) = people_of(tmp_path / "ø.jsonl")
    assert person["bbox"] == [0, 0, 45, 60]
    assert done.stdout.splitlines()[-1] == "wrote \\xf8.jsonl"


def test_sound_is_copied_unless_it_can_not_be(sharpose_run: Run, tmp_path: Path) -> None:
    given = write_sounded(tmp_path / "in.mkv", frames=6, sound="pcm_u8")
    done = sharpose_run(given, "--full-frame", "--refine", "never", "--output", "o.mkv", "--output", "o.mp4")
    assert done.returncode == 0
    assert (
        done.stderr == f"warning: o.mp4: the sound of {given} is left out: .mp4 can't hold pcm_u8; take .mov or .mkv\n"
    )
    assert [packet.data for packet in sound_of(tmp_path / "o.mkv")] == [packet.data for packet in sound_of(given)][:12]
    assert sound_of(tmp_path / "o.mp4") == []
    assert frames_of(tmp_path / "o.mp4") == frames_of(tmp_path / "o.mkv") == 6


def test_nothing_to_write_is_said(sharpose_run: Run, tmp_path: Path) -> None:
    done = sharpose_run("scene:frames=1,size=128x128,people=1")
    assert done.returncode == 0
    options = "--output, --json, --coco, --csv, --angles, --openpose, --mot, --trc, --frames, --show or --serve"
    assert done.stderr == f"note: nothing will be written; add {options}\n"
    assert list(tmp_path.iterdir()) == []


def thirty_boxes(path: Path, frames: int, size: tuple[int, int]) -> Path:
    height, width = size
    rng = np.random.default_rng(0)
    corners = rng.uniform((0, 0), (width - 60, height - 120), (frames, 30, 2)).round(1)
    return write_boxes(
        path,
        [(f, (*corners[f, i].tolist(), 50.0, 110.0), float(i + 1) / 30) for f in range(frames) for i in range(30)],
    )


def test_picture_ids_matter_only_where_they_are_used(sharpose_run: Run, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for name in ("1", "2", "photo"):
        cv2.imwrite(str(tmp_path / "pictures" / f"{name}.png"), np.full((90, 120, 3), 90, np.uint8))
    done = sharpose_run("pictures", "--full-frame", "--json", "o.jsonl")
    assert (done.returncode, done.stderr) == (0, "")
    done = sharpose_run("pictures", "--full-frame", "--coco", "o.json")
    expected = "warning: pictures/photo.png has the image id 3, as pictures/2.png has its position 2\n"
    assert (done.returncode, done.stderr) == (0, expected)
    assert [entry["image_id"] for entry in json.loads((tmp_path / "o.json").read_text())] == [1, 2, 3]


@pytest.mark.slow
@pytest.mark.shared
def test_a_crowd(sharpose_run: Run, shared_dir: Path, tmp_path: Path) -> None:
    boxes = thirty_boxes(tmp_path / "b.json", 341, (720, 1280))
    done = sharpose_run(
        shared_dir / "media" / "crowd.avi", "--boxes", boxes, "--refine", "never", "--max-people", 2, "--stride", 34,
        *outputs(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "header claims 682 frames, but it ends after 341" in done.stderr
    lines = lines_of(tmp_path / "o.jsonl")
    assert [line["frame"] for line in lines] == list(range(0, 341, 34))
    assert {len(line["people"]) for line in lines} == {2}
    assert frames_of(tmp_path / "o.mp4") == 11
    assert done.stdout.startswith("frames 11, people 22, refined 0 (0%)")


@pytest.mark.slow
@pytest.mark.shared
def test_thirty_people_a_frame(sharpose_run: Run, shared_dir: Path, tmp_path: Path) -> None:
    boxes = thirty_boxes(tmp_path / "b.json", 5, (540, 960))
    done = sharpose_run(shared_dir / "media" / "street.mp4", "--boxes", boxes, *outputs(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert [len(people) for people in people_of(tmp_path / "o.jsonl")] == [30] * 5
    assert [line["time"] for line in lines_of(tmp_path / "o.jsonl")] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
    assert frames_of(tmp_path / "o.mp4") == 5


def test_damage_in_the_middle_ends_a_strict_run(sharpose_run: Run, tmp_path: Path) -> None:
    data = bytearray(write_video(tmp_path / "broken.mp4", 60, faststart=True).read_bytes())
    middle = len(data) // 2
    data[middle : middle + 6000] = bytes(6000)
    (tmp_path / "broken.mp4").write_bytes(data)
    folder = tmp_path / "results"
    more = ["--frames", folder / "frames", "--openpose", folder / "poses"]
    more += ["--mot", folder / "o.txt", "--csv", folder / "o.csv"]
    done = sharpose_run(
        "broken.mp4", "--full-frame", "--refine", "never", "--strict", *outputs(tmp_path / "results"), "--track", *more
    )
    assert done.returncode == 3, done.stderr
    unsaid = ("warning: ", f"{folder / 'poses'}: skeleton coco17 has no ")
    (error,) = [line for line in done.stderr.splitlines() if not line.startswith(unsaid)]
    assert error.startswith("error: broken.mp4: broken near frame ")
    assert {path.name for path in (tmp_path / "results").iterdir()} == {
        "o.partial.mp4",
        "o.partial.jsonl",
        "o.partial.json",
        "frames.partial",
        "poses.partial",
        "o.partial.txt",
        "o.partial.csv",
    }
    assert all(path.name in error for path in (tmp_path / "results").iterdir())
    lines = lines_of(tmp_path / "results" / "o.partial.jsonl")
    assert len(list((tmp_path / "results" / "frames.partial").iterdir())) == len(lines)
    assert 0 < len(lines) < 60
    assert frames_of(tmp_path / "results" / "o.partial.mp4") == len(lines)
    assert f"the {len(lines)} frames before it are kept in " in error
    assert "o.partial.mp4" in error
    assert f"frames {len(lines)}, people {len(lines)}" in done.stdout
    assert "wrote" not in done.stdout


def test_a_video_that_ends_early_is_a_warning(sharpose_run: Run, tmp_path: Path) -> None:
    data = write_video(tmp_path / "whole.mp4", 40, faststart=True).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 6 // 10])
    done = sharpose_run("cut.mp4", "--full-frame", "--refine", "never", *outputs(tmp_path))
    assert done.returncode == 0, done.stderr
    (warning,) = done.stderr.splitlines()
    frames = len(lines_of(tmp_path / "o.jsonl"))
    assert 10 < frames < 40
    assert warning == f"warning: cut.mp4: its header claims 40 frames, but it ends after {frames}"
    assert frames_of(tmp_path / "o.mp4") == frames


def test_a_scratch_in_a_video_and_a_broken_picture_end_with_3_and_whole_results(
    sharpose_run: Run, tmp_path: Path
) -> None:
    data = write_video(tmp_path / "whole.mp4", 30, faststart=True).read_bytes()
    middle = len(data) // 2
    (tmp_path / "scratch.mp4").write_bytes(data[:middle] + bytes(6000) + data[middle + 6000 :])
    arguments = ("--full-frame", "--refine", "never", "--json", "o.jsonl")
    done = sharpose_run("scratch.mp4", *arguments)
    assert done.returncode == 3, done.stderr
    assert "warning: scratch.mp4: skipped damage once, near frame 1" in done.stderr
    lines = lines_of(tmp_path / "o.jsonl")
    assert len(lines) >= 28
    assert 0 < sum(line.get("damaged") is True for line in lines) < 20
    assert all("damaged" not in line for line in lines[:10])

    (tmp_path / "pictures").mkdir()
    for name in "ac":
        cv2.imwrite(str(tmp_path / "pictures" / f"{name}.png"), np.zeros((40, 40, 3), np.uint8))
    (tmp_path / "pictures" / "b.png").write_bytes(b"no picture")
    done = sharpose_run("pictures", *arguments, "--overwrite")
    assert done.returncode == 3, done.stderr
    assert [line["frame"] for line in lines_of(tmp_path / "o.jsonl")] == [0, 2]
    assert "warning: pictures: 1 of 3 picture files could not be read, or not whole" in done.stderr


def test_standard_output_takes_results_alone(sharpose_run: Run, tmp_path: Path) -> None:
    done = sharpose_run(SCENE, "--refine", "never", "--json", "-", "--csv", "o.csv")
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["frame"] for line in done.stdout.splitlines()] == [0, 1, 2, 3]
    assert "wrote standard output" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"o.csv"}
