"""What is enqueued is what the handler gets; anything else is refused where it is enqueued."""

from __future__ import annotations

import dataclasses
import enum
import json
import math
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobq import ArgumentsTooLarge, InvalidArguments, JobQueue, Task
from jobq.errors import UnreadableArguments
from jobq.protocol.arguments import MAX_DEPTH
from tests.client.conftest import committed_jobs


class Currency(enum.Enum):
    EUR = "EUR"
    USD = "USD"


class Size(enum.IntEnum):
    SMALL = 1


@dataclasses.dataclass
class Line:
    sku: str
    count: int


@dataclasses.dataclass
class Order:
    id: UUID
    lines: list[Line]
    placed_at: datetime


class Address(msgspec.Struct):
    street: str
    zip: str | None = None


class Model:
    """What pydantic's models have in common with it, as far as jobq knows."""

    def __init__(self, **values: Any) -> None:
        self.values = values

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Model) and self.values == other.values

    __hash__ = None  # type: ignore[assignment]

    def model_dump(self, *, mode: str) -> dict[str, Any]:
        assert mode == "json"
        return self.values

    @classmethod
    def model_validate(cls, value: dict[str, Any]) -> Model:
        if "name" not in value:
            raise ValueError("a model has a name")
        return cls(**value)


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


ENDLESS: list[Any] = []
ENDLESS.append(ENDLESS)


def take_anything(value) -> None:  # type: ignore[no-untyped-def]
    """A handler of someone who annotates nothing."""


def take_order(order_id: int, cents: int = 0, *, note: str | None = None) -> None: ...


def arrived(task: Task[..., Any], *args: object, **kwargs: object) -> dict[str, Any]:
    return task.handler.arguments.decode(task.request(*args, **kwargs).args)


class TestSignature:
    @pytest.fixture
    def task(self, nowhere: JobQueue) -> Task[..., Any]:
        return nowhere.task(name="shop.take_order")(take_order)

    @pytest.mark.parametrize(
        ("args", "kwargs", "told"),
        [
            ((), {"order_id": 7, "cent": 999}, "unexpected keyword argument 'cent'"),
            ((), {}, "missing a required argument: 'order_id'"),
            ((1, 2, "note"), {}, "too many positional arguments"),
            ((1,), {"order_id": 1}, "multiple values for argument 'order_id'"),
            (("7",), {}, r"Expected `int`, got `str` - at `\$\.order_id`"),
            ((7.0,), {}, "Expected `int`, got `float`"),
            ((True,), {}, "Expected `int`, got `bool`"),
            ((None,), {}, "Expected `int`, got `null`"),
            ((7,), {"note": 8}, r"Expected `str \| null`, got `int` - at `\$\.note`"),
        ],
    )
    def test_what_does_not_fit_is_refused_at_the_caller(
        self, task: Task[..., Any], args: Any, kwargs: Any, told: str
    ) -> None:
        with pytest.raises(InvalidArguments, match=rf"shop\.take_order.*{told}"):
            task.enqueue(*args, **kwargs)

    @pytest.mark.parametrize(
        ("args", "kwargs", "stored"),
        [
            ((7,), {}, {"order_id": 7}),
            ((7, 999), {}, {"order_id": 7, "cents": 999}),
            ((), {"cents": 0, "order_id": 7}, {"order_id": 7, "cents": 0}),
            ((7,), {"note": None}, {"order_id": 7, "note": None}),
        ],
    )
    def test_a_default_that_is_left_out_stays_out(
        self, task: Task[..., Any], args: Any, kwargs: Any, stored: Any
    ) -> None:
        """The handler's own default applies when it runs, which a later deploy may change."""
        assert json.loads(task.request(*args, **kwargs).args) == stored
        assert arrived(task, *args, **kwargs) == stored

    def test_stored_arguments_that_no_longer_fit(self, task: Task[..., Any]) -> None:
        for stored in ('{"order_id": "7"}', '{"order_id": 7, "old": 1}', "{}", "[]", "nonsense"):
            with pytest.raises(UnreadableArguments, match=r"shop\.take_order.*signature changed"):
                task.handler.arguments.decode(stored)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (math.nan, r"argument value is nan, which JSON cannot hold"),
        ([1.0, {"a": -math.inf}], r"argument value\[1\]\['a'\] is -inf"),
        (b"abc", "argument value is binary"),
        ([bytearray(b"abc")], r"argument value\[0\] is binary"),
        ("a\x00b", "argument value contains a NUL"),
        ({"a": ["\x00"]}, r"argument value\['a'\]\[0\] contains a NUL"),
        ({"a\x00": 1}, r"argument value, key 'a\\x00', contains a NUL"),
        ("\ud800", "argument value contains a lone surrogate"),
        ({"\udfff": 1}, "lone surrogate"),
        (nested(MAX_DEPTH + 2), f"nested deeper than {MAX_DEPTH} levels"),
        (nested(2_000), f"nested deeper than {MAX_DEPTH} levels|recursion"),
        (nested(100_000), "recursion"),
        (ENDLESS, "recursion"),
        ((1, 2), r"is \(1, 2\) but would arrive as \[1, 2\]: annotate"),
        ([(1, 2)], r"is \[\(1, 2\)\] but would arrive as \[\[1, 2\]\]"),
        ({1, 2}, r"is \{1, 2\} but would arrive as"),
        ({1: "a"}, r"is \{1: 'a'\} but would arrive as \{'1': 'a'\}"),
        ({None: 1}, "cannot be written as JSON"),
        ({(1, 2): 1}, "cannot be written as JSON"),
        (Decimal(1), r"is Decimal\('1'\) but would arrive as '1': annotate"),
        (datetime(2030, 1, 1, tzinfo=UTC), "would arrive as '2030-01-01T00:00:00Z': annotate"),
        (Line("a", 1), "would arrive as {'sku': 'a', 'count': 1}: annotate"),
        (object(), "object objects have no JSON form"),
        (1j, "complex objects have no JSON form"),
        (10**5_000, "cannot be written as JSON"),
        (lambda: 1, "function objects have no JSON form"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else type(value).__name__,
)
def test_a_value_that_cannot_arrive_as_it_is(nowhere: JobQueue, value: object, told: str) -> None:
    with pytest.raises(InvalidArguments, match=told):
        nowhere.task(take_anything).enqueue(value)


