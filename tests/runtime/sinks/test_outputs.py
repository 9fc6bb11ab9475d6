"""The outputs that a user asks for: their sinks, what they agree on, and that each fails alone and in one line."""

from __future__ import annotations

import math
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import result_readers as readers

from sharpose import files
from sharpose.errors import InputError, OutputTakenError, SinkError
from sharpose.runtime.biomechanics.facing import note_of_facing
from sharpose.runtime.biomechanics.options import BiomechanicsOptions
from sharpose.runtime.biomechanics.sinks import MotionSink, ProcessedAnglesSink, TrcSink
from sharpose.runtime.frames import Sink
from sharpose.runtime.sinks import outputs as outputs_module
from sharpose.runtime.sinks import video
from sharpose.runtime.sinks.coco import CocoSink
from sharpose.runtime.sinks.folders import OPENPOSE_BODY25, OpenPoseSink, PicturesSink
from sharpose.runtime.sinks.outputs import (
    Output,
    SinkSettings,
    check_outputs,
    fill,
    make_sink,
    outputs_of_streams,
    picture_stems,
)
from sharpose.runtime.sinks.restream import RestreamSink
from sharpose.runtime.sinks.tables import AnglesSink, CsvSink, JsonLinesSink, MotSink
from sharpose.runtime.sinks.video import VideoSink
from sharpose.skeleton import COCO17, Skeleton

TARGETS = {
    "--output": "o.mp4",
    "--json": "o.jsonl",
    "--coco": "o.json",
    "--csv": "o.csv",
    "--angles": "angles.csv",
    "--openpose": "poses",
    "--mot": "o.txt",
    "--frames": "pictures",
}
STREAM = SinkSettings("walk", COCO17, frame_rate=25, tracked=True)


@pytest.mark.parametrize(
    ("option", "target", "kind"),
    [
        ("--output", "a.mp4", VideoSink),
        ("--output", "a.MKV", VideoSink),
        ("--output", "rtsp://u:secret@127.0.0.1:1/a", RestreamSink),
        ("--output", "udp://127.0.0.1:1", RestreamSink),
        ("--json", "a.jsonl", JsonLinesSink),
        ("--coco", "a.json", CocoSink),
        ("--csv", "a.csv", CsvSink),
        ("--angles", "a.csv", AnglesSink),
        ("--angles", "a.CSV", AnglesSink),
        ("--angles", "-", AnglesSink),
        ("--angles", "/dev/null", AnglesSink),
        ("--angles", "motions", MotionSink),
        ("--trc", "markers", TrcSink),
        ("--openpose", "poses", OpenPoseSink),
        ("--mot", "a.txt", MotSink),
        ("--frames", "pictures", PicturesSink),
    ],
)
def test_every_option_has_its_sink_and_nothing_is_made_yet(tmp_path, monkeypatch, option, target, kind):
    monkeypatch.chdir(tmp_path)
    sink = make_sink(Output(option, target), STREAM)
    assert type(sink) is kind
    assert "secret" not in sink.name
    assert sink.abandon() is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("option", "ending", "kind"), [("--angles", ".MOT", MotionSink), ("--trc", ".trc", TrcSink)])
def test_files_of_one_person(tmp_path, option, ending, kind):
    alone = replace(STREAM, tracked=False)
    assert type(make_sink(Output(option, f"{tmp_path}/a{ending}"), alone)) is kind
    with pytest.raises(InputError, match="expected a folder for a file per person, got a file"):
        make_sink(Output(option, f"{tmp_path}/a{ending}"), STREAM)


def test_names_of_folders_have_no_ending(tmp_path):
    assert [Output("--trc", name).is_folder for name in ("a", "a/b", "a.trc", "a.b")] == [True, True, False, False]
    assert [Output("--angles", name).is_folder for name in ("a", "a.csv", "-", "/dev/null")] == [
        True,
        False,
        False,
        False,
    ]
    assert not Output("--json", "a").is_folder
    os.mkfifo(tmp_path / "pipe")
    assert not Output("--angles", str(tmp_path / "pipe")).is_folder
    with pytest.raises(InputError, match=r"--trc a\.b: expected a name ending in \.trc, or a folder"):
        make_sink(Output("--trc", "a.b"), STREAM)
    (tmp_path / "file").touch()
    for option, ending in (("--trc", ".trc"), ("--angles", ".mot")):
        words = rf"file: expected a folder .*, as the name has no ending, found a file; .* one that ends in \{ending} "
        with pytest.raises(InputError, match=words):
            make_sink(Output(option, str(tmp_path / "file")), STREAM)


