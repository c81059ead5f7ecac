"""What every result store must do: the sentences of `taskq.seams.store`, one test or more for each."""

import asyncio
import threading
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest

from taskq.errors import StoreError
from taskq.seams.store import ResultStore, StoreConfig, TaskResult, open_store
from taskq.states import FAILURE, RETRY, REVOKED, STARTED, SUCCESS
from tests.contract.sites import ConnectStore, StoreSite
from tests.polling import eventually


def progress(task_id: str, n: int) -> TaskResult:
    return TaskResult(task_id, "PROGRESS", {"n": n})


def success(task_id: str, value: Any = 1) -> TaskResult:
    return TaskResult(task_id, SUCCESS, value, date_done="2026-11-22T09:40:02.280540+00:00", children=[])


async def collect(states: AsyncGenerator[TaskResult, None], within: float = 10.0) -> list[TaskResult]:
    async with asyncio.timeout(within), aclosing(states):
        return [state async for state in states]


async def watching(site: StoreSite, store: ResultStore, task_id: str) -> None:
    await eventually(lambda: site.watchers(store, task_id) > 0)


# == save, load


@pytest.mark.parametrize(
    "result",
    [
        TaskResult("t", SUCCESS, 4, children=[], date_done="2026-11-22T09:40:02.280540+00:00"),
        TaskResult("t", SUCCESS, None),
        TaskResult("t", SUCCESS, {"ż": [1, None, 2.5, {"deep": ["😀"]}]}, group_id="g", parent_id="p"),
        TaskResult("t", SUCCESS, "x" * 200_000),
        TaskResult(
            "t", FAILURE, {"exc_type": "E", "exc_message": ["m"], "exc_module": "b"}, traceback="Tr\nż"
        ),
        TaskResult("t", STARTED, {"pid": 1, "hostname": "w@h"}),
        TaskResult("t", "OWN STATE", {"done": 0.5}, extra={"name": "tasks.add", "retries": 0}),
        TaskResult("t", SUCCESS, 1, children=[[["c", None], None], [["g", None], [[["a", None], None]]]]),
    ],
    ids=["success", "none", "nested", "large", "failure", "started", "custom", "children"],
)
async def test_results_are_loaded_as_they_were_saved(connect_store: ConnectStore, result: TaskResult) -> None:
    writer, reader = await connect_store(), await connect_store()
    await writer.save([result])
    assert await reader.load(["t"]) == [result]


async def test_the_reply_address_is_not_stored(connect_store: ConnectStore) -> None:
    store = await connect_store()
    await store.save([TaskResult("t", SUCCESS, 1, reply_to="client")])
    assert await store.load(["t"]) == [TaskResult("t", SUCCESS, 1)]


async def test_many_are_loaded_in_the_order_asked(connect_store: ConnectStore) -> None:
    store = await connect_store()
    await store.save([success(f"t{n}", n) for n in range(1500)])
    asked = [f"t{n}" for n in range(1499, -1, -1)]
    loaded = await store.load(["unknown", *asked, "t3", "t3"])
    assert loaded[0] is None
    assert [one and one.value for one in loaded[1:]] == [*range(1499, -1, -1), 3, 3]


async def test_saving_and_loading_nothing_is_fine(connect_store: ConnectStore) -> None:
    store = await connect_store()
    await store.save([])
    await store.forget([])
    await store.expect(["a"])
    assert list(await store.load([])) == []
    assert isinstance(store.reply_to, str)


async def test_the_last_state_of_a_batch_stays(connect_store: ConnectStore) -> None:
    store = await connect_store()
    await store.save([progress("t", 1), progress("u", 1), progress("t", 2), success("t"), progress("u", 2)])
    t, u = await store.load(["t", "u"])
    assert t == success("t")
    assert u == progress("u", 2)


@pytest.mark.parametrize("state", [SUCCESS, FAILURE, RETRY, REVOKED, STARTED, "PROGRESS"])
async def test_success_is_never_overwritten(connect_store: ConnectStore, state: str) -> None:
    store, second = await connect_store(), await connect_store()
    await store.save([success("t", "first")])
    await second.save([TaskResult("t", state, "late"), TaskResult("u", state, "own")])
    await store.save([TaskResult("t", state, "later")])
    t, u = await second.load(["t", "u"])
    assert t == success("t", "first")
    assert u == TaskResult("u", state, "own")


