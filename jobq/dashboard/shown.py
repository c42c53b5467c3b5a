"""How numbers and times are written."""

from __future__ import annotations

from datetime import datetime

from markupsafe import Markup

THOUSANDS = ((1e9, "G"), (1e6, "M"), (1e4, "k"))


def number(value: float) -> str:
    """12, 3,400, 25k, 1.2M."""
    for size, sign in THOUSANDS:
        if abs(value) >= size:
            divisor = 1e3 if sign == "k" else size
            return f"{value / divisor:.3g}{sign}"
    return f"{value:,.0f}" if value == int(value) else f"{value:.3g}"


def seconds(value: float | None) -> str:
    """0.8 ms, 250 ms, 3.2 s, 4.5 min, 2.1 h, 3 d."""
    if value is None:
        return ""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")):
        if abs(value) >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value * 1000:.3g} ms"


def clock(moment: datetime | None) -> Markup:
    """To the second, in UTC as the database says it."""
    if moment is None:
        return Markup("")
    return Markup('<time datetime="{}">{}</time>').format(
        moment.isoformat(), f"{moment:%Y-%m-%d %H:%M:%S}"
    )


def ago(moment: datetime | None, at: datetime) -> str:
    return "" if moment is None else f"{seconds(max(0.0, (at - moment).total_seconds()))} ago"
