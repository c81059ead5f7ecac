"""Settings' types: what each accepts, how its text is read, and how it is described."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin


@dataclass(frozen=True, slots=True)
class SettingType:
    """One type of setting: `check` takes a Python value, `parse` takes text; both raise ValueError."""

    description: str
    check: Callable[[Any], Any]
    parse: Callable[[str], Any]


def coerce(annotation: Any, value: Any) -> Any:
    """A Python value as a setting of this type holds it. Raises ValueError."""
    return _first(annotation, lambda kind: kind.check(value))


def parse(annotation: Any, text: str) -> Any:
    """The value that a text (environment, command line) means for this type. Raises ValueError."""
    return _first(annotation, lambda kind: kind.parse(text.strip()))


def describe(annotation: Any) -> str:
    """What a setting of this type takes, for error messages and the manual."""
    return " or ".join(kind.description for kind in kinds(annotation))


def kinds(annotation: Any) -> list[SettingType]:
    """The kinds a setting's annotation consists of, None first: its text ("none", "") is never another's."""
    if get_origin(annotation) in {Union, UnionType}:
        members = [kind for member in get_args(annotation) for kind in kinds(member)]
        return sorted(members, key=lambda kind: kind is not _NONE)
    if get_origin(annotation) is Annotated:
        kind = get_args(annotation)[1]
        return [kind] if isinstance(kind, SettingType) else kinds(get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        return [_choice(get_args(annotation))]
    return [_PLAIN[get_origin(annotation) or annotation]]


def _first(annotation: Any, attempt: Callable[[SettingType], Any]) -> Any:
    for kind in kinds(annotation):
        try:
            return attempt(kind)
        except ValueError:
            continue
    raise ValueError(f"expected {describe(annotation)}")


# --- plain kinds --------------------------------------------------------------------------------------------


def _instance(*types: type) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        # bool is an int to Python, but True is no number of workers.
        if isinstance(value, types) and (bool in types or not isinstance(value, bool)):
            return value
        raise ValueError

    return check


def _check_none(value: Any) -> None:
    if value is not None:
        raise ValueError


def _parse_none(text: str) -> None:
    if text.lower() not in {"", "none", "null"}:
        raise ValueError


_BOOLS = {
    "1": True,
    "true": True,
    "yes": True,
    "on": True,
    "0": False,
    "false": False,
    "no": False,
    "off": False,
}


def _parse_bool(text: str) -> bool:
    try:
        return _BOOLS[text.lower()]
    except KeyError:
        raise ValueError from None


def _check_mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError  # noqa: TRY004 - one exception type says "not this kind"
    return dict(value)


def _parse_json(text: str) -> Any:
    return json.loads(text)  # JSONDecodeError is a ValueError


def _parse_any(text: str) -> Any:
    """JSON where it looks like JSON, else the text: a queue's name, the dotted path of a router."""
    return _parse_json(text) if text[:1] in {"{", "["} else text


_NONE = SettingType("None", _check_none, _parse_none)
_PLAIN: dict[Any, SettingType] = {
    NoneType: _NONE,
    bool: SettingType("true or false", _instance(bool), _parse_bool),
    int: SettingType("a whole number", _instance(int), int),
    float: SettingType("a number", _instance(int, float), float),
    str: SettingType("text", _instance(str), str),
    dict: SettingType("a mapping", _check_mapping, lambda text: _check_mapping(_parse_json(text))),
    Any: SettingType("any value", lambda value: value, _parse_any),
}


def _choice(choices: tuple[Any, ...]) -> SettingType:
    by_text = {str(choice).lower(): choice for choice in choices}

    def check(value: Any) -> Any:
        # `1 == True`: the type must agree as well.
        for choice in choices:
            if type(choice) is type(value) and choice == value:
                return choice
        raise ValueError

    def parse_choice(text: str) -> Any:
        try:
            return by_text[text.lower()]
        except KeyError:
            raise ValueError from None

    return SettingType(" or ".join(repr(choice) for choice in choices), check, parse_choice)


# --- kinds with a meaning -----------------------------------------------------------------------------------

_UNIT_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|[smhdw])\s*)+")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdw])")


