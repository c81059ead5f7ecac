"""What commands print: values for programs on standard output, tables for people."""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click

from taskq.printable import printable, printable_json
from taskq.wire.repr import saferepr

json_option = click.option("--json", "as_json", is_flag=True, help="one JSON object per line")


def print_json(data: Mapping[str, Any]) -> None:
    """One object, one line, whatever is in it."""
    click.echo(to_json(data))


def to_json(value: Any) -> str:
    """JSON in one line, fit for a terminal; what JSON does not have becomes its repr."""
    try:
        text = json.dumps(value, default=saferepr, ensure_ascii=False)
    except (TypeError, ValueError):  # keys that are no text, a circle
        text = json.dumps(saferepr(value), ensure_ascii=False)
    return printable_json(text)


def print_value(value: Any) -> None:
    """A result: text as it is but for control characters, everything else as JSON."""
    click.echo(printable(value, lines=True) if isinstance(value, str) else to_json(value))


def print_table(rows: Iterable[Sequence[str]], headers: Sequence[str]) -> None:
    """Aligned columns under headers."""
    table = [tuple(headers), *(tuple(map(printable, row)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for number, row in enumerate(table):
        line = "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        click.echo(click.style(line, bold=True) if number == 0 else line)


def counted(number: int, noun: str) -> str:
    """`1 task`, `2 tasks`."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def iso(time: float) -> str:
    """A time in Unix seconds as ISO 8601, UTC."""
    return datetime.fromtimestamp(time, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def span(seconds: float) -> str:
    """A span of time in its largest unit: `5s`, `12m`, `3h`, `2d`."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds / size:.0f}{unit}"
    return f"{max(0.0, seconds):.0f}s"
