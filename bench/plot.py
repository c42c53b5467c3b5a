"""Draws saved results (`--json`): how far each budget holds, and jobq beside other queues."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import matplotlib as mpl

mpl.use("Agg")  # before pyplot looks for a display
# A picture of the same figures is the same file.
mpl.rcParams |= {"svg.hashsalt": "jobq", "svg.fonttype": "none", "font.family": "sans-serif"}

from matplotlib import pyplot as plt  # noqa: E402 - see above

OURS, OTHERS, MISSED = "#1a7f5a", "#8a93a6", "#c2542d"
INCHES_PER_BAR = 0.3
PANELS = {
    "drain": "no-op jobs per second",
    "effects": "effect jobs per second, 10 at once",
    "enqueue": "enqueued per second, 1,000 at once",
    "latency": "pick-up, ms: p50, and p99 as a line",
}


def draw(results: Mapping[str, Any], path: Path) -> None:
    """Draw what one run of `budgets` or `peers` printed as JSON, as an SVG."""
    figure = _budgets(results["verdicts"]) if "verdicts" in results else _peers(results)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


def _budgets(verdicts: Sequence[Mapping[str, Any]]) -> Any:
    shown = [each for each in verdicts if each["measured"] is not None][::-1]
    figure, axes = plt.subplots(figsize=(7, 1 + INCHES_PER_BAR * len(shown)))
    axes.barh(
        [_label(each["budget"]) for each in shown],
        [share(each) for each in shown],
        color=[OURS if each["holds"] else MISSED for each in shown],
    )
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_xlabel("measured : budget (right of 1 it holds), logarithmic")
    _strip(axes)
    return figure


def share(verdict: Mapping[str, Any]) -> float:
    """How often the budget is met: 1 where it just holds, more where it holds with room."""
    measured: float = verdict["measured"]
    required: float = verdict["budget"]["required"]
    # What may not exceed its budget and is next to nothing would dwarf all others.
    return (
        measured / required if verdict["budget"]["sign"] == ">=" else min(10, required / measured)
    )


def _label(budget: Mapping[str, Any]) -> str:
    beside = f" : {budget['peer']}" if budget["peer"] else ""
    return f"{budget['benchmark']}: {budget['figure']}{beside}"


def _peers(results: Mapping[str, Any]) -> Any:
    panels = {name: title for name, title in PANELS.items() if name in results["samples"]}
    queues = len(results["queues"])
    figure, rows = plt.subplots(
        len(panels), squeeze=False, figsize=(7, len(panels) * (1 + INCHES_PER_BAR * queues))
    )
    for axes, (workload, title) in zip(rows[:, 0], panels.items(), strict=True):
        values = {
            name: values
            for name, samples in results["samples"][workload].items()
            if (values := values_of(workload, samples))
        }
        middles = {name: median(some) for name, some in values.items()}
        names = sorted(middles, key=middles.__getitem__, reverse=workload == "latency")
        highest = [_high(workload, values[name]) - middles[name] for name in names]
        lowest = [
            0.0 if workload == "latency" else middles[name] - min(values[name]) for name in names
        ]
        axes.barh(
            names,
            [middles[name] for name in names],
            xerr=[lowest, highest],
            color=[OURS if name == "jobq" else OTHERS for name in names],
            error_kw={"elinewidth": 1},
        )
        axes.set_title(title, loc="left", fontsize=10)
        _strip(axes)
    figure.tight_layout()
    return figure


def values_of(workload: str, samples: Sequence[Mapping[str, Any] | None]) -> list[float]:
    """Return a queue's rates, or its latencies in ms; none if a run failed, lost or repeated."""
    if any(each is None for each in samples):
        return []
    ran = [each for each in samples if each is not None]
    if workload == "latency":
        return [1e3 * waited_s for each in ran for waited_s in each["latencies_s"]]
    rates = [each["rate"] for each in ran]
    return [] if None in rates else rates


def _high(workload: str, values: Sequence[float]) -> float:
    if workload == "latency":
        return quantiles(values, n=100, method="inclusive")[98]
    return max(values)


def _strip(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
