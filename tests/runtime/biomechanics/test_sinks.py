"""Sinks of whole trajectories: what is in their files and folders, whose it is, and what a failed run leaves."""

from __future__ import annotations

import csv
import os
import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
import pytest

from sharpose import files
from sharpose.angles import angles_of
from sharpose.errors import InputError, SinkError
from sharpose.runtime.biomechanics.options import BiomechanicsOptions
from sharpose.runtime.biomechanics.sinks import MotionSettings, MotionSink, ProcessedAnglesSink, TrcSink
from sharpose.runtime.sinks.folders import FolderSettings
from sharpose.runtime.sinks.group import SinkGroup, failure_of
from sharpose.runtime.sinks.tables import AnglesSink
from sharpose.skeleton import COCO17


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def settings(said):
    folder = FolderSettings("walk", note=said.append)
    return MotionSettings(COCO17, tracked=True, frame_rate=25.0, folder=folder, say=said.append, note=said.append)


def alone(settings, **options):
    return replace(settings, tracked=False, options=BiomechanicsOptions(**options))


def written(sink, records):
    for record in records:
        sink.write(record)
    sink.close()
    sink.close()
    return sink


def markers(path: Path) -> tuple[list[str], pandas.DataFrame]:
    lines = path.read_text().splitlines()
    names = lines[3].split("\t")[2::3]
    return lines[2].split("\t"), pandas.read_csv(path, sep="\t", skiprows=5, header=None, names=[
        "frame", "time", *(f"{name} {axis}" for name in names if name for axis in "xyz")])  # fmt: skip


def motion(path: Path) -> pandas.DataFrame:
    return pandas.read_csv(path, sep="\t", skiprows=7)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file, strict=True))


def test_the_markers_of_one_person(tmp_path, settings, record, body):
    frames = [{}, {0: body(10)}, {}, {0: body(12)}, {}]
    records = [record(index, people, tracked=False) for index, people in enumerate(frames)]
    header, found = markers(written(TrcSink(tmp_path / "a" / "one.trc", alone(settings)), records).path)
    assert header == ["25", "25", "3", "19", "px", "25", "2", "3"]
    assert found["frame"].tolist() == [2, 3, 4]
    np.testing.assert_allclose(found["time"], [0.04, 0.08, 0.12])
    np.testing.assert_allclose(found["Nose x"], [15, np.nan, 17])
    np.testing.assert_allclose(found["Nose y"], [430, np.nan, 430])  # 480 high, 50 from the top
    np.testing.assert_allclose(found["LAnkle y"], [-9.5, np.nan, -9.5])
    np.testing.assert_allclose(found["Hip y"], [236, np.nan, 236])


def test_a_folder_with_a_file_for_each_track(tmp_path, settings, record, body):
    frames = [{0: body(1)}, {7: body(2), 123: body(3)}, {7: body(4)}]
    records = [record(10 + index, people) for index, people in enumerate(frames)]
    folder = written(TrcSink(tmp_path / "out", settings, ending=".trc"), records).path
    assert sorted(path.name for path in folder.iterdir()) == [
        "walk_people.csv",
        "walk_person07.trc",
        "walk_person123.trc",
    ]
    header, found = markers(folder / "walk_person07.trc")
    assert header[:5] == ["25", "25", "2", "19", "px"]
    assert found["LHip x"].tolist() == [2, 4]
    assert (folder / "walk_person07.trc").read_text().splitlines()[0].endswith("\twalk_person07.trc")
    assert rows(folder / "walk_people.csv") == [
        {"id": "7", "file": "walk_person07.trc", "first_frame": "11", "last_frame": "12", "first_time": "0.44",
         "last_time": "0.48", "frames": "2"},
        {"id": "123", "file": "walk_person123.trc", "first_frame": "11", "last_frame": "11", "first_time": "0.44",
         "last_time": "0.44", "frames": "1"},
    ]  # fmt: skip


