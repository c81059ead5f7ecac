"""A repr that stays short, whatever it is given: `argsrepr` and `kwargsrepr` (wire-format.md 1.4)."""

from collections.abc import Iterator, Mapping
from typing import Any

#: Celery's bounds: characters, and how many containers deep.
MAX_LENGTH = 1024
MAX_LEVELS = 3

_SCALARS = frozenset((int, float, bool, type(None)))
_BRACKETS = {list: ("[", "]"), tuple: ("(", ")"), set: ("{", "}"), frozenset: ("frozenset({", "})")}


def saferepr(value: Any, limit: int = MAX_LENGTH, levels: int = MAX_LEVELS) -> str:
    """Like `repr`, cut after `limit` characters and `levels` containers, each cut shown as `...`.

    Never raises: an object whose own repr fails is named by its type.
    """
    if type(value) is dict and not value:  # the usual keyword arguments
        return "{}"
    if _is_short_and_flat(value, limit):
        try:
            return repr(value)
        except ValueError:  # an int of more digits than Python is willing to print
            pass
    return _cut(_pieces(value, levels), limit)


def _is_short_and_flat(value: Any, limit: int) -> bool:
    """The usual arguments, for which plain `repr` is short for sure (escapes make a text up to 10 times longer)."""
    kind = type(value)
    if kind is dict:
        return not value or _is_short((*value, *value.values()), limit)
    return kind in {tuple, list} and _is_short(value, limit)


def _is_short(items: Any, limit: int) -> bool:
    room = limit - 32 * len(items)
    for item in items:
        kind = type(item)
        if kind is str:
            room -= 10 * len(item)
        elif kind not in _SCALARS:
            return False
    return room >= 0


def _cut(pieces: Iterator[str], limit: int) -> str:
    kept: list[str] = []
    room = limit
    for piece in pieces:
        if len(piece) > room:
            return "".join(kept) + piece[:room] + "..."
        kept.append(piece)
        room -= len(piece)
    return "".join(kept)


def _pieces(value: Any, levels: int) -> Iterator[str]:
    if isinstance(value, dict):
        return _mapping(value, levels)
    for kind, brackets in _BRACKETS.items():
        if isinstance(value, kind):
            return _collection(value, brackets, levels)
    return iter((_leaf(value),))


def _mapping(value: Mapping[Any, Any], levels: int) -> Iterator[str]:
    if value and not levels:
        yield "{...}"
        return
    yield "{"
    for index, (key, item) in enumerate(value.items()):
        yield ", " if index else ""
        yield from _pieces(key, levels - 1)
        yield ": "
        yield from _pieces(item, levels - 1)
    yield "}"


def _collection(value: Any, brackets: tuple[str, str], levels: int) -> Iterator[str]:
    opening, closing = brackets
    if isinstance(value, set | frozenset) and not value:
        yield f"{type(value).__name__}()"
        return
    if value and not levels:
        yield f"{opening}...{closing}"
        return
    yield opening
    for index, item in enumerate(value):
        yield ", " if index else ""
        yield from _pieces(item, levels - 1)
    if isinstance(value, tuple) and len(value) == 1:
        yield ","
    yield closing


def _leaf(value: Any) -> str:
    if isinstance(value, str | bytes | bytearray) and len(value) > MAX_LENGTH:
        value = value[: MAX_LENGTH + 1]  # the rest is cut off anyway: do not escape megabytes
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 - a user's __repr__ may raise anything
        return f"<unprintable {type(value).__name__}>"
