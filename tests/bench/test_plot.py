"""The pictures of saved results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.plot import draw, share, values_of


def _verdict(sign: str, required: float, measured: float | None) -> dict[str, Any]:
    budget = {
        "benchmark": "noop",
        "figure": "async handlers",
        "sign": sign,
        "required": required,
        "peer": None,
    }
    return {"budget": budget, "measured": measured, "holds": measured is not None}


def _sample(rate: float | None, *latencies_s: float) -> dict[str, Any]:
    return {"jobs": 10, "rate": rate, "latencies_s": list(latencies_s)}


@pytest.mark.parametrize(
    ("sign", "required", "measured", "expected"),
    [(">=", 0.9, 1.8, 2), (">=", 2, 1, 0.5), ("<=", 1.5, 3, 0.5), ("<=", 1, 0.001, 10)],
)
def test_share_of_a_budget(sign: str, required: float, measured: float, expected: float) -> None:
    assert share(_verdict(sign, required, measured)) == expected


def test_a_queue_with_a_run_that_counts_for_nothing_has_no_values() -> None:
    assert values_of("drain", [_sample(10), _sample(20)]) == [10, 20]
    assert values_of("drain", [_sample(10), _sample(None)]) == []
    assert values_of("drain", [_sample(10), None]) == []
    assert values_of("latency", [_sample(None, 0.001), _sample(None, 0.002)]) == [1, 2]


@pytest.mark.parametrize(
    ("results", "words"),
    [
        (
            {"verdicts": [_verdict(">=", 0.9, 1.8), _verdict("<=", 1, None)]},
            ["noop: async handlers"],
        ),
        (
            {
                "queues": {"jobq": {}, "other": {}},
                "samples": {
                    "drain": {"jobq": [_sample(20)], "other": [_sample(10)]},
                    "latency": {"jobq": [_sample(None, 0.1, 0.2)], "other": [None]},
                },
            },
            ["jobq", "other", "no-op jobs per second", "pick-up"],
        ),
    ],
)
def test_a_picture_says_what_it_shows_and_is_the_same_again(
    results: dict[str, Any], words: list[str], tmp_path: Path
) -> None:
    first, second = tmp_path / "images" / "a.svg", tmp_path / "b.svg"
    draw(results, first)
    draw(results, second)
    assert first.read_bytes() == second.read_bytes()
    for word in words:
        assert word in first.read_text()
