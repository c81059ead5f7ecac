"""Field tables of AMQP 0-9-1: the headers of a message. No I/O.

A task message has some twenty headers, each with its name and type. Most of them are the same from one message to the
next: a `TableReader` learns which, and reads the others alone.
"""

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from math import isfinite
from struct import Struct
from types import NoneType
from typing import Any, NamedTuple

from taskq.errors import DecodeError, EncodeError

_i32, _u32, _u64 = (Struct(code).unpack_from for code in (">i", ">I", ">Q"))
_pack_u32, _pack_u64 = (Struct(code).pack for code in (">I", ">Q"))
_pack_int32, _pack_int64, _pack_double = (Struct(code).pack for code in (">bi", ">bq", ">bd"))
_pack_decimal = Struct(">bBi").pack
_read_decimal = Struct(">Bi").unpack_from
#: Types of values that never change.
_CONSTANT = frozenset((str, int, bool, float, NoneType))


# -- writing ------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def short_string(text: str) -> bytes:
    """A name: at most 255 bytes."""
    try:
        data = text.encode()
    except (AttributeError, UnicodeEncodeError) as error:
        raise EncodeError(f"AMQP names and header keys are text, not {text!r:.60}") from error
    if len(data) > 255:
        raise EncodeError(
            f"AMQP names and header keys have at most 255 bytes, this one has {len(data)}: {text[:60]!r}..."
        )
    return bytes((len(data),)) + data


def _write_text(value: str) -> bytes:
    data = value.encode()
    return b"S" + _pack_u32(len(data)) + data


def _write_int(value: int) -> bytes:
    # Always I or l: older py-amqp reads the shorter letters that pamqp writes (s, u) as something else.
    if -0x8000_0000 <= value <= 0x7FFF_FFFF:
        return _pack_int32(0x49, value)
    if -(1 << 63) <= value < 1 << 63:
        return _pack_int64(0x6C, value)
    raise EncodeError(f"an AMQP header holds 64-bit integers at most, not {value}")


def _write_float(value: float) -> bytes:
    if not isfinite(value):  # RabbitMQ closes the whole connection: it cannot read them
        raise EncodeError(f"an AMQP header holds finite numbers, not {value!r}")
    return _pack_double(0x64, value)


def _write_list(value: Iterable[Any]) -> bytes:
    data = b"".join([_write(item) for item in value])
    return b"A" + _pack_u32(len(data)) + data


def _write_decimal(value: Decimal) -> bytes:
    if not value.is_finite():
        raise EncodeError(f"an AMQP header holds finite numbers, not {value!r}")
    _, _, exponent = value.as_tuple()
    if isinstance(exponent, int) and -255 <= exponent <= 0 and abs(value.scaleb(-exponent)) < 1 << 31:
        return _pack_decimal(0x44, -exponent, int(value.scaleb(-exponent)))
    return _write_text(str(value))


def _write_time(value: datetime) -> bytes:
    aware = value if value.tzinfo else value.replace(tzinfo=UTC)
    return b"T" + _pack_u64(int(aware.timestamp()))


_WRITERS: dict[type, Callable[[Any], bytes]] = {
    NoneType: lambda _: b"V",
    str: _write_text,
    int: _write_int,
    bool: lambda value: b"t\1" if value else b"t\0",
    float: _write_float,
    list: _write_list,
    tuple: _write_list,
    dict: lambda value: b"F" + write_table(value),
    bytes: lambda value: b"x" + _pack_u32(len(value)) + value,
    Decimal: _write_decimal,
    datetime: _write_time,
}


def _write(value: Any) -> bytes:
    writer = _WRITERS.get(type(value))
    if writer is not None:
        return writer(value)
    for kind, known in _WRITERS.items():
        if isinstance(value, kind):
            return known(value)
    raise EncodeError(f"an AMQP header cannot hold a {type(value).__name__}: {value!r}")


class _Column:
    """Fields of one name, in tables with the same names: the last one written, for a value that is the same object."""

    __slots__ = ("_label", "last")

    def __init__(self, name: str) -> None:
        self._label = short_string(name)
        self.last: tuple[Any, bytes] = (self, b"")

    def write(self, value: Any) -> bytes:
        field = self._label + (_WRITERS.get(type(value)) or _write)(value)
        if type(value) in _CONSTANT:
            self.last = (value, field)  # both at once: other threads may write, too
        return field


