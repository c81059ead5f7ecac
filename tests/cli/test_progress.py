import io
from typing import Any

import pytest
from rich.console import Console

from taskq.cli.progress import ProgressBar, Step, step_of


@pytest.mark.parametrize(
    ("meta", "step"),
    [
        ({"current": 3, "total": 9}, Step(3, 9, "")),
        ({"current": 3, "total": 9, "percent": 33.3, "description": "reading"}, Step(3, 9, "reading")),
        ({"percent": 33.5, "message": "reading"}, Step(33.5, 100, "reading")),
        ({"progress": 50}, Step(50, 100, "")),
        ({"progress": 0}, Step(0, 100, "")),
        ({"current": 3, "total": 0, "percent": 7}, Step(7, 100, "")),
        ({"current": 3}, None),
        ({"progress": True}, None),
        ({"progress": "50"}, None),
        ({}, None),
        ([50], None),
        (None, None),
    ],
)
def test_steps_are_read_in_all_usual_forms(meta: Any, step: Step | None) -> None:
    assert step_of(meta) == step


def shown(state: dict[str, Any], *, terminal: bool = True, quiet: bool = False) -> tuple[bool, str]:
    """Whether the bar shows a state, and what it draws."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=80)
    with ProgressBar("proj.add", quiet=quiet, console=console) as bar:
        seen = bar.show(state)
    return seen, out.getvalue()


def test_the_bar_follows_the_states() -> None:
    seen, text = shown({"status": "PROGRESS", "result": {"current": 3, "total": 4, "description": "reading"}})
    assert seen
    assert "reading" in text
    assert "75%" in text


def test_a_result_is_no_step() -> None:
    seen, text = shown({"status": "SUCCESS", "result": {"progress": 50}})
    assert not seen
    assert "proj.add" in text
    assert "50%" not in text


def test_nothing_is_shown_without_a_terminal_or_when_quiet() -> None:
    state = {"status": "PROGRESS", "result": {"progress": 50}}
    for seen, text in (shown(state, terminal=False), shown(state, quiet=True)):
        assert not seen
        assert text.strip() == ""
