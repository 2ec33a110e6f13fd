"""Waiting for what another process does: a deadline, and a short look now and then."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")
INTERVAL_S = 0.01


def wait_for(look: Callable[[], Value], timeout_s: float = 60.0) -> Value:
    """The first value of ``look()`` that is true; fails with the last one when there is none in time."""
    end = time.monotonic() + timeout_s
    while not (value := look()):
        assert time.monotonic() < end, f"nothing within {timeout_s:g} s, at last: {value!r}"
        time.sleep(INTERVAL_S)
    return value
