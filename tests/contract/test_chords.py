"""What every result store must do for chords: the sentences of `taskq.seams.store`, one test or more for each."""

import asyncio
from typing import Any

import pytest

from taskq.clock import now, set_source
from taskq.errors import EncodeError
from taskq.seams.store import CHORD_CLAIM, ResultStore, TaskResult
from taskq.states import FAILURE, REVOKED, SUCCESS
from tests.contract.conftest import STORES
from tests.contract.sites import ConnectStore, StoreSite

#: Besides those that keep results, the one that sends them.
STORES_OF_CHORDS = [*STORES, pytest.param("rpc", marks=pytest.mark.rabbitmq)]


@pytest.fixture(params=STORES_OF_CHORDS)
def store_site(request: pytest.FixtureRequest) -> StoreSite:
    found = request.getfixturevalue(f"store_{request.param}")
    assert isinstance(found, StoreSite)
    return found


FAILED = {"exc_type": "ValueError", "exc_message": ["boom"], "exc_module": "builtins"}


def part(task_id: str, value: Any = None, state: str = SUCCESS) -> TaskResult:
    return TaskResult(task_id, state, value, group_id="g")


async def returned(store: ResultStore, *parts: tuple[str, int | None]) -> list[Any]:
    return [await store.join(part(name, f"value of {name}"), index) for name, index in parts]


async def test_the_last_part_gets_all_in_order(connect_store: ConnectStore) -> None:
    one, two = await connect_store(), await connect_store()
    await one.begin_chords({"g": 3, "other": 1})
    assert await returned(two, ("c", 2), ("a", 0)) == [None, None]
    joined = await one.join(part("b", {"ż": [1, 2.5, None]}), 1)
    assert joined is not None
    assert [(p.task_id, p.state, p.value) for p in joined] == [
        ("a", SUCCESS, "value of a"),
        ("b", SUCCESS, {"ż": [1, 2.5, None]}),
        ("c", SUCCESS, "value of c"),
    ]


async def test_many_parts_are_ordered_by_number(connect_store: ConnectStore) -> None:
    store = await connect_store()
    await store.begin_chords({"g": 150})
    joined = await asyncio.gather(*(store.join(part(f"t{i}", i), i) for i in reversed(range(150))))
    [parts] = [parts for parts in joined if parts is not None]
    assert [p.value for p in parts] == list(range(150))


async def test_a_part_without_a_place_comes_last(connect_store: ConnectStore) -> None:
    store = await connect_store()
    await store.begin_chords({"g": 3})
    await returned(store, ("late", None), ("b", 10))
    joined = await store.join(part("a"), 9)
    assert joined is not None
    assert [p.task_id for p in joined] == ["a", "b", "late"]


async def test_a_part_that_comes_twice_counts_once(connect_store: ConnectStore) -> None:
    store = await connect_store()
    await store.begin_chords({"g": 2})
    assert await returned(store, ("a", 0), ("a", 0), ("a", 0)) == [None, None, None]
    joined = await store.join(part("b"), 1)
    assert joined is not None
    assert [p.task_id for p in joined] == ["a", "b"]


async def test_a_part_that_comes_twice_is_what_it_was_at_first(connect_store: ConnectStore) -> None:
    store = await connect_store()
    await store.begin_chords({"g": 2})
    assert await returned(store, ("a", 0)) == [None]
    assert await store.join(part("a", FAILED, FAILURE), 0) is None
    joined = await store.join(part("b"), 1)
    assert joined is not None
    assert [(p.task_id, p.state) for p in joined] == [("a", SUCCESS), ("b", SUCCESS)]


async def test_the_same_task_may_have_two_places(connect_store: ConnectStore) -> None:
    store = await connect_store()
    await store.begin_chords({"g": 2})
    assert await returned(store, ("a", 0)) == [None]
    joined = await store.join(part("a", "again"), 1)
    assert joined is not None
    assert [p.value for p in joined] == ["value of a", "again"]


@pytest.mark.parametrize("state", [FAILURE, REVOKED])
async def test_a_failed_part_completes_at_once(connect_store: ConnectStore, state: str) -> None:
    store = await connect_store()
    await store.begin_chords({"g": 100})
    await returned(store, ("c", 2))
    joined = await store.join(part("b", FAILED, state), 1)
    assert joined is not None
    assert [(p.task_id, p.state, p.value) for p in joined] == [
        ("b", state, FAILED),
        ("c", SUCCESS, "value of c"),
    ]


async def test_chords_do_not_mix(connect_store: ConnectStore) -> None:
    store = await connect_store()
    await store.begin_chords({"g": 2, "h": 1})
    assert await returned(store, ("a", 0)) == [None]
    joined = await store.join(TaskResult("x", SUCCESS, 1, group_id="h"), 0)
    assert joined is not None
    assert [p.task_id for p in joined] == ["x"]


async def test_a_size_is_given_once(connect_store: ConnectStore) -> None:
    store, other = await connect_store(), await connect_store()
    await store.begin_chords({"g": 1})
    await other.begin_chords({"g": 5})
    assert await returned(store, ("a", 0)) != [None]


