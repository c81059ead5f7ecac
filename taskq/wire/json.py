"""JSON as Celery writes and reads it (wire-format.md 1.8), at orjson's speed.

Two ways out and two ways in, the fast one and the complete one. orjson does the work as long as its answer
is surely the one kombu would give; the standard library does it for what orjson writes or reads otherwise:
NaN and Infinity, UUIDs, integers beyond 64 bits, keys that are not text, half surrogates.
"""

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Callable
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Any, TypeVar
from uuid import UUID

import orjson

from taskq.errors import ConfigError, DecodeError, EncodeError
from taskq.wire.repr import saferepr

T = TypeVar("T")

#: How deep a document may nest: as deep as orjson writes. `repr` of 500 levels ends in RecursionError.
MAX_DEPTH = 254

_OPTIONS = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS
#: How the body of a task without links ends: these nulls are None for sure, and not NaN.
_NO_LINKS = b'{"callbacks":null,"errbacks":null,"chain":null,"chord":null}]'
_UUID_TEXT = re.compile(rb'"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"')
#: Types that orjson, helped by `_default`, writes as kombu does.
_FAITHFUL = frozenset((str, int, bool, type(None), datetime, date, time, Decimal, bytes))
#: Digits become zeros, all else blanks: finds long integers ten times faster than a regular expression.
_DIGITS_AS_ZEROS = bytes(48 if 48 <= code < 58 else 32 for code in range(256))
_MAYBE_BEYOND_64_BITS = b"0" * 19
#: What JSON writes without asking for an encoder.
_NATIVE = (str, int, float, list, tuple, dict, type(None))

_encoders: dict[type, tuple[str, Callable[[Any], Any]]] = {}
_decoders: dict[str, Callable[[Any], Any]] = {}


def register_type(cls: type[T], name: str, encode: Callable[[T], Any], decode: Callable[[Any], T]) -> None:
    """Let JSON carry values of a class and its subclasses, as `{"__type__": name, "__value__": encode(value)}`.

    Both sides need it; a Celery program does the same with `kombu.utils.json.register_type`. `encode` returns
    what JSON can write, other extended types included.

    Raises:
        ConfigError: JSON writes the class by itself (text, numbers, lists, mappings), or it is an Enum, which
            is written as its value.
    """
    if issubclass(cls, (*_NATIVE, Enum)):
        raise ConfigError(f"{cls.__qualname__} cannot be registered: JSON writes it without asking")
    _encoders[cls] = (name, encode)
    _decoders[name] = decode


def json_dumps(value: Any, doubtful: Any = ...) -> bytes:
    """Write a value as kombu would.

    An object with a method `__json__()` is replaced by what that returns, an Enum by its value. `doubtful` is the part
    of it that may hold anything, where all else is known to be texts and integers.

    Raises:
        EncodeError: some part of it is of no known type, or it nests deeper than 254 levels.
    """
    try:
        out = orjson.dumps(value, _default, _OPTIONS)
    except TypeError:  # orjson.JSONEncodeError is one: perhaps only orjson cannot
        return _dumps_completely(value)
    end = len(out) - len(_NO_LINKS) if out.endswith(_NO_LINKS) else len(out)
    if (out.find(b"null", 0, end) >= 0 or _UUID_TEXT.search(out, 0, end)) and _is_written_otherwise(
        value if doubtful is ... else doubtful
    ):
        return _dumps_completely(value)
    return out


def kombu_text(value: Any) -> bytes:
    """Write a value as kombu does, to the letter: for texts that are compared with what Celery writes.

    Raises:
        EncodeError: as `json_dumps`.
    """
    return json.dumps(json.loads(json_dumps(value))).encode()


def json_loads(data: bytes) -> Any:
    """Read what kombu wrote.

    Raises:
        DecodeError: not JSON, nested deeper than 254 levels, or with an unknown or malformed `__type__`.
    """
    try:
        value = orjson.loads(data)
        if _MAYBE_BEYOND_64_BITS in data.translate(_DIGITS_AS_ZEROS):  # orjson would read a float
            value = _loads_completely(data)
    except ValueError:  # orjson.JSONDecodeError is one
        value = _loads_completely(data)
    if _may_be_deep(data):
        check_shape(value, len(data))
    return _revive(value) if b"__type__" in data else value


