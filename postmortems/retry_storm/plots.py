"""The plot of the report: the storm and the calm, over the same time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from postmortems.drawing import FAULT, JOBQ, NAIVE, NEUTRAL, event_s, keep, panels
from postmortems.retry_storm.run import per_second

QUEUES = {"naive": ("the first queue", NAIVE), "jobq": ("jobq", JOBQ)}
PANELS = {
    "attempts": "Attempts begun, per second",
    "connections": "Connections in use",
    "open_jobs": "Jobs not at their end",
    "turned_away": "Orders that the shop turned away, so far",
    "twice": "Orders charged more than once, so far",
    "dead": "Jobs dead, so far",
}


def draw(run: Mapping[str, Any], folder: Path, ending: str = "svg") -> None:
    figure, rows = panels(len(PANELS), 1.55)
    for axes, (name, title) in zip(rows, PANELS.items(), strict=True):
        axes.set_title(title)
        outage = (event_s(run["naive"], "migration"), event_s(run["naive"], "report_over"))
        axes.axvspan(*outage, color=FAULT, lw=0)
        for queue, (label, colour) in QUEUES.items():
            samples = run[queue]["samples"]
            at_s, values = samples["at_s"], samples[name]
            if name == "attempts":
                values = per_second(at_s, values)
            axes.plot(at_s, values, color=colour, lw=2, label=label, drawstyle="steps-post")
        axes.set_ylim(bottom=0)
        axes.margins(y=0.15)
    room = run["naive"]["figures"]["room"]
    connections = rows[list(PANELS).index("connections")]
    connections.axhline(room, color=NEUTRAL, ls="--", lw=1)
    connections.text(0, room * 1.03, f"all {room} there are", fontsize=9, color=NEUTRAL)
    connections.set_ylim(0, room * 1.25)
    top = rows[0].get_ylim()[1] * 1.3
    rows[0].set_ylim(0, top)
    rows[0].text(sum(outage) / 2, top * 0.86, "charges hang", ha="center", fontsize=9)
    rows[0].legend(loc="upper right", fontsize=9)
    keep(figure, folder / f"storm.{ending}")
