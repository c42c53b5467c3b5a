"""What limits let through: keys, buckets, and turns among lines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobq import InvalidOption, Limit
from jobq.protocol.limits import Bucket, Key, Line, allocate, line_of, name_of


def line(*keys: str) -> Line:
    return Line("+".join(keys), "default", keys)


def test_a_key_names_the_values_it_counts_apart() -> None:
    limit = Limit("mail", concurrency=1, by=["customer", "kind"])

    assert limit.key({"customer": 7, "kind": "news", "text": "..."}) == 'mail=[7,"news"]'
    assert name_of(limit.key({"customer": 7, "kind": "a=b"})) == "mail"


def test_long_values_are_hashed_and_still_told_apart() -> None:
    limit = Limit("mail", concurrency=1, by=["customer"])
    keys = {limit.key({"customer": "x" * 3000 + end}) for end in "ab"}

    assert len(keys) == 2
    assert max(map(len, keys)) < 200


def test_a_line_is_its_queue_and_its_keys() -> None:
    limits = [Limit("b", rate=1), Limit("a", concurrency=1, by=["n"])]

    text = line_of("billing", limits, {"n": 1})

    assert text is not None
    assert Line.read(text) == Line(text, "billing", ("a=[1]", "b"))
    assert line_of("billing", [], {"n": 1}) is None


@pytest.mark.parametrize(
    ("wrong", "cause"),
    [
        ({"name": ""}, "a name is"),
        ({"name": "a=b", "rate": 1}, "has no ="),
        ({"name": "nothing"}, "limits nothing"),
        ({"name": "none", "concurrency": 0}, "use 1 or more"),
        ({"name": "never", "rate": 0}, "use 1 or more"),
        ({"name": "burst", "concurrency": 1, "burst": 3}, "beside a rate"),
        ({"name": "time", "rate": 1, "per_s": 0}, "more than 0"),
        ({"name": "by", "rate": 1, "by": "customer"}, "list of argument names"),
    ],
)
def test_a_limit_that_makes_no_sense_is_refused(wrong: dict[str, object], cause: str) -> None:
    with pytest.raises(InvalidOption, match=cause):
        Limit(**wrong)  # type: ignore[arg-type]


def test_a_bucket_fills_with_time_up_to_its_burst() -> None:
    assert Bucket(per_second=2, most=10, tokens=0, age_s=1.5).filled == 3
    assert Bucket(per_second=2, most=10, tokens=9, age_s=100).filled == 10
    assert Bucket(per_second=2, most=10, tokens=0.5, age_s=-60).filled == 0.5
    assert Bucket(per_second=2, most=10, tokens=0, age_s=0).until_next_s() == 0.5


def test_each_line_gets_one_before_any_gets_two() -> None:
    lines = [line("a"), line("b"), line("c")]
    keys = {name: Key(concurrency=5, held=0, bucket=None) for name in "abc"}

    assert allocate(lines, keys, 4) == {"a": 2, "b": 1, "c": 1}


def test_a_key_that_two_lines_share_is_counted_once() -> None:
    lines = [line("all", "a"), line("all", "b")]
    keys = {
        "all": Key(concurrency=4, held=1, bucket=None),
        "a": Key(concurrency=1, held=0, bucket=None),
        "b": Key(concurrency=9, held=0, bucket=None),
    }

    assert allocate(lines, keys, 100) == {"all+a": 1, "all+b": 2}


def test_a_line_under_somebody_elses_lock_waits() -> None:
    assert allocate([line("a", "theirs")], {"a": Key(5, 0, None)}, 9) == {}


@given(
    st.dictionaries(
        st.sampled_from("abcd"),
        st.builds(
            Key,
            concurrency=st.none() | st.integers(1, 6),
            held=st.integers(0, 6),
            bucket=st.none()
            | st.builds(
                Bucket,
                per_second=st.floats(0.1, 10),
                most=st.integers(1, 6),
                tokens=st.floats(0, 6),
                age_s=st.floats(-5, 5),
            ),
        ),
    ),
    st.lists(st.lists(st.sampled_from("abcd"), min_size=1, max_size=3, unique=True), max_size=6),
    st.integers(0, 20),
)
def test_no_key_gives_more_than_it_has(
    keys: dict[str, Key], lines: list[list[str]], limit: int
) -> None:
    texts = {
        str(number): Line(str(number), "default", tuple(its)) for number, its in enumerate(lines)
    }

    given_out = allocate(list(texts.values()), keys, limit)

    assert sum(given_out.values()) <= limit
    for name, key in keys.items():
        under = sum(count for text, count in given_out.items() if name in texts[text].keys)
        assert key.free is None or under <= key.free
    # Nothing is kept back: what was not given out has a key without room, or the limit is reached.
    if sum(given_out.values()) < limit:
        for each in texts.values():
            if all(name in keys for name in each.keys):
                used = {
                    name: sum(n for text, n in given_out.items() if name in texts[text].keys)
                    for name in each.keys
                }
                assert any(
                    keys[name].free is not None and used[name] >= (keys[name].free or 0)
                    for name in each.keys
                )