@pytest.mark.parametrize("times", [1, 1_000])
def test_a_refusal_shows_a_large_value_in_part(nowhere: JobQueue, times: int) -> None:
    with pytest.raises(InvalidArguments, match="would arrive as") as refused:
        nowhere.task(take_anything).enqueue(("spam",) * times)
    assert len(str(refused.value)) < 500


def test_a_value_whose_repr_fails(nowhere: JobQueue) -> None:
    class Shy(dict[str, int]):
        def __repr__(self) -> str:
            raise RuntimeError("no")

        def __eq__(self, other: object) -> bool:
            raise RuntimeError("no")

    with pytest.raises(InvalidArguments, match=r"is a .*Shy but would arrive as \{'a': 1\}"):
        nowhere.task(take_anything).enqueue(Shy(a=1))


def test_arguments_have_a_largest_size(nowhere: JobQueue) -> None:
    app = JobQueue("sqlite:///nowhere.db", max_args_bytes=100)
    task = app.task(take_anything)
    frame = len('{"value":""}')
    assert len(task.request("x" * (100 - frame)).args) == 100
    with pytest.raises(ArgumentsTooLarge, match=r"take 101 bytes .* limit of 100: store the payl"):
        task.enqueue("x" * (101 - frame))
    with pytest.raises(ArgumentsTooLarge, match=r"limit of 262,144"):
        nowhere.task(take_anything).enqueue("x" * 300_000)