def test_the_files_of_an_earlier_run(tmp_path, settings, record, body, said):
    written(TrcSink(tmp_path / "out", settings, ending=".trc"), [record(0, {5: body(1), 6: body(2)})])
    (tmp_path / "out" / "walk_personal.trc").write_text("mine")
    with pytest.raises(InputError, match=r"already holds files of this kind \(walk_people\.csv\)"):
        TrcSink(tmp_path / "out", settings, ending=".trc")
    again = replace(settings, folder=replace(settings.folder, overwrite=True))
    written(TrcSink(tmp_path / "out", again, ending=".trc"), [record(0, {5: body(1)})])
    names = ["walk_people.csv", "walk_person05.trc", "walk_personal.trc"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    assert said == [f"{tmp_path / 'out'}: replaced 3 files of an earlier run"]


def test_metres(tmp_path, settings, record, body, said):
    one = [record(0, {0: body(100)}, tracked=False)]
    header, found = markers(written(TrcSink(tmp_path / "a.trc", alone(settings, metres_per_pixel=0.01)), one).path)
    assert header[4] == "m"
    assert found["LHip x"].tolist() == [1.0]
    assert found["LHip y"].tolist() == [2.36]
    header, found = markers(written(TrcSink(tmp_path / "b.trc", alone(settings, height_m=1.75)), one).path)
    assert found["LHip x"].tolist() == [pytest.approx(0.35, abs=1e-4)]  # 500 pixels tall
    assert said == [f"{tmp_path / 'b.trc'}: 0.0035 m per pixel, as the person is 500 pixels tall"]
    several = replace(settings, options=BiomechanicsOptions(height_m=1.75))
    folder = written(TrcSink(tmp_path / "c", several, ending=".trc"), [
        record(0, {1: body(100, size=2)}), record(1, {1: body(100, size=2), 2: body(100)})]).path  # fmt: skip
    assert markers(folder / "walk_person02.trc")[1]["LHip x"].tolist() == [pytest.approx(0.175, abs=1e-4)]
    assert said[1].endswith(" m per pixel, as person 1 is 1000 pixels tall")


def test_motions(tmp_path, settings, record, body):
    bent = body(50)
    bent[15, :2] = [10, 366.5]  # the left ankle, to the left of the knee
    records = [record(0, {4: body(50)}), record(1, {}), record(2, {4: bent})]
    folder = written(MotionSink(tmp_path / "out", settings, ending=".mot"), records).path
    found = motion(folder / "walk_person04.mot")
    assert list(found) == ["time", *angles_of(COCO17)]
    np.testing.assert_allclose(found["left_knee_flexion"], [0, np.nan, 90])
    np.testing.assert_allclose(found["left_knee"], [180, np.nan, 90])
    left = replace(settings, tracked=False, options=BiomechanicsOptions(facing="left", fill_gaps=0.08))
    records = [
        record(0, {0: body(50)}, tracked=False),
        record(1, {}, tracked=False),
        record(2, {0: bent}, tracked=False),
    ]
    found = motion(written(MotionSink(tmp_path / "one.mot", left), records).path)
    np.testing.assert_allclose(found["left_knee_flexion"], [0, -18.01, -90], atol=0.01)


def test_filled_angles_as_csv(tmp_path, settings, record, body):
    frames = [{0: body(1), 9: body(2)}, {}, {3: body(3), 9: body(4)}, {}, {}, {3: body(6)}]
    records = [record(index, people) for index, people in enumerate(frames)]
    options = BiomechanicsOptions(fill_gaps=0.08)
    found = rows(written(ProcessedAnglesSink(tmp_path / "a.csv", replace(settings, options=options)), records).path)
    assert list(found[0]) == ["frame", "time", "id", "person", *angles_of(COCO17)]
    assert [(row["frame"], row["time"], row["id"], row["person"]) for row in found] == [
        ("0", "0.0", "9", "1"), ("1", "0.04", "9", ""), ("2", "0.08", "3", "0"), ("2", "0.08", "9", "1"),
        ("5", "0.2", "3", "0"),
    ]  # fmt: skip
    assert {row["left_knee"] for row in found} == {"180.0"}


@pytest.mark.parametrize("file_name", [None, "run.webp"])
def test_filled_angles_have_the_columns_of_others(tmp_path, settings, record, body, file_name):
    """With nothing to fill the files are alike, of an animation too."""
    plain = [record(2, {3: body(1), 9: body(3)}), record(3, {}), record(4, {9: body(2)})]
    records = [replace(one, frame=replace(one.frame, file_name=file_name)) for one in plain]
    options = BiomechanicsOptions(fill_gaps=0.01)
    filled = written(ProcessedAnglesSink(tmp_path / "a.csv", replace(settings, options=options)), records).path
    other = written(AnglesSink(tmp_path / "b.csv", skeleton=COCO17), records).path
    assert filled.read_text() == other.read_text()
    assert rows(filled)[0].get("file_name") == file_name


def test_nobody(tmp_path, settings, record, said):
    empty = [record(0, {}, tracked=False)]
    header, found = markers(written(TrcSink(tmp_path / "a.trc", alone(settings, height_m=1.7)), empty).path)
    assert (header[2], header[4], len(found)) == ("0", "m", 0)
    assert len(motion(written(MotionSink(tmp_path / "a.mot", alone(settings)), empty).path)) == 0
    folder = written(TrcSink(tmp_path / "out", settings, ending=".trc"), [record(0, {})]).path
    assert rows(folder / "walk_people.csv") == []
    assert said == [f"{tmp_path / name}: nobody was seen" for name in ("a.trc", "a.mot", "out")]
    never = TrcSink(tmp_path / "never.trc", alone(settings))
    never.close()
    assert not never.path.exists()


@pytest.mark.parametrize(("said_rate", "expected"), [(25.0, "25"), (25.4, "25.4"), (30.0, "25"), (None, "25")])
def test_the_frame_rate_is_the_sources_where_times_agree(tmp_path, settings, record, body, said_rate, expected):
    records = [record(index, {0: body(1)}, tracked=False) for index in range(20)]
    sink = TrcSink(tmp_path / "a.trc", replace(alone(settings), frame_rate=said_rate))
    assert markers(written(sink, records).path)[0][0] == expected


def test_what_is_refused(tmp_path, settings, record, body):
    live = replace(alone(settings, fill_gaps=1.0), live=True)
    with pytest.raises(InputError, match=r"a\.trc: --fill-gaps needs the end of the source, and a live one has none"):
        TrcSink(tmp_path / "a.trc", live)
    pictures = replace(alone(settings, butterworth=6.0), timed=False, frame_rate=1.0)
    with pytest.raises(InputError, match=r"a\.trc: expected frames of a video, found pictures, which have no times"):
        TrcSink(tmp_path / "a.trc", pictures)
    with pytest.raises(InputError, match="expected a folder for a file per person, got a file"):
        MotionSink(tmp_path / "a.mot", settings)
    with pytest.raises(InputError, match=r"height-m: .* odd lacks right_ankle"):
        TrcSink(tmp_path / "a.trc", replace(alone(settings, height_m=1.7), skeleton=replace(
            COCO17, name="odd", keypoints=("tail", *COCO17.keypoints[:-1]))))  # fmt: skip
    with pytest.raises(SinkError, match="found pictures"):
        TrcSink(tmp_path / "a.trc", alone(settings)).write(record(0, {}, timed=False))
    assert list(tmp_path.iterdir()) == []
    TrcSink(tmp_path / "a.trc", replace(alone(settings), live=True)).write(record(0, {}, tracked=False))


def test_a_failed_run_keeps_what_it_had(tmp_path, settings, record, body):
    options = {"metres_per_pixel": 0.01, "fill_gaps": 1.0}
    frames = [{1: body(5)}, {}, {1: body(7)}]
    for place, given, tracked in (("a.trc", alone(settings, **options), False), ("out", settings, True)):
        sink = TrcSink(tmp_path / place, given, ending=".trc" if tracked else None)
        for index, people in enumerate(frames):
            sink.write(record(index, people, tracked=tracked))
        kept = sink.abandon()
        header, found = markers(kept / "walk_person01.trc" if tracked else kept)
        assert kept == tmp_path / ("out.partial" if tracked else "a.partial.trc")
        assert header[4] == "px"
        np.testing.assert_allclose(found["LHip x"], [5, np.nan, 7])
        sink.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.partial.trc", "out.partial"]


def test_what_was_read_before_a_second_person_came_is_kept(tmp_path, settings, record, body):
    group = SinkGroup([TrcSink(tmp_path / "a.trc", alone(settings))], lambda line: None)
    for index in range(3):
        group.write(record(index, {0: body(5)}, tracked=False))
    group.flush()
    group.write(record(3, {0: body(5), 1: body(9)}, tracked=False))
    with pytest.raises(SinkError, match=r"frame 3: expected one person a frame") as caught:
        group.flush()
    group.abandon()
    error = failure_of(caught.value, group, 3)
    assert str(error).endswith(f"; the 3 frames before it are kept in {tmp_path / 'a.partial.trc'}")
    assert markers(tmp_path / "a.partial.trc")[1]["frame"].tolist() == [1, 2, 3]


@pytest.mark.parametrize("failed", [False, True])
def test_a_sink_that_has_ended_keeps_nobody_in_memory(tmp_path, settings, record, body, failed):
    """Of a folder of videos every sink stays there until the last video ends."""
    sink = TrcSink(tmp_path / "walk.trc", alone(settings))
    frames = [record(index, {1: body(100)}, size=(1, 1), tracked=False) for index in range(300)]
    tracemalloc.start()
    try:
        for frame in frames:
            sink.write(frame)
        held = tracemalloc.get_traced_memory()[0]
        kept = sink.abandon() if failed else sink.close()
        assert held > 300 * 17 * 3 * 4
        assert tracemalloc.get_traced_memory()[0] < held / 2  # what is made once included
    finally:
        tracemalloc.stop()
    assert len(markers(kept or sink.path)[1]) == 300


def test_who_can_not_be_measured_is_kept_in_pixels(tmp_path, settings, record, body):
    legless = body(5)
    legless[13:, 2] = 0
    sink = TrcSink(tmp_path / "a.trc", alone(settings, height_m=1.7))
    sink.write(record(0, {0: legless}, tracked=False))
    with pytest.raises(SinkError, match=r"a\.trc: height-m: expected ankles, knees, hips and shoulders"):
        sink.close()
    assert markers(sink.abandon())[0][4] == "px"


@pytest.mark.parametrize("folder", [False, True])
def test_places_that_can_not_be_written_are_found_at_the_first_record(tmp_path, settings, record, folder, monkeypatch):
    given, ending = (settings, ".trc") if folder else (alone(settings), None)
    (tmp_path / "file").write_text("")
    sink = TrcSink(tmp_path / "file" / "a.trc", given, ending=ending)
    with pytest.raises(SinkError, match=r"can't be written: (Not a directory|File exists)"):
        sink.write(record(0, {}, tracked=folder))
    assert sink.abandon() is None
    monkeypatch.setattr(files, "_LOOK_EVERY", 0.0)
    sink = TrcSink(tmp_path / "deep" / "a.trc", given, ending=ending)
    sink.write(record(0, {}, tracked=folder))
    shutil.rmtree(tmp_path / "deep")
    with pytest.raises(SinkError, match="was removed while it was being written"):
        sink.write(record(1, {}, tracked=folder))
    assert sink.abandon() is None
    assert not (tmp_path / "deep").exists()


def test_an_abandoned_folder_without_files_is_removed(tmp_path, settings, record, monkeypatch):
    sink = TrcSink(tmp_path / "out", settings, ending=".trc")
    sink.write(record(0, {}))
    assert (tmp_path / "out").is_dir()
    monkeypatch.setattr(sink, "_write", lambda people: (_ for _ in ()).throw(SinkError("full")))
    assert sink.abandon() is None
    assert not (tmp_path / "out").exists()


def test_filled_angles_on_standard_output(settings, record, body, capfd):
    sink = ProcessedAnglesSink("-", alone(settings, fill_gaps=1.0))
    written(sink, [record(0, {0: body(1)}, tracked=False)])
    assert capfd.readouterr().out.startswith("frame,time,id,person,left_elbow,")
    assert os.fstat(1)


def test_feet_that_nobody_saw_are_said_once(tmp_path, settings, record, body, said):
    names = [*COCO17.keypoints[:13], "left_heel", "right_heel", "left_big_toe", "right_big_toe"]
    names[1:5] = ["left_knee", "right_knee", "left_ankle", "right_ankle"]
    blind = body(5)
    blind[13:, 2] = 0.1
    footed = replace(settings, skeleton=replace(COCO17, keypoints=tuple(names)))
    for name, sink in (
        ("a.csv", ProcessedAnglesSink(tmp_path / "a.csv", replace(footed, options=BiomechanicsOptions(fill_gaps=1.0)))),
        ("out", MotionSink(tmp_path / "out", footed, ending=".mot")),
    ):
        written(sink, [record(0, {1: blind, 2: blind}), record(1, {1: blind})])
        (line,) = said
        assert line.startswith(f"{tmp_path / name}: feet were seen in no frame, so all flexions and segments are empty")
        said.clear()
    seen = MotionSink(tmp_path / "seen", footed, ending=".mot")
    written(seen, [record(0, {1: blind, 2: body(5)}), record(1, {1: blind})])
    given = MotionSink(tmp_path / "given", replace(footed, options=BiomechanicsOptions("left")), ending=".mot")
    written(given, [record(0, {1: blind})])
    written(TrcSink(tmp_path / "markers", footed, ending=".trc"), [record(0, {1: blind})])
    assert said == []
