"""A version is part of the stored name, and older arguments are brought up to date step by step."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobq import InvalidOption, InvalidTask, UnreadableArguments
from jobq.protocol.versions import check_version, read_stored, stored_as, upgraded


def note(version: int, arguments: dict[str, Any]) -> dict[str, Any]:
    return {**arguments, "steps": [*arguments.get("steps", []), version]}


@given(st.text(min_size=1).filter(lambda name: read_stored(name)[0] == name), st.integers(1, 99))
def test_a_stored_name_is_read_as_what_it_was(name: str, version: int) -> None:
    assert read_stored(stored_as(name, version)) == (name, version)


def test_each_version_in_between_is_passed() -> None:
    assert upgraded("t", 2, 5, '{"a": 1}', note) == '{"a": 1, "steps": [2, 3, 4]}'


def test_what_goes_wrong_is_named() -> None:
    def fail(version: int, arguments: dict[str, Any]) -> dict[str, Any]:
        raise KeyError("cents")

    def nothing(version: int, arguments: dict[str, Any]) -> Any:
        return None

    def odd(version: int, arguments: dict[str, Any]) -> dict[str, Any]:
        return {"a": object()}

    for function, told in (
        (fail, "failed on arguments of version 1 .KeyError"),
        (nothing, "returned NoneType for version 1"),
        (odd, "what JSON cannot hold"),
    ):
        with pytest.raises(UnreadableArguments, match=told):
            upgraded("t", 1, 2, "{}", function)


def test_a_version_has_an_upgrade_and_a_name_has_none() -> None:
    check_version("t", 1, None)
    check_version("t", 2, note)
    for version, upgrade in ((0, None), (2, None), (1, note)):
        with pytest.raises(InvalidOption, match="version"):
            check_version("t", version, upgrade)
    with pytest.raises(InvalidTask, match="says a version"):
        check_version("t@2", 1, None)
