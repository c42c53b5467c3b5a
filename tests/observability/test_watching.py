"""The dashboard and the alerts that come along speak of metrics that there are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from jobq import JobQueue, Retry, State
from jobq.prometheus import Prometheus, QueueCollector
from tests.worker.conftest import BOUND_S, ROOT, Site

FOLDER = ROOT / "observability"
ALERTS = FOLDER / "alerts.yaml"
SELECTED = re.compile(r"\b(jobq_\w+)(?:\{([^}]*)\})?")


@pytest.fixture
def exposed(postgres_site: Site) -> Iterator[dict[str, set[str]]]:
    """The labels of every metric, after a few attempts and with something in every place."""
    registry = CollectorRegistry()
    app = JobQueue(postgres_site.url)
    app.use(Prometheus(registry))
    registry.register(QueueCollector(app))

    @app.task(max_attempts=2, retry=Retry(base_s=0.01))
    def fail() -> None:
        raise ValueError

    job = fail.enqueue()
    with app.worker(poll_s=0.05):
        assert job.wait(BOUND_S).state is State.DEAD
    fail.enqueue()
    app.queues.pause("default")
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    yield labels
    app.close()


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / "grafana-dashboard.json").read_text())
    return found


def queries() -> list[str]:
    """Of every panel, as Grafana would send them."""
    return [
        target["expr"].replace("$__rate_interval", "5m").replace("$queue", ".*")
        for panel in dashboard()["panels"]
        for target in panel.get("targets", ())
    ]


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def test_every_metric_and_label_is_exposed(exposed: dict[str, set[str]]) -> None:
    (variable,) = [one for one in dashboard()["templating"]["list"] if one["type"] == "query"]
    named = set()
    for expression in [*queries(), *(rule["expr"] for rule in rules()), variable["query"]["query"]]:
        for metric, selector in SELECTED.findall(expression):
            named.add(metric)
            assert metric in exposed, expression
            assert set(re.findall(r"(\w+)\s*[=!]", selector)) <= exposed[metric], expression
    families = {re.sub("_(bucket|count|sum|created|total)$", "", name) for name in exposed}
    of_info = {"jobq_schema_info"}
    shown = {re.sub("_(bucket|total)$", "", name) for name in named}
    assert families - shown == of_info, "what is measured is shown"


def test_the_page_lists_what_is_exposed(exposed: dict[str, set[str]]) -> None:
    page = (ROOT / "docs/observability.md").read_text().split("## Prometheus")[1]
    tables = dict(re.findall(r"^\| `(jobq_\w+)` \| (.*?) \|", page, re.MULTILINE))
    measured = {re.sub("_(bucket|count|sum)$", "", name): at for name, at in exposed.items()}
    measured = {name: at for name, at in measured.items() if not name.endswith("_created")}
    assert {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in tables.items()} == {
        name: labels - {"le"} for name, labels in measured.items()
    }


def test_the_page_lists_the_alerts() -> None:
    page = (ROOT / "docs/observability.md").read_text()
    assert re.findall(r"^\| `(Jobq\w+)` \|", page, re.MULTILINE) == [
        rule["alert"] for rule in rules()
    ]


@pytest.fixture
def promtool() -> str:
    path = shutil.which("promtool")
    if path is None:
        pytest.skip("there is no promtool: apt-get install prometheus")
    return path


def run(*command: str) -> str:
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_the_alerts_are_right(promtool: str) -> None:
    assert f"{len(rules())} rules found" in run(promtool, "check", "rules", str(ALERTS))
    tests = FOLDER / "alerts.test.yaml"
    assert "SUCCESS" in run(promtool, "test", "rules", str(tests))
    tested = yaml.safe_load(tests.read_text())["tests"]
    fired = {
        case["alertname"]
        for test in tested
        for case in test["alert_rule_test"]
        if case.get("exp_alerts")
    }
    assert fired == {rule["alert"] for rule in rules()}


def test_the_dashboards_queries_can_be_read(promtool: str, tmp_path: Path) -> None:
    recorded = [{"record": f"panel:{n}", "expr": expr} for n, expr in enumerate(queries())]
    assert len(recorded) > 15
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": recorded}]}))
    run(promtool, "check", "rules", str(path))
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
