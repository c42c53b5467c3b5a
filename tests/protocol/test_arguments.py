"""What is enqueued is what the handler gets, or it is refused.

Values of every JSON shape, in a parameter that takes anything. What the types of parameters do
is told in `tests.client.test_arguments`.
"""

from __future__ import annotations

import inspect
import json
import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jobq.errors import InvalidArguments, UnreadableArguments
from jobq.protocol.arguments import MAX_DEPTH, Arguments

MAX_BYTES = 1_000_000


def handler(value: Any) -> None: ...


ARGUMENTS = Arguments(
    "shop.charge", list(inspect.signature(handler, eval_str=True).parameters.values())
)

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=20
)
unstorable = st.sampled_from(
    [
        math.nan,
        math.inf,
        -math.inf,
        "\x00",
        "a\x00b",
        "\ud800",
        "a\udfffb",
        b"bytes",
        bytearray(b"x"),
    ]
)


@st.composite
def spoiled(draw: st.DrawFn) -> Any:
    """One unstorable value, as an item or a key, somewhere inside of others."""
    bad = draw(unstorable)
    for _ in range(draw(st.integers(0, 5))):
        siblings = draw(st.lists(scalars, max_size=3))
        shape = draw(st.sampled_from(["item", "value", "key"]))
        if shape == "item":
            at = draw(st.integers(0, len(siblings)))
            bad = [*siblings[:at], bad, *siblings[at:]]
        elif shape == "value":
            bad = {**{str(n): one for n, one in enumerate(siblings)}, draw(texts): bad}
        elif isinstance(bad, str):
            bad = {bad: siblings}
    return bad


def kinds_of(value: Any) -> Any:
    """The value with its types, which `==` overlooks: 1 is 1.0 is True, and 0.0 is -0.0."""
    if isinstance(value, list):
        return [kinds_of(item) for item in value]
    if isinstance(value, dict):
        return {key: kinds_of(item) for key, item in value.items()}
    return type(value), repr(value)


@given(values)
@example(-0.0)
@example(5e-324)
@example(1e16)
@example(2**64 - 1)
@example({"": [[], {}, "\U0010ffff"]})
def test_json_arrives_exactly_as_it_was_enqueued(value: Any) -> None:
    encoded = ARGUMENTS.encode((value,), {}, max_bytes=MAX_BYTES)

    assert kinds_of(ARGUMENTS.decode(encoded)) == kinds_of({"value": value})
    assert json.loads(encoded) == {"value": value}, "it is JSON for others too"
    assert ARGUMENTS.encode((), {"value": value}, max_bytes=MAX_BYTES) == encoded


@given(spoiled())
@example({math.nan: 1})
@example({b"key": 1})
def test_unstorable_value_is_refused_wherever_it_is(value: Any) -> None:
    with pytest.raises(InvalidArguments, match=r"task 'shop\.charge'"):
        ARGUMENTS.encode((value,), {}, max_bytes=MAX_BYTES)


@given(st.integers(1, 2 * MAX_DEPTH), st.booleans())
def test_depth_is_refused_above_its_limit_only(depth: int, is_dict: bool) -> None:
    value: Any = None
    for _ in range(depth):
        value = {"inner": value} if is_dict else [value]
    if depth <= MAX_DEPTH:
        encoded = ARGUMENTS.encode((value,), {}, max_bytes=MAX_BYTES)
        assert ARGUMENTS.decode(encoded) == {"value": value}
    else:
        with pytest.raises(InvalidArguments, match="nested deeper"):
            ARGUMENTS.encode((value,), {}, max_bytes=MAX_BYTES)


def test_a_class_that_nothing_makes_from_json_is_named() -> None:
    class Plain: ...

    def take(value: Plain) -> None: ...

    parameters = list(inspect.signature(take, eval_str=True, locals=locals()).parameters.values())

    with pytest.raises(UnreadableArguments, match=r"cannot make .*Plain.* from JSON"):
        Arguments("shop.charge", parameters).decode('{"value":1}')


def test_what_was_left_out_is_completed_by_the_handlers_defaults() -> None:
    def note(text: str, copies: int = 1, tags: tuple[str, ...] = ("a",)) -> None: ...

    parameters = inspect.signature(note, eval_str=True).parameters.values()
    arguments = Arguments("shop.note", list(parameters))

    assert list(arguments.complete('{"tags": ["b"], "text": "hi"}').items()) == [
        ("text", "hi"),
        ("copies", 1),
        ("tags", ("b",)),
    ]
    with pytest.raises(UnreadableArguments):
        arguments.complete("{}")