async def test_parts_may_come_before_the_beginning(connect_store: ConnectStore) -> None:
    store = await connect_store()
    assert await returned(store, ("a", 0), ("b", 1)) == [None, None]
    assert await store.join(part("bad", FAILED, FAILURE), 2) is None
    await store.begin_chords({"g": 9})
    joined = await store.join(part("c"), 3)
    assert joined is not None
    assert [p.task_id for p in joined] == ["a", "b", "bad", "c"]


async def test_a_chord_grows_by_a_task_once(connect_store: ConnectStore) -> None:
    store, other = await connect_store(), await connect_store()
    await store.begin_chords({"g": 1})
    await store.grow_chord("g", "added")
    await other.grow_chord("g", "added")
    assert await returned(store, ("a", 0)) == [None]
    joined = await store.join(part("added"), None)
    assert joined is not None
    assert [p.task_id for p in joined] == ["a", "added"]


# == claims


async def completed(store: ResultStore) -> None:
    """The chord `g`, claimed by its part `b`."""
    await store.begin_chords({"g": 2})
    assert await returned(store, ("a", 0)) == [None]
    assert await store.join(part("b"), 1) is not None


async def test_what_is_claimed_goes_to_nobody_else(connect_store: ConnectStore) -> None:
    store, other = await connect_store(), await connect_store()
    await completed(store)
    assert await returned(other, ("a", 0)) == [None]


async def test_the_claimant_that_comes_again_waits_for_the_end(connect_store: ConnectStore) -> None:
    store, other = await connect_store(), await connect_store()
    await completed(store)
    again = asyncio.ensure_future(other.join(part("b"), 1))
    done, _ = await asyncio.wait([again], timeout=0.3)
    assert not done
    await store.end_chords(["g"])
    async with asyncio.timeout(20):
        assert await again is None


@pytest.mark.slow
async def test_the_claim_of_a_completer_that_died_is_taken_over(connect_store: ConnectStore) -> None:
    store, other = await connect_store(), await connect_store()
    await completed(store)
    start = asyncio.get_running_loop().time()
    joined = await other.join(part("b"), 1)
    assert joined is not None
    assert [p.task_id for p in joined] == ["a", "b"]
    assert asyncio.get_running_loop().time() - start > CHORD_CLAIM - 2
    assert await returned(store, ("a", 0)) == [None]


async def test_an_ended_chord_ignores_what_comes_late(connect_store: ConnectStore) -> None:
    store, other = await connect_store(), await connect_store()
    await completed(store)
    await store.end_chords(["g", "never begun"])
    assert await returned(other, ("b", 1), ("new", 2)) == [None, None]
    assert await other.join(part("bad", FAILED, FAILURE), 3) is None
    await other.begin_chords({"g": 1, "never begun": 1})
    await other.grow_chord("g", "c")
    assert await returned(other, ("c", 0)) == [None]


async def test_many_parts_of_several_chords_return_at_once(connect_store: ConnectStore) -> None:
    store = await connect_store()
    await store.begin_chords({"g": 2, "h": 1, "i": 2})
    other, third = TaskResult("x", SUCCESS, 1, group_id="h"), TaskResult("y", SUCCESS, 2, group_id="i")
    joined = await store.join_many([(part("a"), 0), (other, 0), (third, 0), (part("b"), 1)])
    complete = [one for one in joined if isinstance(one, list)]
    assert [[p.task_id for p in parts] for parts in complete] in ([["x"], ["a", "b"]], [["a", "b"], ["x"]])
    assert [one for one in joined if not isinstance(one, list)] == [None, None]
    assert await store.join_many([]) == []


async def test_of_many_parts_one_that_cannot_be_written_fails_alone(connect_store: ConnectStore) -> None:
    store = await connect_store()
    await store.begin_chords({"g": 2, "h": 1})
    bad = TaskResult("x", SUCCESS, object(), group_id="h")
    first, failed, second = await store.join_many([(part("a"), 0), (bad, 0), (part("b"), 1)])
    assert isinstance(failed, EncodeError)
    assert sorted([first is None, second is None]) == [False, True]


async def test_beginning_and_ending_nothing_is_fine(connect_store: ConnectStore) -> None:
    store = await connect_store()
    await store.begin_chords({})
    await store.end_chords([])
    await store.begin_chords({"g": 1})
    assert await returned(store, ("a", 0)) != [None]


@pytest.mark.parametrize("store_site", ["memory", "sqlite"], indirect=True)
async def test_a_chord_that_never_ends_expires(connect_store: ConnectStore) -> None:
    store = await connect_store(expires=60)
    await store.begin_chords({"g": 2})
    await returned(store, ("a", 0))
    start = now()
    before = set_source(lambda: start + 61)
    try:
        await store.begin_chords({"g": 1})
        joined = await store.join(part("b"), 1)
    finally:
        set_source(before)
    assert joined is not None
    assert [p.task_id for p in joined] == ["b"]