@pytest.mark.parametrize("target", ["a.txt", "a.trc", "a.sto", "out.d/a.json"])
def test_angles_are_csv_or_motions(target):
    with pytest.raises(InputError, match=rf"--angles {target}: expected a name ending in \.csv or \.mot, a folder, "):
        make_sink(Output("--angles", target), STREAM)


@pytest.mark.parametrize("target", ["a.csv", "a.mot", "motions", "-"])
def test_a_skeleton_without_angles(target):
    notes = []
    dots = Skeleton("dots", ("p0", "p1", "nose"), (), (), (0.05,) * 3)
    with pytest.raises(InputError, match=r"--angles .*: expected a skeleton with the points of an angle, .*; dots has"):
        make_sink(Output("--angles", target), replace(STREAM, skeleton=dots, tracked=False, note=notes.append))
    assert notes == []


@pytest.mark.parametrize("options", [BiomechanicsOptions(), BiomechanicsOptions(fill_gaps=1.0)])
def test_a_file_of_angles_says_that_no_feet_were_seen(tmp_path, record, options):
    said = []
    feet = ("left_heel", "right_heel", "left_big_toe", "right_big_toe")
    footed = replace(COCO17, keypoints=(*feet, *COCO17.keypoints[5:14], *"abcd"))
    given = record(people=1)
    given.poses.keypoints[0, :, 2] = [0.0] * 4 + [1.0] * 13
    settings = replace(STREAM, skeleton=footed, tracked=False, biomechanics=options, say=said.append)
    sink = make_sink(Output("--angles", f"{tmp_path}/a.csv"), settings)
    sink.write(given)
    sink.close()
    (line,) = said
    assert line.startswith(f"{tmp_path}/a.csv: feet were seen in no frame, so all flexions and segments are empty")


def test_keypoints_that_are_filled_are_written_at_the_end(tmp_path):
    notes = []
    filled = replace(STREAM, biomechanics=BiomechanicsOptions(fill_gaps=1.0), note=notes.append)
    assert type(make_sink(Output("--angles", f"{tmp_path}/a.csv"), filled)) is ProcessedAnglesSink
    assert notes == [note_of_facing(COCO17, "auto")]
    make_sink(
        Output("--angles", f"{tmp_path}/a.csv"), replace(filled, biomechanics=BiomechanicsOptions(facing="right"))
    )
    assert len(notes) == 1
    with pytest.raises(InputError, match="--fill-gaps needs the end of the source"):
        make_sink(Output("--trc", f"{tmp_path}/a"), replace(filled, live=True))


@pytest.mark.parametrize("target", ["a.avi", "a", "ftp://x/a.mp4"])
def test_what_nothing_writes_to(target):
    with pytest.raises(InputError, match=r"expected (a video's name ending in \.mp4|an address that begins with)"):
        make_sink(Output("--output", target), STREAM)


def test_many_sources_need_names_of_their_own():
    outputs = [Output("--json", "out/{source}.jsonl"), Output("--output", "rtsp://h/{source}")]
    assert outputs_of_streams(outputs, ["cam", "cam-2"]) == [
        [Output("--json", "out/cam.jsonl"), Output("--output", "rtsp://h/cam")],
        [Output("--json", "out/cam-2.jsonl"), Output("--output", "rtsp://h/cam-2")],
    ]
    assert outputs_of_streams(outputs[:1], ["a"]) == [[Output("--json", "out/a.jsonl")]]
    with pytest.raises(InputError, match=r"--csv out\.csv: 2 sources can't share one output; put {source} into its"):
        outputs_of_streams([Output("--csv", "out.csv")], ["a", "b"])


