import copy
import json
import math
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskq.errors import ConfigError, ContentDisallowed, DecodeError, EncodeError
from taskq.wire import envelope
from taskq.wire.message import Message
from taskq.wire.protocol import decode, encode, task_id_of
from taskq.wire.request import Request
from taskq.wire.serializers import get_serializer
from tests.calls import call_of

JSON = get_serializer("json")
ALL = frozenset(["json", "msgpack", "yaml", "pickle"])
ID = "00000000-0000-4000-8000-000000000001"
NOON = datetime(2035, 6, 1, 12, tzinfo=UTC)
SIGNATURE: dict[str, Any] = {
    "task": "proj.add",
    "args": [1],
    "kwargs": {},
    "options": {},
    "subtask_type": None,
    "immutable": False,
}


call = call_of


def message(**headers: Any) -> Message:
    return Message(headers={"task": "add", "id": ID, **headers}, body=b"[[2, 2], {}, null]")


TEXT = st.text(min_size=1)
MAYBE = st.none() | TEXT
TIMES = st.none() | st.datetimes(
    min_value=datetime(1, 1, 3),  # noqa: DTZ001 - hypothesis wants it naive
    max_value=datetime(9999, 12, 29),  # noqa: DTZ001 - hypothesis wants it naive
    timezones=st.integers(-840, 840).map(lambda minutes: timezone(timedelta(minutes=minutes))),
)
LIMITS = st.none() | st.integers(0, 10**6) | st.floats(0, 10**6)
SIGNATURES = st.none() | st.lists(st.just(SIGNATURE), max_size=2)
VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False)
    | st.text("abc\u00e9")
)
CALLS = st.fixed_dictionaries(
    {
        "task": TEXT,
        "id": TEXT,
        "args": st.lists(VALUES, max_size=4),
        "kwargs": st.dictionaries(st.text("abc"), VALUES, max_size=3),
        "serializer": st.sampled_from([get_serializer(name) for name in sorted(ALL)]),
        "origin": TEXT,
        "root_id": TEXT,
        "parent_id": MAYBE,
        "group": MAYBE,
        "group_index": st.none() | st.integers(0, 1000),
        "retries": st.integers(0, 1000),
        "eta": TIMES,
        "expires": TIMES,
        "time_limit": LIMITS,
        "soft_time_limit": LIMITS,
        "shadow": MAYBE,
        "argsrepr": TEXT,
        "kwargsrepr": TEXT,
        "ignore_result": st.booleans(),
        "replaced_task_nesting": st.integers(0, 5),
        "stamps": st.dictionaries(TEXT.map(lambda name: f"stamp-{name}"), TEXT),
        "callbacks": SIGNATURES,
        "errbacks": SIGNATURES,
        "chain": SIGNATURES,
        "chord": st.none() | st.just(SIGNATURE),
        "headers": st.dictionaries(TEXT.map(lambda name: f"own-{name}"), VALUES, max_size=2),
        "compression": st.sampled_from([None, "zlib", "bzip2", "lzma", "brotli", "zstd"]),
        "exchange": st.text(),
        "routing_key": TEXT,
        "priority": st.integers(0, 9),
        "reply_to": TEXT,
        "correlation_id": TEXT,
        "delivery_mode": st.sampled_from([1, 2]),
    }
)


@given(CALLS)
def test_a_call_arrives_as_it_was_sent(sent: dict[str, Any]) -> None:
    sent["stamped_headers"] = list(sent["stamps"]) or None
    raw = envelope.dumps(encode(call_of(**sent)), delivery_tag="t")
    request = decode(envelope.loads(raw), ALL)
    same = sent.keys() - {"args", "serializer", "time_limit", "soft_time_limit", "compression", "exchange"}
    same -= {"routing_key", "priority", "delivery_mode"}
    assert {name: getattr(request, name) for name in same} == {name: sent[name] for name in same}
    assert list(request.args) == sent["args"]
    assert request.timelimit == (sent["time_limit"], sent["soft_time_limit"])
    expected = {name: sent[name] for name in ("exchange", "routing_key", "priority")}
    assert request.delivery_info == {**expected, "redelivered": False}


