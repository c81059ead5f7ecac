"""The life of a worker: starting, draining in every phase, and what happens when a part of it breaks."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskq import Ignore, OperationalError, Reject, Task, TaskQ
from taskq.broker_adapters.memory.broker import HUBS, MemoryConsumer
from taskq.errors import ConnectionLost, StoreError
from taskq.worker import Worker
from taskq.worker import worker as worker_module
from taskq.worker.worker import Stop
from tests.faults import FOREVER, fail, heal
from tests.harness import running
from tests.polling import eventually

AnyTask = Task[Any, Any, Any]


def waiting(app: TaskQ) -> int:
    return HUBS[app.conf.broker_url].size("celery")


@pytest.fixture
def endless(app: TaskQ) -> AnyTask:
    """Runs until it is cancelled."""

    @app.task(name="proj.endless")
    async def endless() -> None:
        await asyncio.Event().wait()

    return endless


# == starting


async def test_a_broker_that_is_down_at_start_is_told(frail: TaskQ) -> None:
    fail(frail, "open", ConnectionLost("nobody there"))
    with pytest.raises(OperationalError, match="nobody there"):
        await Worker(frail).run()


async def test_an_error_when_it_is_ready_ends_it(app: TaskQ) -> None:
    def broken() -> None:
        raise RuntimeError("not ready at all")

    with pytest.raises(RuntimeError, match="not ready at all"):
        await asyncio.wait_for(Worker(app, on_ready=broken).run(), 10)


async def test_it_can_be_told_to_stop_before_it_runs(app: TaskQ) -> None:
    worker = Worker(app)
    worker.stop()
    await asyncio.wait_for(worker.run(), 10)
    assert worker.clean


# == draining


async def test_running_tasks_have_the_grace_period(app: TaskQ) -> None:
    release = asyncio.Event()

    @app.task
    async def slow() -> str:
        await release.wait()
        return "done"

    async with running(app, concurrency=1) as worker:
        results = [await slow.delay() for _ in range(3)]
        await eventually(lambda: worker.running)
        worker.stop()
        await eventually(lambda: waiting(app) == 2)  # what has not begun is given back at once
        release.set()
    states = [(await result.refresh()).state for result in results]
    assert states == ["SUCCESS", "PENDING", "PENDING"]


@pytest.mark.parametrize("how", ["grace", "cold"])
@pytest.mark.parametrize("limit", [None, 60])
async def test_what_is_not_finished_is_given_back(
    app: TaskQ, endless: AnyTask, how: str, limit: float | None
) -> None:
    async with running(app, grace=0.05 if how == "grace" else 60) as worker:
        result = await endless.apply_async(time_limit=limit)
        await eventually(lambda: worker.running)
        worker.stop(Stop.COLD if how == "cold" else Stop.WARM)
    assert waiting(app) == 1
    assert (await result.refresh()).state == "PENDING"


async def test_a_task_may_clean_up_when_it_is_cut_off_or_even_finish(app: TaskQ) -> None:
    cleaned: list[str] = []

    @app.task
    async def careful(name: str) -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cleaned.append(name)
            if name == "quick":
                return "finished"
            raise
        return ""

    async with running(app) as worker:
        results = {name: await careful.delay(name) for name in ("quick", "slow")}
        await eventually(lambda: all(job.request.hostname for job in worker.running) and worker.running)
        worker.stop(Stop.COLD)
    assert sorted(cleaned) == ["quick", "slow"]
    assert (await results["quick"].refresh()).result == "finished"
    assert waiting(app) == 1


@pytest.mark.parametrize("limit", [None, 60])
async def test_a_task_that_swallows_its_cancellation_cannot_hold_the_worker(
    app: TaskQ, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, limit: float | None
) -> None:
    monkeypatch.setattr(worker_module, "PATIENCE", 0.1)
    release = asyncio.Event()

    @app.task
    async def stubborn() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    async with running(app) as worker:
        await stubborn.apply_async(time_limit=limit)
        await eventually(lambda: worker.running and all(job.request.hostname for job in worker.running))
        worker.stop(Stop.COLD)
    assert "does not end when cancelled" in caplog.text
    assert waiting(app) == 1
    release.set()


async def test_tasks_that_wait_for_their_time_are_given_back(app: TaskQ, endless: AnyTask) -> None:
    async with running(app) as worker:
        await endless.apply_async(countdown=30)
        await endless.apply_async(countdown=3000)
        await eventually(lambda: worker._parts is not None and worker._parts.intake.waiting == 1)
    assert waiting(app) == 2


async def test_a_plain_task_that_does_not_end_is_given_back(app: TaskQ) -> None:
    release = asyncio.Event()
    loop = asyncio.get_running_loop()

    @app.task
    def blocked() -> None:
        asyncio.run_coroutine_threadsafe(release.wait(), loop).result()

    async with running(app) as worker:
        await blocked.delay()
        await eventually(lambda: worker.running)
        worker.stop(Stop.COLD)
    assert waiting(app) == 1
    release.set()


async def test_a_cancelled_worker_gives_back_and_leaves_nothing_running(app: TaskQ, endless: AnyTask) -> None:
    ready = asyncio.Event()
    worker = Worker(app, on_ready=ready.set)
    before = asyncio.all_tasks()
    run = asyncio.create_task(worker.run())
    await ready.wait()
    await endless.delay()
    await eventually(lambda: worker.running)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert waiting(app) == 1
    await eventually(lambda: asyncio.all_tasks() <= before)


async def test_a_broker_that_is_gone_does_not_hold_up_the_end(
    frail: TaskQ, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(worker_module, "PATIENCE", 0.1)

    @frail.task
    async def quick() -> str:
        return "done"

    async with running(frail, grace=0.1) as worker:
        fail(frail, "settle", ConnectionLost("gone"), FOREVER)
        result = await quick.delay()
        assert await result == "done"
        worker.stop()
    assert not worker.clean
    assert "their tasks are run again" in caplog.text
    heal(frail)
    assert waiting(frail) == 1


async def test_a_consumer_that_cannot_be_closed_is_left_to_its_leases(
    frail: TaskQ, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(frail) as worker:
        fail(frail, "close", ConnectionLost("gone"))
    assert not worker.clean
    assert "their leases will run out" in caplog.text


async def test_a_part_that_breaks_ends_the_worker_loudly_with_its_error(
    frail: TaskQ, caplog: pytest.LogCaptureFixture
) -> None:
    @frail.task
    async def quick() -> str:
        return "done"

    worker = Worker(frail)
    run = asyncio.create_task(worker.run())
    await eventually(lambda: worker._parts)
    fail(frail, "save", ZeroDivisionError("a bug in the store"), FOREVER)
    await quick.delay()
    with pytest.raises(RuntimeError, match="taskq-completer") as caught:
        await asyncio.wait_for(run, 10)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert [record for record in caplog.records if record.levelname == "CRITICAL"]
    assert waiting(frail) == 1


async def test_a_second_worker_takes_over_what_the_first_gave_back(app: TaskQ) -> None:
    runs: list[str] = []
    begun = asyncio.Event()

    @app.task(bind=True)
    async def first_try_hangs(self: AnyTask) -> str:
        runs.append(self.request.hostname or "")
        begun.set()
        if len(runs) == 1:
            await asyncio.Event().wait()
        return "done"

    async with running(app, hostname="celery@one") as worker:
        result = await first_try_hangs.delay()
        await begun.wait()
        worker.stop(Stop.COLD)
    async with running(app, hostname="celery@two"):
        assert await result == "done"
    assert runs == ["celery@one", "celery@two"]


# == any interleaving

ENDS = st.sampled_from(
    ["value", "error", "ignore", "reject", "retry", "link", "unencodable", "early", "thread"]
)


@settings(max_examples=40)
@given(
    st.lists(st.tuples(ENDS, st.integers(0, 3)), min_size=1, max_size=15),
    st.integers(1, 4),
    st.lists(st.sampled_from(["save", "settle", "publish", "revoked"]), max_size=4),
)
def test_each_delivery_is_settled_exactly_once(
    ends: list[tuple[str, int]], concurrency: int, faults: list[str]
) -> None:
    asyncio.run(settle_all(ends, concurrency, faults))


async def settle_all(ends: list[tuple[str, int]], concurrency: int, faults: list[str]) -> None:
    app = TaskQ("proj", broker="faulty://interleaving", backend="faulty://interleaving")
    tasks = acting(app)
    settled: Counter[Any] = Counter()
    async with app, counting(settled):
        for end, turns in ends:
            link = tasks["value"].si("value", 0) if end == "link" else None
            await tasks.get(end, tasks["value"]).apply_async((end, turns), link=link)
        for verb in faults:
            fail(app, verb, StoreError("down") if verb == "save" else ConnectionLost("down"))
        async with running(app, concurrency=concurrency) as worker:
            assert worker._parts is not None
            custody = worker._parts.custody
            await eventually(lambda: not waiting(app) and not len(custody))
    assert sum(settled.values()) == len(ends) + sum(end in {"retry", "link"} for end, _ in ends)
    assert set(settled.values()) == {1}
    heal(app)
    HUBS.pop(app.conf.broker_url)


def acting(app: TaskQ) -> dict[str, AnyTask]:
    """Tasks that end as they are told, after some turns of the loop."""
    errors = {"error": ValueError("no"), "ignore": Ignore(), "reject": Reject("no")}

    @app.task(bind=True, name="act")
    async def act(self: AnyTask, end: str, turns: int) -> Any:
        for _ in range(turns):
            await asyncio.sleep(0)
        if end == "retry" and not self.request.retries:
            raise self.retry(countdown=0)
        if end in errors:
            raise errors[end]
        return object() if end == "unencodable" else turns

    @app.task(name="early", acks_late=False)
    async def early(end: str, turns: int) -> Any:
        return turns

    @app.task(name="thread")
    def thread(end: str, turns: int) -> Any:
        return turns

    return {"value": act, "early": early, "thread": thread}


@asynccontextmanager
async def counting(settled: Counter[Any]) -> AsyncIterator[None]:
    """Counts what is settled from the first on: a worker may be through with a message before it can be looked at."""
    settle = MemoryConsumer.settle

    async def count(self: MemoryConsumer, **outcomes: Any) -> None:
        await settle(self, **outcomes)
        settled.update(delivery.tag for kind in ("ack", "requeue") for delivery in outcomes[kind])
        settled.update(delivery.tag for delivery, _ in outcomes["reject"])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemoryConsumer, "settle", count)
        yield
