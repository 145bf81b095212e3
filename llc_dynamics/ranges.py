"""Checks of arguments that several rooms share: numbers, whole numbers, probabilities."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llc_dynamics.errors import ConfigError
from llc_dynamics.settings import plain_number


def whole_number(name: str, value: float, at_least: int) -> int:
    """`value` as an int; `ConfigError` if it is not a whole number of `at_least` or more."""
    value = plain_number(value)
    try:
        whole = int(value)
    except (TypeError, ValueError, OverflowError):
        whole = at_least - 1
    if isinstance(value, bool) or whole < at_least or whole != value:
        raise ConfigError(f"{name} must be a whole number of {at_least} or more; got {value!r}")
    return whole


def whole_numbers(name: str, values: Iterable[float], at_least: int) -> list[int]:
    """All of `values` as ints; `ConfigError` names the first that is not a whole number of `at_least` or more."""
    values = plain_number(values)
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ConfigError(f"{name} must be a list of whole numbers, for example [10, 10, 10]; got {values!r}")
    return [whole_number(f"{name}[{place}]", value, at_least) for place, value in enumerate(values)]


def finite_number(name: str, value: float, *, zero: bool) -> float:
    """`value` as a float; `ConfigError` if it is negative, not finite, or zero where `zero` is false."""
    number = _number(value)
    if not (math.isfinite(number) and (number > 0 or (zero and number == 0))):
        raise ConfigError(f"{name} must be finite and {'zero or more' if zero else 'positive'}; got {value!r}")
    return number


def between_0_and_1(name: str, value: float) -> float:
    """`value` as a float; `ConfigError` if it is not a number between 0 and 1, both excluded."""
    number = _number(value)
    if not 0 < number < 1:
        raise ConfigError(f"{name} must be between 0 and 1, a probability such as 0.9; got {value!r}")
    return number


def array_of(values: Any, dtype: Any = None) -> NDArray[Any]:
    """`np.asarray`, also of tensors of any type, with a gradient, on any device, and of lists that hold such tensors.

    Number formats that NumPy does not have become float32. Raises `TypeError` or `ValueError` for what is no array.
    """
    if hasattr(values, "detach"):  # a tensor: torch itself need not be imported here
        values = values.detach().to_dense()
        try:
            values = values.numpy(force=True)
        except TypeError:
            values = values.float().numpy(force=True)
    elif isinstance(values, list | tuple):
        values = [array_of(each) if hasattr(each, "detach") or isinstance(each, list) else each for each in values]
    array = np.asarray(values)
    if dtype is not None and array.dtype.kind == "c":
        raise TypeError("complex numbers")
    return np.asarray(array, dtype=dtype)


def numbers_of(name: str, values: Any) -> NDArray[np.float64]:
    """`values` as a float64 array of any shape; `ConfigError` if they are no numbers, or rows of unequal lengths."""
    try:
        return array_of(values, np.float64)
    except (TypeError, ValueError):
        raise ConfigError(f"{name} must be a number or an array of numbers; got {values!r}") from None


def _number(value: Any) -> float:
    """As a float, NaN for what is none: text is not read as a number, nor is the answer to a question."""
    value = plain_number(value)
    try:
        return math.nan if isinstance(value, str | bytes | bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
