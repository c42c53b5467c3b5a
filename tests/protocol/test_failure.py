"""Any exception becomes text that every database stores."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jobq.protocol.failure import (
    MAX_MESSAGE_CHARACTERS,
    MAX_TRACEBACK_CHARACTERS,
    describe_error,
    storable,
)
from jobq.protocol.values import AttemptError

any_text = st.text(st.characters(codec=None, exclude_categories=()))
long_text = st.builds(
    lambda text, count: text * count, any_text, st.sampled_from([1, 1_999, 2_000, 20_000])
)


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


class NotText(Exception):
    def __str__(self) -> str:
        return 7  # type: ignore[return-value]


def assert_storable(described: AttemptError) -> None:
    for text, limit in (
        (described.type, MAX_MESSAGE_CHARACTERS),
        (described.message, MAX_MESSAGE_CHARACTERS),
        (described.traceback, MAX_TRACEBACK_CHARACTERS),
    ):
        assert type(text) is str
        assert "\x00" not in text
        assert len(text) <= limit
        text.encode("utf-8")


@given(any_text)
@example("a\x00b\ud800c\udfff")
def test_storable_changes_only_what_cannot_be_stored(text: str) -> None:
    stored = storable(text)

    assert len(stored) == len(text)
    for before, after in zip(text, stored, strict=True):
        if before == "\x00" or "\ud800" <= before <= "\udfff":
            assert after in "\N{SYMBOL FOR NULL}?"
        else:
            assert after == before
    assert storable(stored) == stored


@given(long_text)
@example("\x00" * 20_000)
@example("\ud800" * 20_000)
def test_any_message_is_described(text: str) -> None:
    described = describe_error(ValueError(text))

    assert_storable(described)
    assert described.type == "ValueError"
    if len(text) <= MAX_MESSAGE_CHARACTERS:
        assert described.message == storable(text)
    else:
        kept = MAX_MESSAGE_CHARACTERS - 1
        assert described.message == storable(text)[:kept] + "\N{HORIZONTAL ELLIPSIS}"


@given(long_text.filter(bool), any_text)
def test_any_type_is_described(name: str, module: str) -> None:
    kind = type("Odd", (Exception,), {"__module__": module, "__qualname__": name})
    assert_storable(describe_error(kind("boom")))


@given(any_text, st.integers(0, 30))
def test_any_chain_of_causes_is_described(text: str, causes: int) -> None:
    error: Exception = ValueError(text)
    for _ in range(causes):
        outer = ExceptionGroup(f"{text}.", [error])
        outer.__cause__ = error
        error = outer
    assert_storable(describe_error(error))


@pytest.mark.parametrize("kind", [Unspeakable, NotText])
def test_str_that_fails_is_told(kind: type[Exception]) -> None:
    described = describe_error(kind())

    assert_storable(described)
    assert described.message.startswith("<str() of the exception raised ")
    assert described.type.endswith(kind.__qualname__)


def test_what_broke_while_it_was_described_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert describe_error(Unspeakable()).message == "<str() of the exception raised RuntimeError>"

    def broken(_: BaseException) -> list[str]:
        raise RecursionError

    monkeypatch.setattr("traceback.format_exception", broken)
    told = "<the traceback could not be formatted: RecursionError>"
    assert describe_error(ValueError("boom")).traceback == told


@pytest.mark.parametrize("kind", ["short", "as long as it may be"])
def test_traceback_that_fits_is_whole(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = ["Traceback\n", "x" * (MAX_TRACEBACK_CHARACTERS - 10) if kind != "short" else "boom"]
    monkeypatch.setattr("traceback.format_exception", lambda _: parts)

    assert describe_error(ValueError()).traceback == "".join(parts)


def test_traceback_keeps_its_end() -> None:
    def recurse(depth: int) -> None:
        if depth == 0:
            raise ValueError("the last line")
        recurse_again(depth - 1)

    def recurse_again(depth: int) -> None:
        recurse(depth)

    with pytest.raises(ValueError, match="the last line") as caught:
        recurse(200)
    described = describe_error(caught.value)

    assert_storable(described)
    assert len(described.traceback) == MAX_TRACEBACK_CHARACTERS
    assert described.traceback.endswith("ValueError: the last line\n")
