from __future__ import annotations

import os
from pathlib import Path

import pytest

from sharpose.errors import SinkError
from sharpose.runtime.sinks import mark_partial


def test_the_suffix_stays_last(tmp_path):
    path = tmp_path / "out.v2.mp4"
    path.write_text("half")
    assert mark_partial(path) == tmp_path / "out.v2.partial.mp4"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.v2.partial.mp4"]


def test_an_older_partial_file_gives_way(tmp_path):
    (tmp_path / "out.partial.json").write_text("old")
    (tmp_path / "out.json").write_text("new")
    assert mark_partial(tmp_path / "out.json").read_text() == "new"


def test_what_is_no_file_keeps_its_name(tmp_path):
    assert mark_partial(tmp_path / "missing.json") == tmp_path / "missing.json"
    assert mark_partial(Path("/dev/null")) == Path("/dev/null")
    os.mkfifo(tmp_path / "pipe.json")
    assert mark_partial(tmp_path / "pipe.json") == tmp_path / "pipe.json"
    assert (tmp_path / "pipe.json").exists()


def test_what_can_not_be_renamed(tmp_path):
    (tmp_path / "out.json").write_text("new")
    (tmp_path / "out.partial.json").mkdir()
    with pytest.raises(SinkError, match=r"out\.json: expected to rename this incomplete file"):
        mark_partial(tmp_path / "out.json")
