"""Fresh processes: what their parts add up to, and one that fails."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from measuring.cold_start import measure_cold_start
from measuring.contenders import Entry

from sharpose.bundle import open_bundle
from sharpose.runtime import Boxes

IMAGE = np.zeros((100, 80, 3), np.uint8)
BOXES = Boxes.from_xyxy([[0, 0, 80, 100], [10, 10, 60, 90]])


def test_a_start_is_the_sum_of_its_parts(nano_bundle: Path, tmp_path: Path) -> None:
    found = measure_cold_start(Entry("engine"), open_bundle(nano_bundle), tmp_path / "dense", 1, IMAGE, BOXES, times=1)
    assert found.error == ""
    assert min(found.imports_s, found.load_s, found.first_frame_s) > 0
    parts = found.imports_s + found.load_s + found.first_frame_s
    assert parts - 0.05 < found.seconds < parts + 2
    assert 30 < found.host_peak_mib < 2000


def test_a_process_that_fails_says_why(nano_bundle: Path, tmp_path: Path) -> None:
    entry = Entry("engine", "cpu", "int8")
    found = measure_cold_start(entry, open_bundle(nano_bundle), tmp_path / "dense", 1, IMAGE, BOXES, times=2)
    assert "holds fp32 graphs, not int8" in found.error