def test_what_is_not_said_has_celerys_defaults() -> None:
    sent = encode(call())
    assert sent == Message(
        headers={
            "lang": "py",
            "task": "add",
            "id": ID,
            "shadow": None,
            "eta": None,
            "expires": None,
            "group": None,
            "group_index": None,
            "retries": 0,
            "timelimit": [None, None],
            "root_id": ID,
            "parent_id": None,
            "argsrepr": "(2, 2)",
            "kwargsrepr": "{}",
            "origin": "",
            "ignore_result": False,
            "replaced_task_nesting": 0,
            "stamped_headers": None,
            "stamps": {},
        },
        body=b'[[2,2],{},{"callbacks":null,"errbacks":null,"chain":null,"chord":null}]',
        correlation_id=ID,
    )


@pytest.mark.parametrize(
    "eta", [NOON, NOON.replace(tzinfo=None), NOON.astimezone(timezone(timedelta(hours=2)))], ids=str
)
def test_times_are_sent_as_utc_and_repeated_for_brokers_that_delay(eta: datetime) -> None:
    sent = encode(call(eta=eta, expires=eta))
    assert sent.headers["eta"] == sent.headers["expires"] == "2035-06-01T12:00:00+00:00"
    assert sent.due == NOON.timestamp()


def test_headers_of_the_caller_win_as_in_celery() -> None:
    assert encode(call(headers={"shadow": "mine", "x": 1})).headers["shadow"] == "mine"


def test_what_cannot_be_sent_is_told_to_the_caller() -> None:
    with pytest.raises(EncodeError, match="is of type set"):
        encode(call(args=({1},)))
    with pytest.raises(ConfigError, match="no compression 'rar'"):
        encode(call(compression="rar"))


def test_the_least_that_is_a_message() -> None:
    assert decode(message(), ["json"]) == Request(
        id=ID,
        task="add",
        args=[2, 2],
        root_id=ID,
        delivery_info={"exchange": "", "routing_key": "celery", "priority": 0, "redelivered": False},
        size=18,
    )


def test_nulls_are_as_good_as_absent() -> None:
    names = (
        "root_id",
        "retries",
        "timelimit",
        "stamps",
        "stamped_headers",
        "replaced_task_nesting",
        "ignore_result",
        "compression",
    )
    assert decode(message(**dict.fromkeys(names)), ["json"]) == decode(message(), ["json"])


@pytest.mark.parametrize(
    "text",
    [
        "2035-06-01T12:00:00+00:00",
        "2035-06-01T12:00:00Z",
        "2035-06-01T14:00:00+0200",
        "20350601T120000Z",
        "2035-06-01 12:00",
        "2035-06-01T12:00:00.000000",
        "2035-W22-5T12:00:00Z",
        NOON,
        NOON.replace(tzinfo=None),
    ],
    ids=str,
)
def test_any_iso_8601_time_is_read_and_means_utc_without_an_offset(text: Any) -> None:
    request = decode(message(eta=text, expires=text), ["json"])
    assert request.eta == request.expires == NOON
    assert request.eta is not None
    assert request.eta.tzinfo is not None


def test_a_date_is_its_midnight() -> None:
    assert decode(message(eta="2035-06-01"), ["json"]).eta == NOON - timedelta(hours=12)


def test_a_content_type_not_listed_is_refused_before_anything_is_read() -> None:
    bad = Message(headers={"compression": 7}, body=b"", content_type="application/x-python-serialize")
    with pytest.raises(
        ContentDisallowed, match="'application/x-python-serialize' is refused: accepted are json"
    ):
        decode(bad, ["json"])


def test_a_content_type_that_nobody_can_read_is_a_decode_error() -> None:
    with pytest.raises(DecodeError, match="no serializer 'text/x'"):
        decode(Message(headers={"task": "a", "id": "b"}, body=b"", content_type="text/x"), ["text/x"])


def test_inflation_is_capped() -> None:
    bomb = Message(
        headers={"task": "a", "id": "b", "compression": "application/x-gzip"}, body=zlib.compress(bytes(2000))
    )
    with pytest.raises(DecodeError, match="more than 1000 inflated"):
        decode(bomb, ["json"], max_inflated=1000)


