"""Our frames are what pamqp reads, and what pamqp writes we read; nothing from the wire raises but DecodeError."""

import json
import struct
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pamqp.frame
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pamqp import commands
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

from taskq.broker_adapters.amqp.codec import (
    DELIVER,
    FRAME_OVERHEAD,
    RETURN,
    ChannelReader,
    Envelope,
    frame_start,
    write_ack,
    write_publish,
    write_requeue,
)
from taskq.broker_adapters.amqp.tables import MOST_SHAPES, TableReader, read_table, write_table
from taskq.broker_adapters.amqp.wire import Tap
from taskq.errors import DecodeError, EncodeError
from taskq.wire.message import Message

GOLDEN = Path(__file__).parents[2] / "wire" / "golden" / "messages_amqp.json"

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
NAME = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
SCALAR = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    TEXT,
    st.datetimes(datetime(1970, 1, 2), datetime(2100, 1, 1), timezones=st.just(UTC)).map(  # noqa: DTZ001 - hypothesis adds the zone
        lambda moment: moment.replace(microsecond=0)
    ),
    st.decimals(-(2**31) + 1, 2**31 - 1, allow_nan=False, allow_infinity=False, places=0),
)
VALUE = st.recursive(
    SCALAR,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAME, inner, max_size=4),
    max_leaves=12,
)
TABLE = st.dictionaries(NAME, VALUE, max_size=8)
#: What pamqp writes as it was given: its floats are narrowed to 32 bits.
PAMQP_TABLE = st.dictionaries(
    NAME,
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**63 - 1)
        | TEXT
        | st.floats(width=32, allow_nan=False, allow_infinity=False),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAME, inner, max_size=4),
        max_leaves=12,
    ),
    max_size=8,
)
MESSAGES = st.builds(
    Message,
    headers=TABLE,
    body=st.binary(max_size=300),
    content_type=NAME,
    content_encoding=NAME,
    correlation_id=NAME,
    reply_to=NAME,
    priority=st.integers(0, 255),
    delivery_mode=st.sampled_from([1, 2]),
    exchange=st.from_regex(r"[a-zA-Z0-9_.:-]{0,30}", fullmatch=True),  # pamqp insists
    routing_key=NAME,
)


class Taken:
    """Keeps what a reader said."""

    def __init__(self) -> None:
        self.arrivals: list[tuple[Envelope, Message]] = []
        self.answers: list[tuple[int, bool, bool]] = []
        self.refusals: list[tuple[int, str]] = []

    def arrived(self, envelope: Envelope, message: Message) -> None:
        self.arrivals.append((envelope, message))

    def refused(self, code: int, reason: str) -> None:
        self.refusals.append((code, reason))

    def answered(self, tag: int, *, multiple: bool, accepted: bool) -> None:
        self.answers.append((tag, multiple, accepted))


def frames_of(data: bytes) -> list[tuple[int, Any]]:
    frames = []
    while data:
        size, channel, frame = pamqp.frame.unmarshal(data)
        frames.append((channel, frame))
        data = data[size:]
    return frames


def read(data: bytes, reader: ChannelReader) -> list[bool]:
    """Give whole frames to a reader, as the tap does."""
    at, ours = 0, []
    while at < len(data):
        kind, _, size = frame_start(data, at)
        end = at + FRAME_OVERHEAD + size
        ours.append(reader.take(kind, data, at + 7, end - 1))
        at = end
    return ours


def delivered(message: Message, properties: commands.Basic.Properties, frame_max: int = 100) -> bytes:
    """The frames of a delivery as a server sends them, by pamqp."""
    method = commands.Basic.Deliver("c1", 7, True, message.exchange, message.routing_key)
    parts = [
        pamqp.frame.marshal(method, 3),
        pamqp.frame.marshal(ContentHeader(0, len(message.body), properties), 3),
    ]
    pieces = [message.body[start : start + frame_max] for start in range(0, len(message.body), frame_max)]
    parts += [pamqp.frame.marshal(ContentBody(piece), 3) for piece in pieces]
    return b"".join(parts)


