import dataclasses
import json
import math
import sys
import uuid
from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu.utils import json as kombu_json

from taskq.errors import ConfigError, ContentDisallowed, DecodeError, EncodeError
from taskq.wire import json as ours
from taskq.wire import serializers
from taskq.wire.json import MAX_DEPTH, check_shape
from taskq.wire.serializers import (
    Serializer,
    content_allowed,
    get_serializer,
    json_dumps,
    json_loads,
    register_serializer,
    register_type,
    require_accepted,
)

OFFSETS = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None))


def without_fold(when: Any) -> Any:
    return when.replace(fold=0)  # ISO 8601 has no place for it


EXTENDED = (
    st.datetimes(timezones=st.none() | OFFSETS).map(without_fold)
    | st.dates()
    | st.times(timezones=st.none() | OFFSETS).map(without_fold)
    | st.decimals(allow_nan=True)
    | st.uuids()
    | st.binary()
)


def nested(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    keys = st.text().filter(lambda key: key != "__type__")
    return st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(keys, inner), max_leaves=20)


def same(one: Any, other: Any) -> bool:
    """Equal, and of the same types; NaN is itself here."""
    return repr(one) == repr(other)


@given(nested(PLAIN | EXTENDED))
def test_json_gives_back_what_it_was_given(value: Any) -> None:
    assert same(json_loads(json_dumps(value)), value)


@given(nested(PLAIN | EXTENDED))
def test_kombu_reads_our_json_as_its_own(value: Any) -> None:
    assert same(kombu_json.loads(json_dumps(value)), kombu_json.loads(kombu_json.dumps(value)))


@given(nested(PLAIN | EXTENDED))
def test_we_read_kombus_json_as_it_does(value: Any) -> None:
    raw = kombu_json.dumps(value)
    assert same(json_loads(raw.encode()), kombu_json.loads(raw))


FINITE = st.floats(allow_nan=False)
PORTABLE = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | FINITE | st.text()


@pytest.mark.parametrize("name", ["msgpack", "pickle"])
@given(value=nested(PORTABLE | st.binary()))
def test_the_binary_serializers_give_back_what_they_were_given(name: str, value: Any) -> None:
    serializer = get_serializer(name)
    assert same(serializer.loads(serializer.dumps(value)), value)


@given(
    nested(st.none() | st.booleans() | st.integers() | FINITE | st.datetimes() | st.text("abc \u00e9\n'\""))
)
def test_yaml_gives_back_what_it_was_given(value: Any) -> None:
    serializer = get_serializer("yaml")
    assert serializer.loads(serializer.dumps(value)) == value


@given(
    st.binary() | st.text().map(str.encode) | nested(PLAIN).map(lambda value: json.dumps(value).encode()[:-1])
)
@pytest.mark.parametrize("name", ["json", "msgpack", "yaml"])
def test_reading_rubbish_raises_nothing_but_decode_error(name: str, data: bytes) -> None:
    with suppress(DecodeError):
        get_serializer(name).loads(data)


class WithJson:
    def __init__(self, value: Any) -> None:
        self.value = value

    def __json__(self) -> Any:
        return self.value


