"""The plots of the report: what each queue made of the faults, and one order on both."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from postmortems.drawing import FAULT, HEALED, JOBQ, NAIVE, NEUTRAL, event_s, keep, panels

LINES = {
    "twice": ("orders charged twice", NAIVE),
    "zombies_refused": ("late attempts refused", JOBQ),
    "healed": ("finalized by their commit record", HEALED),
}
NAMES = {"naive": "The first queue", "jobq": "The same faults on jobq"}


def draw(run: Mapping[str, Any], folder: Path, ending: str = "svg") -> None:
    _faults(run, folder / f"faults.{ending}")
    _one_order(run, folder / f"order.{ending}")


def _faults(run: Mapping[str, Any], path: Path) -> None:
    figure, both = panels(2, 2.6)
    top = run["naive"]["figures"]["charged_twice"] * 1.45
    for axes, (queue, name) in zip(both, NAMES.items(), strict=True):
        one = run[queue]
        samples, at_s = one["samples"], one["samples"]["at_s"]
        axes.set_title(name)
        _mark_faults(axes, one, top)
        for sampled, (label, colour) in LINES.items():
            axes.step(at_s, samples[sampled], where="post", color=colour, lw=2, label=label)
        for event in one["events"]:
            if event["key"].startswith("found_"):
                axes.plot(
                    event["at_s"],
                    int(event["key"][6:]),
                    "o",
                    color=NEUTRAL,
                    zorder=3,
                    clip_on=False,
                )
        axes.set_ylim(0, top)
        axes.set_ylabel("count")
    both[0].plot([], [], "o", color=NEUTRAL, label="found by reconciliation")
    lines, labels = both[0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside upper left", ncols=2, fontsize=9)
    keep(figure, path)


def _mark_faults(axes: Any, one: Any, top: float) -> None:
    paused, resumed, killed = (event_s(one, key) for key in ("paused", "resumed", "killed"))
    axes.axvspan(paused, resumed, color=FAULT, lw=0)
    axes.text((paused + resumed) / 2, top * 0.9, "host paused", ha="center", fontsize=9)
    axes.axvline(event_s(one, "expired"), color=NEUTRAL, ls=":", lw=1)
    axes.text(event_s(one, "expired") + 0.1, top * 0.74, "leases end", fontsize=9, color=NEUTRAL)
    axes.axvline(killed, color=NEUTRAL, lw=1.2)
    axes.text(killed + 0.15, top * 0.9, "worker killed", fontsize=9)


def _one_order(run: Mapping[str, Any], path: Path) -> None:
    """Two lanes for each queue: the attempt that was paused, and the one that took its place."""
    figure, both = panels(2, 2.2)
    for axes, (queue, name) in zip(both, NAMES.items(), strict=True):
        one, story = run[queue], run[queue]["one_order"]
        axes.set_title(f"{name}: order {story['order']}")
        axes.set_yticks([1, 0], ["paused\nattempt", "second\nattempt"])
        axes.set_ylim(-0.6, 1.75)
        axes.grid(axis="y", visible=False)
        paused, resumed = event_s(one, "paused"), event_s(one, "resumed")
        late = max(story["charges"], key=lambda each: each["charged_s"])
        other = min(story["charges"], key=lambda each: each["charged_s"])
        ended = story["refused"]["at_s"] if story["refused"] else late["charged_s"]
        _bar(axes, 1, story["first_claimed_s"], ended, NEUTRAL, 0.18)
        _bar(axes, 1, paused, resumed, FAULT, 0.5)
        axes.text((paused + resumed) / 2, 1, "paused", ha="center", va="center", fontsize=9)
        _bar(axes, 0, other["claimed_s"], other["charged_s"], NEUTRAL, 0.18)
        _point(axes, 0, other["charged_s"], "charged", JOBQ)
        if story["refused"]:
            _point(axes, 1, ended, "refused", JOBQ, marker="X")
        else:
            _point(axes, 1, ended, "charged again", NAIVE)
        axes.axvline(story["lease_ended_s"], color=NEUTRAL, ls=":", lw=1, zorder=0.9)
        axes.text(*(story["lease_ended_s"] + 0.06, -0.5, "lease ended"), fontsize=9, color=NEUTRAL)
        axes.set_xlim(right=max(ended, other["charged_s"]) + 2.6)
    keep(figure, path)


def _bar(axes: Any, lane: int, begin: float, end: float, colour: str, height: float) -> None:
    axes.barh(lane, end - begin, left=begin, height=height, color=colour)


def _point(axes: Any, lane: int, at_s: float, what: str, colour: str, marker: str = "o") -> None:
    axes.plot(at_s, lane, marker, color=colour, ms=9, zorder=3)
    axes.text(at_s + 0.2, lane, what, va="center", fontsize=10, color=colour, weight="bold")
