import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskq.wire.repr import saferepr

ANYTHING = st.recursive(
    st.none() | st.integers() | st.floats() | st.text() | st.binary() | st.decimals(),
    lambda inner: (
        st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner) | st.sets(st.integers())
    ),
    max_leaves=30,
)


@given(ANYTHING)
def test_it_is_bounded(value: Any) -> None:
    assert len(saferepr(value)) <= 1024 + len("...")
    assert len(saferepr(value, 50)) <= 50 + len("...")


@given(ANYTHING)
def test_it_is_repr_when_nothing_has_to_be_cut(value: Any) -> None:
    if len(repr(value)) <= 1024:
        assert saferepr(value, levels=100) == repr(value)


class Rude:
    def __repr__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ((2, 2), "(2, 2)"),
        ((2,), "(2,)"),
        ([], "[]"),
        ((), "()"),
        ({}, "{}"),
        (set(), "set()"),
        (frozenset(), "frozenset()"),
        ([[[[]]]], "[[[[]]]]"),
        ([frozenset({1}), {2}], "[frozenset({1}), {2}]"),
        ({"y": 3}, "{'y': 3}"),
        (([[[[[1]]]]], {"a": {"b": {"c": {"d": 1}}}}), "([[[...]]], {'a': {'b': {...}}})"),
        ([[[frozenset({1})]]], "[[[frozenset({...})]]]"),
        ((Rude(),), "(<unprintable Rude>,)"),
        ((10**5000,), "(<unprintable int>,)"),
        ([math.nan], "[nan]"),
        ("text", "'text'"),
    ],
)
def test_small_values(value: Any, text: str) -> None:
    assert saferepr(value) == text


def test_long_values_are_cut_where_the_room_ends() -> None:
    assert saferepr(("x" * 3000,)) == "('" + "x" * 1022 + "..."
    assert saferepr(list(range(2000))).startswith("[0, 1, 2, ")
    assert len(saferepr((b"\xff" * 10_000_000,))) == 1024 + 3
    assert saferepr({"k": "y" * 300}, 20) == "{'k': 'yyyyyyyyyyyyy..."


def test_a_value_that_holds_itself_is_cut() -> None:
    cyclic: list[Any] = [1]
    cyclic.append(cyclic)
    assert saferepr(cyclic) == "[1, [1, [1, [...]]]]"