def take_order_model(value: Order) -> None: ...
def take_currency(value: Currency) -> None: ...
def take_size(value: Size) -> None: ...
def take_datetime(value: datetime) -> None: ...
def take_date(value: date) -> None: ...
def take_timedelta(value: timedelta) -> None: ...
def take_uuid(value: UUID) -> None: ...
def take_decimal(value: Decimal) -> None: ...
def take_tuple(value: tuple[int, str]) -> None: ...
def take_set(value: set[int]) -> None: ...
def take_keyed(value: dict[int, str]) -> None: ...
def take_struct(value: Address) -> None: ...
def take_model(value: Model) -> None: ...
def take_models(value: list[Model]) -> None: ...
def take_maybe_model(value: Model | None = None) -> None: ...
def take_object(value: object) -> None: ...
def take_objects(value: dict[str, object]) -> None: ...


ORDER = Order(
    UUID("6f1c1a1e-0000-4000-8000-000000000001"),
    [Line("tea", 2), Line("\N{HOT BEVERAGE}", 1)],
    datetime(2030, 2, 28, 12, 30, 15, 123456, tzinfo=UTC),
)
TYPED: list[tuple[Callable[[Any], None], object]] = [
    (take_order_model, ORDER),
    (take_currency, Currency.EUR),
    (take_size, Size.SMALL),
    (take_datetime, datetime(2030, 1, 1, 12, 0, 0, 1)),  # noqa: DTZ001
    (take_datetime, datetime(2030, 1, 1, tzinfo=timezone(timedelta(hours=5, minutes=45)))),
    (take_date, date(1999, 12, 31)),
    (take_timedelta, timedelta(days=-3, seconds=5, microseconds=1)),
    (take_uuid, UUID(int=1)),
    (take_decimal, Decimal("1.10")),
    (take_decimal, Decimal("1E+400")),
    (take_tuple, (1, "a")),
    (take_set, {1, 2, 3}),
    (take_keyed, {1: "a", -2: "b"}),
    (take_struct, Address("Main Street")),
    (take_model, Model(name="Ann", tags=["a"])),
    (take_models, [Model(name="Ann"), Model(name="Bob")]),
    (take_maybe_model, None),
    (take_maybe_model, Model(name="Ann")),
    (take_object, {"a": [1, None]}),
    (take_objects, {"a": [1, None], "b": 2.5}),
]


def test_annotated_values_arrive_as_they_are(app: JobQueue) -> None:
    """Through the database and back, each in the type the handler asks for."""
    tasks = {function: app.task(function) for function in dict(TYPED)}
    jobs = app.enqueue_many(tasks[function].request(value) for function, value in TYPED)
    for job, (function, value) in zip(jobs, TYPED, strict=True):
        got = tasks[function].handler.arguments.decode(job.status().args)["value"]
        assert got == value
        assert type(got) is type(value)
    assert str(tasks[take_decimal].request(Decimal("1.10")).args) == '{"value":"1.10"}'


def test_a_model_that_its_class_refuses(nowhere: JobQueue) -> None:
    with pytest.raises(InvalidArguments, match="a model has a name"):
        nowhere.task(take_model).enqueue(Model(nickname="Ann"))


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))
JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


def exactly(value: object) -> str:
    """A value with its types and signs: 1, 1.0 and True are equal, and so are 0.0 and -0.0."""
    return repr(value)


@given(value=JSON_VALUES)
def test_any_json_value_arrives_exactly(value: object) -> None:
    task = JobQueue("sqlite:///nowhere.db").task(take_anything)
    assert exactly(arrived(task, value)) == exactly({"value": value})


@settings(
    max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(values=st.lists(JSON_VALUES, min_size=10, max_size=40))
def test_any_json_value_survives_the_database(app: JobQueue, values: list[object]) -> None:
    if "take" not in app.tasks:
        app.task(name="take")(take_anything)
    task: Task[..., Any] = app.tasks["take"]
    jobs = app.enqueue_many(task.request(value) for value in values)
    stored = [task.handler.arguments.decode(job.status().args)["value"] for job in jobs]
    assert exactly(stored) == exactly(values)


def test_one_bad_request_keeps_the_others_out(app: JobQueue, database_url: str) -> None:
    task: Task[..., Any] = app.task(take_order)
    with pytest.raises(InvalidArguments):
        app.enqueue_many(task.request(order_id) for order_id in (1, 2, "three"))
    assert committed_jobs(database_url) == []