@lru_cache(maxsize=256)
def _columns(names: tuple[str, ...]) -> list[_Column]:
    return list(map(_Column, names))


def write_table(fields: Mapping[str, Any]) -> bytes:
    """A field table, its length in front."""
    if not fields:
        return b"\0\0\0\0"
    parts = []
    for column, value in zip(_columns(tuple(fields)), fields.values(), strict=True):
        known, field = column.last
        parts.append(field if value is known else column.write(value))
    data = b"".join(parts)
    return _pack_u32(len(data)) + data


# -- reading ------------------------------------------------------------------------------------------------


@lru_cache(maxsize=2048)
def _name(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def read_short(data: bytes, at: int) -> tuple[str, int]:
    start = at + 1
    end = start + data[at]
    return _name(data[start:end]), end


def _read_text(data: bytes, at: int) -> tuple[Any, int]:
    start = at + 4
    end = start + _u32(data, at)[0]
    return _text(data[start:end]), end


def _text(raw: bytes) -> str | bytes:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def _read_bytes(data: bytes, at: int) -> tuple[bytes, int]:
    end = at + 4 + _u32(data, at)[0]
    return data[at + 4 : end], end


def _read_list(data: bytes, at: int) -> tuple[list[Any], int]:
    end = at + 4 + _u32(data, at)[0]
    at += 4
    items = []
    while at < end:
        value, at = _READERS[data[at]](data, at + 1)
        items.append(value)
    return items, end


def read_table(data: bytes, at: int) -> tuple[dict[str, Any], int]:
    """A field table and where it ends."""
    end = at + 4 + _u32(data, at)[0]
    if end > len(data):
        raise DecodeError("an AMQP table is longer than its frame")
    at += 4
    fields: dict[str, Any] = {}
    while at < end:
        start = at + 1
        at = start + data[at]
        fields[_name(data[start:at])], at = _READERS[data[at]](data, at + 1)
    return fields, end


def _read_time(data: bytes, at: int) -> tuple[Any, int]:
    seconds = _u64(data, at)[0]
    try:
        return datetime.fromtimestamp(seconds, UTC), at + 8
    except (OverflowError, ValueError, OSError):
        return seconds, at + 8


def _read_decimal_value(data: bytes, at: int) -> tuple[Decimal, int]:
    scale, number = _read_decimal(data, at)
    return Decimal(number).scaleb(-scale), at + 5


def _fixed(code: str) -> Callable[[bytes, int], tuple[Any, int]]:
    """A reader of one value of fixed size."""
    layout = Struct(code)
    unpack, size = layout.unpack_from, layout.size
    return lambda data, at: (unpack(data, at)[0], at + size)


#: The letters as RabbitMQ means them; U is py-amqp's 16-bit integer, s is RabbitMQ's.
_READERS: dict[int, Callable[[bytes, int], tuple[Any, int]]] = {
    0x56: lambda _, at: (None, at),  # V
    0x53: _read_text,  # S
    0x49: _fixed(">i"),
    0x6C: _fixed(">q"),  # l
    0x4C: _fixed(">q"),  # L
    0x74: _fixed(">?"),  # t
    0x64: _fixed(">d"),
    0x41: _read_list,
    0x46: read_table,
    0x62: _fixed(">b"),
    0x42: _fixed(">B"),
    0x73: _fixed(">h"),
    0x55: _fixed(">h"),
    0x75: _fixed(">H"),
    0x69: _fixed(">I"),
    0x66: _fixed(">f"),
    0x54: _read_time,
    0x44: _read_decimal_value,
    0x78: _read_bytes,
}


# -- reading what is mostly known ---------------------------------------------------------------------------

#: Shapes of tables that a reader remembers: a program sends few.
MOST_SHAPES = 16


class _Field(NamedTuple):
    """Where a field of a table lies; `value` is where its value begins, after the letter of its type."""

    name: str
    kind: int
    start: int
    value: int
    end: int


class _Shape:
    """Tables that have the same fields of the same types; most of their values have been the same so far.

    Such a table is known text with gaps: `steps` are the text before each gap, its length, the name of the field in
    the gap and whether that is text (else a 32-bit integer); `rest` is the text behind the last gap.
    """

    def __init__(self, sample: bytes) -> None:
        self._sample = sample
        self._fields = _fields_of(sample)
        self._model, _ = read_table(sample, 0)
        self._lists = [name for name, value in self._model.items() if isinstance(value, list | dict)]
        self.kinds = [(field.name, field.kind) for field in self._fields]
        self._gaps: set[str] = set()
        self._divide()

    @property
    def usable(self) -> bool:
        """Whether it is sound, and copies of its values can be handed out: nothing to change lies below the first level."""
        if len(self._model) != len(self._fields) or self._fields[-1].end != len(self._sample):
            return False
        inner = [item for name in self._lists for item in self._model[name]]
        return all(type(item) in _CONSTANT for item in inner) and not any(
            map(_is_full_dict, self._model.values())
        )

    def _divide(self) -> None:
        self.steps: list[tuple[bytes, int, str, bool]] = []
        start = 4  # the length in front is not the same
        for name, kind, _, value, end in self._fields:
            if name in self._gaps:
                text = self._sample[start:value]
                self.steps.append((text, len(text), name, kind == 0x53))
                start = end
        self.rest = self._sample[start:]

    def learn(self, data: bytes, fields: Sequence[_Field]) -> bool:
        """Leave gaps where this table differs; False where that cannot be: neither text nor an integer."""
        for old, new in zip(self._fields, fields, strict=True):
            if self._sample[old.value : old.end] != data[new.value : new.end]:
                if old.kind not in {0x53, 0x49}:
                    return False
                self._gaps.add(old.name)
        self._divide()
        return True

    def read(self, data: bytes, at: int, end: int) -> dict[str, Any] | None:
        """The table whose fields lie there, None if it is another."""
        fields = self._model.copy()
        for text, size, name, is_text in self.steps:
            if not data.startswith(text, at):
                return None
            at += size
            if is_text:
                start = at + 4
                at = start + _u32(data, at)[0]
                fields[name] = data[start:at].decode()
            else:
                fields[name] = _i32(data, at)[0]
                at += 4
        if end - at != len(self.rest) or not data.startswith(self.rest, at):
            return None
        for name in self._lists:
            fields[name] = fields[name].copy()
        return fields


class TableReader:
    """Reads tables of which most look like one before."""

    def __init__(self) -> None:
        self._shapes: list[_Shape] = []

    @property
    def shapes(self) -> int:
        """How many it has learned."""
        return len(self._shapes)

    def read(self, data: bytes, at: int) -> tuple[dict[str, Any], int]:
        """A field table and where it ends.

        Raises:
            DecodeError, and what else reading raises: it cannot be read.
        """
        end = at + 4 + _u32(data, at)[0]
        for shape in self._shapes if end <= len(data) else ():
            try:
                known = shape.read(data, at + 4, end)
            except (UnicodeDecodeError, struct.error):
                continue
            if known is not None:
                return known, end
        fields, end = read_table(data, at)
        if fields:
            with suppress(
                DecodeError, struct.error, IndexError, KeyError
            ):  # values that end behind the table
                self._learn(data[at:end])
        return fields, end

    def _learn(self, data: bytes) -> None:
        fields = _fields_of(data)
        kinds = [(field.name, field.kind) for field in fields]
        for shape in self._shapes:
            if shape.kinds == kinds:
                if not shape.learn(data, fields):
                    self._shapes.remove(shape)
                return
        if len(self._shapes) < MOST_SHAPES and (shape := _Shape(data)).usable:
            self._shapes.append(shape)


def _is_full_dict(value: Any) -> bool:
    return isinstance(value, dict) and bool(value)


def _fields_of(data: bytes) -> list[_Field]:
    """The fields of a readable table."""
    at, found = 4, []
    while at < len(data):
        start, at = at, at + 1 + data[at]
        kind = data[at]
        _, end = _READERS[kind](data, at + 1)
        found.append(_Field(_name(data[start + 1 : at]), kind, start, at + 1, end))
        at = end
    return found
