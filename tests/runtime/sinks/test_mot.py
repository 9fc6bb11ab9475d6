from __future__ import annotations

import pytest

from sharpose.errors import InputError, SinkError
from sharpose.runtime.sinks.tables import MotSink


def test_what_a_line_says(tmp_path, record):
    sink = MotSink(tmp_path / "out.txt", tracked=True)
    given = record(0, people=3, ids=[7, 0, 2])
    sink.write(given)
    sink.write(record(4, people=1, ids=[7]))
    sink.close()
    lines = [line.split(",") for line in sink.path.read_text().splitlines()]
    assert [line[:2] for line in lines] == [["1", "7"], ["1", "2"], ["5", "7"]]  # nobody without a sure track
    assert [float(number) for number in lines[0][2:6]] == [11.25, 21, 40.25, 70]  # pixels count from 1
    assert float(lines[1][6]) == pytest.approx(float(given.poses.scores[2]), abs=1e-5)
    assert all(line[7:] == ["-1", "-1", "-1"] for line in lines)


def test_frames_without_people(tmp_path, record):
    sink = MotSink(tmp_path / "out.txt", tracked=True)
    sink.write(record(0, people=0, ids=[]))
    assert sink.path.read_bytes() == b""
    assert sink.abandon() == tmp_path / "out.partial.txt"


def test_nobody_is_tracked(tmp_path, record):
    with pytest.raises(InputError, match=r"out\.txt: .* nobody is tracked; add --track"):
        MotSink(tmp_path / "out.txt", tracked=False)
    sink = MotSink(tmp_path / "out.txt", tracked=True)
    with pytest.raises(SinkError, match="frame 0: expected people with ids, got none"):
        sink.write(record(0))
    assert list(tmp_path.iterdir()) == []
