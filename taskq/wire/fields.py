"""The fields of a task message (wire-format.md 1.2-1.4): one table, from which calls are checked, written and read.

A new option that travels is a row here, and a line in `CallOptions` for type checkers; a task finds it among its
`request.headers` (attribute "headers.x"), or by an attribute of its own that `Request` has.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Any, Final, NamedTuple

from taskq.errors import DecodeError
from taskq.near import near_match
from taskq.wire import kinds
from taskq.wire.kinds import Kind
from taskq.wire.repr import saferepr
from taskq.wire.request import Request


class WireField(NamedTuple):
    """One row.

    Attributes:
        header: its name among the headers; "embed.x": in the body; "": it does not travel as such.
        option: its name among the options of a call, "" if callers cannot give it.
        attribute: where `Request` has it; "timelimit.0", "headers.x" is an item there.
        kind: what callers may give.
        carried: types of the header, None for any; null is always taken.
        retry: whether a retry of a run has it again.
        replacement: whether what replaces a run takes it over.
    """

    header: str
    option: str
    attribute: str
    kind: Kind
    carried: tuple[type, ...] | None = None
    retry: bool = False
    replacement: bool = False


_LIST = (list, tuple)
_TEXT = (str,)
_TIME = (str, datetime)

FIELDS: Final = (
    # In the order in which Celery writes its headers.
    WireField("lang", "", "", kinds.TEXT),
    WireField("task", "", "task", kinds.NAME, _TEXT),
    WireField("id", "task_id", "id", kinds.NAME, _TEXT, retry=True, replacement=True),
    WireField("shadow", "shadow", "shadow", kinds.TEXT, _TEXT, retry=True),
    WireField("eta", "eta", "eta", kinds.MOMENT, _TIME),
    WireField("expires", "expires", "expires", kinds.EXPIRY, _TIME, retry=True),
    WireField("group", "group_id", "group", kinds.NAME, _TEXT, retry=True, replacement=True),
    WireField("group_index", "group_index", "group_index", kinds.COUNT, (int,), retry=True, replacement=True),
    WireField("retries", "retries", "retries", kinds.COUNT, (int,)),
    WireField("timelimit", "time_limit", "timelimit.0", kinds.LIMIT, _LIST, retry=True),
    WireField("timelimit", "soft_time_limit", "timelimit.1", kinds.LIMIT, _LIST, retry=True),
    WireField("root_id", "root_id", "root_id", kinds.NAME, _TEXT, retry=True, replacement=True),
    WireField("parent_id", "parent_id", "parent_id", kinds.NAME, _TEXT),
    WireField("argsrepr", "argsrepr", "argsrepr", kinds.TEXT, _TEXT),
    WireField("kwargsrepr", "kwargsrepr", "kwargsrepr", kinds.TEXT, _TEXT),
    WireField("origin", "", "origin", kinds.TEXT, _TEXT),
    WireField(
        "ignore_result", "ignore_result", "ignore_result", kinds.FLAG, (bool,), retry=True, replacement=True
    ),
    WireField(
        "replaced_task_nesting",
        "replaced_task_nesting",
        "replaced_task_nesting",
        kinds.COUNT,
        (int,),
        retry=True,
    ),
    WireField("stamped_headers", "stamped_headers", "stamped_headers", kinds.NAMES, _LIST, retry=True),
    WireField("stamps", "", "stamps", kinds.PLAIN_MAPPING, (dict,)),
    # What others add to the headers.
    WireField("compression", "compression", "", kinds.NAME, _TEXT),
    WireField("redelivered", "", "", kinds.ANYTHING),
    WireField("meth", "", "", kinds.ANYTHING),
    # In the body.
    WireField("embed.callbacks", "link", "callbacks", kinds.LINKS, _LIST, retry=True),
    WireField("embed.errbacks", "link_error", "errbacks", kinds.LINKS, _LIST, retry=True),
    WireField("embed.chain", "chain", "chain", kinds.CHAIN, _LIST, retry=True, replacement=True),
    WireField("embed.chord", "chord", "chord", kinds.SIGNATURE, (dict,), retry=True, replacement=True),
    # Properties of the message, and what its way is decided by.
    WireField("", "headers", "headers", kinds.PLAIN_MAPPING, retry=True),
    WireField("", "correlation_id", "correlation_id", kinds.ADDRESS),
    WireField("", "reply_to", "reply_to", kinds.ADDRESS, retry=True, replacement=True),
    WireField("", "priority", "delivery_info.priority", kinds.PRIORITY, retry=True),
    WireField("", "delivery_mode", "", kinds.MODE),
    WireField("", "queue", "", kinds.QUEUE),
    WireField("", "exchange", "", kinds.ADDRESS),
    WireField("", "routing_key", "", kinds.ADDRESS),
    # About the sending itself.
    WireField("", "countdown", "", kinds.DELAY),
    WireField("", "serializer", "", kinds.NAME),
    WireField("", "retry", "", kinds.FLAG),
    WireField("", "retry_policy", "", kinds.MAPPING),
    WireField("", "publisher", "", kinds.ANYTHING),
    WireField("", "producer", "", kinds.ANYTHING),
    WireField("", "connection", "", kinds.ANYTHING),
)

#: option -> its row.
BY_OPTION: Final[Mapping[str, WireField]] = {row.option: row for row in FIELDS if row.option}
#: header -> its row, in Celery's order (of two options in one header, the last).
BY_HEADER: Final[Mapping[str, WireField]] = {
    row.header: row for row in FIELDS if row.header and not row.header.startswith("embed.")
}

#: Types that are looked at as such: nobody inherits what could be wrong.
_EXACT: Final = frozenset((str, int, float, bool, list, tuple, dict, datetime, timedelta))
#: option -> exact types, and bounds, of values that are right beyond doubt: what is asked for each call.
_QUICK: Final[Mapping[str, tuple[frozenset[type], Callable[[Any], bool] | None]]] = {
    name: (
        frozenset(kind for kind in _EXACT if kind in row.kind.types or object in row.kind.types)
        | ({dict} if Mapping in row.kind.types else frozenset()),
        row.kind.within,
    )
    for name, row in BY_OPTION.items()
}
_POLICY: Final[Mapping[str, Kind]] = {
    "max_retries": kinds.COUNT,
    "interval_start": kinds.PAUSE,
    "interval_step": kinds.PAUSE,
    "interval_max": kinds.PAUSE,
    "timeout": kinds.PAUSE,
    "retry_errors": kinds.EXCEPTIONS,
}


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse what no call can have; None is always an option not given.

    Raises:
        TypeError: an option nobody knows, with the one that was probably meant, or one of a wrong type.
        ValueError: an option out of bounds: what a worker would refuse, what no broker carries, what cannot be meant.
    """
    check_names(options)
    check_values(options)


