"""`/metrics`, read by Prometheus' own parser, agrees with the records that were written and with the page."""

from __future__ import annotations

import json

import pytest

from sharpose.runtime.frames import SourceHealth

pytest.importorskip("prometheus_client")

from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse


def test_counters_and_histograms(serve, ask, show, make_record) -> None:
    server = serve()
    health = SourceHealth(dropped=7, reconnects=2)
    cam, file = show(server, 'cam "1"\\', live=True, health=health), show(server, "file.mp4")
    ages = [0.001, 0.02, 0.3, 4.0, 50.0]
    for index, age in enumerate(ages):
        cam.write(make_record(index, people=4, refined=1, wanted=3, age=age, stages={"fine": age / 2, "read": 0.001}))
    file.write(make_record(0, people=2, refined=2))
    answer = ask(server, "/metrics")
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    families = {family.name: family for family in parse(answer.text)}
    assert {name: family.type for name, family in families.items()} == {
        "sharpose_frames": "counter",
        "sharpose_people": "counter",
        "sharpose_refined": "counter",
        "sharpose_wanted": "counter",
        "sharpose_deferred": "counter",
        "sharpose_dropped": "counter",
        "sharpose_reconnects": "counter",
        "sharpose_connected": "gauge",
        "sharpose_people_now": "gauge",
        "sharpose_silence_seconds": "gauge",
        "sharpose_stage_seconds": "histogram",
        "sharpose_frame_age_seconds": "histogram",
    }
    values = {
        (
            sample.name,
            *(sample.labels[name] for name in ("stream", "stage", "le") if name in sample.labels),
        ): sample.value
        for family in families.values()
        for sample in family.samples
    }
    expected = {"frames": 5, "people": 20, "refined": 5, "wanted": 15, "deferred": 10, "dropped": 7, "reconnects": 2}
    stream = json.loads(ask(server, "/state.json").body)["streams"][0]
    for name, value in expected.items():
        assert values[f"sharpose_{name}_total", 'cam "1"\\'] == value
        assert stream[name] == value
    assert values["sharpose_refined_total", "file.mp4"] == values["sharpose_wanted_total", "file.mp4"] == 2
    assert values["sharpose_frame_age_seconds_count", 'cam "1"\\'] == 5
    assert values["sharpose_frame_age_seconds_sum", 'cam "1"\\'] == pytest.approx(sum(ages))
    assert values["sharpose_frame_age_seconds_bucket", 'cam "1"\\', "0.5"] == 3
    assert values["sharpose_frame_age_seconds_bucket", 'cam "1"\\', "+Inf"] == 5
    assert ("sharpose_frame_age_seconds_count", "file.mp4") not in values
    assert values["sharpose_stage_seconds_sum", 'cam "1"\\', "fine"] == pytest.approx(sum(ages) / 2)
    assert values["sharpose_stage_seconds_count", 'cam "1"\\', "read"] == 5
    assert ("sharpose_stage_seconds_count", 'cam "1"\\', "write") not in values  # it isn't over when it is shown


def test_openmetrics(serve, ask, show, make_record) -> None:
    server = serve()
    show(server, "a").write(make_record(0, people=3))
    answer = ask(server, "/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
    samples = {sample.name: sample.value for family in parse_openmetrics(answer.text) for sample in family.samples}
    assert samples["sharpose_people_total"] == 3


def test_an_accept_header_that_is_no_format_gets_text(serve, ask, lines) -> None:
    answer = ask(serve(), "/metrics", Accept="application/openmetrics-text;version=abc")
    assert (answer.status, answer.headers["Content-Type"].partition(";")[0]) == (200, "text/plain")
    assert len(lines) == 1


def test_before_anything_came(serve, show, ask) -> None:
    server = serve()
    assert ask(server, "/metrics").status == 200
    show(server, "a")
    samples = [sample for family in parse(ask(server, "/metrics").text) for sample in family.samples]
    assert ("sharpose_frames_total", 0.0) in [(sample.name, sample.value) for sample in samples]
