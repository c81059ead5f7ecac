from datetime import timedelta
from typing import Annotated, Any, Literal

import pytest

from taskq.config.coerce import Amount, Count, Names, Range, Seconds, Url, coerce, describe, parse


@pytest.mark.parametrize(
    ("annotation", "value", "held"),
    [
        (bool, True, True),
        (int, 3, 3),
        (float, 3, 3),
        (float, 0.5, 0.5),
        (str, "x", "x"),
        (str | None, None, None),
        (Count, 1, 1),
        (Amount, 0, 0),
        (Count | None, None, None),
        (Seconds, 10, 10),
        (Seconds, timedelta(days=1), 86400.0),
        (Seconds, "1h30m", 5400.0),
        (Seconds | None, None, None),
        (Names, ["a", "b"], ("a", "b")),
        (Names, {"a"}, ("a",)),
        (Names, "a, b", ("a", "b")),
        (Range, (10, 3), (10, 3)),
        (Range, [3, 10], (10, 3)),
        (Range, "10,3", (10, 3)),
        (Range, "10", (10, 1)),
        (Range, "10,0", (10, 1)),
        (Count | Literal["auto"], "auto", "auto"),
        (Url, "redis://h", "redis://h"),
        (Url, ["redis://a", "redis://b"], "redis://a;redis://b"),
        (dict[str, Any], {"a": 1}, {"a": 1}),
        (bool | dict[str, Any], {"a": 1}, {"a": 1}),
        (bool | dict[str, Any], False, False),
        (Literal[2, "persistent"], 2, 2),
        (Literal[2, "persistent"], "persistent", "persistent"),
        (Annotated[int, "no kind"], 3, 3),
        (Any, object, object),
    ],
)
def test_values_of_the_type_are_taken(annotation: Any, value: Any, held: Any) -> None:
    taken = coerce(annotation, value)
    assert taken == held
    assert type(taken) is type(held)


@pytest.mark.parametrize(
    ("annotation", "value", "expected"),
    [
        (bool, 1, "expected true or false"),
        (int, True, "expected a whole number"),
        (int, "3", "expected a whole number"),
        (float, "3", "expected a number"),
        (str, None, "expected text"),
        (Count, 0, "expected a whole number of at least 1"),
        *[
            (Range, value, "expected a range MAX,MIN of whole numbers")
            for value in (10, (10, 3, 1), (), (0, 0), (10, -1), (True, 1), "a,b", "", {10: 3})
        ],
        (Count | None, "", "expected None or a whole number of at least 1"),
        (Seconds, -1, "expected seconds"),
        (Seconds, float("nan"), "expected seconds"),
        (Seconds, "soon", "expected seconds"),
        (Seconds, True, "expected seconds"),
        (Names, 3, "expected names"),
        (Names, {"a": 1}, "expected names"),
        (Names, [1], "expected names"),
        (Url, [1], "expected a URL"),
        (dict[str, Any], [1], "expected a mapping"),
        (bool | dict[str, Any], "yes", "expected true or false or a mapping"),
        (Literal[2], 2.0, "expected 2"),
        (Literal[True], 1, "expected True"),
    ],
)
def test_values_of_another_type_are_refused(annotation: Any, value: Any, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        coerce(annotation, value)


@pytest.mark.parametrize(
    ("annotation", "text", "held"),
    [
        (bool, "Yes", True),
        (bool, "off", False),
        (int, " 12 ", 12),
        (float, "0.5", 0.5),
        (str, "none", "none"),
        (str | None, "none", None),
        (str | None, "", None),
        (str | None, "gzip", "gzip"),
        (Count, "8", 8),
        (Seconds, "90", 90.0),
        (Seconds, "500ms", 0.5),
        (Seconds, "1.5h", 5400.0),
        (Seconds, "1d 2h", 93600.0),
        (Seconds | None, "None", None),
        (Names, "json, msgpack,", ("json", "msgpack")),
        (Url, "redis://a;redis://b", "redis://a;redis://b"),
        (dict[str, Any], '{"a": 1}', {"a": 1}),
        (bool | dict[str, Any], '{"a": 1}', {"a": 1}),
        (bool | dict[str, Any], "true", True),
        (Literal[2, "persistent"], "Persistent", "persistent"),
        (Literal[2, "persistent"], "2", 2),
        (Any, '{"a.*": "q"}', {"a.*": "q"}),
        (Any, "proj.routes:route", "proj.routes:route"),
    ],
)
def test_text_is_read_by_the_type(annotation: Any, text: str, held: Any) -> None:
    assert parse(annotation, text) == held


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (bool, "maybe"),
        (int, "1.5"),
        (Count, "0"),
        (Seconds, "5 parsecs"),
        (Seconds, "inf-"),
        (dict[str, Any], "a=1"),
        (dict[str, Any], "[1]"),
        (Literal[2], "1"),
    ],
)
def test_text_that_the_type_does_not_mean_is_refused(annotation: Any, text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse(annotation, text)


def test_choices_are_described_as_they_are_written() -> None:
    assert describe(Literal["classic", "quorum"]) == "'classic' or 'quorum'"
