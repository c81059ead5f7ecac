"""Dead letters: a hash of letters by name and their times beside it, both in keys of our own.

A letter is its description as JSON, a line break, and the entry as it came.
"""

from collections.abc import Sequence
from typing import Any

import orjson

from taskq.broker_adapters.redis.layout import Layout
from taskq.broker_adapters.redis.link import Call, RedisLink, run_scripts
from taskq.broker_adapters.redis.scripts import BURY, EXHUME
from taskq.broker_adapters.redis.session import RedisSession
from taskq.errors import DecodeError
from taskq.wire.envelope import dumps, loads
from taskq.wire.message import DeadLetter


def _keys(layout: Layout) -> tuple[str, str]:
    return layout.own("dead"), layout.own("dead:index")


def bury_claims(layout: Layout, letters: Sequence[tuple[str, str, str]]) -> Call:
    """The script call that moves claims, given as (tag, queue, reason), to the dead letters."""
    args: list[Any] = [layout.retention.dead_letters, layout.keep_dead]
    for tag, queue, reason in letters:
        # The name of the letter is that of the delivery: unique, and in order.
        args += (tag, tag.split(":", 2)[2], _about(queue, reason))
    return BURY, (*layout.custody, *_keys(layout)), args


async def bury(session: RedisSession, layout: Layout, letters: Sequence[DeadLetter]) -> None:
    """Put letters away that are nobody's claim."""
    key, index = _keys(layout)
    commands: list[Sequence[Any]] = [("MULTI",)]
    for letter in letters:
        entry = letter.raw if letter.message is None else dumps(letter.message, delivery_tag=letter.id)
        commands.append(("HSET", key, letter.id, _about(letter.queue, letter.reason) + b"\n" + entry))
        commands.append(("ZADD", index, f"{letter.at:.6f}", letter.id))
    commands += [("EXPIRE", key, layout.keep_dead), ("EXPIRE", index, layout.keep_dead), ("EXEC",)]
    for future in session.send(*commands):
        session.checked(await future)
    await drop_old(session, layout)


async def drop_old(session: RedisSession, layout: Layout) -> None:
    """Delete the letters that are too old or too many."""
    [reply] = await run_scripts(session, [bury_claims(layout, [])])
    session.checked(reply)


async def dead(link: RedisLink, layout: Layout, limit: int) -> Sequence[DeadLetter]:
    """The latest letters."""
    key, index = _keys(layout)
    await link.once(lambda session: drop_old(session, layout))
    found = await link.call("ZRANGE", index, 0, limit - 1, "REV", "WITHSCORES")
    if not found:
        return []
    letters = await link.call("HMGET", key, *(name for name, _ in found))
    pairs = zip(found, letters, strict=True)
    return [_letter(name, at, letter) for (name, at), letter in pairs if letter is not None]


async def revive(link: RedisLink, layout: Layout, ids: Sequence[str]) -> Sequence[DeadLetter]:
    """Remove these letters and return them."""
    if not ids:
        return []
    letters, times = await link.run(EXHUME, _keys(layout), list(dict.fromkeys(ids)))
    found = zip(dict.fromkeys(ids), times, letters, strict=True)
    return [
        _letter(name.encode(), float(at or 0), letter) for name, at, letter in found if letter is not None
    ]


def _about(queue: str, reason: str) -> bytes:
    return orjson.dumps({"queue": queue, "reason": reason.replace("\n", " ")})


def _letter(name: bytes, at: float, letter: bytes) -> DeadLetter:
    about, _, entry = letter.partition(b"\n")
    read = orjson.loads(about)
    try:
        message, raw = loads(entry), b""
    except DecodeError:
        message, raw = None, entry
    return DeadLetter(name.decode(), read["queue"], read["reason"], at, message, raw)
