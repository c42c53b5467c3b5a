"""Runs the queues in turns, and pairs jobq's rates with each peer's of the same repetition."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median, quantiles
from typing import Any

from sqlalchemy.engine import URL

from bench.harness import Figure, Place, Unavailable, compare
from bench.machine import machine
from bench.peers.child import Failed
from bench.peers.environments import NotInstalled, interpreter
from bench.peers.workloads import WORKLOADS, Queue, Sample, introduce
from jobq.database.url import parse_url

JOBQ = "jobq"
PEERS = ("pgqueuer", "awa", "chancy", "dramatiq", "oban", "dbos", "procrastinate")
FIGURES = {
    "drain": "no-op drain, 1 worker process",
    "effects": "effect jobs, 10 at once",
    "enqueue": "enqueue, 1,000 at once",
}


BUDGETED = "pgqueuer"
"""The peer that the budgets name: the fastest of them."""


@dataclass(frozen=True, slots=True)
class Results:
    """What was measured, and what was not."""

    server: str
    queues: Mapping[str, Queue]
    samples: Mapping[str, Mapping[str, Sequence[Sample | None]]]
    """By workload, then by queue, one for each repetition; None where the run failed."""
    left_out: Mapping[str, str]
    """Why, of a queue that could not be installed; why at last, of one whose run failed."""

    def as_json(self) -> dict[str, Any]:
        """Return all of it, raw."""
        return {
            "machine": machine(),
            "server": self.server,
            "queues": {name: queue.facts for name, queue in self.queues.items()},
            "left_out": self.left_out,
            "samples": {
                workload: {
                    name: [sample and asdict(sample) for sample in samples]
                    for name, samples in queues.items()
                }
                for workload, queues in self.samples.items()
            },
        }


def measure(
    place: Place,
    repeat: int,
    *,
    only: Sequence[str] = (),
    workloads: Sequence[str] = (),
    scale: float = 1.0,
) -> Results:
    """Run each workload `repeat` times with each queue, every other time backwards.

    `only` names the queues, and `workloads` the workloads; all when empty. `scale` shrinks the job
    counts.
    """
    queues: dict[str, Queue] = {}
    left_out: dict[str, str] = {}
    for name in only or (JOBQ, *PEERS):
        try:
            python = interpreter(name)
            with place.database() as url:
                queues[name] = introduce(name, python, socket_in_query(url))
        except (NotInstalled, Failed) as error:
            left_out[name] = str(error)
    samples: dict[str, dict[str, list[Sample | None]]] = {}
    for workload in workloads or WORKLOADS:
        samples[workload] = {name: [] for name in queues}
        for repetition in range(repeat):
            for name in list(queues)[:: -1 if repetition % 2 else 1]:
                print(f"{workload} {repetition + 1} of {repeat}: {name}", file=sys.stderr)
                with place.database() as url:
                    try:
                        run = WORKLOADS[workload]
                        sample = run(queues[name], socket_in_query(url), scale)
                    except Failed as error:
                        left_out[f"{name}, {workload}"] = str(error)
                        samples[workload][name].append(None)
                    else:
                        samples[workload][name].append(sample)
    return Results(place.describe, queues, samples, left_out)


def run(place: Place, repeat: int, *, scale: float = 1.0) -> list[Figure]:
    """Return what the budgets ask for. Raises Unavailable when the peer cannot be measured here."""
    asked = ("drain", "enqueue")
    results = measure(place, repeat, only=(JOBQ, BUDGETED), workloads=asked, scale=scale)
    if results.left_out:
        raise Unavailable("; ".join(f"{name}: {why}" for name, why in results.left_out.items()))
    return figures(results)


def socket_in_query(url: str) -> str:
    """Return the URL in the one form in which every driver here finds a Unix socket."""
    address = parse_url(url)
    if address.host or "host" not in address.query:
        return url
    query = dict(address.query) | {"user": address.username, "port": str(address.port)}
    return URL.create(
        "postgresql",
        database=address.database,
        query={name: value for name, value in query.items() if value},
    ).render_as_string()


def figures(results: Results) -> list[Figure]:
    """Return jobq's rate beside that of each peer whose every run was correct."""
    return [
        replace(compare({JOBQ: ours, name: its}, JOBQ, name), name=FIGURES[workload])
        for workload, queues in results.samples.items()
        if workload in FIGURES and (ours := rates(queues.get(JOBQ, ())))
        for name, samples in queues.items()
        if name != JOBQ and (its := rates(samples))
    ]


def rates(samples: Sequence[Sample | None]) -> list[float]:
    """Return the rate of each run, or nothing when a run has none."""
    return [each.rate for each in samples if each and each.rate] if _all_rated(samples) else []


def _all_rated(samples: Sequence[Sample | None]) -> bool:
    return all(each is not None and each.rate is not None for each in samples)


RATE_HEADER = (
    f"{'jobs':>9}{'median':>10}{'lowest-highest':>18}"
    f"{'jobq : it':>11}{'lowest-highest':>16}{'lost':>7}{'duplicated':>12}"
)
LATENCY_HEADER = f"{'latency, ms':28}{'samples':>9}{'p50':>10}{'p99':>10}"


def table(results: Results) -> str:
    """Return the results as aligned text: a block for each workload, then what was left out."""
    paired = {(each.name, each.peer): each for each in figures(results)}
    lines: list[str] = []
    for workload, queues in results.samples.items():
        lines.append(
            LATENCY_HEADER if workload == "latency" else f"{f'{workload}, jobs/s':28}{RATE_HEADER}"
        )
        for name, samples in queues.items():
            queue = results.queues[name]
            package, number = next(iter(queue.facts["versions"].items()))
            figure = paired.get((FIGURES.get(workload, ""), name))
            lines.append(f"{f'{package} {number}':28}" + _row(workload, samples, figure))
        lines.append("")
    for name, reason in results.left_out.items():
        lines.append(f"{name}: {reason}")
    return "\n".join(lines).rstrip()


def _row(workload: str, samples: Sequence[Sample | None], figure: Figure | None) -> str:
    ran = [each for each in samples if each is not None]
    if len(ran) < len(samples) or not ran:
        return "  a run failed"
    if workload == "latency":
        waited_s = [each for sample in ran for each in sample.latencies_s]
        percents = quantiles(waited_s, n=100, method="inclusive")
        return f"{len(waited_s):>9}{percents[49] * 1e3:>10.1f}{percents[98] * 1e3:>10.1f}"
    jobs = f"{ran[0].jobs:>9,}"
    lost, duplicated = (sum(getattr(each, what) for each in ran) for what in ("lost", "duplicated"))
    counted = rates(samples)
    if not counted:
        shown = f"{'no rate':>10}{'':>18}{'':>27}"
    else:
        spread = f"{min(counted):,.0f}-{max(counted):,.0f}"
        shown = f"{median(counted):>10,.0f}{spread:>18}"
        shown += f"{'':>27}" if figure is None else _ratio(figure)
    correct = "" if workload == "enqueue" else f"{lost:>7,}{duplicated:>12,}"
    return f"{jobs}{shown}{correct}".rstrip()


def _ratio(figure: Figure) -> str:
    return f"{figure.ratio:>11.2f}{f'{min(figure.ratios):.2f}-{max(figure.ratios):.2f}':>16}"
