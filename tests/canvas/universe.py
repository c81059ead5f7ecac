"""One workflow, some workers that die, and what came of it."""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from taskq import AsyncResult, GroupResult, Task, TaskQ, TaskqError
from taskq.canvas.signature import as_signature
from taskq.worker import Worker
from tests.canvas.chaos import FATES, Fate
from tests.canvas.plans import Failed, Plan, World, build, handed_down, interpret
from tests.polling import eventually

LEASE = 0.6
_names = itertools.count()


class Universe:
    """The workers and the client of one broker; `notes` are what callbacks and errbacks have written."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.notes: Counter[str] = Counter()
        self.slow: set[str] = set()

    def app(self, url: str) -> TaskQ:
        app = TaskQ(
            "proj", broker=url, backend=url, lease_seconds=LEASE, max_deaths=1000, worker_concurrency=5
        )

        @app.task(name="note")
        async def note(*args: Any) -> None:
            self.notes[args[-1]] += 1

        @app.task(name="step", bind=True)
        async def step(self_: Task[Any, Any, Any], *args: Any, how: str, inner: Any) -> Any:
            if args[-1] in self.slow:
                await asyncio.sleep(LEASE * 1.5)
            return await take_step(self_, args, how, inner)

        return app

    @asynccontextmanager
    async def workers(self, *lives: Sequence[Fate]) -> AsyncIterator[None]:
        """One worker for each of these; when it dies, the next of its line takes its place."""
        lines = [asyncio.create_task(self._line(fates)) for fates in lives]
        try:
            yield
        finally:
            for line in lines:
                line.cancel()
            await asyncio.gather(*lines, return_exceptions=True)

    async def _line(self, fates: Sequence[Fate]) -> None:
        for fate in fates:
            name = str(next(_names))
            FATES[name] = fate
            worker = Worker(self.app(f"chaos://{name}"))
            life = asyncio.create_task(worker.run())
            death = asyncio.create_task(fate.dead.wait())
            try:
                await asyncio.wait([life, death], return_when=asyncio.FIRST_COMPLETED)
            finally:
                fate.dead.set()
                fate.buried.set()
                life.cancel()
                death.cancel()
                await asyncio.gather(life, death, return_exceptions=True)
                del FATES[name]


async def take_step(task: Task[Any, Any, Any], args: Sequence[Any], how: str, inner: Any) -> Any:
    if how == "fail":
        raise ValueError(args[-1])
    if how == "retry" and task.request.retries < 2:
        raise task.retry(countdown=0.01)
    if how == "replace":
        raise task.replace(as_signature(inner, task.app))
    if how == "add":
        await task.add_to_chord(as_signature(inner, task.app))
    return [args[-1], *args[:-1]]


async def seen(handle: AsyncResult[Any] | GroupResult[Any], within: float) -> Any:
    """What a caller gets to know by a handle, in the form of the reference."""
    if isinstance(handle, GroupResult):
        return [await seen(member, within) for member in handle.results]
    try:
        return await handle.get(timeout=within)
    except (TaskqError, ValueError) as error:
        return Failed(type(error).__name__)


def expected(plan: Plan) -> tuple[Any, Counter[str]]:
    world = World()
    try:
        value = interpret(handed_down(plan), (), world)
    except Failed as failed:
        value = failed
    return value, world.notes


def plain(value: Any) -> Any:
    """Comparable: failures by their type."""
    if isinstance(value, Failed):
        return f"failed: {value.args[0]}"
    return [plain(item) for item in value] if isinstance(value, list) else value


def spread(value: Any, like: Any) -> Any:
    """A failure before a group is that of every member."""
    if not isinstance(like, list):
        return value
    if isinstance(value, list):
        return [spread(*both) for both in zip(value, like, strict=True)]
    return [spread(value, item) for item in like] if str(value).startswith("failed") else value


async def run(universe: Universe, plan: Plan, *lives: Sequence[Fate], within: float = 60.0) -> Counter[str]:
    """Send a plan among such workers, and compare what comes of it with the reference; the notes there should be."""
    value, notes = expected(plan)
    async with universe.app(universe.url) as client, universe.workers(*lives):
        signature = build(client, plan)
        handle = await signature.apply_async()
        got = plain(await seen(handle, within))
        try:
            await eventually(lambda: universe.notes >= notes, within=within)
        except AssertionError:
            assert universe.notes == notes, signature
            raise
    assert got == spread(plain(value), got), signature
    assert set(universe.notes) == set(notes), signature
    return notes
