"""How the reports' plots look: light, wide enough for a phone, the same file for the same run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")  # before pyplot looks for a display
mpl.rcParams |= {
    "svg.hashsalt": "jobq",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e7ec",
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "legend.frameon": False,
}

from matplotlib import pyplot as plt  # noqa: E402 - see above

NAIVE, JOBQ, HEALED = "#c2542d", "#1a7f5a", "#3b6fb5"
FAULT, NEUTRAL = "#f3e3d3", "#5b6472"
WIDTH_INCHES = 7.0


def panels(count: int, height_inches: float) -> tuple[Any, Any]:
    """A figure with panels below each other, over one time."""
    figure, axes = plt.subplots(
        count,
        sharex=True,
        squeeze=False,
        figsize=(WIDTH_INCHES, count * height_inches),
        layout="constrained",
    )
    axes[-1, 0].set_xlabel("seconds after T+00:00")
    return figure, list(axes[:, 0])


def keep(figure: Any, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def event_s(run: Any, key: str) -> float:
    """When an event of a run took place."""
    return float(next(event["at_s"] for event in run["events"] if event["key"] == key))
