"""What people type: durations, times, JSON or bare words, key=value. Each is the `type` of an option."""

import json
from datetime import UTC, datetime
from typing import Any

import click

from taskq.config.coerce import parse_duration


def duration(text: str) -> float:
    """Seconds from `90`, `10s`, `5m`, `1h30m`, `inf`."""
    try:
        seconds = parse_duration(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is no time in seconds, nor like 10s, 5m, 1h30m") from None
    if not seconds >= 0:
        raise click.BadParameter(f"{text!r} is no time from now on")
    return seconds


def when(text: str) -> datetime:
    """A point in time: ISO 8601, UTC where no zone is said."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is no time like 2026-12-31T23:59:00+01:00") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def duration_or_when(text: str) -> float | datetime:
    """Seconds from now, or a point in time."""
    try:
        return duration(text)
    except click.BadParameter:
        return when(text)


def names(text: str) -> list[str]:
    """Names separated by commas; at least one."""
    found = [name.strip() for name in text.split(",") if name.strip()]
    if not found:
        raise click.BadParameter("no names in it")
    return found


def json_list(text: str) -> list[Any]:
    """A list in JSON."""
    found: list[Any] = _json(text, list, "a list like [1, 2]")
    return found


def json_or_word(text: str) -> Any:
    """What a bare argument means: `2`, `true`, `[1]`, `"2"` are JSON, and what is not is text."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except ValueError:
        return text


def keyword_arguments(texts: tuple[str, ...]) -> dict[str, Any]:
    """Keyword arguments: JSON objects and `name=value`, later ones first."""
    found: dict[str, Any] = {}
    for text in texts:
        if text.lstrip().startswith("{"):
            found |= _json(text, dict, 'an object like {"a": 1}')
            continue
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise click.BadParameter(f"{text!r} is neither a JSON object nor name=value")
        found[name] = json_or_word(value)
    return found


def _json(text: str, kind: type, called: str) -> Any:
    try:
        data = json.loads(text, parse_constant=_refuse)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not JSON: {error}") from None
    if not isinstance(data, kind):
        raise click.BadParameter(f"{text!r} is not {called}")
    return data


def _refuse(word: str) -> None:
    """NaN and Infinity are words: JSON does not have them."""
    raise ValueError(f"there is no {word} in JSON")
