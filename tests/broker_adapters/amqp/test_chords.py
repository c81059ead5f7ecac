"""Chords whose parts wait in RabbitMQ: processes that die between any two steps, and those that come at once."""

import asyncio
import functools
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from random import Random
from typing import Any, TypeVar, cast

import aio_pika
import pytest

from taskq.broker_adapters.amqp.chords import BoxLog, name_of
from taskq.broker_adapters.amqp.results import RpcStore
from taskq.broker_adapters.memory.store import StoredChord as Reference
from taskq.errors import StoreError
from taskq.seams.broker import Hold
from taskq.seams.store import StoreConfig, TaskResult, open_store
from taskq.states import FAILURE, SUCCESS
from taskq.wire.message import Message
from tests.polling import eventually

pytestmark = pytest.mark.rabbitmq

T = TypeVar("T")


class Died(BaseException):
    """What a process that was killed does next: nothing."""


class Process:
    """One process' store; it dies at its `hour`-th step, before the step has come to pass or after it."""

    def __init__(self, store: RpcStore, hour: int = 0, *, before: bool = False) -> None:
        self.store = store
        self.hour, self.before = hour, before
        self.steps: list[str] = []
        self.boxes = cast("Any", store._chords._boxes)
        sender, topology = self.boxes._sender, self.boxes._topology
        sender.send = self._mortal("send", sender.send)
        topology.do = self._mortal("do", topology.do)
        self.boxes.hold = self._mortal("hold", self._held(self.boxes.hold))

    def _held(
        self, hold: Callable[[str, int], Awaitable[Any]]
    ) -> Callable[[str, int], Awaitable[Hold | None]]:
        async def take(box: str, limit: int) -> Hold | None:
            held = await hold(box, limit)
            if held is not None:
                held.next = self._mortal("next", held.next)
                held.stop = self._mortal("stop", held.stop)
                held.release = self._mortal("release", held.release)
            return held  # type: ignore[no-any-return]  # of the adapter

        return take

    def _mortal(self, name: str, act: Callable[..., Awaitable[T]]) -> Callable[..., Awaitable[T]]:
        async def step(*args: Any, **kwargs: Any) -> T:
            self.steps.append(name)
            struck = len(self.steps) == self.hour
            if struck and self.before:
                self.die()
            value = await act(*args, **kwargs)
            if struck:
                self.die()
            return value

        return step

    def die(self) -> None:
        self.cut()
        raise Died

    def cut(self) -> None:
        """Its connections break; it makes them again."""
        broker: Any = self.store._broker
        broker._publishing.tap.abort()
        broker._consuming.tap.abort()


class World:
    """Processes that run the parts of chords, and the bodies that were sent."""

    def __init__(self, vhost: str, stack: AsyncExitStack, space: str = "") -> None:
        self.vhost = vhost
        self.stack = stack
        self.space = space or f"test-{uuid.uuid4().hex[:8]}"
        self.sent: list[list[Any]] = []

    async def process(self, hour: int = 0, *, before: bool = False) -> Process:
        config = StoreConfig(f"rpc+{self.vhost}", expires=3600.0, options={"namespace": self.space})
        store = open_store(config)
        assert isinstance(store, RpcStore)
        await store.open()
        self.stack.push_async_callback(store.close)
        return Process(store, hour, before=before)

    async def run(self, process: Process, number: int, group: str = "g", state: str = SUCCESS) -> None:
        """Run a part: its task is acked when this returns."""
        result = TaskResult(f"t{number}", state, number, group_id=group)
        joined = await process.store.join(result, number)
        if joined is not None:
            self.sent.append([part.value for part in joined])
            await process.store.end_chords([group])


@pytest.fixture
async def world(vhost: str) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        yield World(vhost, stack)


# == the log


