"""The metrics that the alerts and the dashboard of `deploy/` ask for."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

_DEPLOY = Path(__file__).resolve().parents[2] / "deploy"


def alert_groups() -> list[dict[str, Any]]:
    """The groups of rules for Prometheus."""
    groups: list[dict[str, Any]] = yaml.safe_load((_DEPLOY / "prometheus" / "rules.yaml").read_text("utf-8"))["groups"]
    return groups


def dashboard() -> dict[str, Any]:
    """The dashboard for Grafana."""
    found: dict[str, Any] = json.loads((_DEPLOY / "grafana" / "dashboard.json").read_text("utf-8"))
    return found


def expressions() -> list[str]:
    """All expressions of both, in PromQL, and the queries of the dashboard's variables."""
    alerts = [rule["expr"] for group in alert_groups() for rule in group["rules"]]
    panels = [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", [])]
    variables = [item["query"]["query"] for item in dashboard()["templating"]["list"] if item["type"] == "query"]
    return [*alerts, *panels, *variables]


def asked_for(prefix: str) -> dict[str, set[str]]:
    """Names of metrics that begin with `prefix` (a pattern), and the labels by which each is selected or summed."""
    found: dict[str, set[str]] = {}
    for text in expressions():
        summed = {label for labels in re.findall(r"by \(([\w, ]+)\)", text) for label in labels.split(", ")}
        for name, selected in re.findall(rf"\b({prefix}\w+)(?:\{{(.*?)\}})?", text):
            labels = set(re.findall(r"(\w+)=~?\"", selected))
            found.setdefault(name, set()).update(labels | summed)
    return found