def check_names(options: Mapping[str, Any]) -> None:
    """Refuse options nobody knows, as `check_options`: their values are looked at when the message is made."""
    for name in options:
        if name not in BY_OPTION and name not in (options.get("stamped_headers") or ()):
            raise TypeError(f"unknown option {name!r} of a call.{near_match(name, BY_OPTION)}")


def check_values(options: Mapping[str, Any]) -> None:
    """Refuse wrong values, as `check_options`. Of options that came by the wire, some may mean nothing here."""
    for name, value in options.items():
        if value is None:
            continue
        quick = _QUICK.get(name)
        if quick is not None:
            types, within = quick
            if type(value) not in types or not (within is None or within(value)):
                BY_OPTION[name].kind.check(f"the option {name}", value)
            if name in _DEEPER:
                _DEEPER[name](value)
        elif name in (options.get("stamped_headers") or ()):
            kinds.PLAIN.check(f"the stamp {name}", value)


def _check_headers(headers: Mapping[str, Any]) -> None:
    """The caller's own headers win over the protocol's of the same name, which must be readable then."""
    for name, value in headers.items():
        if name in BY_HEADER:
            try:
                check_carried(name, value)
            except DecodeError as error:
                raise TypeError(f"headers={{{name!r}: ...}}: {error}") from None


