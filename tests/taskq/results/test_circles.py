"""What lies in a result store may go round in a circle: walking through it ends."""

import asyncio

from taskq.wire.result import TaskResult
from tests.harness import Place


async def test_results_that_lead_to_each_other(place_memory: Place) -> None:
    async with place_memory.app() as app, asyncio.timeout(20):
        store = await app.open_store()
        there, back = [[["b", None], None]], [[["a", None], None]]
        await store.save([TaskResult("a", "SUCCESS", 1, children=there, date_done="2026-01-01T00:00:00")])
        await store.save([TaskResult("b", "SUCCESS", 2, children=back, date_done="2026-01-01T00:00:00")])
        result = app.AsyncResult("a")
        assert [handle.id async for handle, _ in result.collect()] == ["a", "b", "a"]
        assert await result.get_leaf() == 1
        assert set((await result.graph()).nodes) == {"a", "b"}
        str(await result.graph())
