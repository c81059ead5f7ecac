from typing import Any

import pytest

from taskq.cli import output


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([1, 2], "[1, 2]"),
        ({"é": None}, '{"é": null}'),
        (object, "\"<class 'object'>\""),
        (2**70, str(2**70)),
        ({(1,): 2}, '"{(1,): 2}"'),
    ],
)
def test_whatever_a_task_gave_is_printed(value: Any, text: str) -> None:
    assert output.to_json(value) == text


def test_text_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_value("a\nb")
    output.print_value(["a"])
    assert capsys.readouterr().out == 'a\nb\n["a"]\n'


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "0s"), (59, "59s"), (90, "2m"), (7200, "2h"), (200_000, "2d")]
)
def test_spans(seconds: float, text: str) -> None:
    assert output.span(seconds) == text