def test_no_password_in_a_refusal():
    with pytest.raises(InputError, match="sources can't share") as refused:
        outputs_of_streams([Output("--output", "rtsp://u:secret@h/a")], ["a", "b"])
    assert "secret" not in str(refused.value)


def test_two_outputs_into_one(tmp_path):
    with pytest.raises(InputError, match=r"--coco .*x/\.\./a\.json and --json .*a\.json are the same"):
        outputs_of_streams([Output("--json", f"{tmp_path}/a.json"), Output("--coco", f"{tmp_path}/x/../a.json")], ["a"])
    outputs_of_streams([Output("--json", "/dev/null"), Output("--csv", "/dev/null")], ["a"])


def test_what_is_written_where():
    assert Output("--output", "rtsp://u:secret@h/a").path is None
    assert Output("--output", "rtsp://u:secret@h/a").name == "rtsp://***@h/a"
    assert Output("--output", "a.mp4").path == Path("a.mp4")
    assert [option for option in TARGETS if Output(option, "a.csv").is_folder] == ["--openpose", "--frames"]


def test_fill():
    assert fill("--csv", "out/{source}.{a-b}/{source}{.csv", "cam1") == "out/cam1.{a-b}/cam1{.csv"


@pytest.mark.parametrize("word", ["{foo}", "{}", "{ source }", "{Source}", "{source:03d}", "{0}"])
@pytest.mark.parametrize("option", list(TARGETS))
def test_another_word_in_braces_is_refused(option, word):
    expected = f"{option} o/{word}: {word}: expected no word in braces but {{source}}"
    with pytest.raises(InputError, match=re.escape(expected)):
        outputs_of_streams([Output(option, f"o/{word}")], ["cam1"])


@pytest.mark.parametrize(
    ("pictures", "stems"),
    [
        (["p/a.jpg", "p/b.png"], ["a", "b"]),
        (["p/a.jpg", "p/A.png"], None),
        (["p/a.jpg", "q/a.jpg"], None),
        (["p/a.tif", "p/a.tif/picture 2"], None),
        (["p/" + "a" * 201 + ".jpg"], None),
    ],
)
def test_names_of_pictures_name_results_where_they_tell_them_apart(pictures, stems):
    assert picture_stems([Path(picture) for picture in pictures]) == stems


FRAMES = 12
PEOPLE = [2, 0, 3, 1]  # in turn
READERS: dict[str, Callable[[Path], readers.Frames]] = {
    "--json": readers.read_json_lines,
    "--coco": readers.read_coco,
    "--csv": readers.read_csv,
    "--angles": readers.read_angles,
    "--openpose": readers.read_openpose,
    "--mot": readers.read_mot,
}


@pytest.fixture(scope="module")
def written(tmp_path_factory, record):
    folder = tmp_path_factory.mktemp("all")
    sinks = [make_sink(Output(option, str(folder / target)), STREAM) for option, target in TARGETS.items()]
    records = []
    for index in range(FRAMES):
        people = PEOPLE[index % len(PEOPLE)]
        given = record(index, people=people, ids=[7, 3, 0][:people], image=np.full((48, 64, 3), 20 * index, np.uint8))
        records.append(given)
        for sink in sinks:
            sink.write(given)
    for sink in sinks:
        sink.close()
    return folder, records


@pytest.mark.parametrize("option", READERS)
def test_every_format_says_what_the_records_say(written, option):
    folder, records = written
    frames = READERS[option](folder / TARGETS[option]).people
    for index, given in enumerate(records):
        poses = given.poses
        expected = [row for row in range(len(poses)) if option != "--mot" or poses.track_ids[row]]
        found = frames.get(index, [])
        assert [person.id for person in found] == [poses.track_ids[row] for row in expected]
        for person, row in zip(found, expected, strict=True):
            check(person, poses, row)