async def test_success_is_never_overwritten_in_one_batch(connect_store: ConnectStore) -> None:
    store = await connect_store()
    await store.save([success("t", "first"), TaskResult("t", FAILURE, "late"), success("t", "second")])
    assert await store.load(["t"]) == [success("t", "first")]


async def test_other_states_are_overwritten(connect_store: ConnectStore) -> None:
    store = await connect_store()
    for state in (RETRY, FAILURE, STARTED, REVOKED, SUCCESS):
        await store.save([TaskResult("t", state, state)])
        assert await store.load(["t"]) == [TaskResult("t", state, state)]


async def test_forgotten_results_are_gone(connect_store: ConnectStore) -> None:
    store, second = await connect_store(), await connect_store()
    await store.save([success("t"), progress("u", 1), success("kept")])
    await second.forget(["t", "u", "unknown"])
    assert await store.load(["t", "u", "kept"]) == [None, None, success("kept")]
    await store.save([progress("t", 1)])
    assert await second.load(["t"]) == [progress("t", 1)]


async def test_results_expire(connect_store: ConnectStore) -> None:
    brief, lasting = await connect_store(expires=1.0), await connect_store(expires=None)
    await brief.save([success("t"), progress("u", 1)])
    await brief.save_group("g", {"result": 1})
    await lasting.save([success("kept")])

    async def gone() -> bool:
        return await brief.load(["t", "u"]) == [None, None] and await brief.load_group("g") is None

    await eventually(gone)
    assert await brief.load(["kept"]) == [success("kept")]
    await brief.save([TaskResult("t", FAILURE, "again")])
    assert await lasting.load(["t"]) == [TaskResult("t", FAILURE, "again")]


async def test_zero_means_no_expiry(connect_store: ConnectStore) -> None:
    store = await connect_store(expires=0)
    await store.save([success("t")])
    await store.save_group("g", [1])
    assert await store.load(["t"]) == [success("t")]
    assert await store.load_group("g") == [1]


# == groups


async def test_groups_are_kept_and_forgotten(connect_store: ConnectStore) -> None:
    store, second = await connect_store(), await connect_store()
    data = {"result": [["g", None], [[["a", None], None], [["b", None], None]]]}
    assert await store.load_group("g") is None
    await store.save_group("g", data)
    assert await second.load_group("g") == data
    await second.save_group("g", {"result": "new"})
    assert await store.load_group("g") == {"result": "new"}
    await store.forget_group("g")
    await store.forget_group("unknown")
    assert await second.load_group("g") is None


# == watch


async def test_watch_gives_every_state_in_order_and_ends_after_the_final_one(
    connect_store: ConnectStore, store_site: StoreSite
) -> None:
    writer, reader = await connect_store(), await connect_store()
    seen = asyncio.ensure_future(collect(reader.watch("t")))
    await watching(store_site, reader, "t")
    await writer.save([TaskResult("t", STARTED, {"pid": 1})])
    await writer.save([progress("t", 1), progress("other", 9), progress("t", 2)])
    for n in range(3, 50):
        await writer.save([progress("t", n)])
    await writer.save([success("t")])
    assert await seen == [
        TaskResult("t", STARTED, {"pid": 1}),
        *(progress("t", n) for n in range(1, 50)),
        success("t"),
    ]


async def test_watch_begins_with_the_present_state(connect_store: ConnectStore) -> None:
    writer, reader = await connect_store(), await connect_store()
    await writer.save([progress("t", 1), progress("t", 2)])
    async with asyncio.timeout(10), aclosing(reader.watch("t")) as states:
        assert await anext(states) == progress("t", 2)
        await writer.save([progress("t", 3)])
        await writer.save([progress("t", 4), TaskResult("t", RETRY, "why"), success("t")])
        rest = [state async for state in states]
    assert rest == [progress("t", 3), progress("t", 4), TaskResult("t", RETRY, "why"), success("t")]


@pytest.mark.parametrize("state", [SUCCESS, FAILURE, REVOKED])
async def test_watch_of_a_finished_task_ends_at_once(connect_store: ConnectStore, state: str) -> None:
    store = await connect_store()
    await store.save([TaskResult("t", state, 1)])
    assert await collect(store.watch("t"), within=5) == [TaskResult("t", state, 1)]


