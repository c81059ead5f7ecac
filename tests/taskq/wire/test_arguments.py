from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskq.wire.arguments import ArgumentCheck


def two(x: Any, y: Any = 0) -> None: ...
def many(*args: Any) -> None: ...
def named(x: Any, *, key: Any) -> None: ...
def optional(x: Any, *, key: Any = None) -> None: ...
def anything(*args: Any, **kwargs: Any) -> None: ...
def only_positional(first: Any, /, y: Any = 0, **rest: Any) -> None: ...


FUNCTIONS = [two, many, named, optional, anything, only_positional]


@given(
    st.sampled_from(FUNCTIONS),
    st.lists(st.integers(), max_size=4),
    st.dictionaries(st.sampled_from(["x", "y", "key", "z", "self"]), st.integers(), max_size=3),
)
def test_it_refuses_what_python_would(
    fun: Callable[..., None], args: list[int], kwargs: dict[str, int]
) -> None:
    check = ArgumentCheck(fun, bound=False, name="proj.task")
    try:
        fun(*args, **kwargs)
    except TypeError:
        with pytest.raises(TypeError, match=r"^proj\.task\(.*called with wrong arguments: "):
            check.check(args, kwargs)
    else:
        check.check(args, kwargs)


def test_the_task_itself_does_not_count() -> None:
    def bound(self: Any, x: int) -> None: ...

    check = ArgumentCheck(bound, bound=True, name="proj.task")
    check.check((1,), None)
    with pytest.raises(
        TypeError, match=r"^proj\.task\(x: int\) -> None called with wrong arguments: too many"
    ):
        check.check((1, 2), None)


@pytest.mark.parametrize(
    ("fun", "most"),
    [(two, 2), (named, 1), (only_positional, 2), (many, float("inf")), (anything, float("inf"))],
)
def test_how_many_positional_arguments(fun: Callable[..., None], most: float) -> None:
    assert ArgumentCheck(fun, bound=False, name="t").most_positional == most