def test_the_log_completes_where_the_reference_does() -> None:
    """Begun late or twice, grown, with parts that come again or fail: the memory store's answers, from a log."""
    for seed in range(2000):
        random = Random(seed)
        reference, log = Reference(0.0), BoxLog()
        first = None
        for _ in range(12):
            kind = random.choice(["part"] * 6 + ["begin", "grow", "failed"])
            task, place = f"t{random.randrange(5)}", random.randrange(2)
            if kind == "begin":
                size = random.randint(1, 5)
                reference.begin(size)
                log.add(Message({"taskq": "begin", "size": size}, b""))
            elif kind == "grow":
                reference.grow(task)
                log.add(Message({"taskq": "grow", "task": task}, b""))
            else:
                state = FAILURE if kind == "failed" else SUCCESS
                part = TaskResult(task, state, group_id="g")
                record = Message({"taskq": "part", "task": task, "place": place, "state": state}, b"")
                log.add(record)
                if isinstance(reference.join(part, place, b"", 0.0), list) and first is None:
                    first = name_of(record)
            assert log.completer == first, seed


# == processes that die


async def scenario(world: World, mortal: Process, other: Process, group: str, failing: int | None) -> None:
    """Parts one after the other in a process that dies once, and then in another."""
    begun, number = False, 0
    while number < 3:
        try:
            if not begun:
                await mortal.store.begin_chords({group: 3})
                begun = True
            await world.run(mortal, number, group, FAILURE if number == failing else SUCCESS)
            number += 1
        except Died:
            mortal = other


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("failing", [None, 1])
async def test_a_process_that_dies_between_any_two_steps(world: World, failing: int | None) -> None:
    undisturbed, survivor = await world.process(), await world.process()
    await scenario(world, undisturbed, survivor, "g", failing)
    [complete] = world.sent
    assert complete == ([0, 1, 2] if failing is None else [0, 1])
    stop = undisturbed.steps.index("stop") + 1  # then the queue is deleted, and the chord is over

    async def one(hour: int, *, before: bool) -> None:
        async with AsyncExitStack() as life:
            own = World(world.vhost, life, world.space)
            mortal = await own.process(hour, before=before)
            await scenario(own, mortal, survivor, f"{hour} {before}", failing)
        # Sent, but dead before the chord was over: RabbitMQ has no place for the names of messages.
        twice = hour == stop or (hour == stop + 1 and before)
        assert own.sent == [complete] * (2 if twice else 1), (hour, before, undisturbed.steps)

    for hour in range(1, len(undisturbed.steps) + 1):
        await asyncio.gather(one(hour, before=True), one(hour, before=False))


async def test_who_dies_with_the_claim_is_replaced_at_once(world: World) -> None:
    first, second, third = [await world.process() for _ in range(3)]
    await first.store.begin_chords({"g": 2})
    await world.run(first, 0)
    last = TaskResult("t1", SUCCESS, 1, group_id="g")
    assert await first.store.join(last, 1) is not None
    again = asyncio.ensure_future(world.run(second, 1))
    late = asyncio.ensure_future(world.run(third, 0))
    await eventually(lambda: second.steps.count("do") > 2 and third.steps.count("do") > 2)
    assert not world.sent
    with pytest.raises(Died):
        first.die()
    async with asyncio.timeout(4):  # the claim would last for six seconds
        await asyncio.gather(again, late)
    assert world.sent == [[0, 1]]


# == many at once


async def test_parts_that_return_at_once_and_twice_over_three_processes(world: World) -> None:
    processes = [await world.process() for _ in range(3)]
    for turn in range(15):
        group, size = f"g{turn}", 1 + turn * 2
        await processes[0].store.begin_chords({group: size})
        runs = [
            world.run(process, number, group)
            for number in range(size)
            for process in Random(turn * 100 + number).sample(processes, 2)
        ]
        Random(turn).shuffle(runs)
        async with asyncio.timeout(30):
            await asyncio.gather(*runs)
        assert world.sent.pop() == list(range(size))
        assert not world.sent


