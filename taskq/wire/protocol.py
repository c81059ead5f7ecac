"""Celery's message protocol: a call becomes a Message, a Message becomes a Request (wire-format.md 1)."""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import takewhile
from typing import Any, Final

from taskq.errors import ConfigError, DecodeError, EncodeError
from taskq.wire import kinds
from taskq.wire.compression import MAX_INFLATED, compress, decompress
from taskq.wire.fields import BY_HEADER, CARRIED, FIELDS, OWN, TYPES, WireField, aware, check_carried
from taskq.wire.kinds import is_writable
from taskq.wire.message import Message
from taskq.wire.repr import saferepr
from taskq.wire.request import Request
from taskq.wire.serializers import Serializer, get_serializer, require_accepted, require_few_values
from taskq.wire.values import MAX_VALUES


@dataclass(slots=True)
class Call:
    """One outgoing task message.

    `options` are those of taskq/wire/fields.py by their names, as they travel: times as datetimes (naive means UTC),
    signatures as mappings, of `chain` the last one runs next; stamps by their own names. `root_id` and
    `correlation_id` are the id unless an option says otherwise, `argsrepr` and `kwargsrepr` short texts of the values.
    `headers` are the caller's own: they go to the top level of the message's headers and win there, as in Celery.
    """

    task: str
    id: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    serializer: Serializer
    options: Mapping[str, Any] = field(default_factory=dict)
    origin: str = ""
    exchange: str = ""
    routing_key: str = "celery"
    reply_to: str = ""


# --- writing ------------------------------------------------------------------------------------------------

_EMBED: Final = "embed."
_NO_LINKS: Final[Mapping[str, Any]] = {
    row.header.removeprefix(_EMBED): None for row in FIELDS if row.header.startswith(_EMBED)
}
#: The links of which there may be several.
_SEVERAL: Final = frozenset(
    row.header.removeprefix(_EMBED)
    for row in FIELDS
    if row.header.startswith(_EMBED) and list in (row.carried or ())
)
#: The headers of protocol 2, in Celery's order, of a call that says nothing.
_HEADERS: Final[Mapping[str, Any]] = {
    "lang": "py",
    **{name: None for name, row in BY_HEADER.items() if row.attribute and name not in OWN},
    "retries": 0,
    "ignore_result": False,
    "replaced_task_nesting": 0,
}


def is_plain_header(row: WireField) -> bool:
    """Whether the value of an option is that of its header, as it is."""
    times = {kinds.MOMENT, kinds.EXPIRY}
    return not (row.header.startswith(_EMBED) or row.kind in times or row.attribute[-1].isdigit())


_Write = Callable[[dict[str, Any], dict[str, Any], Any], None]


def _writer(row: WireField) -> _Write:
    """What puts the value of an option where it travels: into the headers, or among the links."""
    name = row.header.removeprefix(_EMBED)
    _, _, item = row.attribute.partition(".")

    def link(_: dict[str, Any], links: dict[str, Any], value: Any) -> None:
        links[name] = value

    def moment(headers: dict[str, Any], _: dict[str, Any], value: datetime) -> None:
        headers[name] = aware(value).astimezone(UTC).isoformat()

    def part(headers: dict[str, Any], _: dict[str, Any], value: Any) -> None:
        headers[name][int(item)] = value

    if row.header.startswith(_EMBED):
        return link
    return part if item.isdigit() else moment


_TRAVELLING: Final = [row for row in FIELDS if row.header and row.option and row.attribute]
#: option -> the header that is its value.
_PLAIN: Final = {row.option: row.header for row in _TRAVELLING if is_plain_header(row)}
_WRITERS: Final = {row.option: _writer(row) for row in _TRAVELLING if not is_plain_header(row)}


def encode(call: Call, max_values: int = MAX_VALUES) -> Message:
    """The message of a call: protocol 2.

    `expires` travels as a header only, not as the property that makes RabbitMQ drop the message silently
    (wire-format.md 13.7).

    Raises:
        EncodeError: arguments that the serializer or the compression cannot write, or that are more than
            `max_values` values.
        ConfigError: no compression of that name.
    """
    get = call.options.get
    links = dict(_NO_LINKS)
    headers = _headers(call, links)
    body = call.serializer.dumps((call.args, call.kwargs, links))
    try:
        require_few_values(call.serializer, body, max_values)
    except DecodeError as exc:
        raise EncodeError(str(exc)) from None
    if compression := get("compression"):
        body, headers["compression"] = compress(body, compression)
    if own := get("headers"):
        headers.update(own)
    eta = get("eta")
    return Message(
        headers,
        body,
        call.serializer.content_type,
        call.serializer.content_encoding,
        get("correlation_id") or call.id,
        call.reply_to,
        get("priority") or 0,
        get("delivery_mode") or 2,
        call.exchange,
        call.routing_key,
        None if eta is None else aware(eta).timestamp(),
    )


