"""The notebook runs from top to bottom."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).resolve().parents[2] / "examples" / "first_steps.ipynb"


def code_cells() -> list[str]:
    content = json.loads(NOTEBOOK.read_text("utf-8"))
    return ["".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == "code"]


def test_its_code_runs_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pandas")
    monkeypatch.setenv("MPLBACKEND", "agg")
    import matplotlib.pyplot as plt

    values: dict[str, Any] = {}
    for code in code_cells():
        assert "frames=40" in code or "VIDEO =" not in code
        exec(code.replace("frames=40", "frames=10"), values)
    result, people = values["result"], values["people"]
    assert len(values["table"]) == len(result) == 2
    assert people["frame"].max() == 9
    tracks = dict(iter(values["tracks"]))
    assert len(tracks) == 2
    for line, track in zip(values["axes"].get_lines(), tracks.values(), strict=True):
        assert line.get_xdata().tolist() == track["frame"].tolist()
        assert ((line.get_ydata() > 60) & (line.get_ydata() <= 180)).sum() > len(track) / 2
    plt.close("all")


def test_it_has_no_outputs_and_ids() -> None:
    content = json.loads(NOTEBOOK.read_text("utf-8"))
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    assert all(not cell.get("outputs") for cell in content["cells"])
    ids = [cell["id"] for cell in content["cells"]]
    assert len(set(ids)) == len(ids)