def check_shape(value: Any, size: int) -> None:
    """Refuse what later readers would choke on: too deep, cyclic, or many times larger than its `size` in bytes.

    The last two are only possible where values are shared, as in YAML ("billion laughs") and pickle.

    Raises:
        DecodeError: with what is wrong.
    """
    room = size + 100_000
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [item for item in level if isinstance(item, dict | list | tuple)]
        if not level:
            return
        room -= sum(map(len, level))
        if room < 0:
            raise DecodeError(f"refused: {size} bytes expand to more than {size + 100_000} values")
        level = [child for item in level for child in (item.values() if isinstance(item, dict) else item)]
    raise DecodeError(f"refused: nested deeper than {MAX_DEPTH} levels")


def _is_written_otherwise(value: Any) -> bool:
    """Whether orjson may have written something differently from kombu: NaN as null, a UUID as its text."""
    todo = [value]
    for item in todo:  # grows meanwhile
        kind = type(item)
        if kind in _FAITHFUL:
            continue
        if kind is dict:
            todo += item.values()
        elif kind is list or kind is tuple:
            todo += item
        elif kind is not float or item - item != 0:  # finite minus itself is 0, inf and NaN are not
            return True
    return False


def _dumps_completely(value: Any) -> bytes:
    try:
        out = json.dumps(value, default=_default, separators=(",", ":")).encode()
        if _may_be_deep(out):
            check_shape(value, len(out))
    except (TypeError, ValueError, RecursionError, DecodeError) as exc:
        raise EncodeError(f"json cannot write {saferepr(value, 200)}: {exc}") from exc
    except Exception as exc:  # a `__json__` or a registered encoder of the user's
        raise EncodeError(f"json cannot write {saferepr(value, 200)}: {exc!r}") from exc
    return out


def _loads_completely(data: bytes) -> Any:
    try:
        return json.loads(data.decode())
    except RecursionError:
        raise DecodeError(f"refused: nested deeper than {MAX_DEPTH} levels") from None
    except ValueError as exc:  # JSONDecodeError, UnicodeDecodeError, an int of more than 4300 digits
        raise DecodeError(f"not readable as json: {exc}") from exc


def _may_be_deep(data: bytes) -> bool:
    # What is opened is closed: a short document cannot be deep, and most are short.
    return len(data) > 2 * MAX_DEPTH and data.count(b"[") + data.count(b"{") > MAX_DEPTH


def _default(value: Any) -> Any:
    """What to write in place of a value that JSON has no form for."""
    own_way = getattr(value, "__json__", None)
    if own_way is not None:
        return own_way()
    for cls in type(value).__mro__:
        if cls in _encoders:
            name, encode = _encoders[cls]
            return {"__type__": name, "__value__": encode(value)}
    if isinstance(value, bytes):
        return _bytes(value)
    if isinstance(value, Enum):
        return value.value
    raise TypeError(f"{saferepr(value, 100)} is of type {type(value).__qualname__}, which has no JSON form")


def _bytes(value: bytes) -> dict[str, str]:
    try:
        return {"__type__": "bytes", "__value__": value.decode()}
    except UnicodeDecodeError:
        return {"__type__": "base64", "__value__": b64encode(value).decode()}


def _revive(value: Any) -> Any:
    """Put the values back that were written as extended types: innermost first, in place."""
    if type(value) is dict:
        for key, item in value.items():
            if type(item) is dict or type(item) is list:
                value[key] = _revive(item)
        return _decoded(value) if len(value) == 2 and value.keys() == _MARKED else value
    if type(value) is list:
        for index, item in enumerate(value):
            if type(item) is dict or type(item) is list:
                value[index] = _revive(item)
    return value


def _decoded(marked: dict[str, Any]) -> Any:
    name, value = marked["__type__"], marked["__value__"]
    decode = _decoders.get(name) if isinstance(name, str) else None
    if decode is None:
        raise DecodeError(
            f"unknown __type__ {saferepr(name, 60)}: taskq.wire.serializers.register_type makes it known"
        )
    try:
        return decode(value)
    except Exception as exc:
        raise DecodeError(f"{saferepr(value, 60)} is no {name}: {exc}") from exc


def _text(value: Any) -> bytes:
    encoded: bytes = value.encode()
    return encoded


_MARKED = {"__type__": 0, "__value__": 0}.keys()

register_type(date, "date", date.isoformat, lambda text: datetime.fromisoformat(text).date())
register_type(datetime, "datetime", datetime.isoformat, datetime.fromisoformat)
register_type(time, "time", time.isoformat, time.fromisoformat)
register_type(Decimal, "decimal", str, Decimal)
register_type(UUID, "uuid", lambda value: {"hex": value.hex}, lambda value: UUID(value["hex"]))
_decoders["bytes"] = _text
_decoders["base64"] = lambda text: b64decode(text, validate=True)