def _headers(call: Call, links: dict[str, Any]) -> dict[str, Any]:
    options = call.options
    headers = dict(_HEADERS)
    headers["task"] = call.task
    headers["id"] = headers["root_id"] = call.id
    headers["origin"] = call.origin
    headers["timelimit"] = [None, None]
    for option, value in options.items():
        if value is None:
            continue
        header = _PLAIN.get(option)
        if header is not None:
            headers[header] = value
        elif option in _WRITERS:
            _WRITERS[option](headers, links, value)
    if headers["argsrepr"] is None:
        headers["argsrepr"] = saferepr(call.args)
    if headers["kwargsrepr"] is None:
        headers["kwargsrepr"] = saferepr(call.kwargs)
    names = headers["stamped_headers"]
    headers["stamps"] = {name: options[name] for name in names if name in options} if names else {}
    return headers


# --- reading ------------------------------------------------------------------------------------------------


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
    return task_id if isinstance(task_id, str) and task_id and is_writable(task_id) else None


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
#: What brokers add. A retry that sent these along would look like a cycle to RabbitMQ and be dropped.
_BROKER_HEADERS = ("x-death", "x-first-death-", "x-last-death-", "x-delivery-count")


def _delivery_info(message: Message) -> dict[str, Any]:
    return {
        "exchange": message.exchange,
        "routing_key": message.routing_key,
        "priority": message.priority,
        "redelivered": message.headers.get("redelivered") is True,
    }


def _straight_code() -> Callable[..., Request]:
    """What makes a `Request` of a message's parts, written out from the table: a loop over it costs a third more.

    By place: names would be 5 % of all that a worker does for a task.
    """
    sources = {
        **{name: name for name in ("args", "kwargs", "headers")},
        **{name: f"message.{name}" for name in ("correlation_id", "reply_to")},
        **{name: f"links[{name!r}]" for name in _NO_LINKS},
        "delivery_info": "delivery_info(message)",
    }
    names: dict[str, Any] = {"Request": Request, "delivery_info": _delivery_info}
    for header, (attribute, read) in CARRIED.items():
        sources[attribute] = f"get({header!r})"
        if read is not None:
            names[f"read_{header}"] = read
            sources[attribute] = f"None if (it := get({header!r})) is None else read_{header}({header!r}, it)"
    for attribute, value in (("retries", "0"), ("replaced_task_nesting", "0"), ("timelimit", "(None, None)")):
        sources[attribute] = sources[attribute].replace("None if", f"{value} if", 1)
    sources["root_id"] += " or get('id')"
    sources["stamps"] += " or {}"
    by_place = takewhile(lambda part: part.name in sources, dataclasses.fields(Request))
    parts = [sources[part.name] for part in by_place]
    code = f"lambda message, get, args, kwargs, links, headers: Request({', '.join(parts)})"
    made: Callable[..., Request] = eval(code, names)  # noqa: S307 - made of this module's own table alone
    return made


_as_request = _straight_code()
_types = TYPES.get


def _request(message: Message, headers: Mapping[str, Any], args: Any, kwargs: Any, embed: Any) -> Request:
    own: dict[str, Any] = {}
    for name in [name for name, value in headers.items() if type(value) not in _types(name, ())]:
        if name in BY_HEADER:
            check_carried(name, headers[name])
        if name in OWN or not (name in BY_HEADER or name.startswith(_BROKER_HEADERS)):
            own[name] = headers[name]
    get = headers.get
    task_id, group = get("id"), get("group")
    if not (task_id and get("task")):
        raise DecodeError("the message has no task id or no task name")
    if not ((task_id.isascii() or is_writable(task_id)) and (group is None or is_writable(group))):
        raise DecodeError(f"the id {saferepr(task_id, 60)} or its group is no text that can be written")
    _check_arguments(args, kwargs)
    links = _NO_LINKS if embed is None or embed == _NO_LINKS else _checked_links(embed)
    return _as_request(message, get, args, kwargs, links, own)


def _check_arguments(args: Any, kwargs: Any) -> None:
    if not isinstance(args, _ARRAYS):
        raise DecodeError(f"args is {saferepr(args, 60)}, not an array")
    if not isinstance(kwargs, dict):
        raise DecodeError(f"kwargs is {saferepr(kwargs, 60)}, not an object")
    for key in kwargs:
        if type(key) is not str:
            raise DecodeError(f"kwargs has the key {saferepr(key, 60)}, which is not text")


def _checked_links(embed: Any) -> Mapping[str, Any]:
    if not isinstance(embed, dict):
        raise DecodeError(f"embed is {saferepr(embed, 60)}, not an object")
    links = {}
    for name in _NO_LINKS:
        value = links[name] = embed.get(name)
        if value is None:
            continue
        if name in _SEVERAL:
            if not isinstance(value, _ARRAYS) or not all(map(_is_signature, value)):
                raise DecodeError(f"{name} is {saferepr(value, 60)}, not an array of signatures")
        elif not _is_signature(value):
            raise DecodeError(f"{name} is {saferepr(value, 60)}, not a signature")
    return links


def _is_signature(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("task"), str)


def _old_request(message: Message, body: dict[str, Any]) -> Request:
    """Protocol 1: all in the body (wire-format.md 1.10); headers, if there are any, win over it."""
    fields = {name: body[name] for name in _HEADERS if name in body}
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