BAD_HEADERS: dict[str, list[Any]] = {
    "task": [None, "", 7, ["a"]],
    "id": [None, "", 7, {"a": 1}],
    "shadow": [7],
    "eta": ["soon", "", 7, 1e9, ["2035"], "2035-13-01"],
    "expires": ["never", 60, True, "9999-99-99T00:00:00"],
    "group": [1],
    "group_index": ["0", 1.5, True],
    "retries": ["3", -1, 1.0, 2**31, True],
    "timelimit": [
        "30",
        [1],
        [1, 2, 3],
        ["1", None],
        [True, None],
        [math.nan, None],
        [None, math.inf],
        [-1, 1],
    ],
    "root_id": [[]],
    "parent_id": [5],
    "argsrepr": [["x"]],
    "kwargsrepr": [{}],
    "origin": [1],
    "ignore_result": ["yes", 1],
    "replaced_task_nesting": ["1", -1],
    "stamped_headers": ["x", [1], {}],
    "stamps": [["x"], "x"],
    "compression": [7, "application/x-rar", "application/x-gzip"],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, bad in BAD_HEADERS.items() for value in bad]
)
def test_a_header_of_another_type_is_a_decode_error_of_one_line(name: str, value: Any) -> None:
    with pytest.raises(DecodeError) as caught:
        decode(message(**{name: value}), ["json"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "not readable as json"),
        (b"null", "the body is not"),
        (b'"hello"', "the body is not"),
        (b"[[1],{}]", "the body is not"),
        (b"[[1],{},null,1]", "the body is not"),
        (b"[1,{},null]", "args is 1"),
        (b"[null,{},null]", "args is None"),
        (b'["ab",{},null]', "args is 'ab'"),
        (b"[[1],[],null]", "kwargs is"),
        (b"[[1],null,null]", "kwargs is None"),
        (b"[[1],{},[]]", "embed is"),
        (b'[[1],{},{"callbacks":{}}]', "callbacks is"),
        (b'[[1],{},{"errbacks":"x"}]', "errbacks is"),
        (b'[[1],{},{"chain":[1]}]', "chain is"),
        (b'[[1],{},{"chain":[{"task":null}]}]', "chain is"),
        (b'[[1],{},{"chord":[]}]', "chord is"),
        (b'[[1],{},{"chord":{}}]', "chord is"),
    ],
)
def test_a_body_of_another_shape_is_a_decode_error(body: bytes, told: str) -> None:
    with pytest.raises(DecodeError, match=told):
        decode(Message(headers={"task": "add", "id": ID}, body=body), ["json"])


def test_keys_of_kwargs_are_text() -> None:
    packed = get_serializer("msgpack")
    bad = Message(
        headers={"task": "a", "id": "b"}, body=packed.dumps([[], {1: 2}, None]), content_type=packed[1]
    )
    with pytest.raises(DecodeError, match="kwargs has the key 1, which is not text"):
        decode(bad, ["msgpack"])


def old(**fields: Any) -> Message:
    return Message(headers={}, body=json.dumps({"task": "add", "id": ID, **fields}).encode())


def test_protocol_1_with_the_least_it_needs() -> None:
    request = decode(old(), ["json"])
    assert (request.task, request.args, request.kwargs, request.group) == ("add", (), {}, None)


def test_protocol_1_has_its_own_word_for_group() -> None:
    assert decode(old(taskset="t", group="g"), ["json"]).group == "t"
    assert decode(old(taskset=None, group="g"), ["json"]).group == "g"


@pytest.fixture
def five_hours_west(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "EST5")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("five_hours_west")
def test_protocol_1_may_mean_local_time() -> None:
    request = decode(old(utc=False, eta="2035-06-01T07:00:00", expires="2035-06-01T12:00:00Z"), ["json"])
    assert (request.eta, request.expires) == (NOON, NOON)
    assert decode(old(utc=False), ["json"]).eta is None
    assert decode(old(utc=True, eta="2035-06-01T12:00:00"), ["json"]).eta == NOON


@pytest.mark.parametrize(
    "bad",
    [
        old(utc=False, eta="soon"),
        old(utc=False, eta="0001-01-01T00:00:00"),
        old(utc=False, eta=7),
        old(kwargs=[]),
        old(args=None),
        old(task=None),
        old(id=7),
        old(retries="x"),
        old(callbacks=[1]),
        Message(headers={}, body=b"{}"),
        Message(headers={}, body=b"[[1],{},{}]"),
    ],
    ids=range(11),
)
def test_bad_messages_of_protocol_1_are_decode_errors(bad: Message) -> None:
    with pytest.raises(DecodeError):
        decode(bad, ["json"])