async def test_a_refused_state_is_not_seen(connect_store: ConnectStore, store_site: StoreSite) -> None:
    writer, reader = await connect_store(), await connect_store()
    seen = asyncio.ensure_future(collect(reader.watch("t")))
    await watching(store_site, reader, "t")
    await writer.save([progress("t", 1), success("t", "first"), progress("t", 2), success("t", "second")])
    assert await seen == [progress("t", 1), success("t", "first")]


async def test_one_who_writes_can_watch_too(connect_store: ConnectStore, store_site: StoreSite) -> None:
    store = await connect_store()
    seen = asyncio.ensure_future(collect(store.watch("t")))
    await watching(store_site, store, "t")
    await store.save([progress("t", 1)])
    await store.save([success("t")])
    assert await seen == [progress("t", 1), success("t")]


async def test_several_watch_one_task(connect_store: ConnectStore, store_site: StoreSite) -> None:
    writer, reader = await connect_store(), await connect_store()
    seen = [asyncio.ensure_future(collect(reader.watch("t"))) for _ in range(3)]
    await eventually(lambda: store_site.watchers(reader, "t") >= 1)
    await asyncio.sleep(0)
    await writer.save([success("t")])
    results = await asyncio.gather(*seen)
    assert [states[-1] for states in results] == [success("t")] * 3


async def test_closing_a_watch_ends_the_subscription(
    connect_store: ConnectStore, store_site: StoreSite
) -> None:
    store = await connect_store()
    await store.save([progress("t", 1), progress("u", 1)])
    states, others = store.watch("t"), store.watch("u")
    await anext(states)
    await anext(others)
    assert store_site.watchers(store, "t") == 1
    await states.aclose()
    await eventually(lambda: store_site.watchers(store, "t") == 0)
    assert store_site.watchers(store, "u") == 1
    await store.save([success("u")])
    assert await collect(others) == [success("u")]
    await eventually(lambda: store_site.watchers(store, "u") == 0)


async def test_cancelling_a_watch_ends_the_subscription(
    connect_store: ConnectStore, store_site: StoreSite
) -> None:
    store = await connect_store()
    waiting = asyncio.ensure_future(collect(store.watch("t")))
    await watching(store_site, store, "t")
    waiting.cancel()
    await asyncio.wait([waiting])
    await eventually(lambda: store_site.watchers(store, "t") == 0)


async def test_a_thousand_watch_at_once(connect_store: ConnectStore, store_site: StoreSite) -> None:
    writer, reader = await connect_store(), await connect_store()
    ids = [f"t{n}" for n in range(1000)]
    seen = [asyncio.ensure_future(collect(reader.watch(task_id), within=30)) for task_id in ids]
    for task_id in ids:
        await watching(store_site, reader, task_id)
    await writer.save([progress(task_id, 1) for task_id in ids])
    await writer.save([success(task_id, task_id) for task_id in ids])
    for task_id, states in zip(ids, await asyncio.gather(*seen), strict=True):
        assert states == [progress(task_id, 1), success(task_id, task_id)]
    await eventually(lambda: all(store_site.watchers(reader, task_id) == 0 for task_id in ids))


async def test_another_loop_in_another_thread_is_told(
    connect_store: ConnectStore, store_site: StoreSite
) -> None:
    writer = await connect_store()
    ready, seen = threading.Event(), list[TaskResult]()

    async def read() -> None:
        store = open_store(StoreConfig(store_site.url, options=store_site.options))
        await store.open()
        waiting = asyncio.ensure_future(collect(store.watch("t")))
        await watching(store_site, store, "t")
        ready.set()
        seen.extend(await waiting)
        await store.close()

    reader = threading.Thread(target=asyncio.run, args=(read(),))
    reader.start()
    assert await asyncio.to_thread(ready.wait, 10)
    await writer.save([progress("t", 1)])
    await writer.save([success("t")])
    await asyncio.to_thread(reader.join, 10)
    assert seen == [progress("t", 1), success("t")]


# == errors


async def test_opening_what_is_not_there_says_so(store_site: StoreSite) -> None:
    if store_site.unreachable is None:
        pytest.skip("always there")
    store = open_store(StoreConfig(store_site.unreachable, timeout=0.5))
    with pytest.raises(StoreError) as caught:
        await store.open()
    assert "s3cret" not in str(caught.value)


async def test_closing_twice_is_fine(connect_store: ConnectStore) -> None:
    store = await connect_store()
    await store.close()
    await store.close()
