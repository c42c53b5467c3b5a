"""The files to deploy with say what jobq understands, and leave handlers the time promised them."""

from __future__ import annotations

import configparser
import json
import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from jobq.cli import main

DEPLOY = Path(__file__).parents[2] / "deploy"


def parsed(arguments: list[str]) -> dict[str, Any]:
    """The command's options as click reads them. Nothing is run."""
    context = main.make_context("jobq", list(arguments), resilient_parsing=True)
    name, command, rest = main.resolve_command(context, list(arguments))
    assert command is not None, name
    sub = command.make_context(name, list(rest), parent=context, resilient_parsing=False)
    return sub.params


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return loaded


def unit() -> configparser.ConfigParser:
    # Directives may be repeated; of those the last counts here.
    read = configparser.ConfigParser(strict=False, interpolation=None)
    read.optionxform = str  # type: ignore[assignment,method-assign]
    read.read(DEPLOY / "jobq-worker.service")
    return read


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


@pytest.mark.parametrize("service", ["migrate", "worker", "dashboard"])
def test_the_commands_of_the_composition(service: str, tmp_path: Path) -> None:
    command = [
        str(tmp_path / "token") if argument.startswith("/run/secrets/") else argument
        for argument in compose()["services"][service]["command"]
    ]
    (tmp_path / "token").write_text("a token")
    parsed(command)


def test_the_composition_waits_for_the_database_and_the_tables() -> None:
    services = compose()["services"]
    assert services["migrate"]["depends_on"]["database"]["condition"] == "service_healthy"
    for name in ("worker", "dashboard"):
        wanted = services[name]["depends_on"]["migrate"]["condition"]
        assert wanted == "service_completed_successfully"
    assert services["worker"]["deploy"]["replicas"] == 2
    for name in ("dashboard", "service"):
        (port,) = services[name]["ports"]
        assert port.startswith("127.0.0.1:")


def test_nobody_is_killed_within_the_grace_period() -> None:
    worker = compose()["services"]["worker"]
    grace_s = parsed(worker["command"])["grace_s"]
    assert seconds(worker["stop_grace_period"]) > grace_s

    service = unit()["Service"]
    command = shlex.split(service["ExecStart"])
    assert command[0].endswith("/bin/jobq")
    assert float(service["TimeoutStopSec"]) > parsed(command[1:])["grace_s"]
    assert service["KillMode"] == "mixed"
    assert service["Restart"] == "always"
    assert parsed(shlex.split(service["ExecStartPre"])[1:]) is not None


def test_the_container_is_jobq_itself_and_not_root() -> None:
    lines = (DEPLOY / "Containerfile").read_text().splitlines()
    said = dict(line.split(" ", 1) for line in lines if re.match("[A-Z]+ ", line))
    assert said["USER"] == "jobq"
    assert json.loads(said["ENTRYPOINT"]) == ["jobq"]
    parsed(json.loads(said["CMD"]))
    (check,) = re.findall(r"CMD (\[.*\])", said["HEALTHCHECK"])
    assert parsed(json.loads(check)[1:]) is not None


def test_an_option_that_jobq_has_not_would_be_seen() -> None:
    with pytest.raises(click.NoSuchOption):
        parsed(["worker", "shop.tasks:app", "--graze", "30"])
