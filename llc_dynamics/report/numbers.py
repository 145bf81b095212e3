"""Numbers and names as people read them: with as many digits as their error allows."""

from __future__ import annotations

import math
from collections.abc import Sequence


def with_error(value: float, error: float | None, scale: float = 1.0, unit: str = "") -> str:
    """'3.16 ± 0.02': two significant digits of the error and the value to the same place; '3.16' without an error."""
    value = scale * value
    if error is None or not (math.isfinite(error) and math.isfinite(value)) or error <= 0:
        return f"{plain(value)}{unit}"
    error = scale * error
    decimals = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:,.{decimals}f}{unit} ± {error:,.{decimals}f}{unit}"


def plain(value: float) -> str:
    """Three significant digits, never in exponents between a thousandth and a billion."""
    if not math.isfinite(value):
        return "not known" if math.isnan(value) else ("∞" if value > 0 else "−∞")
    if value == 0:
        return "0"
    decimals = 2 - math.floor(math.log10(abs(value)))
    if decimals > 5:
        return f"{value:.2e}"
    return f"{value:,.{max(0, decimals)}f}"


def percent(share: float, error: float | None = None) -> str:
    """'12.1% ± 0.8%' of a share from 0 to 1."""
    if error is None or not math.isfinite(error) or error <= 0:
        return f"{100 * share:.1f}%"
    return with_error(share, error, scale=100, unit="%")


def step(value: float) -> str:
    """'2,900'."""
    return f"{value:,.0f}"


def steps_between(interval: tuple[float, float] | None) -> str:
    """' (90% interval ...)' is written by the caller; this is '2,600 to 3,300'."""
    return "not known" if interval is None else f"{step(interval[0])} to {step(interval[1])}"


def listed(items: Sequence[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def count(number: int, what: str) -> str:
    """'1 run', '3 runs'."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
