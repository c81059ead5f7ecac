"""Claims: entries in custody. How their tags and values are written, and how they are given back."""

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

from taskq.broker_adapters.redis.layout import Layout
from taskq.broker_adapters.redis.link import Call, RedisLink
from taskq.broker_adapters.redis.scripts import RENEW, RESTORE
from taskq.wire.message import Delivery, written_id

#: A week after the last death of any message the counts are forgotten.
KEEP_DEATHS: Final = 7 * 86400


class Claim(NamedTuple):
    """One entry in our custody: the tag of this delivery, the list it came from, and the entry."""

    tag: str
    list: str
    entry: bytes


class Return(NamedTuple):
    """One claim on its way back: to `lists`, as `entry`. `death` is the task id if its holder died."""

    tag: str | bytes
    lists: Sequence[str]
    entry: bytes
    death: str = ""


def tag_prefix(step: int, consumer: str) -> str:
    return f"taskq:{step}:{consumer}:"


def claim_suffix(queue: str) -> str:
    """What follows the entry in the value of a claim: an empty exchange, so that it goes back to this queue."""
    return f',"",{json.dumps(queue, ensure_ascii=False)}]'


def read_claim(tag: bytes, claim: bytes, layout: Layout) -> tuple[str, str, bytes]:
    """Queue, list and entry of one of our own claims."""
    entry, _, queue_and_end = claim[1:].rpartition(b',"",')
    queue = json.loads(queue_and_end[:-1])
    return queue, layout.key(queue, int(tag.split(b":")[1])), entry


def give_back(layout: Layout, returns: Iterable[Return], *, guard: str, age: float, front: bool) -> Call:
    """The script call that gives claims back if their score in `guard` is at least `age` seconds old.

    At the front the last one given is delivered first.
    """
    args: list[Any] = ["RPUSH" if front else "LPUSH", age, KEEP_DEATHS]
    for item in returns:
        args += [item.tag, item.death, item.entry, len(item.lists), *item.lists]
    return RESTORE, (*layout.custody, layout.own("deaths"), guard), args


def mark(entry: bytes) -> tuple[bytes, str]:
    """The entry with Celery's marks of a redelivery (wire-format.md 2.3), and its task id.

    Read and written by the standard json: it keeps numbers of any size.
    """
    with suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError):
        envelope = json.loads(entry)
        set_marks(envelope)
        return json.dumps(envelope).encode(), task_id(envelope)
    return entry, ""  # not a message: whoever takes it will bury it


def set_marks(envelope: dict[str, Any]) -> None:
    envelope["headers"]["redelivered"] = True
    envelope["properties"]["delivery_info"]["redelivered"] = True


def task_id(envelope: dict[str, Any]) -> str:
    return written_id(envelope["headers"].get("id") or envelope["properties"].get("correlation_id") or "")


def ahead(lease: float, layout: Layout) -> float:
    """How far index scores are ahead of now, so that Celery's sweep never comes before our lease ends."""
    return max(0.0, lease * 4 / 3 - layout.visibility_timeout)


async def renew(link: RedisLink, layout: Layout, lease: float, held: Sequence[Delivery]) -> list[Delivery]:
    """Keep the leases of these claims, from any connection. Returns those that were lost."""
    ours = [delivery for delivery in held if delivery.tag is not None]
    if not ours:
        return []
    args = [lease, ahead(lease, layout), *(delivery.tag.tag for delivery in ours)]
    lost = await link.retry_until_done(lambda session: RENEW.run(session, layout.custody, args))
    return [ours[place - 1] for place in lost]