def check(person, poses, row):
    if person.box is not None:
        np.testing.assert_allclose(person.box, poses.boxes.xywh[row], atol=2e-3)
    if person.score is not None:
        assert person.score == pytest.approx(float(poses.scores[row]), abs=1e-5)
    if person.quality is not None:
        assert person.quality == pytest.approx(float(poses.quality[row]), abs=1e-5)
    if person.refined is not None:
        assert person.refined == poses.refined[row]
    if person.keypoints is not None:
        points = person.keypoints
        if len(points) == len(OPENPOSE_BODY25):
            points = [points[OPENPOSE_BODY25.index(name)] for name in COCO17.keypoints]
        np.testing.assert_allclose(points, poses.keypoints[row], atol=1e-3)


def test_pictures_and_video_show_the_same(written):
    folder, records = written
    times = readers.read_video(folder / "o.mp4")
    assert times == pytest.approx([given.frame.time for given in records], abs=1e-3)
    files = sorted((folder / "pictures").iterdir())
    assert [path.name for path in files] == [f"walk_{index:012d}.jpg" for index in range(FRAMES)]
    capture = cv2.VideoCapture(str(folder / "o.mp4"))
    for path, given in zip(files, records, strict=True):
        picture = cv2.imread(str(path))
        there, frame = capture.read()
        assert there
        assert math.isclose(picture.mean(), frame.mean(), abs_tol=4)
        assert math.isclose(picture.mean(), given.frame.image.mean(), abs_tol=4)
    capture.release()


def count_frames(option: str, path: Path) -> int:
    if option == "--output":
        return len(readers.read_video(path))
    if option == "--frames":
        return sum(cv2.imread(str(file)) is not None for file in path.iterdir())
    return len(READERS[option](path).people)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of one MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=False, capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"needs root to mount a small disk: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def write_until_it_fails(sink: Sink, record: Callable[..., object], most: int = 3000) -> tuple[int, str]:
    """How many frames were written, and the line that ended it."""
    for index in range(most):
        noise = np.random.default_rng(index).integers(0, 255, (96, 128, 3), dtype=np.uint8)
        try:
            sink.write(record(index, people=3, ids=[1, 2, 3], image=noise))  # type: ignore[arg-type]
        except SinkError as error:
            return index, str(error)
    raise AssertionError("it never failed")


@pytest.mark.parametrize("option", TARGETS)
def test_a_full_disk(small_disk, record, option, capfd):
    if option in ("--mot", "--angles"):  # short lines: fill the disk before
        (small_disk / "filler").write_bytes(b"x" * 1_000_000)
    sink = make_sink(Output(option, str(small_disk / TARGETS[option])), STREAM)
    written, said = write_until_it_fails(sink, record)
    assert said.endswith("can't be written: No space left on device")
    assert "\n" not in said
    assert written > 3
    kept = sink.abandon()
    sink.close()
    assert kept is not None
    assert ".partial" in kept.name
    assert capfd.readouterr() == ("", "")
    assert count_frames(option, kept) >= written - 1


@pytest.mark.parametrize("option", TARGETS)
def test_a_folder_that_vanishes(tmp_path, record, option, monkeypatch):
    for module in (files, video):  # or they would look once a second
        monkeypatch.setattr(module, "_LOOK_EVERY", 0.0)
    folder = tmp_path / "deep"
    sink = make_sink(Output(option, str(folder / TARGETS[option])), STREAM)
    sink.write(record(0, people=1, ids=[1]))
    sink.write(record(1, people=1, ids=[1]))
    shutil.rmtree(folder)
    with pytest.raises(SinkError, match="was removed while it was being written") as failed:
        sink.write(record(2, people=1, ids=[1]))
    assert "\n" not in str(failed.value)
    assert sink.abandon() is None
    sink.close()
    assert not folder.exists()


