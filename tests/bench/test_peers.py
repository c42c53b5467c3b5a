"""The suite of peers: what it counts, what it refuses to call a rate, and jobq's own adapter."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner

from bench import __main__ as cli
from bench.peers import workloads
from bench.peers.adapter import Runs
from bench.peers.suite import Results, figures, table
from bench.peers.workloads import Queue, Sample


def results(*its: Sample | None) -> Results:
    queues = {
        name: Queue(name, "python", {}, "", {"versions": {name: "1"}}) for name in ("jobq", "peer")
    }
    samples = {"jobq": [Sample(10, 300.0) for _ in its], "peer": its}
    return Results("PostgreSQL", queues, {"drain": samples}, {})


def test_jobs_are_counted_by_their_number() -> None:
    runs = Runs(5)
    for number in (0, 1, 1, 1, 3):
        runs.tick(number)

    assert runs.lost_and_duplicated() == (2, 2)


def test_ratios_are_those_of_each_repetition() -> None:
    (figure,) = figures(results(Sample(10, 100.0), Sample(10, 150.0), Sample(10, 300.0)))

    assert (figure.peer, figure.ratio, figure.ratios) == ("peer", 2.0, [3.0, 2.0, 1.0])


@pytest.mark.parametrize(
    ("wrong", "shown"),
    [
        (Sample(10, None, lost=1), "no rate"),
        (Sample(10, None, duplicated=1), "no rate"),
        (None, "a run failed"),
    ],
)
def test_one_wrong_run_leaves_no_rate(wrong: Sample | None, shown: str) -> None:
    measured = results(Sample(10, 100.0), wrong)

    assert figures(measured) == []
    assert shown in table(measured)


def test_jobq_plays_every_role(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workloads, "PAUSE_S", (0.0, 0.01))
    options = ["--only", "jobq", "--workloads", "effects,latency", "--repeat", "1"]

    ended = CliRunner().invoke(
        cli.main,
        ["peers", *options, "--scale", "0.001", "--json", "--database-url", postgres_url],
        catch_exceptions=False,
    )

    told: dict[str, Any] = json.loads(ended.stdout)
    assert postgres_url not in ended.stdout
    samples = {workload: queues["jobq"][0] for workload, queues in told["samples"].items()}
    assert list(samples) == ["effects", "latency"]
    assert all(each["lost"] == each["duplicated"] == 0 for each in samples.values())
    assert all(each["rate"] or len(each["latencies_s"]) == 10 for each in samples.values())