@settings(max_examples=200)
@given(MESSAGES, st.sampled_from([4096, 131072]))  # 4096 is the least there is
def test_pamqp_reads_what_we_publish(message: Message, frame_max: int) -> None:
    (channel, method), (_, header), *bodies = frames_of(write_publish(5, message, frame_max))
    assert channel == 5
    assert isinstance(method, commands.Basic.Publish)
    assert (method.exchange, method.routing_key) == (message.exchange, message.routing_key)
    assert (method.mandatory, method.immediate) == (True, False)
    properties = header.properties
    assert properties.headers == message.headers
    assert (properties.content_type, properties.content_encoding) == (
        message.content_type,
        message.content_encoding,
    )
    assert (properties.delivery_mode, properties.priority) == (message.delivery_mode, message.priority)
    assert (properties.correlation_id or "", properties.reply_to or "") == (
        message.correlation_id,
        message.reply_to,
    )
    assert header.body_size == len(message.body)
    assert b"".join(body.value for _, body in bodies) == message.body
    assert all(len(body.value) <= frame_max - FRAME_OVERHEAD for _, body in bodies)


@settings(max_examples=200)
@given(MESSAGES, PAMQP_TABLE, st.booleans())
def test_we_read_what_pamqp_writes(message: Message, headers: dict[str, Any], bare: bool) -> None:  # noqa: FBT001 - drawn
    message.headers = headers
    properties = (
        commands.Basic.Properties()
        if bare
        else commands.Basic.Properties(
            content_type=message.content_type or None,
            content_encoding=message.content_encoding or None,
            headers=headers,
            delivery_mode=message.delivery_mode,
            priority=message.priority,
            correlation_id=message.correlation_id or None,
            reply_to=message.reply_to or None,
            expiration="60000",
            message_id="m",
            timestamp=datetime(2035, 6, 1, tzinfo=UTC),
            app_id="someone",
        )
    )
    taken = Taken()
    assert all(read(delivered(message, properties), ChannelReader(taken)))
    ((envelope, found),) = taken.arrivals
    assert envelope == Envelope(DELIVER, message.exchange, message.routing_key, "c1", 7, True)
    expected = message
    if bare:
        expected = Message(
            {}, message.body, "", "", exchange=message.exchange, routing_key=message.routing_key
        )
    assert found == expected


@settings(max_examples=200)
@given(TABLE)
def test_tables_come_back_as_they_went(table: dict[str, Any]) -> None:
    data = write_table(table)
    assert read_table(data, 0) == (table, len(data))


def changed(value: Any) -> None:
    """As a task might leave what it was given."""
    for item in [*value.values()] if isinstance(value, dict) else [*value]:
        if isinstance(item, dict | list):
            changed(item)
    value.clear()


@given(
    st.lists(
        st.fixed_dictionaries(
            {"id": TEXT, "lang": st.just("py"), "index": st.integers(-5, 5), "limits": st.just([None, None])},
            optional={"eta": st.none() | TEXT, "big": st.just(2**40), "stamps": st.just({}) | TABLE},
        ),
        max_size=30,
    )
)
def test_a_reader_that_learns_reads_what_is_there(tables: list[dict[str, Any]]) -> None:
    reader = TableReader()
    for table in tables:
        raw = b"before" + write_table(table) + b"behind"
        found, end = reader.read(raw, 6)
        assert (found, end) == read_table(raw, 6)
        assert list(found) == list(table)
        assert list(map(type, found.values())) == [type(value) for value in table.values()]
        changed(found)


def test_a_reader_remembers_few_shapes() -> None:
    reader = TableReader()
    for number in range(3 * MOST_SHAPES):
        table = {f"name-{number}": number}
        assert reader.read(write_table(table), 0)[0] == table
    assert reader.shapes == MOST_SHAPES


