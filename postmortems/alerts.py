"""Which of the alerts in observability/alerts.yaml would have fired, by Prometheus's own engine.

promtool is asked, for every second of a run and every alert, whether it would be right to expect
none: where it says no, the alert fires.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import yaml

from postmortems.scene import ROOT, SceneFailed

RULES = ROOT / "observability" / "alerts.yaml"
FIRED = re.compile(r"alertname: (\w+), time: ([^,]+),")
PART_OF_TIME = re.compile(r"(\d+)(ms|s|m)")
IN_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0}


def alert_names() -> list[str]:
    return re.findall(r"- alert: (\w+)", RULES.read_text())


def metric_names() -> frozenset[str]:
    """What the alerts ask for."""
    return frozenset(re.findall(r"\bjobq_\w+", RULES.read_text()))


def first_fired(series: Mapping[str, str], seconds: int) -> dict[str, int] | None:
    """Return when each alert that fires did so first, in seconds; None without promtool."""
    promtool = shutil.which("promtool")
    if promtool is None:
        return None
    names = alert_names()
    test = {
        "interval": "1s",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": [
            {"eval_time": f"{second}s", "alertname": name}
            for second in range(seconds)
            for name in names
        ],
    }
    rules = {"rule_files": [str(RULES)], "evaluation_interval": "1s", "tests": [test]}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.test.yaml"
        path.write_text(yaml.safe_dump(rules))
        ran = subprocess.run(  # noqa: S603 - what the path has
            [promtool, "test", "rules", str(path)], capture_output=True, text=True, check=False
        )
    said = ran.stdout + ran.stderr
    if ran.returncode not in (0, 1) or not ("SUCCESS" in said or "FAILED" in said):
        raise SceneFailed(f"promtool: {said[-2000:]}")
    fired: dict[str, int] = {}
    for name, time in FIRED.findall(said):
        at_s = int(sum(int(n) * IN_SECONDS[unit] for n, unit in PART_OF_TIME.findall(time)))
        fired[name] = min(at_s, fired.get(name, at_s))
    if ran.returncode and not fired:
        raise SceneFailed(f"promtool: {said[-2000:]}")
    return dict(sorted(fired.items(), key=lambda each: (each[1], each[0])))


__all__ = ["alert_names", "first_fired", "metric_names"]
