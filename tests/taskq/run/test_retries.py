from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskq.run.retries import backoff


@pytest.mark.parametrize(
    ("factor", "retries", "maximum", "expected"),
    [
        (True, 0, 600, 1),
        (True, 3, 600, 8),
        (5, 2, 600, 20),
        (0.5, 1, 600, 2),
        (True, 20, 600, 600),
        (1, 10_000, 7, 7),
    ],
)
def test_it_doubles_up_to_the_maximum(factor: Any, retries: int, maximum: float, expected: float) -> None:
    assert backoff(factor, retries, maximum, jitter=False) == expected


@given(st.floats(1, 100), st.integers(0, 2000), st.floats(1, 10_000))
def test_jitter_is_anything_up_to_it(factor: float, retries: int, maximum: float) -> None:
    assert 0 <= backoff(factor, retries, maximum, jitter=True) <= maximum
