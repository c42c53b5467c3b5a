"""A report says what its run did, links to what there is, and admits that it is simulated."""

from __future__ import annotations

import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from postmortems import alerts
from postmortems.double_charge import plots as plots_of_double_charge
from postmortems.double_charge import run as of_double_charge
from postmortems.report import (
    REPORT,
    RUN,
    TEMPLATE,
    Draw,
    as_json,
    guard,
    kept,
    names_of_tests_in,
    render,
)
from postmortems.retry_storm import plots as plots_of_retry_storm
from postmortems.retry_storm import run as of_retry_storm

FOLDER = Path(__file__).parents[2] / "postmortems"
SIMULATED = re.compile(r"> \*\*Simulated incident\.\*\* .*`uv run python -m postmortems\.(\w+)`")
GUARD = re.compile(r"\[`(test_\w+)`\]\(\.\./\.\./(tests/[\w/]+\.py)\)")
# What may have a digit in a template's own words: names of failure modes, links, code, T+00:00.
WITH_DIGITS = re.compile(
    r"<!--.*?-->|{{.*?}}|{%.*?%}|`[^`]*`|\]\([^)]*\)|FM_\d+|T\+00:00"
    r"|[Ww]orkers? \d( and \d)?|^\d+\. ",
    re.MULTILINE,
)


class Incident(NamedTuple):
    name: str
    module: Any
    draw: Draw

    @property
    def folder(self) -> Path:
        return FOLDER / self.name

    @property
    def run(self) -> Any:
        return kept(self.folder)

    @property
    def report(self) -> str:
        return (self.folder / REPORT).read_text()


INCIDENTS = [
    Incident("double_charge", of_double_charge, plots_of_double_charge.draw),
    Incident("retry_storm", of_retry_storm, plots_of_retry_storm.draw),
]
each_incident = pytest.mark.parametrize("incident", INCIDENTS, ids=lambda each: each.name)


@each_incident
def test_its_first_line_says_that_it_is_simulated_and_how_to_repeat_it(incident: Incident) -> None:
    found = SIMULATED.match(incident.report.splitlines()[0])
    assert found
    assert found[1] == incident.name
    assert (incident.folder / "__main__.py").exists()


@each_incident
def test_the_report_is_that_of_the_run(incident: Incident) -> None:
    assert render(incident.folder, incident.run) == incident.report
    assert as_json(incident.run) == (incident.folder / RUN).read_text()


@each_incident
def test_every_figure_comes_from_the_run(incident: Incident) -> None:
    """None is written into the template, where nobody would notice that it is an old one."""
    template = (incident.folder / TEMPLATE).read_text()
    by_hand = [
        line for line in WITH_DIGITS.sub("", template).splitlines() if re.search(r"\d", line)
    ]
    assert by_hand == []


@each_incident
def test_the_run_bears_out_what_the_report_claims(incident: Incident) -> None:
    assert incident.module.unmet(incident.run) == []
    assert incident.run["settings"] == asdict(incident.module.Settings())


@each_incident
def test_a_run_with_the_harm_on_the_other_side_bears_nothing_out(incident: Incident) -> None:
    run = incident.run
    assert len(incident.module.unmet({"naive": run["jobq"], "jobq": run["naive"]})) >= 5


@each_incident
def test_the_plots_are_those_of_the_run(incident: Incident, tmp_path: Path) -> None:
    incident.draw(incident.run, tmp_path)
    drawn = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert drawn == {path.name: path.read_bytes() for path in incident.folder.glob("*.svg")}
    assert all(f"]({name})" in incident.report for name in drawn)


@each_incident
def test_every_remedy_has_a_guard(incident: Incident) -> None:
    remedies = incident.report.split("## Remedies")[1].split("\n\n")[1].splitlines()[2:]
    assert len(remedies) >= 5
    for remedy in remedies:
        assert GUARD.search(remedy), remedy
    for name, path in GUARD.findall(incident.report):
        assert name in names_of_tests_in(FOLDER.parent / path), f"{path}::{name}"


def test_a_guard_that_is_not_there_is_told() -> None:
    with pytest.raises(ValueError, match="there is no test"):
        guard("tests/postmortems/test_reports.py::test_that_nobody_wrote")


@each_incident
@pytest.mark.parametrize("queue", ["naive", "jobq"])
def test_the_alerts_fired_when_the_run_says(incident: Incident, queue: str) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("there is no promtool: apt-get install prometheus")
    one = incident.run[queue]
    assert alerts.first_fired(one["metrics"], one["seconds"]) == one["alerts"]


@each_incident
def test_it_has_every_part_of_the_template(incident: Incident) -> None:
    def parts(text: str) -> list[str]:
        return re.findall(r"^## (.+)$", text, re.MULTILINE)

    assert parts(incident.report) == parts((FOLDER / "template.md").read_text())
