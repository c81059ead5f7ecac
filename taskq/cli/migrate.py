"""`taskq migrate`: from one broker to another."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime

import click

from taskq.app import TaskQ
from taskq.cli.apps import app_or_settings
from taskq.cli.output import counted, json_option, print_json
from taskq.cli.params import names
from taskq.cli.state import AppCommand, get_state
from taskq.clock import now
from taskq.errors import OperationalError, PublishErrors
from taskq.printable import printable
from taskq.seams.broker import Broker, Consumer, open_broker
from taskq.wire.message import Delivery, Message

#: Tasks in flight: what a kill may double.
_BATCH = 500
#: Seconds of silence after which a queue that says it is empty is believed, and one that does not is left.
_QUIET, _STUCK = 2.0, 10.0
#: Seconds for which a revoked id is remembered at its new place, counted from when the task is due.
_REVOKED = 86400.0
#: More letters than any broker keeps.
_ALL = 1_000_000


@click.command(cls=AppCommand)
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@click.option("-Q", "--queues", type=names, metavar="NAMES", help="these queues; default: all of the app")
@click.option("--follow", is_flag=True, help="go on moving what comes, until interrupted")
@json_option
def migrate(*, source: str, target: str, queues: list[str] | None, follow: bool, as_json: bool) -> None:
    """Move queued tasks and dead letters from broker FROM to broker TO (URLs).

    A task is removed from FROM once TO has confirmed its copy: interrupted at any time and run again, it loses none;
    what was in flight then may run twice. Stop the workers of FROM first: what they hold is not moved.
    """
    if source == target:
        raise click.UsageError("FROM and TO are the same broker")
    app = app_or_settings(get_state())
    wanted = queues or list(app.router.queues)
    moved, left = asyncio.run(_migrate(app, source, target, wanted, follow=follow))
    if as_json:
        for queue in wanted:
            print_json({"queue": queue, "moved": moved[queue], "left": left[queue]})
    else:
        told = ", ".join(f"{queue} {moved[queue]}" for queue in wanted)
        click.echo(f"moved {counted(moved.total(), 'task')} ({told})")
    if left.total():
        raise OperationalError(f"{counted(left.total(), 'task')} could not be moved: run this again")


async def _migrate(
    app: TaskQ, source: str, target: str, queues: Sequence[str], *, follow: bool
) -> tuple[Counter[str], Counter[str]]:
    """How many of each queue were moved, and how many are left. Raises OperationalError."""
    async with _opened(app, source) as old, _opened(app, target) as new:
        for queue in queues:
            await old.promote(queue)
        consumer = await old.consume(queues, prefetch=_BATCH)
        try:
            mover = _Mover(old, new, consumer, queues)
            await mover.run(follow=follow)
        finally:
            await consumer.close()
        await _move_letters(old, new, set(queues))
        return mover.moved, Counter({queue: await old.size(queue) for queue in queues})


@asynccontextmanager
async def _opened(app: TaskQ, url: str) -> AsyncIterator[Broker]:
    broker = open_broker(app.broker_config(url))
    await broker.open()
    try:
        yield broker
    finally:
        await broker.close()


class _Mover:
    def __init__(self, old: Broker, new: Broker, consumer: Consumer, queues: Sequence[str]) -> None:
        self._old, self._new, self._consumer, self._queues = old, new, consumer, queues
        self.moved: Counter[str] = Counter()

    async def run(self, *, follow: bool) -> None:
        silence = 0.0
        while True:
            if batch := await self._receive():
                silence = 0.0
                await self._move(batch)
                continue
            silence += _QUIET
            if not follow and (silence >= _STUCK or await self._empty()):
                return

    async def _receive(self) -> Sequence[Delivery]:
        try:
            async with asyncio.timeout(_QUIET):
                return await self._consumer.receive(_BATCH)
        except TimeoutError:
            return ()

    async def _empty(self) -> bool:
        return not any([await self._old.size(queue) for queue in self._queues])

    async def _move(self, batch: Sequence[Delivery]) -> None:
        """Those that are refused stay in our hands until we leave, so that they do not come again at once."""
        copies = [_copy(delivery) for delivery in batch]
        await self._revoke_again(copies)
        refused: frozenset[int] = frozenset()
        try:
            await self._new.publish(copies)
        except PublishErrors as errors:
            refused = frozenset(errors.failures)
            click.echo(printable(str(errors)), err=True)
        safe = [delivery for index, delivery in enumerate(batch) if index not in refused]
        await self._consumer.settle(ack=safe)
        self.moved.update(delivery.queue for delivery in safe)

    async def _revoke_again(self, copies: Sequence[Message]) -> None:
        dues = {str(copy.headers.get("id")): copy.due or now() for copy in copies}
        if revoked := list(await self._old.revoked(list(dues))):
            await self._new.revoke(revoked, max(dues[task_id] for task_id in revoked) + _REVOKED)


def _copy(delivery: Delivery) -> Message:
    """Straight to its queue: an exchange may have several, and each of them is moved by itself."""
    message = delivery.message
    return replace(message, exchange="", routing_key=delivery.queue, due=_due(message))


def _due(message: Message) -> float | None:
    try:
        eta = datetime.fromisoformat(message.headers.get("eta") or "")
    except (ValueError, TypeError):
        return None
    due = (eta if eta.tzinfo else eta.replace(tzinfo=UTC)).timestamp()
    return due if due > now() else None


async def _move_letters(old: Broker, new: Broker, queues: set[str]) -> None:
    letters = [letter for letter in await old.dead(_ALL) if letter.queue in queues]
    for start in range(0, len(letters), _BATCH):
        batch = letters[start : start + _BATCH]
        await new.bury(batch)
        await old.revive([letter.id for letter in batch])
