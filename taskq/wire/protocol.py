"""Celery's message protocol: a call becomes a Message, a Message becomes a Request (wire-format.md 1)."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from taskq.errors import ConfigError, DecodeError, EncodeError
from taskq.wire.compression import MAX_INFLATED, compress, decompress
from taskq.wire.message import Message
from taskq.wire.repr import saferepr
from taskq.wire.request import Request, WireSignature
from taskq.wire.serializers import Serializer, get_serializer, require_accepted, require_few_values
from taskq.wire.values import MAX_VALUES


@dataclass(slots=True)
class Call:
    """Everything about one outgoing task message. Times are datetimes (naive means UTC), limits are seconds.

    `root_id` and `correlation_id` default to the id; `argsrepr` and `kwargsrepr` to a short repr of the values.
    `callbacks`, `errbacks`, `chain` (the last element runs next) and `chord` are signatures as mappings.
    `headers` are the caller's own: they go to the top level of the message's headers and win there, as in Celery.
    """

    task: str
    id: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    serializer: Serializer
    origin: str = ""
    root_id: str | None = None
    parent_id: str | None = None
    group: str | None = None
    group_index: int | None = None
    retries: int = 0
    eta: datetime | None = None
    expires: datetime | None = None
    time_limit: float | None = None
    soft_time_limit: float | None = None
    shadow: str | None = None
    argsrepr: str | None = None
    kwargsrepr: str | None = None
    ignore_result: bool | None = False
    replaced_task_nesting: int = 0
    stamped_headers: Sequence[str] | None = None
    stamps: Mapping[str, Any] = field(default_factory=dict)
    callbacks: list[WireSignature] | None = None
    errbacks: list[WireSignature] | None = None
    chain: list[WireSignature] | None = None
    chord: WireSignature | None = None
    headers: Mapping[str, Any] | None = None
    compression: str | None = None
    exchange: str = ""
    routing_key: str = "celery"
    priority: int = 0
    reply_to: str = ""
    correlation_id: str = ""
    delivery_mode: int = 2


def encode(call: Call, max_values: int = MAX_VALUES) -> Message:
    """The message of a call: protocol 2.

    `expires` travels as a header only, not as the property that makes RabbitMQ drop the message silently
    (wire-format.md 13.7).

    Raises:
        EncodeError: arguments that the serializer or the compression cannot write, or that are more than
            `max_values` values.
        ConfigError: no compression of that name.
    """
    headers = _headers(call)
    links = {
        "callbacks": call.callbacks,
        "errbacks": call.errbacks,
        "chain": call.chain,
        "chord": call.chord,
    }
    body = call.serializer.dumps((call.args, call.kwargs, links))
    try:
        require_few_values(call.serializer, body, max_values)
    except DecodeError as exc:
        raise EncodeError(str(exc)) from None
    if call.compression:
        body, headers["compression"] = compress(body, call.compression)
    if call.headers:
        headers.update(call.headers)
    return Message(
        headers,
        body,
        call.serializer.content_type,
        call.serializer.content_encoding,
        call.correlation_id or call.id,
        call.reply_to,
        call.priority,
        call.delivery_mode,
        call.exchange,
        call.routing_key,
        None if call.eta is None else _aware(call.eta).timestamp(),
    )


def _headers(call: Call) -> dict[str, Any]:
    return {
        "lang": "py",
        "task": call.task,
        "id": call.id,
        "shadow": call.shadow,
        "eta": _utc_text(call.eta),
        "expires": _utc_text(call.expires),
        "group": call.group,
        "group_index": call.group_index,
        "retries": call.retries,
        "timelimit": [call.time_limit, call.soft_time_limit],
        "root_id": call.root_id or call.id,
        "parent_id": call.parent_id,
        "argsrepr": saferepr(call.args) if call.argsrepr is None else call.argsrepr,
        "kwargsrepr": saferepr(call.kwargs) if call.kwargsrepr is None else call.kwargsrepr,
        "origin": call.origin,
        "ignore_result": call.ignore_result,
        "replaced_task_nesting": call.replaced_task_nesting,
        "stamped_headers": None if call.stamped_headers is None else list(call.stamped_headers),
        "stamps": call.stamps,
    }


def _utc_text(when: datetime | None) -> str | None:
    return None if when is None else _aware(when).astimezone(UTC).isoformat()


def _aware(when: datetime) -> datetime:
    return when.replace(tzinfo=UTC) if when.tzinfo is None else when


def decode(
    message: Message,
    accept: Collection[str],
    *,
    max_inflated: int = MAX_INFLATED,
    max_values: int = MAX_VALUES,
) -> Request:
    """Read a task message of protocol 2, of protocol 1 or of the mixed form; nothing in it is trusted.

    `accept` holds serializer names or content types, `max_inflated` bounds a compressed body, in bytes, and
    `max_values` how many values the body may hold.

    Raises:
        ContentDisallowed: the content type is not in `accept`.
        DecodeError: anything else that is wrong with it, in one line.
    """
    require_accepted(message.content_type, accept)
    body = _inflated(message, max_inflated)
    payload = _payload(message.content_type, body, max_values)
    request = _read(message, payload)
    request.size = len(body)
    return request


def _read(message: Message, payload: Any) -> Request:
    if isinstance(payload, dict):
        return _old_request(message, payload)
    if "task" not in message.headers:
        raise DecodeError("not a task message: no task name in its headers or its body")
    if not isinstance(payload, _ARRAYS) or len(payload) != 3:
        raise DecodeError(f"the body is not [args, kwargs, embed] but {saferepr(payload, 60)}")
    return _request(message, message.headers, *payload)


def task_id_of(message: Message) -> str | None:
    """The task's id, as far as it can be told without reading the body: to store what became of a bad message."""
    task_id = message.headers.get("id", message.correlation_id)
    return task_id if isinstance(task_id, str) and task_id and _is_writable(task_id) else None