async def test_two_failures_at_once_fail_a_chord_once(world: World) -> None:
    processes = [await world.process() for _ in range(3)]
    for turn in range(15):
        group = f"g{turn}"
        await processes[0].store.begin_chords({group: 50})
        async with asyncio.timeout(30):
            await asyncio.gather(
                *(
                    world.run(processes[number % 3], number, group, FAILURE if number % 4 == 0 else SUCCESS)
                    for number in range(12)
                )
            )
        [values] = world.sent
        assert set(values) & {0, 4, 8}
        world.sent.clear()


async def test_the_last_part_meets_the_late_beginning_of_a_stream(world: World) -> None:
    """More parts than are read without a reason have returned before the size is known, one of them failed."""
    processes = [await world.process() for _ in range(2)]
    for bad in (None, 3):
        group, size = f"g{bad}", 60
        states = [FAILURE if number == bad else SUCCESS for number in range(size)]
        for number in range(size - 1):
            await world.run(processes[number % 2], number, group, states[number])
        assert not world.sent
        await processes[0].store.begin_chords({group: size})
        await world.run(processes[1], size - 1, group)
        [values] = world.sent
        assert values == list(range(size))
        world.sent.clear()


async def test_reading_grows_with_the_number_of_parts(world: World) -> None:
    """Some parts return twice on their way, and all look in together at the end."""
    processes = [await world.process() for _ in range(2)]
    size = 400
    await processes[0].store.begin_chords({"g": size})
    numbers = [*range(size), *range(0, size, 10)]
    for start in range(0, len(numbers), 40):
        batch = numbers[start : start + 40]
        await asyncio.gather(*(world.run(processes[n % 2], n) for n in batch))
    assert world.sent == [list(range(size))]
    read = sum(process.steps.count("next") for process in processes)
    assert read < 5 * size


async def test_connections_that_are_cut_again_and_again(world: World) -> None:
    processes = [await world.process() for _ in range(2)]
    returned = 0

    async def insisting(process: Process, number: int, group: str) -> None:
        nonlocal returned
        result = TaskResult(f"t{number}", SUCCESS, number, group_id=group)
        joined = await retry_until_done(lambda: process.store.join(result, number))
        if joined is not None:
            world.sent.append([group, *(part.value for part in joined)])
            await retry_until_done(lambda: process.store.end_chords([group]))
        returned += 1

    def passed(limit: int) -> bool:
        return returned >= limit

    groups = [f"g{turn}" for turn in range(30)]
    for group in groups:
        await processes[0].store.begin_chords({group: 6})
    runs = [insisting(processes[n % 2], n, group) for n in range(6) for group in groups]
    running = [asyncio.ensure_future(run) for run in runs]
    for limit in range(10, 180, 20):
        await eventually(functools.partial(passed, limit))
        for process in processes:
            process.cut()
    async with asyncio.timeout(60):
        await asyncio.gather(*running)
    assert sorted(world.sent) == sorted([group, *range(6)] for group in groups)


async def retry_until_done(act: Callable[[], Awaitable[T]]) -> T:
    while True:
        with suppress(StoreError):
            return await act()


# == what is left


async def test_an_ended_chord_leaves_an_empty_queue_for_a_while(world: World) -> None:
    process = await world.process()
    await process.store.begin_chords({"g": 1})
    await world.run(process, 0)
    box = f"{world.space}.chord.g"
    assert await process.boxes.look(box) == (0, False)
    sealed: Any = {
        "x-queue-type": "classic",
        "x-max-length": 0,
        "x-overflow": "reject-publish",
        "x-expires": 300_000,
    }
    async with await aio_pika.connect(world.vhost) as connection:
        channel = await connection.channel()
        await channel.declare_queue(box, durable=True, arguments=sealed)  # with others it would be refused


async def test_a_broken_connection_is_a_store_error(world: World) -> None:
    process = await world.process()
    await process.store.begin_chords({"g": 2})
    await process.store.close()
    with pytest.raises(StoreError, match="could not join a chord"):
        await world.run(process, 0)
