"""The frames of the data path of AMQP 0-9-1: basic.publish out, deliveries, returns and confirms in. No I/O.

pamqp builds an object per frame and per field, which makes up most of what a message costs in Python; here a
publish is one `bytes` and a delivery becomes a Message at once. Everything else (connection, channels,
declarations) stays with the driver. What is read comes from others: whatever cannot be read raises DecodeError.
"""

import struct
from functools import lru_cache
from struct import Struct
from typing import NamedTuple, Protocol

from taskq.broker_adapters.amqp.tables import TableReader, read_short, short_string, write_table
from taskq.errors import DecodeError, EncodeError
from taskq.wire.message import Message

FRAME_METHOD, FRAME_HEADER, FRAME_BODY, FRAME_HEARTBEAT = 1, 2, 3, 8
FRAME_END = b"\xce"
#: Seven bytes before the payload, one after it.
FRAME_OVERHEAD = 8
#: The largest frame where nothing was agreed on.
FRAME_MAX = 131072
HEARTBEAT = b"\x08\0\0\0\0\0\0\xce"

#: Class and method id as one number; the class is `basic` (60) where not said.
DELIVER, RETURN, ACK, NACK = 0x003C003C, 0x003C0032, 0x003C0050, 0x003C0078
CHANNEL_CLOSE = 0x00140028
BLOCKED, UNBLOCKED = 0x000A003C, 0x000A003D

frame_start = Struct(">BHI").unpack_from  # type, channel, payload size
_pack_start = Struct(">BHI").pack
_pack_content = Struct(">BHIHHQ").pack  # frame start, class 60, weight 0, body size
_pack_ack = Struct(">BHIIQBB").pack
_pack_publish = Struct(">IH").pack
_u16, _u32, _u64 = (Struct(code).unpack_from for code in (">H", ">I", ">Q"))
_pack_u16 = Struct(">H").pack


# -- writing ------------------------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def _content_kind(content_type: str, content_encoding: str) -> bytes:
    return short_string(content_type) + short_string(content_encoding)


def write_properties(message: Message, frame_max: int, message_id: str = "") -> bytes:
    """Flags and values of the content header, in the order of their flag bits.

    Raises:
        EncodeError: a header holds what AMQP cannot, or they are too large for the one frame that they must fit in.
    """
    try:
        properties = _properties(message, message_id)
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError, struct.error) as error:
        raise EncodeError(f"AMQP cannot carry these headers: {error!r:.200}") from error
    if 12 + len(properties) > frame_max - FRAME_OVERHEAD:
        raise EncodeError(
            f"the headers of a message have at most {frame_max - FRAME_OVERHEAD} bytes here (frame_max), "
            f"these {12 + len(properties)}"
        )
    return properties


def _properties(message: Message, message_id: str) -> bytes:
    flags = 0xF800  # content type, encoding, headers, delivery mode, priority
    parts = [
        _content_kind(message.content_type, message.content_encoding),
        write_table(message.headers),
        bytes((1 if message.delivery_mode == 1 else 2, min(max(message.priority, 0), 255))),
    ]
    for bit, text in ((0x0400, message.correlation_id), (0x0200, message.reply_to), (0x0080, message_id)):
        if text:
            flags |= bit
            data = text.encode()
            if len(data) > 255:
                raise EncodeError(f"an AMQP property has at most 255 bytes: {text[:60]!r}...")
            parts.append(bytes((len(data),)) + data)
    return _pack_u16(flags) + b"".join(parts)


@lru_cache(maxsize=1024)
def _publish_method(channel: int, exchange: str, routing_key: str) -> bytes:
    # The last byte is `mandatory`: a message that no queue takes comes back.
    payload = _pack_publish(0x003C0028, 0) + short_string(exchange) + short_string(routing_key) + b"\1"
    return _pack_start(FRAME_METHOD, channel, len(payload)) + payload + FRAME_END


def write_publish(channel: int, message: Message, frame_max: int) -> bytes:
    """basic.publish with its header and body frames, to be written at once.

    Raises:
        EncodeError: a name is too long or no text; as `write_properties`.
    """
    body = message.body
    size = len(body)
    properties = write_properties(message, frame_max)
    parts = [
        _publish_method(channel, message.exchange, message.routing_key),
        _pack_content(FRAME_HEADER, channel, 12 + len(properties), 60, 0, size),
        properties,
        FRAME_END,
    ]
    room = frame_max - FRAME_OVERHEAD
    for start in range(0, size, room):
        piece = body if size <= room else body[start : start + room]
        parts += (_pack_start(FRAME_BODY, channel, len(piece)), piece, FRAME_END)
    return b"".join(parts)


def write_ack(channel: int, tag: int, multiple: bool) -> bytes:  # noqa: FBT001 - the protocol's own flag
    """basic.ack of one delivery, or of all up to it."""
    return _pack_ack(FRAME_METHOD, channel, 13, ACK, tag, multiple, 0xCE)


def write_requeue(channel: int, tag: int) -> bytes:
    """basic.nack with requeue of one delivery."""
    return _pack_ack(FRAME_METHOD, channel, 13, NACK, tag, 2, 0xCE)


