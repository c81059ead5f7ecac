"""What a value may be: of an option of a call, of an option of a task, of a header.

A kind is asked twice: at the caller, who is told at once (TypeError, ValueError), and of what came by the wire (DecodeError).
"""

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from taskq.wire.repr import saferepr

#: Longest id, address or name of a queue, in bytes: AMQP writes their length as one.
NAME_BYTES = 255
#: Counts travel as 32 bits with a sign.
COUNTS = 2**31
#: Seconds: beyond this a float no longer tells one from the next.
_SECONDS = 2**53
#: A delay of a century is a mistake (a time in Unix seconds, most likely).
_CENTURY = 100 * 365.25 * 86400
#: What brokers' tables of headers hold.
_INTEGERS = 2**63


class Kind(NamedTuple):
    """What fits: `types`, and of these what is `within`; `says` tells people. bool is no number."""

    says: str
    types: tuple[type, ...]
    within: Callable[[Any], bool] | None = None

    def check(self, what: str, value: Any) -> None:
        """Refuse what does not fit.

        Raises:
            TypeError: it is of a wrong type.
            ValueError: it is out of bounds.
        """
        if not isinstance(value, self.types) or (isinstance(value, bool) and bool not in self.types):
            raise TypeError(f"{what} is {saferepr(value, 60)}: {self.says} is needed")
        if self.within is not None and not self.within(value):
            raise ValueError(f"{what} is {saferepr(value, 60)}: {self.says} is needed")

    def fits(self, value: Any) -> bool:
        """Whether it fits."""
        try:
            self.check("", value)
        except (TypeError, ValueError):
            return False
        return True


def _is_queue(value: Any) -> bool:
    name = value if type(value) is str else getattr(value, "name", value)
    return isinstance(name, str) and _is_name(name)


def is_count(value: int) -> bool:
    """Whether a whole number is one of 0 or more that travels."""
    return 0 <= value < COUNTS


def is_limit(value: float) -> bool:
    """Whether a number is one of seconds. Comparing keeps NaN out, and what is too large for a float."""
    return 0 <= value < _SECONDS


def is_writable(text: str) -> bool:
    """Whether it can name something in a broker or a store: half a surrogate pair has no form in UTF-8."""
    return text.isascii() or text.encode("utf-8", "ignore").decode() == text


def _is_address(text: str) -> bool:
    if len(text) <= NAME_BYTES and text.isascii():
        return True
    return is_writable(text) and len(text.encode()) <= NAME_BYTES


def _is_name(text: str) -> bool:
    return (0 < len(text) <= NAME_BYTES and text.isascii()) or (text != "" and _is_address(text))


def _is_moment(value: Any) -> bool:
    """Whether it is a time that can be told in UTC; text is in any form of ISO 8601."""
    try:
        (datetime.fromisoformat(value) if isinstance(value, str) else value).astimezone(UTC)
    except (ValueError, OverflowError):
        return False
    return True


def _is_expiry(value: Any) -> bool:
    if isinstance(value, timedelta):
        value = value.total_seconds()
    return abs(value) <= _CENTURY if isinstance(value, int | float) else _is_moment(value)


_ALWAYS_PLAIN = frozenset((str, bool, bytes, type(None), datetime))


def is_plain(value: Any) -> bool:
    """Whether every number in it is finite and of 64 bits, and every key text: what any broker can carry."""
    todo = [value]
    for item in todo:  # grows meanwhile
        if type(item) in _ALWAYS_PLAIN:
            continue
        if type(item) is dict or isinstance(item, Mapping):
            if not all(isinstance(key, str) for key in item):
                return False
            todo += item.values()
        elif isinstance(item, list | tuple | AbstractSet):
            todo += item
        elif (isinstance(item, int) and not -_INTEGERS <= item < _INTEGERS) or (
            isinstance(item, float) and item - item != 0
        ):
            return False
    return True


def _are_links(value: Any) -> bool:
    for link in value if isinstance(value, list | tuple) else (value,):
        if not (hasattr(link, "to_dict") or isinstance(link, Mapping)):
            return False
    return True


def _are_exceptions(value: Any) -> bool:
    types = value if isinstance(value, Sequence | AbstractSet) else (value,)
    return all(isinstance(one, type) and issubclass(one, BaseException) for one in types)


TEXT = Kind("text", (str,), is_writable)
NAME = Kind(f"text of 1 to {NAME_BYTES} bytes", (str,), _is_name)
ADDRESS = Kind(f"text of at most {NAME_BYTES} bytes", (str,), _is_address)
#: A queue's name, or a queue as task_queues has them, kombu's included.
QUEUE = Kind(NAME.says, (object,), _is_queue)
FLAG = Kind("True or False", (bool,))
COUNT = Kind("a whole number of 0 or more", (int,), is_count)
PRIORITY = Kind("a whole number from 0 to 255", (int,), lambda value: 0 <= value <= 255)
LIMIT = Kind("seconds of 0 or more, not infinite (None: no limit)", (int, float), is_limit)
DELAY = Kind("a number of seconds (a time is eta=)", (int, float), lambda value: abs(value) <= _CENTURY)
PAUSE = Kind("a number of seconds of 0 or more", (int, float), lambda value: 0 <= value <= _CENTURY)
MOMENT = Kind(
    "a datetime or its ISO 8601 text (seconds from now are countdown=)", (datetime, str), _is_moment
)
EXPIRY = Kind(
    "seconds from now, a timedelta, a datetime or its ISO 8601 text",
    (int, float, timedelta, datetime, str),
    _is_expiry,
)
NAMES = Kind("names", (list, tuple, AbstractSet), lambda value: all(isinstance(name, str) for name in value))
PLAIN_MAPPING = Kind(
    "a mapping of texts to values with finite numbers of at most 64 bits", (Mapping,), is_plain
)
PLAIN = Kind("a value with finite numbers of at most 64 bits", (object, bool), is_plain)
MAPPING = Kind("a mapping", (Mapping,))
LINKS = Kind("a signature, or a list of them", (object,), _are_links)
SIGNATURE = Kind(
    "a signature", (object,), lambda value: not isinstance(value, list | tuple) and _are_links(value)
)
CHAIN = Kind("a list of signatures", (list, tuple), _are_links)
MODE = Kind(
    "persistent (2) or transient (1)", (int, str), lambda value: value in {1, 2, "persistent", "transient"}
)
EXCEPTIONS = Kind("exception classes", (type, Sequence, AbstractSet), _are_exceptions)
#: Doubling pauses: from 1 s on (True), or from so many.
BACKOFF = Kind("True, False or a number of seconds", (bool, int, float), lambda value: 0 <= value <= _CENTURY)
RUN_IN = Kind("'thread' or 'process'", (str,), lambda value: value in {"thread", "process"})
RATE = Kind('a rate such as "10/s", or a number per second', (str, int, float))
ANYTHING = Kind("anything", (object,))