def _is_writable(name: str) -> bool:
    """Whether it can name something in a broker or a store: half a surrogate pair has no form in UTF-8."""
    return name.encode("utf-8", "ignore").decode() == name


def _inflated(message: Message, max_inflated: int) -> bytes:
    compression = message.headers.get("compression")
    if not compression:
        return message.body
    if type(compression) is not str:
        raise DecodeError(f"the header compression is {saferepr(compression, 60)}, not text")
    return decompress(message.body, compression, max_inflated)


def _payload(content_type: str, body: bytes, max_values: int) -> Any:
    try:
        serializer = get_serializer(content_type)
    except ConfigError as exc:
        raise DecodeError(str(exc)) from None
    require_few_values(serializer, body, max_values)
    return serializer.loads(body)


_ARRAYS = (list, tuple)
_TEXT = frozenset((str, type(None)))
_INT = frozenset((int, type(None)))
_TIME = frozenset((str, datetime, type(None)))
_LIST = frozenset((list, tuple, type(None)))
_ANY = None

#: Celery's headers (wire-format.md 1.3) and the types their values may have; all else is the caller's own.
_HEADER_TYPES: dict[str, frozenset[Any] | None] = {
    "lang": _ANY,
    "task": frozenset((str,)),
    "id": frozenset((str,)),
    "shadow": _TEXT,
    "eta": _TIME,
    "expires": _TIME,
    "group": _TEXT,
    "group_index": _INT,
    "retries": _INT,
    "timelimit": _LIST,
    "root_id": _TEXT,
    "parent_id": _TEXT,
    "argsrepr": _TEXT,
    "kwargsrepr": _TEXT,
    "origin": _TEXT,
    "ignore_result": frozenset((bool, type(None))),
    "replaced_task_nesting": _INT,
    "stamped_headers": _LIST,
    "stamps": frozenset((dict, type(None))),
    "compression": _ANY,
    "redelivered": _ANY,
    "meth": _ANY,
}
#: What brokers add. A retry that sent these along would look like a cycle to RabbitMQ and be dropped.
_BROKER_HEADERS = ("x-death", "x-first-death-", "x-last-death-", "x-delivery-count")


def _request(message: Message, headers: Mapping[str, Any], args: Any, kwargs: Any, embed: Any) -> Request:
    own_headers = _checked(headers)
    _check_arguments(args, kwargs)
    links = _checked_links(embed)
    get = headers.get
    task_id = headers["id"]
    return Request(  # by place: 28 names would be 5 % of all that a worker does for a task
        task_id,
        headers["task"],
        args,
        kwargs,
        get("root_id") or task_id,
        get("parent_id"),
        get("group"),
        get("group_index"),
        get("shadow"),
        None if get("eta") is None else _moment("eta", headers["eta"]),
        None if get("expires") is None else _moment("expires", headers["expires"]),
        _count("retries", get("retries")),
        _limits(get("timelimit")),
        get("argsrepr"),
        get("kwargsrepr"),
        get("origin"),
        get("ignore_result"),
        _count("replaced_task_nesting", get("replaced_task_nesting")),
        None if get("stamped_headers") is None else _names(headers["stamped_headers"]),
        get("stamps") or {},
        links.get("callbacks"),
        links.get("errbacks"),
        links.get("chain"),
        links.get("chord"),
        own_headers,
        message.correlation_id,
        message.reply_to,
        _delivery_info(message),
    )


def _delivery_info(message: Message) -> dict[str, Any]:
    return {
        "exchange": message.exchange,
        "routing_key": message.routing_key,
        "priority": message.priority,
        "redelivered": message.headers.get("redelivered") is True,
    }