def test_the_id_of_an_unreadable_message() -> None:
    assert task_id_of(Message(headers={"id": ID}, body=b"")) == ID
    assert task_id_of(Message(headers={}, body=b"", correlation_id="c")) == "c"
    assert task_id_of(Message(headers={"id": 7}, body=b"")) is None
    assert task_id_of(Message(headers={}, body=b"")) is None


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5)
    | st.datetimes(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FULL = envelope.loads(
    envelope.dumps(
        encode(
            call(
                eta=NOON,
                expires=NOON,
                time_limit=3,
                callbacks=[SIGNATURE],
                errbacks=[SIGNATURE],
                chain=[SIGNATURE],
                chord=SIGNATURE,
                stamped_headers=["a"],
                stamps={"a": "b"},
                headers={"x": 1},
            )
        ),
        delivery_tag="t",
    )
)
BODY = json.loads(FULL.body)


@given(
    st.dictionaries(
        st.sampled_from([*FULL.headers, "compression", "redelivered", "x-death"]), JUNK, min_size=1
    )
)
def test_any_value_in_any_header_is_read_or_refused(changes: dict[str, Any]) -> None:
    with suppress(DecodeError):
        request = decode(Message(headers={**FULL.headers, **changes}, body=FULL.body), ["json"])
        assert_sound(request)


@given(st.data())
def test_any_value_anywhere_in_a_body_is_read_or_refused(data: st.DataObject) -> None:
    body = copy.deepcopy(BODY)
    place: Any = body
    for _ in range(data.draw(st.integers(0, 4))):
        inner = [
            item
            for item in (place.values() if isinstance(place, dict) else place)
            if isinstance(item, dict | list)
        ]
        if inner:
            place = data.draw(st.sampled_from(inner))
    if place:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        place[key] = data.draw(JUNK)
    with suppress(DecodeError):
        assert_sound(decode(Message(headers=FULL.headers, body=JSON.dumps(body)), ["json"]))


@given(
    st.dictionaries(
        st.sampled_from(["task", "id", "args", "kwargs", "utc", "eta", "taskset", "chord"]), JUNK
    ),
    JUNK,
)
def test_any_old_body_is_read_or_refused(fields: dict[str, Any], other: Any) -> None:
    for body in ({"task": "add", "id": ID, **fields}, other):
        with suppress(DecodeError):
            assert_sound(decode(Message(headers={}, body=JSON.dumps(body)), ["json"]))


RAW = envelope.dumps(FULL, delivery_tag="t")


@given(
    st.lists(st.tuples(st.integers(0, len(RAW) - 1), st.integers(0, 255)), min_size=1, max_size=5),
    st.booleans(),
)
def test_damaged_bytes_are_read_or_refused(damage: list[tuple[int, int]], cut: bool) -> None:  # noqa: FBT001 - drawn
    raw = bytearray(RAW)
    for place, byte in damage:
        raw[place] = byte
    with suppress(DecodeError):
        assert_sound(decode(envelope.loads(bytes(raw[: damage[0][0]] if cut else raw)), ["json"]))


@given(
    st.sampled_from(["json", "msgpack", "yaml"]),
    st.binary(),
    st.none() | st.sampled_from(["zlib", "bzip2", "lzma", "brotli", "zstd"]),
)
def test_any_bytes_as_a_body_are_read_or_refused(name: str, body: bytes, compression: str | None) -> None:
    headers = {"task": "add", "id": ID, "compression": compression}
    with suppress(DecodeError):
        decode(Message(headers=headers, body=body, content_type=get_serializer(name).content_type), ALL)


def assert_sound(request: Request) -> None:
    """What the worker relies on."""
    assert isinstance(request.id, str)
    assert request.id
    assert isinstance(request.task, str)
    assert isinstance(request.args, list | tuple)
    assert all(isinstance(key, str) for key in request.kwargs)
    assert all(when is None or when.utcoffset() is not None for when in (request.eta, request.expires))
    assert all(limit is None or limit >= 0 for limit in request.timelimit)
    assert request.retries >= 0
