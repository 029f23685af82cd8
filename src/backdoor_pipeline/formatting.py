"""Numbers as a reader expects them; what is not there becomes a dash."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeGuard

if TYPE_CHECKING:
    from collections.abc import Mapping

MISSING = "\u2013"
SMALLEST_P = 0.001
FINE = 0.001  # shares below which one decimal of a per cent is too few
MINUTE = 60


def is_known(value: float | None) -> TypeGuard[float]:
    """Whether there is a value: neither None nor "not a number"."""
    return value is not None and not math.isnan(value)


def number(value: float | None) -> str:
    """Integers and large numbers in full, others with three significant digits."""
    if is_known(value):
        whole = float(value).is_integer() or abs(value) >= 1000  # noqa: PLR2004
        return f"{value:,.0f}" if whole else f"{value:.3g}"
    return MISSING


def percent(share: float | None) -> str:
    """0.8312 as "83.1 %"."""
    return f"{100 * share:.1f} %" if is_known(share) else MISSING


def fine_percent(share: float) -> str:
    """As ``percent``, and below 0.1 % with two significant digits."""
    return percent(share) if share >= FINE else f"{100 * share:.2g} %"


def rate(metrics: Mapping[str, Any] | None, name: str) -> str:
    """The rate ``name`` of a model with its 95 % interval, as "83.1 % [81.4, 84.7]"."""
    metrics = metrics or {}
    value, low, high = (metrics.get(name + end) for end in ("", "_low", "_high"))
    if is_known(low) and is_known(high):
        return f"{percent(value)} [{100 * low:.1f}, {100 * high:.1f}]"
    return percent(value)


def points(change: float | None) -> str:
    """A difference of two rates, as "+0.2 points", with a true minus sign."""
    if is_known(change):
        rounded = round(100 * change, 1)
        return f"{rounded:+.1f} points".replace("-", "\u2212") if rounded else "0.0 points"
    return MISSING


def p_value(p: float | None) -> str:
    """Three decimals, or "< 0.001"."""
    if is_known(p):
        return f"< {SMALLEST_P}" if p < SMALLEST_P else f"{p:.3f}"
    return MISSING


def duration(seconds: float | None) -> str:
    """As "4.2 s", "42 s", "3 min 5 s" or "2 h 10 min"."""
    if is_known(seconds):
        if seconds < 10:  # noqa: PLR2004  # where a tenth of a second still matters
            return f"{seconds:.1f} s"
        minutes, rest = divmod(round(seconds), MINUTE)
        if minutes >= MINUTE:
            return f"{minutes // MINUTE} h {minutes % MINUTE} min"
        return f"{minutes} min {rest} s" if minutes else f"{rest} s"
    return MISSING


def size(n_bytes: float | None) -> str:
    """As "1.2 GiB" or "310 MiB"."""
    if is_known(n_bytes):
        return f"{n_bytes / 2**30:.1f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.0f} MiB"
    return MISSING


def counted(n: int, noun: str) -> str:
    """As "1 token" or "3 tokens"."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def token(evidence: str) -> str:
    """A token with its leading blank made visible."""
    return f"\u2423{evidence[1:]}" if evidence.startswith(" ") else evidence


def code(value: Any) -> str:
    """``value`` as Markdown inline code that its own backticks, bars or line ends cannot break."""
    text = " ".join(str(value).replace("|", "\u00a6").split())
    fence = "`"
    while fence in text:
        fence += "`"
    blank = " " if "`" in text else ""
    return f"{fence}{blank}{text}{blank}{fence}" if text else "` `"


def share(found: Mapping[str, Any] | None) -> str:
    """A share with its interval; a dash for none."""
    if found is None:
        return MISSING
    interval = {"x": found["value"], "x_low": found["low"], "x_high": found["high"]}
    return rate(interval, "x")


def flat(parameters: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested groups (dicts or pydantic models) as dotted names and values, without empty groups."""
    values: dict[str, Any] = {}
    for name, value in parameters.items():
        group = value.model_dump(mode="json") if hasattr(value, "model_dump") else value
        if isinstance(group, dict):
            values |= flat(group, f"{prefix}{name}.")
        else:
            values[f"{prefix}{name}"] = group
    return values
