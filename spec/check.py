"""Check the model: `uv run python -m spec.check [--full]`.

The whole protocol must hold, and without each of its guards the invariant must be violated that
the guard is there for. With --full also what takes minutes: more workers, attempts and jobs.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from spec.tlc import Configuration, NoJava, TlcFailed, Verdict, check, configurations

CORES = os.cpu_count() or 1
ROW = "{:<30} {:>10} {:>6} {:>7} {:>8}   {:<12} {:<12} {}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m spec.check", description=__doc__)
    parser.add_argument("--full", action="store_true", help="the large configurations too")
    is_full = parser.parse_args(arguments).full
    began_s = time.monotonic()
    print(
        ROW.format(
            *("configuration", "states", "depth", "trace", "seconds", "expected"), "found", ""
        )
    )
    try:
        is_right = [_show(one, verdict) for one, verdict in _checked(is_full)]
    except (NoJava, TlcFailed) as error:
        print(error, file=sys.stderr)
        return 2
    wrong, seconds = is_right.count(False), time.monotonic() - began_s
    print(f"{len(is_right)} configurations in {seconds:.0f} s, {wrong} not as expected")
    return 1 if wrong else 0


def _checked(is_full: bool) -> Iterator[tuple[Configuration, Verdict]]:
    # One core each, so that a counterexample is the shortest; the large ones have all of them.
    small = [one for one in configurations() if not one.is_full]
    with ThreadPoolExecutor(CORES) as pool:
        yield from zip(small, pool.map(check, small), strict=True)
    if is_full:
        for one in configurations():
            if one.is_full:
                yield one, check(one, workers=CORES)


def _show(configuration: Configuration, verdict: Verdict) -> bool:
    is_right = verdict.violated == configuration.expected
    print(
        ROW.format(
            configuration.name,
            f"{verdict.states:,}",
            verdict.depth or "-",
            verdict.trace_states or "-",
            f"{verdict.seconds:.1f}",
            configuration.expected or "no error",
            verdict.violated or "no error",
            "ok" if is_right else "WRONG",
        ),
        flush=True,
    )
    if not is_right:
        print(verdict.output)
    return is_right


if __name__ == "__main__":
    sys.exit(main())