@pytest.mark.parametrize("option", TARGETS)
def test_a_place_where_nothing_can_be_made(tmp_path, record, option):
    (tmp_path / "file").write_text("")
    sink = make_sink(Output(option, str(tmp_path / "file" / TARGETS[option])), STREAM)
    with pytest.raises(SinkError, match=r"can't be written: (Not a directory|File exists)"):
        sink.write(record(0, people=1, ids=[1]))
    assert sink.abandon() is None
    sink.close()


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("option", READERS)
def test_numbers_that_are_not_finite(tmp_path, record, option, number):
    sink = make_sink(Output(option, str(tmp_path / TARGETS[option])), STREAM)
    sink.write(record(0, people=1, ids=[1]))
    with pytest.raises(SinkError, match="frame 1: expected finite numbers in its poses, found NaN or infinity"):
        sink.write(record(1, people=1, ids=[1], keypoint=number))
    kept = sink.abandon()
    assert kept is not None
    assert count_frames(option, kept) == 1


@pytest.mark.parametrize("option", [option for option in TARGETS if option not in ("--openpose", "--frames")])
def test_a_limit_on_the_size_of_files(tmp_path, option):
    """As `ulimit -f` sets it: the system's signal for it is ignored by Python."""
    script = f"""
import resource, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import numpy as np
from conftest import make_record
from sharpose.errors import SinkError
from sharpose.runtime.sinks.outputs import Output, SinkSettings, make_sink
from sharpose.skeleton import COCO17
sink = make_sink(Output({option!r}, {str(tmp_path / TARGETS[option])!r}), SinkSettings("a", COCO17, tracked=True))
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
try:
    for index in range(3000):
        noise = np.random.default_rng(index).integers(0, 255, (96, 128, 3), dtype=np.uint8)
        sink.write(make_record(index, people=3, ids=[1, 2, 3], image=noise))
except SinkError as error:
    print(index, error)
print(sink.abandon())
"""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    assert signal.getsignal(signal.SIGXFSZ) is not signal.SIG_DFL or os.name != "posix"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    said, kept = done.stdout.splitlines()
    assert said.endswith("can't be written: File too large")
    written = int(said.split()[0])
    assert written >= 1
    assert count_frames(option, Path(kept)) >= written - 1


@pytest.mark.parametrize("option", TARGETS)
@pytest.mark.parametrize("seen_at_start", [True, False], ids=["later", "at the same time"])
def test_what_another_run_writes_is_refused_and_stays_whole(tmp_path, record, option, seen_at_start):
    target = tmp_path / TARGETS[option]
    output, overwriting = Output(option, str(target)), replace(STREAM, overwrite=True)
    first, second = make_sink(output, overwriting), make_sink(output, overwriting)
    first.write(record(0, people=1, ids=[1]))
    first.write(record(1, people=1, ids=[1]))
    before = sorted(tmp_path.rglob("*"))

    def begin() -> None:
        if seen_at_start:
            check_outputs([output], [], bundle=tmp_path / "bundle", overwrite=True)
        else:
            second.write(record(5, people=1, ids=[1]))

    with pytest.raises(OutputTakenError, match="is being written by another run") as refused:
        begin()
    assert refused.value.exit_code == 2
    assert second.abandon() is None
    second.close()
    assert sorted(tmp_path.rglob("*")) == before
    first.write(record(2, people=1, ids=[1]))
    first.close()
    assert count_frames(option, target) == 3
    check_outputs([output], [], bundle=tmp_path / "bundle", overwrite=True)
    third = make_sink(output, overwriting)
    third.write(record(0, people=1, ids=[1]))
    third.close()
    assert count_frames(option, target) == 1


def test_the_folders_of_many_outputs_are_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Path] = []
    identity_of, bundle = outputs_module.identity_of, tmp_path / "bundle"

    def look(path: Path) -> tuple[object, ...]:
        looked.append(path)
        return identity_of(path)

    monkeypatch.setattr(outputs_module, "identity_of", look)
    outputs = [Output("--json", str(tmp_path / f"{number}.jsonl")) for number in range(9)]
    check_outputs(outputs, [], bundle=bundle, overwrite=True)
    assert (looked.count(bundle), looked.count(tmp_path)) == (1, 1)
    bundle.mkdir()
    (bundle / "coarse.onnx").touch()
    (tmp_path / "8.jsonl").symlink_to(bundle / "coarse.onnx")
    with pytest.raises(InputError, match=r"8\.jsonl lies in the bundle's folder"):
        check_outputs(outputs, [], bundle=bundle, overwrite=True)
