"""What ``monitoring/`` asks Prometheus for exists: every metric, label and word is one that the host exports."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from bot_layer.errors import InputError
from bot_layer.host.durable import COUNTED
from bot_layer.host.invoke import Result
from bot_layer.host.metrics import Metrics

MONITORING = Path(__file__).resolve().parents[2] / "monitoring"
_PROMETHEUS_OWN = {"up": {"job", "instance"}}
_SAMPLE = re.compile(r"^([a-z_]+)(?:\{(.*)\})? ", re.MULTILINE)
_SELECTOR = re.compile(r"\b(up|bot_[a-z_]+)(?:\{([^}]*)\})?")
_GROUPED = re.compile(r"\bby \(([^)]*)\)")
_LABEL = re.compile(r'([a-z]+)(?:=~|!~|!=|=)"([^"]*)"')


def _exported() -> dict[str, set[str]]:
    """Every name that a host exports once it has answered calls, with its labels."""
    metrics = Metrics()
    metrics.ended("bot", Result({}), 0.1)
    metrics.ended(None, Result({}, error=InputError("x")), 0.1)
    page = metrics.page(dict.fromkeys(COUNTED.values(), 1)).decode()
    return {name: {label for label, _ in _LABEL.findall(labels)} for name, labels in _SAMPLE.findall(page)}


def _expressions(name: str) -> list[str]:
    text = (MONITORING / name).read_text(encoding="utf-8")
    if name.endswith(".json"):
        return [target["expr"] for panel in json.loads(text)["panels"] for target in panel["targets"]]
    return re.findall(r"^\s+expr: (.+)$", text, re.MULTILINE)


@pytest.mark.parametrize("name", ["alert-rules.yml", "grafana-dashboard.json"])
def test_monitoring_asks_for_what_the_host_exports(name: str) -> None:
    """A renamed metric, label or state breaks this, not an operator's night."""
    exported = _exported() | _PROMETHEUS_OWN
    expressions = _expressions(name)
    assert len(expressions) >= 5
    for expression in expressions:
        selected = _SELECTOR.findall(expression)
        assert selected, expression
        for metric, labels in selected:
            assert metric in exported, expression
            for label, value in _LABEL.findall(labels):
                assert label in exported[metric], expression
                assert label != "state" or value in COUNTED.values(), expression
        known = set[str]().union(*(exported[metric] for metric, _ in selected))
        for names in _GROUPED.findall(expression):
            assert {each.strip() for each in names.split(",")} <= known, expression


def test_each_rule_says_what_to_do() -> None:
    """As many sentences on what to do as rules."""
    text = (MONITORING / "alert-rules.yml").read_text(encoding="utf-8")
    assert len(re.findall(r"- alert: ", text)) == len(re.findall(r"^ +action: ", text, re.MULTILINE)) == 5
