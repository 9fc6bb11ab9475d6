"""Alerts and dashboard: they ask for metrics that are there. Those of Triton: tests/serving/test_end_to_end.py."""

from __future__ import annotations

import re

import pytest
from monitored_metrics import alert_groups, asked_for, dashboard, expressions
from prometheus_client.parser import text_string_to_metric_families

from sharpose.runtime.serve.metrics import Metrics
from sharpose.runtime.statistics import AGE, STAGES, ServerStatistics, StreamSnapshot

_ADDED_BY_PROMETHEUS = {"instance"}


@pytest.fixture(scope="module")
def served() -> dict[str, set[str]]:
    """The labels of each sample that `/metrics` of a live stream has."""
    snapshot = StreamSnapshot(live=True)
    for name in (*STAGES, AGE):
        snapshot.durations[name].add(0.01)
    text, _ = Metrics(lambda: {"door": snapshot}, ServerStatistics()).text("text/plain")
    samples = [item for family in text_string_to_metric_families(text.decode()) for item in family.samples]
    return {item.name: set(item.labels) for item in samples}


def test_what_is_asked_of_streams_is_served(served: dict[str, set[str]]) -> None:
    asked = asked_for("sharpose_(?!served_)")
    assert {"sharpose_silence_seconds", "sharpose_frame_age_seconds_bucket", "sharpose_frames_total"} <= set(asked)
    for name, labels in asked.items():
        assert name in served
        assert labels - _ADDED_BY_PROMETHEUS <= served[name], name


def test_a_wrong_name_would_be_found(served: dict[str, set[str]]) -> None:
    assert "sharpose_frames" not in served
    assert "stage" not in served["sharpose_frames_total"]


def test_nothing_else_is_asked_for() -> None:
    names = {name for text in expressions() for name in re.findall(r"\b[a-z]+_\w+", text)}
    functions = {"histogram_quantile", "label_values"}
    assert names - functions - {name for prefix in ("sharpose_", "nv_inference_") for name in asked_for(prefix)} <= {
        "__rate_interval"
    }


def test_every_alert_is_named_once_and_says_what_and_how_bad() -> None:
    rules = [rule for group in alert_groups() for rule in group["rules"]]
    names = [rule["alert"] for rule in rules]
    assert len(set(names)) == len(names)
    for rule in rules:
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
        assert re.fullmatch("[1-9][0-9]*m", rule["for"])
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"]


@pytest.mark.parametrize(
    ("answered", "failed", "fires"), [(0, 24, True), (0, 0, False), (100, 0, False), (100, 99, False), (10, 11, True)]
)
def test_the_alert_of_a_server_that_fails(answered: int, failed: int, fires: bool) -> None:
    (text,) = (r["expr"] for group in alert_groups() for r in group["rules"] if r["alert"] == "SharposeServerFailing")
    statistics = ServerStatistics()
    for number in range(answered + failed):
        statistics.add(0.01, failed=number >= answered)
    exposed, _ = Metrics(dict, statistics).text("text/plain")
    families = text_string_to_metric_families(exposed.decode())
    grown = {sample.name: sample.value for family in families for sample in family.samples}
    sides = re.fullmatch(r"rate\((\w+)\[2m\]\) > rate\((\w+)\[2m\]\)", text)
    assert sides is not None
    assert (grown[sides[1]] > grown[sides[2]]) is fires


@pytest.mark.parametrize("text", expressions())
def test_brackets_match(text: str) -> None:
    found = re.sub('"[^"]*"', "", text)
    while (shorter := re.sub(r"\([^(){}\[\]]*\)|\[[^(){}\[\]]*\]|\{[^(){}\[\]]*\}", "", found)) != found:
        found = shorter
    assert not re.search(r"[(){}\[\]]", found)


def test_panels_have_their_own_place_and_number() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        own = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not own & cells
        assert place["x"] + place["w"] <= 24
        cells |= own
        assert panel["type"] == "row" or (panel["targets"] and panel["fieldConfig"]["defaults"]["unit"])
    known = {item["name"] for item in dashboard()["templating"]["list"]} | {"__rate_interval"}
    used = {name for text in [*expressions(), str(panels)] for name in re.findall(r"\$\{?(\w+)", text)}
    assert used == known