def _checked(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Check the types of Celery's headers; returns the others, which are the caller's."""
    own: dict[str, Any] = {}
    for name, value in headers.items():
        types = _HEADER_TYPES.get(name, own)
        if types is own:
            if not name.startswith(_BROKER_HEADERS):
                own[name] = value
        elif types is not None and type(value) not in types:
            raise DecodeError(f"the header {name} is {saferepr(value, 60)}")
    if not headers.get("id") or not headers.get("task"):
        raise DecodeError("the message has no task id or no task name")
    if not _is_writable(headers["id"]) or (headers.get("group") and not _is_writable(headers["group"])):
        raise DecodeError(f"the id {saferepr(headers['id'], 60)} or its group is no text that can be written")
    return own


def _check_arguments(args: Any, kwargs: Any) -> None:
    if not isinstance(args, _ARRAYS):
        raise DecodeError(f"args is {saferepr(args, 60)}, not an array")
    if not isinstance(kwargs, dict):
        raise DecodeError(f"kwargs is {saferepr(kwargs, 60)}, not an object")
    for key in kwargs:
        if type(key) is not str:
            raise DecodeError(f"kwargs has the key {saferepr(key, 60)}, which is not text")


_NO_LINKS: Mapping[str, Any] = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


def _checked_links(embed: Any) -> Mapping[str, Any]:
    if embed is None or embed == _NO_LINKS:
        return _NO_LINKS
    if not isinstance(embed, dict):
        raise DecodeError(f"embed is {saferepr(embed, 60)}, not an object")
    get = embed.get
    for name in ("callbacks", "errbacks", "chain"):
        signatures = get(name)
        if signatures is not None and not (
            isinstance(signatures, list | tuple) and all(map(_is_signature, signatures))
        ):
            raise DecodeError(f"{name} is {saferepr(signatures, 60)}, not an array of signatures")
    chord = get("chord")
    if chord is not None and not _is_signature(chord):
        raise DecodeError(f"chord is {saferepr(chord, 60)}, not a signature")
    return embed


def _is_signature(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("task"), str)


def _moment(name: str, value: str | datetime) -> datetime:
    """A time in any form of ISO 8601; without an offset it is UTC."""
    try:
        return _aware(datetime.fromisoformat(value) if isinstance(value, str) else value)
    except ValueError:
        raise DecodeError(f"the header {name} is no ISO 8601 time: {saferepr(value, 60)}") from None


def _count(name: str, value: int | None) -> int:
    if value is None:
        return 0
    if not 0 <= value < 2**31:
        raise DecodeError(f"the header {name} is {saferepr(value, 60)}, which is no count")
    return value


def _limits(value: Sequence[Any] | None) -> tuple[float | None, float | None]:
    if value is None:
        return None, None
    if len(value) != 2 or not (_is_limit(value[0]) and _is_limit(value[1])):
        raise DecodeError(f"the header timelimit is {saferepr(value, 60)}, not two times in seconds")
    return value[0], value[1]


def _is_limit(value: Any) -> bool:
    # Comparing keeps NaN out, and what is too large for a float.
    return value is None or ((type(value) is int or type(value) is float) and 0 <= value < 2**53)


def _names(value: Sequence[Any]) -> list[str]:
    if not all(isinstance(name, str) for name in value):
        raise DecodeError(f"the header stamped_headers is {saferepr(value, 60)}, not an array of names")
    return list(value)


#: What protocol 1 keeps in the body and protocol 2 in the headers.
_OLD_FIELDS = (
    "lang",
    "task",
    "id",
    "root_id",
    "parent_id",
    "group",
    "group_index",
    "shadow",
    "eta",
    "expires",
    "retries",
    "timelimit",
    "argsrepr",
    "kwargsrepr",
    "origin",
)


def _old_request(message: Message, body: dict[str, Any]) -> Request:
    """Protocol 1: all in the body (wire-format.md 1.10); headers, if there are any, win over it."""
    fields = {name: body[name] for name in _OLD_FIELDS if name in body}
    if body.get("taskset") is not None:
        fields["group"] = body["taskset"]
    if body.get("utc") is False:
        fields["eta"] = _local("eta", body.get("eta"))
        fields["expires"] = _local("expires", body.get("expires"))
    fields.update(message.headers)
    if "task" not in fields:
        raise DecodeError("not a task message: no task name in its headers or its body")
    links = {name: body.get(name) for name in ("callbacks", "errbacks", "chord")}
    return _request(message, fields, body.get("args", ()), body.get("kwargs", {}), links)


def _local(name: str, value: Any) -> Any:
    """`utc: false`: a time without an offset is in the zone of this machine."""
    if type(value) is not str:
        return value
    try:
        when = datetime.fromisoformat(value)
        return when.astimezone() if when.tzinfo is None else when
    except (ValueError, OverflowError):
        raise DecodeError(f"{name} is no time: {saferepr(value, 60)}") from None
