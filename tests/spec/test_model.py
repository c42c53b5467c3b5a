"""The model holds, needs every guard it has, and still is a model of this code."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobq.store import Store, postgres
from spec import check
from spec.tlc import Configuration, NoJava, TlcFailed, configurations, find_java
from spec.tlc import check as run_tlc
from tests.spec.mapping import actions, modelled_actions, weakenings

SMALL = [one for one in configurations() if not one.is_full]
REAL = [one for one in SMALL if one.expected is None]
WEAKENED = [one for one in SMALL if one.expected is not None]

CONSTANT = re.compile(r"^    (\w+) = (.+)$", re.MULTILINE)


def has_java() -> bool:
    try:
        find_java()
    except NoJava:
        return False
    return True


needs_java = pytest.mark.skipif(
    not has_java(), reason="TLC needs Java: apt-get install openjdk-17-jre-headless"
)


def name_of(one: Configuration) -> str:
    return one.name


def constants(one: Configuration) -> dict[str, str]:
    return dict(CONSTANT.findall(one.path.read_text()))


def missing_guards(one: Configuration) -> list[str]:
    return [name for name, value in constants(one).items() if value == "FALSE" and name in GUARDS]


GUARDS = set(constants(next(one for one in REAL if one.name == "safety"))) - {
    *("None", "j1", "w1", "w2", "Jobs", "Workers", "Reconcilers", "Steady"),
    *("MaxAttempts", "MaxReleases", "MaxFaults", "Cancels"),
}


@needs_java
@pytest.mark.timeout(300)
@pytest.mark.parametrize("configuration", REAL, ids=name_of)
def test_protocol_holds(configuration: Configuration) -> None:
    verdict = run_tlc(configuration)
    assert verdict.violated is None, verdict.output
    assert verdict.states > 10_000, "so few states cannot be all of them"


@needs_java
@pytest.mark.parametrize("configuration", WEAKENED, ids=name_of)
def test_weakened_protocol_violates_the_invariant_it_names(configuration: Configuration) -> None:
    verdict = run_tlc(configuration)
    (guard,) = missing_guards(configuration)
    told = weakenings()[guard]
    assert verdict.violated == configuration.expected == told.violated, verdict.output
    assert verdict.trace_states == told.trace_states, verdict.output


def test_each_guard_is_taken_away_once() -> None:
    assert all(not missing_guards(one) for one in configurations() if one.expected is None)
    taken = [guard for one in WEAKENED for guard in missing_guards(one)]
    assert sorted(taken) == sorted(GUARDS) == sorted(weakenings())


def test_whole_protocol_is_asked_for_every_invariant() -> None:
    asked = " ".join(
        line
        for one in REAL
        for line in one.path.read_text().splitlines()
        if line.startswith(("INVARIANTS", "PROPERTIES"))
    )
    assert {one.expected for one in WEAKENED} <= set(asked.split())
    assert {f"I{number}" for number in range(1, 10)} <= set(asked.split())


def test_every_action_is_on_the_page() -> None:
    assert modelled_actions() == set(actions())


@pytest.mark.parametrize(
    "name",
    sorted(
        {name for names in actions().values() for name in names}
        | {name for one in weakenings().values() for name in one.implemented_by}
    ),
)
def test_what_the_page_names_is_in_the_code(name: str) -> None:
    assert is_in_the_code(name), f"docs/formal-model.md names {name}, which is not there"


@pytest.mark.parametrize("name", ["CLAIMS", "Store.claims", "jobq.commit.settle"])
def test_what_is_not_in_the_code_is_noticed(name: str) -> None:
    assert not is_in_the_code(name)


def is_in_the_code(name: str) -> bool:
    """A statement (CLAIM), a step (Store.claim), or anything by its dotted name (jobq.x.Y.z)."""
    if name.isupper():
        return isinstance(getattr(postgres, name, None), str)
    if name.startswith("Store."):
        return hasattr(Store, name.removeprefix("Store."))
    return any(True for _ in found(name))


def found(name: str) -> Iterator[Any]:
    parts = name.split(".")
    for split in range(len(parts) - 1, 0, -1):
        try:
            at: Any = importlib.import_module(".".join(parts[:split]))
            for part in parts[split:]:
                at = getattr(at, part)
        except (ImportError, AttributeError):
            continue
        yield at


def test_no_java_is_told_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert check.main([]) == 2
    assert "apt-get install openjdk-17-jre-headless" in capsys.readouterr().err


@needs_java
def test_a_specification_that_tlc_cannot_read_is_no_verdict(tmp_path: Path) -> None:
    broken = tmp_path / "broken.cfg"
    broken.write_text("\\* Expect: no error\nSPECIFICATION Nothing\n")
    with pytest.raises(TlcFailed, match="MaxAttempts is not assigned"):
        run_tlc(Configuration(broken, None, ()))