@given(TABLE, st.data())
def test_a_reader_that_learned_survives_broken_tables(table: dict[str, Any], data: st.DataObject) -> None:
    reader = TableReader()
    raw = write_table({"id": "a", "n": 1, **table})
    reader.read(raw, 0)
    reader.read(write_table({"id": "b", "n": 2, **table}), 0)
    at = data.draw(st.integers(0, len(raw) - 1))
    broken = raw[:at] + bytes([data.draw(st.integers(0, 255))]) + raw[at + 1 :]
    try:
        expected = read_table(broken, 0)
    except (DecodeError, struct.error, IndexError, KeyError, RecursionError):
        with pytest.raises((DecodeError, struct.error, IndexError, KeyError, RecursionError)):
            reader.read(broken, 0)
    else:
        assert repr(reader.read(broken, 0)) == repr(expected)


def test_a_reader_reads_a_table_whose_last_value_ends_behind_it() -> None:
    raw = write_table({"id": "a", "inner": {"x": None}})
    cut = struct.pack(">I", len(raw) - 6) + raw[4:]
    assert TableReader().read(cut, 0) == read_table(cut, 0)


@pytest.mark.parametrize("values", [(1, True, 1.0), (0, False, 0.0), ([], {}, ""), ([1], [2], [1])])
def test_what_is_equal_is_not_written_the_same(values: tuple[Any, ...]) -> None:
    for value in values:
        found, _ = read_table(write_table({"equal": value}), 0)
        assert repr(found) == repr({"equal": value})


@pytest.mark.parametrize("record", json.loads(GOLDEN.read_text())["data"], ids=lambda record: record["case"])
def test_golden_messages_go_through_unchanged(record: dict[str, Any]) -> None:
    for golden in record["messages"]:
        body = golden["body"] if isinstance(golden["body"], str) else ""
        message = Message(golden["headers"], body.encode(), routing_key="celery")
        header = frames_of(write_publish(1, message, 131072))[1][1]
        assert header.properties.headers == golden["headers"]
        taken = Taken()
        read(delivered(message, header.properties), ChannelReader(taken))
        assert taken.arrivals[0][1] == message


def test_the_end_of_a_channel_is_seen_and_left_to_the_driver() -> None:
    taken = Taken()
    closing = pamqp.frame.marshal(commands.Channel.Close(404, "NOT_FOUND - no exchange", 60, 40), 1)
    assert read(closing, ChannelReader(taken)) == [False]
    assert taken.refusals == [(404, "NOT_FOUND - no exchange")]


@pytest.mark.parametrize(
    ("value", "read_as"),
    [
        ((1, [2]), [1, [2]]),
        (Decimal("1.10"), Decimal("1.10")),
        (Decimal("1E+40"), "1E+40"),
        (b"\xff", bytearray(b"\xff")),
        (datetime(2035, 6, 1, 12), datetime(2035, 6, 1, 12, tzinfo=UTC)),  # noqa: DTZ001 - naive means UTC
    ],
)
def test_unusual_header_values(value: Any, read_as: Any) -> None:
    header = frames_of(write_publish(1, Message({"h": value}, b""), 131072))[1][1]
    assert header.properties.headers == {"h": read_as}


@pytest.mark.parametrize(
    "message",
    [
        Message({"n": 2**63}, b""),
        Message({"x": object()}, b""),
        Message({"k" * 256: 1}, b""),
        Message({}, b"", routing_key="ż" * 128),
        Message({}, b"", correlation_id="x" * 256),
    ],
    ids=["integer", "object", "key", "routing key", "property"],
)
def test_what_amqp_cannot_hold_is_said(message: Message) -> None:
    with pytest.raises(EncodeError, match="AMQP"):
        write_publish(1, message, 131072)


@given(st.integers(0, 65535), st.integers(0, 2**63 - 1), st.booleans())
def test_acks_are_pamqps(channel: int, tag: int, multiple: bool) -> None:  # noqa: FBT001 - drawn
    assert write_ack(channel, tag, multiple) == pamqp.frame.marshal(
        commands.Basic.Ack(tag, multiple), channel
    )
    assert write_requeue(channel, tag) == pamqp.frame.marshal(commands.Basic.Nack(tag, False, True), channel)