def parse_duration(text: str) -> float:
    """Seconds from "90", "1.5h", "10s" or "1h30m". Raises ValueError."""
    if not _DURATION.fullmatch(text):
        return float(text)
    return float(sum(float(number) * _UNIT_SECONDS[unit] for number, unit in _DURATION_PART.findall(text)))


def _check_seconds(value: Any) -> float:
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, str):
        value = parse_duration(value)
    number: float = _instance(int, float)(value)
    if not number >= 0:  # NaN too
        raise ValueError
    return number


def _at_least(minimum: int) -> SettingType:
    def check(value: Any) -> int:
        number: int = _instance(int)(value)
        if number < minimum:
            raise ValueError
        return number

    return SettingType(f"a whole number of at least {minimum}", check, lambda text: check(int(text)))


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _check_names(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return _split(value)
    if not isinstance(value, Iterable) or isinstance(value, Mapping):
        raise ValueError  # noqa: TRY004 - as above
    return tuple(_PLAIN[str].check(item) for item in value)


#: HMAC is as strong as its secret: one that can be guessed is none.
_SECRET_LENGTH = 16


def _check_secrets(value: Any) -> tuple[str, ...]:
    """None at all is an empty list; an empty text is a secret that somebody forgot to fill in."""
    parts = [part.strip() for part in value.split(",")] if isinstance(value, str) else _check_names(value)
    if any(len(part) < _SECRET_LENGTH for part in parts):
        raise ValueError
    return tuple(parts)


def _check_range(value: Any) -> tuple[int, int]:
    parts = [int(part) for part in _split(value)] if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not 1 <= len(parts) <= 2:
        raise ValueError
    most, least = max(map(_instance(int), parts)), min(*parts, *([] if len(parts) == 2 else [0]))
    if least < 0 or most < 1:
        raise ValueError
    return most, max(1, least)


def _check_url(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ";".join(_check_url(item) for item in value)
    text: str = _PLAIN[str].check(value)
    return text


#: Seconds as a number, a timedelta, or text such as "10s", "5m", "1h30m".
Seconds: TypeAlias = Annotated[
    float,
    SettingType(
        'seconds (a number, a timedelta, or text like "10s", "5m", "2h")', _check_seconds, _check_seconds
    ),
]
#: A whole number of at least one.
Count: TypeAlias = Annotated[int, _at_least(1)]
#: A whole number of at least zero.
Amount: TypeAlias = Annotated[int, _at_least(0)]
#: Several names: a list, or text separated by commas.
Names: TypeAlias = Annotated[
    tuple[str, ...], SettingType("names (a list, or text separated by commas)", _check_names, _split)
]
#: Several secrets: a list, or text separated by commas.
Secrets: TypeAlias = Annotated[
    tuple[str, ...],
    SettingType(
        f"secrets of at least {_SECRET_LENGTH} characters each (a list, or text separated by commas)",
        *(_check_secrets, _check_secrets),
    ),
]
#: The most and the fewest of something, the other way round as well; one number is the most, and 1 is the fewest.
Range: TypeAlias = Annotated[
    tuple[int, int],
    SettingType("a range MAX,MIN of whole numbers (MAX at least 1)", _check_range, _check_range),
]
#: A URL, or several for failover: a list, or text separated by `;`.
Url: TypeAlias = Annotated[
    str, SettingType("a URL, or several (a list, or text separated by `;`)", _check_url, str)
]


# --- rate limits --------------------------------------------------------------------------------------------

#: Seconds of the units.
_RATE_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def parse_rate(rate: str | float | None) -> float:
    """Starts per second of "10/s", "100/m", "5/h" or a number per second; 0 where there is no limit.

    Raises:
        ValueError: it is no rate.
    """
    if not rate:
        return 0.0
    try:
        number, _, unit = str(rate).partition("/")
        per_second = float(number) / _RATE_UNITS[unit or "s"]
    except (ValueError, KeyError):
        per_second = -1.0
    if not 0 <= per_second < 1e9:
        raise ValueError(f"{rate!r} is no rate like 10/s, 100/m, 5/h")
    return per_second
