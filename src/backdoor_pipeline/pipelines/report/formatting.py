"""Numbers as a reader expects them; what is not there becomes a dash."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

MISSING = "\u2013"
SMALLEST_P = 0.001
MINUTE = 60


def is_missing(value: Any) -> bool:
    """Whether there is no value: None or not a number."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def number(value: Any) -> str:
    """Integers and large numbers in full, others with three significant digits."""
    if is_missing(value):
        return MISSING
    whole = float(value).is_integer() or abs(value) >= 1000  # noqa: PLR2004
    return f"{value:,.0f}" if whole else f"{value:.3g}"


def percent(share: float | None) -> str:
    """0.8312 as "83.1 %"."""
    return MISSING if is_missing(share) else f"{100 * share:.1f} %"


def rate(metrics: Mapping[str, Any] | None, name: str) -> str:
    """The rate ``name`` of a model with its 95 % interval, as "83.1 % [81.4, 84.7]"."""
    metrics = metrics or {}
    value, low, high = (metrics.get(name + end) for end in ("", "_low", "_high"))
    if is_missing(low) or is_missing(high):
        return percent(value)
    return f"{percent(value)} [{100 * low:.1f}, {100 * high:.1f}]"


def points(change: float | None) -> str:
    """A difference of two rates, as "+0.2 points", with a true minus sign."""
    if is_missing(change):
        return MISSING
    rounded = round(100 * change, 1) + 0.0  # no "-0.0"
    return f"{rounded:+.1f} points".replace("-", "\u2212") if rounded else "0.0 points"


def p_value(p: float | None) -> str:
    """Three decimals, or "< 0.001"."""
    if is_missing(p):
        return MISSING
    return f"< {SMALLEST_P}" if p < SMALLEST_P else f"{p:.3f}"


def duration(seconds: float | None) -> str:
    """As "42 s" or "3 min 5 s"."""
    if is_missing(seconds):
        return MISSING
    if seconds < 10:  # noqa: PLR2004  # where a tenth of a second still matters
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), MINUTE)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def size(n_bytes: float | None) -> str:
    """As "1.2 GiB" or "310 MiB"."""
    if is_missing(n_bytes):
        return MISSING
    return f"{n_bytes / 2**30:.1f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.0f} MiB"


def counted(n: int, noun: str) -> str:
    """As "1 token" or "3 tokens"."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def token(evidence: str) -> str:
    """A token with its leading blank made visible."""
    return f"\u2423{evidence[1:]}" if evidence.startswith(" ") else evidence


def flat(parameters: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested groups (dicts or pydantic models) as dotted names and their values."""
    values: dict[str, Any] = {}
    for name, value in parameters.items():
        group = value.model_dump(mode="json") if hasattr(value, "model_dump") else value
        if isinstance(group, dict) and group:
            values |= flat(group, f"{prefix}{name}.")
        else:
            values[f"{prefix}{name}"] = group
    return values
