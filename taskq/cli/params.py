"""What people type: durations, times, JSON or bare words, key=value, node names. Most are the `type` of an option."""

import json
import re
from datetime import UTC, datetime
from typing import Any

import click

from taskq.config.coerce import parse_duration

#: What a node is called that nobody named.
DEFAULT_NAME = "celery"


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


# --- names of worker nodes (wire-format.md 9) ---------------------------------------------------------------


def node_name(given: str | None, host: str, number: int | None = None) -> str:
    """`name@host` from what `-n` says: text without `@` is the host part, as in Celery.

    `%h` is the whole host name, `%n` its first part, `%d` the rest, `%i` the number of the process among several,
    `%%` a percent sign. Without `%i` the number ends the name: each process is a node of its own.
    """
    name, at, node_host = (given or "").rpartition("@")
    own = (name if at else "") or DEFAULT_NAME
    first, _, domain = host.partition(".")
    if number is not None and "%i" not in f"{own}{node_host}":
        own = f"{own}-{number}"
    return _expanded(f"{own}@{node_host or host}", h=host, n=first, d=domain, i=str(number or 0))


def expand_node(text: str, node: str, number: int | None) -> str:
    """The same for names of files, by Celery's letters.

    `%p` is the node name, `%n` its part before the `@`, `%h` the host, `%d` its domain, `%i` the number of the process
    among several (0: it is the only one, or the one above them).
    """
    name, _, host = node.partition("@")
    return _expanded(text, p=node, n=name, h=host, d=host.partition(".")[2], i=str(number or 0))


def _expanded(text: str, **parts: str) -> str:
    parts["%"] = "%"
    return re.sub(f"%([{''.join(parts)}])", lambda match: parts[match[1]], text)
