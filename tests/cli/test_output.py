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


def test_text_is_printed_as_it_is_but_for_what_a_terminal_obeys(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_value("a\n\tb\x1b[2J\ud800")
    output.print_value(["a", "\x9b\ud800"])
    output.print_table([["a\nb", "\r"]], ["X", "Y"])
    said = capsys.readouterr().out
    assert said == 'a\n\tb\\x1b[2J\\ud800\n["a", "\\u009b\\ud800"]\nX     Y\na\\nb  \\r\n'


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "0s"), (59, "59s"), (90, "2m"), (7200, "2h"), (200_000, "2d")]
)
def test_spans(seconds: float, text: str) -> None:
    assert output.span(seconds) == text
