"""Groups and chords whose members come from an async generator: sent as they come, a batch at a time."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterable, Sequence
from typing import Any

from taskq.canvas.lowering import Lowered, frozen, lowered, result_tuple
from taskq.canvas.shapes import chord, group
from taskq.canvas.signature import Signature
from taskq.seams.app import App
from taskq.seams.connection import Connection
from taskq.wire.message import Message
from taskq.wire.request import current

#: Members of one batch.
BATCH = 100
#: Seconds that a batch waits for further members.
LINGER = 0.05


def source_of(signature: Signature[Any]) -> AsyncIterable[Signature[Any]] | None:
    """The async generator that gives a group's or a header's members, if one does."""
    if isinstance(signature, chord):
        return signature.header.source
    return signature.source if isinstance(signature, group) else None


class Stream:
    """One group or chord on its way out.

    Of a chord, one message is held back until it is known how many parts there are: so no part returns last to a
    chord of unknown size.
    """

    def __init__(self, app: App, signature: Any, connection: Connection, reply_to: str) -> None:
        self._app = app
        self._connection = connection
        self._parent = current.get()
        self._reply_to = reply_to
        self._options = signature.options
        self._template: Any = frozen(_without_source(signature), reply_to)
        self._members: list[Signature[Any]] = []
        self._held: list[Message] = []
        self._parts = 0

    async def send(self, source: AsyncIterable[Signature[Any]]) -> Sequence[Any]:
        """Send all; the wire form of the handle. Raises what the source raises: what was sent so far stays sent."""
        async with contextlib.aclosing(batches(source)) as found:
            async for batch in found:
                await self._send(batch)
        if isinstance(self._template, chord):
            await self._end()
        return result_tuple(self._with(self._members))

    async def _send(self, batch: Sequence[Signature[Any]]) -> None:
        members = group(*batch).tasks  # groups among them are dissolved
        canvas = frozen(self._with(members), self._reply_to, start=len(self._members))
        self._members += canvas.header.tasks if isinstance(canvas, chord) else _tasks(canvas)
        await self._publish(lowered(canvas))

    async def _publish(self, plan: Lowered) -> None:
        messages = self._held + [
            self._app.encoded(plain, self._parent, self._reply_to) for plain in plan.signatures
        ]
        self._held = []
        if isinstance(self._template, chord):
            self._parts += plan.chords.pop(self._template.header.options["task_id"])
            self._held = [messages.pop()]
        if plan.chords:
            await (await self._connection.open_store()).begin_chords(plan.chords)
        if messages:
            await self._app.publish(messages, self._options, self._connection)

    async def _end(self) -> None:
        """The size is known: begin the chord and let the last message go."""
        messages = self._held
        if self._parts:
            size = {self._template.header.options["task_id"]: self._parts}
            await (await self._connection.open_store()).begin_chords(size)
        else:
            empty = lowered(self._template).signatures
            messages = [self._app.encoded(plain, self._parent, self._reply_to) for plain in empty]
        await self._app.publish(messages, self._options, self._connection)

    def _with(self, members: Sequence[Signature[Any]]) -> Any:
        template = self._template
        if isinstance(template, chord):
            return template.replaced(header=template.header.replaced(tasks=tuple(members)))
        return template.replaced(tasks=tuple(members))


def _tasks(canvas: Any) -> Sequence[Signature[Any]]:
    tasks: Sequence[Signature[Any]] = canvas.tasks
    return tasks


def _without_source(signature: Any) -> Any:
    if isinstance(signature, chord):
        return signature.replaced(header=signature.header.replaced(source=None))
    return signature.replaced(source=None)


async def batches(
    source: AsyncIterable[Signature[Any]],
) -> AsyncGenerator[Sequence[Signature[Any]], None]:
    """The members in batches: full ones from a fast source, what there is from a slow one."""
    members = aiter(source)
    batch: list[Signature[Any]] = []
    coming = asyncio.ensure_future(_next(members))
    try:
        while True:
            if not coming.done() and batch:
                await asyncio.wait([coming], timeout=LINGER)
            if batch and (not coming.done() or len(batch) >= BATCH):
                yield batch
                batch = []
            member = await coming
            if member is None:
                break
            batch.append(member)
            coming = asyncio.ensure_future(_next(members))
        if batch:
            yield batch
    finally:
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)


async def _next(members: Any) -> Signature[Any] | None:
    member: Signature[Any] | None = await anext(members, None)
    return member