def _check_policy(policy: Mapping[str, Any]) -> None:
    for name, value in policy.items():
        kind = _POLICY.get(name)
        if kind is None:
            raise TypeError(f"unknown key {name!r} of a retry_policy.{near_match(name, _POLICY)}")
        if value is not None:
            kind.check(f"{name} of a retry_policy", value)


_DEEPER: Final[Mapping[str, Callable[[Mapping[str, Any]], None]]] = {
    "headers": _check_headers,
    "retry_policy": _check_policy,
}


# --- as it is read ------------------------------------------------------------------------------------------


def check_carried(name: str, value: Any) -> Any:
    """The value of a header, as `Request` has it.

    Raises:
        DecodeError: it is of a wrong type or out of bounds.
    """
    row = BY_HEADER[name]
    if row.carried is not None and value is not None and type(value) not in row.carried:
        raise DecodeError(f"the header {name} is {saferepr(value, 60)}")
    read = _READERS.get(row.kind)
    return value if read is None or value is None else read(name, value)


def aware(when: datetime) -> datetime:
    """A naive time is UTC."""
    return when.replace(tzinfo=UTC) if when.tzinfo is None else when


def _moment(name: str, value: str | datetime) -> datetime:
    """A time in any form of ISO 8601; without an offset it is UTC."""
    try:
        return aware(datetime.fromisoformat(value) if isinstance(value, str) else value)
    except ValueError:
        raise DecodeError(f"the header {name} is no ISO 8601 time: {saferepr(value, 60)}") from None


def _count(name: str, value: int) -> int:
    if not 0 <= value < kinds.COUNTS:
        raise DecodeError(f"the header {name} is {saferepr(value, 60)}, which is no count")
    return value


_NO_LIMITS: Final = [None, None]


def _limits(name: str, value: Any) -> tuple[float | None, float | None]:
    if value == _NO_LIMITS:
        return None, None
    if len(value) != 2 or not (_is_limit(value[0]) and _is_limit(value[1])):
        raise DecodeError(f"the header {name} is {saferepr(value, 60)}, not two times in seconds")
    return value[0], value[1]


def _is_limit(value: Any) -> bool:
    return value is None or ((type(value) is int or type(value) is float) and kinds.is_limit(value))


def _names(name: str, value: Any) -> list[str]:
    if not all(type(one) is str for one in value):
        raise DecodeError(f"the header {name} is {saferepr(value, 60)}, not an array of names")
    return list(value)


_READERS: Final[Mapping[Kind, Callable[[str, Any], Any]]] = {
    kinds.MOMENT: _moment,
    kinds.EXPIRY: _moment,
    kinds.COUNT: _count,
    kinds.LIMIT: _limits,
    kinds.NAMES: _names,
}

#: Headers that are among `request.headers`.
OWN: Final = frozenset(name for name, row in BY_HEADER.items() if row.attribute.startswith("headers."))
#: Headers that have an attribute of their own -> which, and what makes its value of theirs.
CARRIED: Final[Mapping[str, tuple[str, Callable[[str, Any], Any] | None]]] = {
    name: (row.attribute.partition(".")[0], _READERS.get(row.kind))
    for name, row in BY_HEADER.items()
    if row.attribute and name not in OWN
}
#: header -> exact types of values that need no closer look.
TYPES: Final[Mapping[str, frozenset[type]]] = {
    name: frozenset((*(row.carried or _TEXT), type(None)))
    for name, row in BY_HEADER.items()
    if name not in OWN
}


# --- as it is sent again ------------------------------------------------------------------------------------


def _getter(attribute: str) -> Callable[[Request], Any]:
    whole, _, item = attribute.partition(".")
    if not item:
        return attrgetter(whole)
    if item.isdigit():
        return lambda request: getattr(request, whole)[int(item)]
    return lambda request: getattr(request, whole).get(item)


_KEPT: Final = tuple((row.option, _getter(row.attribute), row.replacement) for row in FIELDS if row.retry)


def own_options(request: Request, *, replacement: bool = False) -> dict[str, Any]:
    """The options that make a signature the same call again, or, for a `replacement`, put it in the call's place."""
    options = {
        option: value
        for option, get, replaces in _KEPT
        if (replaces or not replacement) and (value := get(request)) is not None
    }
    return options if replacement else {**options, **request.stamps}
