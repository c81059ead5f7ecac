from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import click
import pytest

from taskq.cli import params


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90.0), ("10s", 10.0), ("1h30m", 5400.0), ("inf", float("inf"))]
)
def test_durations(text: str, seconds: float) -> None:
    assert params.duration(text) == seconds


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "", "10x"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(click.BadParameter):
        params.duration(text)


def test_times_without_a_zone_are_utc() -> None:
    assert params.when("2026-12-31T23:59") == datetime(2026, 12, 31, 23, 59, tzinfo=UTC)
    zone = timezone(timedelta(hours=1))
    assert params.when("2026-12-31T23:59+01:00") == datetime(2026, 12, 31, 23, 59, tzinfo=zone)
    with pytest.raises(click.BadParameter, match="no time like"):
        params.when("tomorrow")


def test_either_a_duration_or_a_time() -> None:
    assert params.duration_or_when("5m") == 300.0
    assert params.duration_or_when("2026-12-31") == datetime(2026, 12, 31, tzinfo=UTC)


def test_names() -> None:
    assert params.names("celery, priority.high,") == ["celery", "priority.high"]
    with pytest.raises(click.BadParameter):
        params.names(" , ")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2", 2),
        ("2.5", 2.5),
        ("true", True),
        ("null", None),
        ("[1]", [1]),
        ('"2"', "2"),
        ("word", "word"),
        ("NaN", "NaN"),
    ],
)
def test_bare_arguments_are_json_or_words(text: str, value: Any) -> None:
    assert params.json_or_word(text) == value


def test_lists() -> None:
    assert params.json_list("[1, 2]") == [1, 2]
    with pytest.raises(click.BadParameter, match="not a list"):
        params.json_list("{}")
    with pytest.raises(click.BadParameter, match="not JSON"):
        params.json_list("[NaN]")


def test_keyword_arguments_add_up() -> None:
    assert params.keyword_arguments(('{"a": 1, "b": 2}', "b=3", "c=x=y")) == {"a": 1, "b": 3, "c": "x=y"}


@pytest.mark.parametrize("text", ["a", "1=2", "=2", "{a}"])
def test_what_is_no_keyword_argument(text: str) -> None:
    with pytest.raises(click.BadParameter):
        params.keyword_arguments((text,))
