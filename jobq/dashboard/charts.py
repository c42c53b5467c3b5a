"""Pictures as SVG, drawn here: lines over time, and the lanes of a job's attempts.

Looks are the style sheet's: nothing here says a colour, and the strict content security policy
would not let an attribute say one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from markupsafe import Markup, escape

from jobq.protocol.states import AttemptEnd, Outcome
from jobq.protocol.views import JobLife

WIDTH, HEIGHT = 640, 180
LEFT, RIGHT, TOP, BOTTOM = 48, 8, 12, 22
LANE, LANE_GAP, HEAD = 26, 12, 30
TIMELINE_WIDTH = 960
STEPS = (1, 2, 2.5, 5, 10)


@dataclass(frozen=True)
class Series:
    name: str
    values: Sequence[float | None]
    style: str
    """A class of the style sheet: `a`, `b` or `c`."""


def lines(
    title: str, times: Sequence[datetime], series: Sequence[Series], shown: Callable[[float], str]
) -> Markup:
    """A chart of several series over the same times."""
    top = _nice(max((v for one in series for v in one.values if v is not None), default=0.0))
    inner_width, inner_height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def x(number: int) -> float:
        return LEFT + inner_width * number / max(1, len(times) - 1)

    def y(value: float) -> float:
        return TOP + inner_height * (1 - value / top)

    parts = [
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(v):.1f}" y2="{y(v):.1f}"/>'
        f'<text class="tick" x="{LEFT - 6}" y="{y(v) + 4:.1f}" text-anchor="end">'
        f"{escape(shown(v))}</text>"
        for v in (0.0, top / 2, top)
    ]
    for number in range(0, len(times), max(1, len(times) // 4)):
        # At the edge there is no room for half of it.
        anchor = "end" if x(number) > WIDTH - RIGHT - 20 else "middle"
        parts.append(
            f'<text class="tick" x="{x(number):.1f}" y="{HEIGHT - 6}" text-anchor="{anchor}">'
            f"{times[number]:%H:%M}</text>"
        )
    for one in series:
        parts += _path(one, x, y)
    legend = "".join(f'<li class="{one.style}">{escape(one.name)}</li>' for one in series)
    now = "; ".join(f"{one.name}: {_last(one.values, shown)} now" for one in series)
    label = escape(f"{title}. {now}")
    return Markup(  # noqa: S704 - every text in it is escaped
        f'<figure class="chart"><figcaption>{escape(title)}<ul>{legend}</ul></figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
        f"{''.join(parts)}</svg></figure>"
    )


def _path(series: Series, x: Callable[[int], float], y: Callable[[float], float]) -> list[str]:
    """A line for each stretch without gaps."""
    stretches: list[list[str]] = [[]]
    for number, value in enumerate(series.values):
        if value is None:
            stretches.append([])
        else:
            stretches[-1].append(f"{x(number):.1f},{y(value):.1f}")
    drawn = []
    for points in stretches:
        if len(points) == 1:
            cx, cy = points[0].split(",")
            drawn.append(f'<circle class="{series.style}" cx="{cx}" cy="{cy}" r="2"/>')
        elif points:
            drawn.append(f'<polyline class="{series.style}" points="{" ".join(points)}"/>')
    return drawn


def _last(values: Sequence[float | None], shown: Callable[[float], str]) -> str:
    known = [value for value in values if value is not None]
    return shown(known[-1]) if known else "nothing"


def _nice(value: float) -> float:
    """The next round number."""
    if value <= 0:
        return 1.0
    size = 1.0
    while size * 10 <= value:
        size *= 10
    while size > value:
        size /= 10
    return next(step * size for step in STEPS if step * size >= value)


@dataclass(frozen=True)
class Bar:
    """A stretch of one attempt."""

    token: int
    begin: datetime
    end: datetime
    style: str
    """`won`, `ended`, `live` or `zombie`."""
    label: str


def timeline(life: JobLife, at: datetime) -> Markup:
    """A lane for each attempt, in the order of their tokens; attempts that overlap lie over each
    other in time, and a refused one goes on, hatched, to where it was refused."""
    bars = _bars(life, at)
    if not bars:
        return Markup("")
    tokens = sorted({bar.token for bar in bars})
    first, last = min(bar.begin for bar in bars), max(bar.end for bar in bars)
    enqueued = life.status.created_at
    if first - enqueued < max(last - first, timedelta(seconds=1)):
        first = min(first, enqueued)
    span_s = max((last - first).total_seconds(), 0.001)
    height = HEAD + len(tokens) * (LANE + LANE_GAP) + BOTTOM

    def x(moment: datetime) -> float:
        share = (moment - first).total_seconds() / span_s
        return LEFT + 40 + (TIMELINE_WIDTH - LEFT - 70) * min(1.0, max(0.0, share))

    parts = []
    for number in range(5):
        moment = first + (last - first) * (number / 4)
        parts.append(
            f'<line class="grid" x1="{x(moment):.1f}" x2="{x(moment):.1f}" y1="{HEAD - 6}" '
            f'y2="{height - BOTTOM}"/><text class="tick" x="{x(moment):.1f}" y="{height - 6}" '
            f'text-anchor="middle">{_after(moment - enqueued)}</text>'
        )
    lane = {token: HEAD + n * (LANE + LANE_GAP) for n, token in enumerate(tokens)}
    for token, top in lane.items():
        parts.append(f'<text class="lane" x="8" y="{top + LANE / 2 + 4:.1f}">token {token}</text>')
    for bar in bars:
        width = max(3.0, x(bar.end) - x(bar.begin))
        parts.append(
            f'<rect class="{bar.style}" x="{x(bar.begin):.1f}" y="{lane[bar.token]}" rx="4" '
            f'width="{width:.1f}" height="{LANE}"><title>{escape(bar.label)}</title></rect>'
        )
    parts += [
        _refusal(x(one.refused_at), lane[one.token], one.reason)
        for one in life.refusals
        if one.token in lane
    ]
    record = life.record
    if record is not None:
        at_x = x(record.recorded_at)
        parts.append(
            f'<line class="record" x1="{at_x:.1f}" x2="{at_x:.1f}" y1="{HEAD - 8}" '
            f'y2="{height - BOTTOM}"/><text class="record" x="{at_x:.1f}" y="{HEAD - 14}" '
            f'text-anchor="{"end" if at_x > TIMELINE_WIDTH / 2 else "start"}">'
            f"{escape(record.outcome)}: the record, token {record.token}</text>"
        )
    spoken = "; ".join(bar.label for bar in bars)
    return Markup(  # noqa: S704 - every text in it is escaped
        f'<svg class="timeline" viewBox="0 0 {TIMELINE_WIDTH} {height}" role="img" '
        f'aria-label="{escape(spoken)}"><defs><pattern id="hatch" width="6" height="6" '
        'patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><line class="hatch" x1="0" '
        f'y1="0" x2="0" y2="6"/></pattern></defs>{"".join(parts)}</svg>'
    )


def _bars(life: JobLife, at: datetime) -> list[Bar]:
    bars = []
    for one in life.attempts:
        if one.end is AttemptEnd.REVIVED or not one.worker:
            continue
        is_healed = one.end is AttemptEnd.HEALED
        bars.append(
            Bar(
                one.token,
                one.started_at,
                one.ended_at,
                "won" if is_healed else "ended",
                f"attempt {one.attempt} by {one.worker}: {one.end}",
            )
        )
        refused = [each.refused_at for each in life.refusals if each.token == one.token]
        if refused and max(refused) > one.ended_at:
            label = f"attempt {one.attempt} went on without its lease, and was refused"
            bars.append(Bar(one.token, one.ended_at, max(refused), "zombie", label))
    record, lease = life.record, life.lease
    if lease is not None:
        is_over = record is not None and record.outcome is Outcome.COMMITTED
        end = record.recorded_at if is_over and record is not None else max(at, lease.acquired_at)
        bars.append(
            Bar(
                lease.token,
                lease.acquired_at,
                end,
                "won" if is_over else "live",
                f"attempt {lease.attempt} by {lease.worker}: "
                + ("committed, to be finalized" if is_over else "holds the lease"),
            )
        )
    elif (
        record is not None
        and record.acquired_at is not None
        and record.token not in {bar.token for bar in bars}
    ):
        label = f"by {record.worker}: committed"
        bars.append(Bar(record.token, record.acquired_at, record.recorded_at, "won", label))
    return bars


def _refusal(x: float, top: float, reason: str) -> str:
    y = top + LANE / 2
    return (
        f'<g class="refused"><path d="M{x - 6:.1f} {y - 6:.1f} l12 12 m0 -12 l-12 12"/>'
        f"<title>refused: {escape(reason.replace('_', ' '))}</title></g>"
    )


def _after(since: timedelta) -> str:
    """A time since the job was enqueued."""
    seconds = since.total_seconds()
    if seconds < 1:
        return f"+{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"+{seconds:.2f} s"
    if seconds < 7_200:
        return f"+{seconds / 60:.1f} min"
    return f"+{seconds / 3_600:.1f} h"