class Broken:
    """Its way to be written fails."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __json__(self) -> None:
        raise self.error


class Colour(Enum):
    ID = uuid.UUID(int=1)
    NOTHING = None


@dataclasses.dataclass
class Point:
    x: int


class Numbers(tuple[int, ...]):
    __slots__ = ()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (WithJson([1, 2]), "[1, 2]"),
        (WithJson(math.nan), "NaN"),
        (WithJson(None), "null"),
        ([None, math.nan], "[null, NaN]"),
        ([None, -math.inf, 1.5], "[null, -Infinity, 1.5]"),
        ([None, 1.5, "x", {"k": (True,)}], '[null, 1.5, "x", {"k": [true]}]'),
        (Numbers((1, 2)), "[1, 2]"),
        ({1: "a", 1.5: "b", None: "c", False: "d"}, '{"1": "a", "1.5": "b", "null": "c", "false": "d"}'),
        (2**64, "18446744073709551616"),
        (-(2**63) - 1, "-9223372036854775809"),
        (Colour.ID, '{"__type__": "uuid", "__value__": {"hex": "00000000000000000000000000000001"}}'),
        (Colour.NOTHING, "null"),
        ("00000000-0000-4000-8000-000000000001", '"00000000-0000-4000-8000-000000000001"'),
        (
            [uuid.UUID(int=1)],
            '[{"__type__": "uuid", "__value__": {"hex": "00000000000000000000000000000001"}}]',
        ),
    ],
)
def test_json_writes(value: Any, text: str) -> None:
    assert repr(json.loads(json_dumps(value))) == repr(json.loads(text))


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ([{1}], "{1} is of type set"),
        ({"a": Point(1)}, "is of type Point"),
        ({(1, 2): 3}, "keys must be"),
        ({uuid.UUID(int=1): 3}, "keys must be"),
        (WithJson({1}), "is of type set"),
        (Broken(KeyError("gone")), "KeyError('gone')"),
        ([Broken(RuntimeError("changed meanwhile"))], "changed meanwhile"),
    ],
)
def test_json_says_what_it_cannot_write(value: Any, told: str) -> None:
    with pytest.raises(EncodeError, match="json cannot write") as caught:
        json_dumps(value)
    assert told in str(caught.value)


def test_cyclic_deep_and_endless_values_are_not_written() -> None:
    cyclic: list[Any] = []
    cyclic += [cyclic, cyclic]
    for value in (10**5000, cyclic, deep(MAX_DEPTH + 1), deep(100_000), deep(MAX_DEPTH + 1, math.nan)):
        with pytest.raises(EncodeError, match="json cannot write"):
            json_dumps(value)


def deep(levels: int, core: Any = 1) -> Any:
    for _ in range(levels):
        core = [core]
    return core


@pytest.mark.parametrize("core", [1, None, 2**70])
def test_the_deepest_value_goes_both_ways(core: Any) -> None:
    value = deep(MAX_DEPTH, core)
    assert json_loads(json_dumps(value)) == value
    one_too_many = b"[" + json_dumps(value) + b"]"
    with pytest.raises(DecodeError, match="nested deeper"):
        json_loads(one_too_many)


@pytest.mark.parametrize("levels", [300, 1000, 1015, 2000, 500_000])
def test_bottomless_json_is_a_decode_error(levels: int) -> None:
    with pytest.raises(DecodeError, match="nested deeper"):
        json_loads(b"[" * levels + b"]" * levels)
    with pytest.raises(DecodeError, match="nested deeper"):  # a number for which orjson does not do
        json_loads(b"[" * levels + b"1" * 30 + b"]" * levels)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"", "not readable as json"),
        (b"{", "not readable as json"),
        (b"\xff", "not readable as json"),
        (b"9" * 5000, "not readable as json"),
        (b'{"__type__": "zzz", "__value__": 1}', "unknown __type__ 'zzz'"),
        (b'{"__type__": ["date"], "__value__": 1}', "unknown __type__"),
        (b'{"__type__": "date", "__value__": "soon"}', "'soon' is no date"),
        (b'{"__type__": "date", "__value__": 7}', "7 is no date"),
        (b'{"__type__": "uuid", "__value__": "x"}', "is no uuid"),
        (b'{"__type__": "decimal", "__value__": "x"}', "is no decimal"),
        (b'{"__type__": "bytes", "__value__": 1}', "is no bytes"),
        (b'{"__type__": "base64", "__value__": "a"}', "is no base64"),
    ],
)
def test_json_says_what_it_cannot_read(text: bytes, told: str) -> None:
    with pytest.raises(DecodeError) as caught:
        json_loads(text)
    assert told in str(caught.value)


def test_marks_with_other_keys_are_plain_mappings() -> None:
    for text in (b'{"__type__": "date", "__value__": "2035-06-01", "x": 1}', b'{"__type__": "date", "y": 1}'):
        assert json_loads(text) == json.loads(text)
    assert json_loads(b'"__type__"') == "__type__"


def test_long_digits_that_are_no_integers_are_read_as_they_are() -> None:
    text = b'["00000000000000000000000", 0.1234567890123456789, 123456789012345678901234567890]'
    assert json_loads(text) == json.loads(text)


def test_own_types_go_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "_encoders", ours._encoders.copy())
    monkeypatch.setattr(ours, "_decoders", ours._decoders.copy())
    register_type(
        Fraction,
        "fraction",
        lambda f: [Decimal(f.numerator), f.denominator],
        lambda v: Fraction(int(v[0]), v[1]),
    )
    value = {"third": Fraction(1, 3), "when": datetime(2035, 6, 1, tzinfo=UTC)}
    assert json_loads(json_dumps(value)) == value


@pytest.mark.parametrize("cls", [str, int, float, bool, dict, Colour, Numbers])
def test_types_that_json_writes_by_itself_cannot_be_registered(cls: type) -> None:
    with pytest.raises(ConfigError, match=cls.__qualname__):
        register_type(cls, "x", str, cls)


def test_subclasses_are_written_as_their_base() -> None:
    class Stamp(datetime):
        pass

    assert json_loads(json_dumps([Stamp(2035, 6, 1, tzinfo=UTC)])) == [datetime(2035, 6, 1, tzinfo=UTC)]


@pytest.mark.parametrize("value", [date(2035, 6, 1), time(1, 2), Decimal("NaN"), b"a", uuid.UUID(int=3)])
def test_extended_types_at_the_top(value: Any) -> None:
    assert same(json_loads(json_dumps(value)), value)


@pytest.mark.parametrize("name", ["msgpack", "yaml", "pickle"])
def test_others_say_what_failed(name: str) -> None:
    serializer = get_serializer(name)
    with pytest.raises(EncodeError, match=f"{name} cannot write"):
        serializer.dumps([object, lambda: 1])
    with pytest.raises(DecodeError, match=f"not readable as {name}"):
        serializer.loads(b"\xc1: [")


@pytest.mark.parametrize("name", ["msgpack", "pickle"])
def test_depth_is_bounded_everywhere(name: str) -> None:
    serializer = get_serializer(name)
    with pytest.raises(DecodeError, match="nested deeper"):
        serializer.loads(serializer.dumps(deep(MAX_DEPTH + 1)))


def test_yaml_that_grows_or_bites_its_tail_is_refused() -> None:
    yaml = get_serializer("yaml")
    laughs = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30)
    )
    with pytest.raises(DecodeError, match="expand to more than"):
        yaml.loads(laughs.encode())
    with pytest.raises(DecodeError, match="nested deeper"):
        yaml.loads(b"&a [*a]")
    with pytest.raises(DecodeError, match="not readable as yaml"):
        yaml.loads(b"!!python/object/apply:os.system ['true']")


def test_yaml_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    yaml = get_serializer("yaml")
    with pytest.raises(EncodeError, match=r"taskq-asyncio\[yaml\]"):
        yaml.dumps(1)
    with pytest.raises(DecodeError, match=r"taskq-asyncio\[yaml\]"):
        yaml.loads(b"1")


def test_serializers_are_found_by_name_and_by_type() -> None:
    assert get_serializer("json") is get_serializer("application/json")
    with pytest.raises(ConfigError, match="known are json, msgpack, pickle, yaml"):
        get_serializer("xml")


def test_own_serializers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serializers, "_by_name", serializers._by_name.copy())
    monkeypatch.setattr(serializers, "_by_type", serializers._by_type.copy())
    register_serializer(Serializer("text", "text/x", "utf-8", str.encode, bytes.decode))
    text = get_serializer("text/x")
    assert text.loads(text.dumps("a")) == "a"
    assert content_allowed("text/x", ["text"])
    with pytest.raises(EncodeError, match=r"text cannot write \[1\]"):
        text.dumps([1])
    with pytest.raises(DecodeError, match="not readable as text"):
        text.loads(b"\xff")


def test_accept_takes_names_and_types() -> None:
    assert content_allowed("application/json", ["json"])
    assert content_allowed("application/json", {"application/json"})
    assert content_allowed("text/unknown", ("text/unknown",))
    assert not content_allowed("application/x-python-serialize", ["json", "msgpack"])
    require_accepted("application/json", ["json"])
    with pytest.raises(ContentDisallowed, match=r"'application/x-yaml' is refused: accepted are json \("):
        require_accepted("application/x-yaml", ["json"])
    with pytest.raises(ContentDisallowed, match="accepted are nothing"):
        require_accepted("text/unknown", [])


def test_shape_counts_what_is_shared_each_time() -> None:
    row = [0] * 1000
    check_shape([row] * 100, 10_000)
    with pytest.raises(DecodeError, match="expand to more than 110000 values"):
        check_shape([row] * 111, 10_000)
