"""OpenSim's formats, as text, and read back by others: trc-data-reader, pandas, and OpenSim where it is there."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
import pytest

from sharpose.runtime.biomechanics.opensim import Markers, marker_name, mot_text, trc_text, with_midpoints
from sharpose.skeleton import COCO17, MPII16

PLACES = np.array([[[1.2345, 2], [30, 40]], [[np.nan, np.nan], [31, -41.5]], [[5, 6], [np.nan, np.nan]]])
MARKERS = Markers(["Nose", "LKnee"], PLACES, np.array([0.4, 0.44, 0.48]), 11, 25.0, "px")
UNKNOWN = [np.nan, np.nan, np.nan]
ANGLES = {"left_knee": np.array([170.123, np.nan], np.float32), "trunk_lean": np.array([-0.001, 4], np.float32)}


@pytest.fixture
def trc(tmp_path: Path) -> Path:
    path = tmp_path / "my walk.trc"
    path.write_text(trc_text(MARKERS, path.name))
    return path


@pytest.fixture
def mot(tmp_path: Path) -> Path:
    path = tmp_path / "walk.mot"
    path.write_text(mot_text(ANGLES, np.array([0, 1 / 30]), "walk"))
    return path


def test_markers_as_text(trc: Path) -> None:
    assert trc.read_text().splitlines() == [
        "PathFileType\t4\t(X/Y/Z)\tmy walk.trc",
        "DataRate\tCameraRate\tNumFrames\tNumMarkers\tUnits\tOrigDataRate\tOrigDataStartFrame\tOrigNumFrames",
        "25\t25\t3\t2\tpx\t25\t11\t3",
        "Frame#\tTime\tNose\t\t\tLKnee\t\t\t",
        "\t\tX1\tY1\tZ1\tX2\tY2\tZ2",
        "",
        "11\t0.4\t1.234\t2.0\t0.0\t30.0\t40.0\t0.0",
        "12\t0.44\tNaN\tNaN\tNaN\t31.0\t-41.5\t0.0",
        "13\t0.48\t5.0\t6.0\t0.0\tNaN\tNaN\tNaN",
    ]
    metres = trc_text(replace(MARKERS, places=PLACES / 1000, units="m", frame_rate=30000 / 1001), "a.trc").splitlines()
    assert metres[2].split("\t")[:5] == ["29.97002997", "29.97002997", "3", "2", "m"]
    assert metres[6] == "11\t0.4\t0.001234\t0.002\t0.0\t0.03\t0.04\t0.0"


def test_motions_as_text(mot: Path) -> None:
    assert mot.read_text().splitlines() == [
        "walk", "version=1", "nRows=2", "nColumns=3", "inDegrees=yes", "", "endheader",
        "time\tleft_knee\ttrunk_lean", "0.0\t170.12\t0.0", "0.033333\tNaN\t4.0",
    ]  # fmt: skip


def test_nobody_leaves_a_header(tmp_path: Path) -> None:
    nobody = replace(MARKERS, places=PLACES[:0], times=np.zeros(0), first=1)
    assert trc_text(nobody, "a.trc").splitlines()[2].split("\t")[2] == "0"
    assert trc_text(nobody, "a.trc").endswith("Z2\n\n")
    assert "nRows=0" in mot_text({"left_knee": np.zeros(0, np.float32)}, np.zeros(0), "a")


def test_names_are_those_of_pose2sims_models() -> None:
    names = ["nose", "left_big_toe", "right_small_toe", "hip", "head_top", "left", "LHip", "right_eye"]
    assert list(map(marker_name, names)) == ["Nose", "LBigToe", "RSmallToe", "Hip", "HeadTop", "Left", "LHip", "REye"]
    assert list(map(marker_name, ["Big toe (left)", "Spitze, grün"])) == ["LBigToe", "SpitzeGrün"]


def test_neck_and_hip_are_added_where_there_are_none() -> None:
    places = np.arange(34.0).reshape(1, 17, 2)
    names, found = with_midpoints(places, COCO17)
    assert names[:3] == ["Nose", "LEye", "REye"]
    assert names[17:] == ["Neck", "Hip"]
    np.testing.assert_array_equal(found[:, :17], places)
    np.testing.assert_array_equal(found[0, 17:], [[11, 12], [23, 24]])  # points 5 and 6, 11 and 12
    places[0, 12] = np.nan
    assert np.isnan(with_midpoints(places, COCO17)[1][0, 18]).all()
    names, found = with_midpoints(np.arange(32.0).reshape(1, 16, 2), MPII16)
    np.testing.assert_array_equal(found[0, names.index("Hip")], found[0, names.index("Pelvis")])
    both = replace(COCO17, keypoints=(*COCO17.keypoints[:15], "neck", "hip"))
    assert with_midpoints(np.zeros((1, 17, 2)), both)[0][-2:] == ["Neck", "Hip"]
    alike = replace(COCO17, keypoints=("nose", "Nose", *COCO17.keypoints[2:]))
    assert with_midpoints(np.zeros((1, 17, 2)), alike)[0][:2] == ["nose", "Nose"]


def test_a_reader_of_trc_files_reads_them(trc: Path) -> None:
    data = pytest.importorskip("trc").TRCData()
    data.load(str(trc))
    assert (data["DataRate"], data["NumFrames"], data["NumMarkers"], data["Units"]) == (25, 3, 2, "px")
    assert (data["FileName"], data["OrigDataStartFrame"], data["Markers"]) == ("my walk.trc", 11, ["Nose", "LKnee"])
    assert (data["Frame#"], data["Time"]) == ([11, 12, 13], [0.4, 0.44, 0.48])
    np.testing.assert_allclose(data["Nose"], np.array([[1.234, 2, 0], UNKNOWN, [5, 6, 0]]), atol=1e-9)
    np.testing.assert_allclose(data["LKnee"], np.array([[30, 40, 0], [31, -41.5, 0], UNKNOWN]), atol=1e-9)


def test_pandas_reads_both(trc: Path, mot: Path) -> None:
    """As Pose2Sim does."""
    markers = pandas.read_csv(trc, sep="\t", skiprows=4)
    assert markers.iloc[:, 0].tolist() == [11, 12, 13]
    np.testing.assert_allclose(markers["Y2"], [40, -41.5, np.nan])
    text = mot.read_text()
    motion = pandas.read_csv(io.StringIO(text[text.index("endheader\n") + len("endheader\n") :]), sep="\t")
    np.testing.assert_allclose(motion["left_knee"], [170.12, np.nan])


def test_opensim_reads_both(trc: Path, mot: Path) -> None:
    opensim = pytest.importorskip("opensim")
    markers = opensim.TimeSeriesTableVec3(str(trc))
    assert list(markers.getColumnLabels()) == ["Nose", "LKnee"]
    assert markers.getTableMetaDataAsString("Units") == "px"
    assert list(markers.getIndependentColumn()) == [0.4, 0.44, 0.48]
    flat = markers.flatten()  # kept: its matrix is a view
    knee = flat.getMatrix().to_numpy()[:, 3:]
    np.testing.assert_allclose(knee, np.array([[30, 40, 0], [31, -41.5, 0], UNKNOWN]))
    motion = opensim.TimeSeriesTable(str(mot))
    assert motion.getTableMetaDataAsString("inDegrees") == "yes"
    np.testing.assert_allclose(motion.getDependentColumn("left_knee").to_numpy(), [170.12, np.nan])
