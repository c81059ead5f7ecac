"""The ledger on Redis; see `taskq.broker_adapters.redis.ledger_scripts` for what lies where."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from typing import Any, Final

from taskq.broker_adapters.redis import ledger_scripts as scripts
from taskq.broker_adapters.redis.link import RedisLink, Script
from taskq.broker_adapters.redis.url import parse_target
from taskq.errors import OperationalError
from taskq.seams.ledger import CHANGE_WITHIN, Document, LedgerConfig, Mark, Slot, Wait, Want

logger = logging.getLogger(__name__)

#: Names of one command.
CHUNK: Final = 1000


class RedisLedger:
    """Connects to one Redis; see `taskq.seams.ledger.Ledger`."""

    def __init__(self, config: LedgerConfig) -> None:
        target = parse_target(config.url, config.options, config.ssl, timeout=config.timeout, name="taskq")
        self._link = RedisLink(target)
        self._prefix = f"{config.options.get('global_keyprefix', '')}taskq:"

    async def open(self) -> None:
        await self._link.call("PING")

    async def close(self) -> None:
        self._link.close()

    # -- documents

    def _documents(self, kind: str) -> str:
        return f"{self._prefix}doc:{kind}"

    async def put(self, kind: str, name: str, value: bytes, *, if_version: int | None = None) -> int | None:
        wanted = "" if if_version is None else if_version
        version: int | None = await self._link.run(
            scripts.PUT, [self._documents(kind)], [name, value, wanted]
        )
        return version

    async def get(self, kind: str, names: Sequence[str] | None = None) -> Mapping[str, Document]:
        if names is None:
            found = await self._link.call("HGETALL", self._documents(kind))
            pairs = found.items() if isinstance(found, dict) else zip(found[::2], found[1::2], strict=True)
            return {name.decode(): _document(raw) for name, raw in pairs if name}
        read: dict[str, Document] = {}
        for at in range(0, len(names), CHUNK):
            some = names[at : at + CHUNK]
            raws = await self._link.call("HMGET", self._documents(kind), *some)
            read |= {name: _document(raw) for name, raw in zip(some, raws, strict=True) if raw is not None}
        return read

    async def drop(self, kind: str, names: Sequence[str]) -> None:
        await self._link.run(scripts.DROP, [self._documents(kind)], names)

    async def changes(self, kind: str) -> AsyncGenerator[None, None]:
        """Looks at one number twice a second: what PUBLISH tells is lost with a connection, and a look is due anyway."""
        told: Any = -1
        while True:
            try:
                last = await self._link.call("HGET", self._documents(kind), "")
            except OperationalError as error:
                logger.warning("cannot look for changes, trying again: %s", error)
            else:
                if last != told:
                    told = last
                    yield
            await asyncio.sleep(CHANGE_WITHIN / 2)

    # -- marks

    def _marks(self, marks: Iterable[Mark]) -> list[str]:
        return [f"{self._prefix}mark:{mark.name}" for mark in marks]

    async def mark(self, marks: Sequence[Mark]) -> Sequence[str | None]:
        args = [value for mark in marks for value in (mark.holder, max(1, round(mark.lease * 1000)))]
        holders = await self._link.run(scripts.MARK, self._marks(marks), args)
        return [holder.decode() or None for holder in holders]

    async def unmark(self, marks: Sequence[Mark]) -> None:
        await self._link.run(scripts.UNMARK, self._marks(marks), [mark.holder for mark in marks])

    # -- permits

    async def _run(self, script: Script, *args: Any) -> Any:
        return await self._link.run(script, (), (self._prefix, *args))

    async def acquire(
        self, asks: Sequence[Sequence[Want]], holder: str, lease: float
    ) -> Sequence[Wait | None]:
        args: list[Any] = []
        for wants in asks:
            args.append(len(wants))
            for want in wants:
                args += _fields(want)
        replies = await self._run(scripts.ACQUIRE, holder, lease, *args)
        return [_wait(wants, reply) for wants, reply in zip(asks, replies, strict=True)]

    async def release(self, slots: Sequence[Slot], holder: str) -> None:
        args = [value for slot in slots for value in (slot.gate, slot.member)]
        await self._run(scripts.RELEASE, holder, *args)

    async def keep(self, holder: str, lease: float) -> None:
        await self._run(scripts.KEEP, holder, lease)


def _document(raw: bytes) -> Document:
    version, _, value = raw.partition(b":")
    return Document(int(version), value)


def _fields(want: Want) -> tuple[str, str, str | float, float]:
    if isinstance(want, Slot):
        return want.gate, "slot", want.member, want.limit
    return want.gate, "pace", want.interval, want.burst


def _wait(wants: Sequence[Want], reply: Sequence[Any]) -> Wait | None:
    if not reply:
        return None
    place, seconds = reply
    return Wait(wants[place].gate, float(seconds) if seconds else None)