@given(st.integers(0, 2**63 - 1), st.booleans())
def test_confirms_are_read(tag: int, multiple: bool) -> None:  # noqa: FBT001 - drawn
    taken = Taken()
    reader = ChannelReader(taken)
    read(pamqp.frame.marshal(commands.Basic.Ack(tag, multiple), 1), reader)
    read(pamqp.frame.marshal(commands.Basic.Nack(tag, multiple, False), 1), reader)
    assert taken.answers == [(tag, multiple, True), (tag, multiple, False)]


def test_returns_are_read_and_the_rest_is_the_drivers() -> None:
    taken = Taken()
    reader = ChannelReader(taken)
    content = b"".join(
        (
            pamqp.frame.marshal(ContentHeader(0, 2, commands.Basic.Properties(correlation_id="c")), 1),
            pamqp.frame.marshal(ContentBody(b"[]"), 1),
        )
    )
    assert (
        read(pamqp.frame.marshal(commands.Basic.Return(312, "NO_ROUTE", "x", "k"), 1) + content, reader)
        == [True] * 3
    )
    ((envelope, message),) = taken.arrivals
    assert envelope == Envelope(RETURN, "x", "k", reason="NO_ROUTE")
    assert (message.correlation_id, message.body) == ("c", b"[]")
    for method in (
        commands.Channel.Close(200, "", 0, 0),
        commands.Basic.ConsumeOk("c"),
        commands.Basic.Cancel("c"),
    ):
        assert read(pamqp.frame.marshal(method, 1), reader) == [False]
    # The content of a basic.get is not ours either.
    assert (
        read(pamqp.frame.marshal(commands.Basic.GetOk(1, False, "", "k", 0), 1) + content, reader)
        == [False] * 3
    )


@settings(max_examples=500)
@given(MESSAGES, st.data())
def test_broken_frames_raise_decode_errors_only(message: Message, data: st.DataObject) -> None:
    raw = bytearray(
        delivered(message, commands.Basic.Properties(headers={"a": [1, {"b": "c"}], "t": "text"}))
    )
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(7, len(raw) - 1))] = data.draw(st.integers(0, 255))
    reader = ChannelReader(Taken())
    at = 0
    while len(raw) - at >= FRAME_OVERHEAD:
        kind, _, size = frame_start(raw, at)
        end = at + FRAME_OVERHEAD + size
        if end > len(raw):
            break
        try:
            reader.take(kind, bytes(raw), at + 7, end - 1)
        except DecodeError:
            break
        at = end


def test_a_message_with_unreadable_headers_still_arrives() -> None:
    message = Message({}, b"body", routing_key="q")
    raw = delivered(message, commands.Basic.Properties(headers={"a": None}))
    taken = Taken()
    read(raw.replace(b"\x01aV", b"\x01a?"), ChannelReader(taken))
    assert taken.arrivals[0][1] == Message({}, b"body", "", "", routing_key="q")


@settings(max_examples=100)
@given(st.lists(MESSAGES, min_size=1, max_size=4), st.lists(st.integers(1, 400), min_size=1, max_size=30))
async def test_the_tap_sorts_frames_however_they_are_cut(messages: list[Message], cuts: list[int]) -> None:
    """Ours to the reader, the others untouched to the driver, in order."""
    stream, others = b"", b""
    for message in messages:
        foreign = pamqp.frame.marshal(commands.Queue.DeclareOk("q", 1, 2), 3)
        unserved = write_publish(4, message, 4096)
        stream += delivered(message, commands.Basic.Properties(headers={"n": 1})) + foreign + unserved
        others += foreign + unserved
    tap, taken = Tap(0), Taken()
    tap.serve(3, ChannelReader(taken))
    passed, at = b"", 0
    while at < len(stream):
        size = cuts[at % len(cuts)]
        passed += tap.feed(stream[at : at + size])
        at += size
    assert passed == others
    assert [message.body for _, message in taken.arrivals] == [message.body for message in messages]
