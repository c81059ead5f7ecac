"""Three nodes of RabbitMQ with quorum queues, one of which is killed, frozen, without the others, or restarted.

What was confirmed is never lost, whatever the nodes do; and callers on other nodes than the one that is gone get their answers.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count

import pytest

from taskq.broker_adapters.amqp.broker import AmqpBroker
from taskq.broker_adapters.amqp.results import RpcStore
from taskq.errors import OperationalError, StoreError
from taskq.seams.broker import BrokerConfig, Queue
from taskq.seams.store import StoreConfig, TaskResult, open_store
from taskq.states import SUCCESS
from tests.broker_adapters.amqp.parts import ids, message
from tests.polling import eventually
from tests.servers import RabbitServer, rabbit_cluster

pytestmark = [pytest.mark.rabbitmq, pytest.mark.slow, pytest.mark.timeout(600)]

Nodes = Sequence[RabbitServer]
#: Seconds in which work must go on: elections, and nodes that start, on a busy machine.
PATIENCE = 120.0


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with rabbit_cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


def from_node(nodes: Nodes, first: int) -> str:
    """The failover list that begins with this node."""
    return ";".join(node.url for node in (*nodes[first:], *nodes[:first]))


@asynccontextmanager
async def broker_on(nodes: Nodes, first: int) -> AsyncIterator[AmqpBroker]:
    quorum = {"x-queue-type": "quorum"}
    broker = AmqpBroker(
        BrokerConfig(from_node(nodes, first), queue=lambda name: Queue(name, arguments=quorum), heartbeat=5.0)
    )
    await broker.open()
    try:
        yield broker
    finally:
        await broker.close()


class Traffic:
    """Messages that go through one queue all the while."""

    def __init__(self, sender: AmqpBroker, reader: AmqpBroker, queue: str) -> None:
        self.confirmed: set[str] = set()
        self.seen: set[str] = set()
        self._sender, self._reader, self._queue = sender, reader, queue
        self._done = False

    async def send(self) -> None:
        for n in count():
            if self._done:
                return
            batch = [message(self._queue, 10 * n + k) for k in range(10)]
            try:
                await self._sender.publish(batch)
            except OperationalError:
                continue
            self.confirmed.update(one.headers["id"] for one in batch)

    async def read(self) -> None:
        consumer = await self._reader.consume([self._queue], prefetch=50)
        while batch := await consumer.receive(50):
            self.seen.update(ids(batch))
            await consumer.settle(ack=batch)

    async def flows(self) -> None:
        """Some more is confirmed, and read."""
        before = len(self.confirmed), len(self.seen)
        await eventually(
            lambda: len(self.confirmed) > before[0] + 50 and len(self.seen) > before[1] + 50, within=PATIENCE
        )

    async def end(self, sending: "asyncio.Task[None]") -> None:
        """All that was confirmed is read, and nothing is left."""
        self._done = True
        await sending
        await eventually(lambda: self.confirmed <= self.seen, within=PATIENCE)

        async def empty() -> bool:
            return await self._sender.size(self._queue) == 0

        await eventually(empty, within=PATIENCE)


async def a_node_is_killed(nodes: Nodes, traffic: Traffic) -> None:
    nodes[0].kill()
    await traffic.flows()
    await asyncio.to_thread(nodes[0].start)


async def a_node_is_frozen(nodes: Nodes, traffic: Traffic) -> None:
    """The others go on before it thaws."""
    nodes[0].send(signal.SIGSTOP)
    try:
        await traffic.flows()
    finally:
        nodes[0].send(signal.SIGCONT)


async def there_is_no_majority(nodes: Nodes, traffic: Traffic) -> None:
    """Nothing is confirmed by one of three."""
    for node in nodes[1:]:
        node.kill()
    await asyncio.wait([asyncio.ensure_future(traffic.flows())], timeout=5)
    for node in nodes[1:]:
        node.launch()
    for node in nodes[1:]:
        await eventually(lambda node=node: asyncio.to_thread(node.answers), within=PATIENCE)  # type: ignore[misc]  # a default argument binds it now


async def they_are_restarted_one_by_one(nodes: Nodes, traffic: Traffic) -> None:
    for node in nodes:
        await asyncio.to_thread(node.control, "stop")
        node.kill()
        await traffic.flows()
        await asyncio.to_thread(node.start)


Fault = Callable[[Nodes, Traffic], Awaitable[None]]


@pytest.mark.parametrize(
    "fault",
    [a_node_is_killed, a_node_is_frozen, there_is_no_majority, they_are_restarted_one_by_one],
    ids=lambda fault: fault.__name__,
)
async def test_nothing_that_was_confirmed_is_lost(nodes: Nodes, fault: Fault) -> None:
    async with broker_on(nodes, 0) as sender, broker_on(nodes, 1) as reader:
        traffic = Traffic(sender, reader, f"cluster-{fault.__name__}")
        sending, reading = asyncio.create_task(traffic.send()), asyncio.create_task(traffic.read())
        await traffic.flows()
        await fault(nodes, traffic)
        await traffic.flows()
        await traffic.end(sending)
        await reader.close()
        await reading


async def test_answers_reach_callers_on_other_nodes_than_the_frozen_one(nodes: Nodes) -> None:
    async with AsyncExitStack() as stack:

        async def store_on(first: int) -> RpcStore:
            store = open_store(StoreConfig(f"rpc+{from_node(nodes, first)}"))
            assert isinstance(store, RpcStore)
            await store.open()
            stack.push_async_callback(store.close)
            return store

        frozen, alive, worker = [await store_on(number) for number in range(3)]
        await frozen.expect(["t"])
        await alive.expect(["t"])
        nodes[0].send(signal.SIGSTOP)
        try:
            async with asyncio.timeout(PATIENCE):
                for number in range(50):
                    await saved(
                        worker,
                        [
                            TaskResult(f"frozen {number}", SUCCESS, 1, reply_to=frozen.reply_to),
                            TaskResult(f"alive {number}", SUCCESS, 1, reply_to=alive.reply_to),
                        ],
                    )
            names = [f"alive {number}" for number in range(50)]

            async def there() -> bool:
                return None not in await alive.load(names)

            await eventually(there, within=PATIENCE)
        finally:
            nodes[0].send(signal.SIGCONT)


async def saved(store: RpcStore, results: Sequence[TaskResult]) -> None:
    """As a worker does it."""
    while True:
        try:
            return await store.save(results)
        except StoreError:
            continue