# -- reading ------------------------------------------------------------------------------------------------


class Envelope(NamedTuple):
    """How a message came: `tag` of a delivery, the text of a return's `reason`."""

    kind: int
    exchange: str
    routing_key: str
    queue_tag: str = ""
    tag: int = 0
    redelivered: bool = False
    reason: str = ""


def _read_deliver(data: bytes, at: int) -> Envelope:
    consumer, at = read_short(data, at + 4)
    tag = _u64(data, at)[0]
    exchange, end = read_short(data, at + 9)
    routing_key, _ = read_short(data, end)
    return Envelope(DELIVER, exchange, routing_key, consumer, tag, data[at + 8] & 1 == 1)


def _read_return(data: bytes, at: int) -> Envelope:
    reason, at = read_short(data, at + 6)
    exchange, at = read_short(data, at)
    routing_key, _ = read_short(data, at)
    return Envelope(RETURN, exchange, routing_key, reason=reason)


def read_content(payload: bytes, exchange: str, routing_key: str, tables: TableReader) -> Message:
    """The message of a content header; its body is not read yet."""
    flags, at = _u16(payload, 12)[0], 14
    message = Message({}, b"", "", "", exchange=exchange, routing_key=routing_key)
    if flags & 0x8000:
        message.content_type, at = read_short(payload, at)
    if flags & 0x4000:
        message.content_encoding, at = read_short(payload, at)
    if flags & 0x2000:
        message.headers, at = tables.read(payload, at)
    if flags & 0x1000:
        message.delivery_mode = payload[at]
        at += 1
    if flags & 0x0800:
        message.priority = payload[at]
        at += 1
    if flags & 0x0400:
        message.correlation_id, at = read_short(payload, at)
    if flags & 0x0200:
        message.reply_to, at = read_short(payload, at)
    return message  # expiration, message id, timestamp, type, user, app: Celery gives them no meaning


class Receiver(Protocol):
    """Takes what the frames of one channel said."""

    def arrived(self, envelope: Envelope, message: Message) -> None:
        """A delivery, or a message that came back unroutable."""
        ...

    def answered(self, tag: int, *, multiple: bool, accepted: bool) -> None:
        """The broker's confirm: basic.ack or basic.nack."""
        ...

    def refused(self, code: int, reason: str) -> None:
        """The broker closes the channel: from now on nothing may be written to it. The driver answers."""
        ...


class ChannelReader:
    """Puts the frames of one channel together again; frames it does not know are left to the driver."""

    __slots__ = ("_envelope", "_message", "_missing", "_pieces", "_receiver", "_tables")

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._tables = TableReader()
        self._envelope: Envelope | None = None
        self._message: Message | None = None
        self._pieces: list[bytes] = []
        self._missing = 0

    def take(self, kind: int, data: bytes, start: int, end: int) -> bool:
        """Read the frame whose payload is `data[start:end]`; False: it is the driver's.

        Raises:
            DecodeError: the frame cannot be read.
        """
        try:
            if kind == FRAME_METHOD:
                return self._method(data, start)
            if self._envelope is None:
                return False
            if kind == FRAME_HEADER:
                self._header(self._envelope, data[start:end])
            else:
                self._body(data[start:end])
        except (struct.error, IndexError, KeyError, RecursionError) as error:
            raise DecodeError(f"an AMQP frame cannot be read: {error!r}") from error
        return True

    def _method(self, data: bytes, start: int) -> bool:
        method = _u32(data, start)[0]
        if method == DELIVER:
            self._envelope = _read_deliver(data, start)
        elif method == RETURN:
            self._envelope = _read_return(data, start)
        elif method in {ACK, NACK}:
            multiple = data[start + 12] & 1 == 1
            self._receiver.answered(_u64(data, start + 4)[0], multiple=multiple, accepted=method == ACK)
        else:
            if method == CHANNEL_CLOSE:
                self._receiver.refused(_u16(data, start + 4)[0], read_short(data, start + 6)[0])
            return False
        return True

    def _header(self, envelope: Envelope, payload: bytes) -> None:
        self._missing = _u64(payload, 4)[0]
        self._pieces = []
        try:
            self._message = read_content(payload, envelope.exchange, envelope.routing_key, self._tables)
        except (DecodeError, struct.error, IndexError, KeyError, RecursionError):
            # Its frames are sound, its headers are not: the message still has to be settled.
            self._message = Message(
                {}, b"", "", "", exchange=envelope.exchange, routing_key=envelope.routing_key
            )
        if not self._missing:
            self._finish(b"")

    def _body(self, piece: bytes) -> None:
        self._missing -= len(piece)
        if self._missing > 0:
            self._pieces.append(piece)
        elif self._pieces:
            self._finish(b"".join((*self._pieces, piece)))
        else:
            self._finish(piece)

    def _finish(self, body: bytes) -> None:
        envelope, message = self._envelope, self._message
        self._envelope = self._message = None
        if envelope is not None and message is not None:
            message.body = body
            self._receiver.arrived(envelope, message)
