"""Any interleaving of publishing, receiving, settling, crashing and time keeps every confirmed message.

What was confirmed is queued, held, finished or dead, and nothing is in two hands at once. Time is simulated: the
adapter's clock is moved, never waited for.
"""

import asyncio
import tempfile
import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from time import time
from typing import Any, TypeVar
from unittest import mock

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from taskq.seams.broker import Broker, BrokerConfig, Consumer, open_broker
from taskq.wire.message import Delivery, Message

T = TypeVar("T")

LEASE = 30.0
QUEUES = ("a", "b")
PREFETCH = 4


WHO = st.integers(0, 1)


def holding(machine: Any) -> bool:
    return any(machine.held)


class BrokerMachine(RuleBasedStateMachine):
    """Two consumers of two queues; `lost` are deliveries that crashed consumers never settled."""

    url: Callable[[str], str]
    clock: str

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.time = time()
        self.patch = mock.patch(self.clock, self.now)
        self.patch.start()
        self.broker: Broker = open_broker(BrokerConfig(type(self).url(self.folder.name), lease=LEASE))
        self.run(self.broker.open)
        self.consumers = [self.run(self.consume) for _ in range(2)]
        self.held: list[dict[int, Delivery]] = [{}, {}]
        self.waiting: set[int] = set()  # confirmed, and in nobody's hands as far as the model knows
        self.finished: set[int] = set()
        self.dead: set[int] = set()
        self.deaths: dict[int, int] = {}
        self.sent = 0

    def now(self) -> float:
        return self.time

    def run(self, call: Callable[[], Awaitable[T]]) -> T:
        async def bounded() -> T:
            async with asyncio.timeout(20):
                return await call()

        return self.runner.run(bounded())

    async def consume(self) -> Consumer:
        return await self.broker.consume(QUEUES, prefetch=PREFETCH)

    @precondition(lambda self: len(self.waiting) < 6)
    @rule(count=st.integers(2, 6), queue=st.sampled_from(QUEUES), priority=st.integers(0, 2))
    def publish(self, count: int, queue: str, priority: int) -> None:
        numbers = range(self.sent, self.sent + count)
        messages = [Message({"n": n}, b"x", routing_key=queue, priority=priority) for n in numbers]
        self.run(lambda: self.broker.publish(messages))
        self.sent += count
        self.waiting.update(numbers)
        self.deaths.update(dict.fromkeys(numbers, 0))

    @precondition(lambda self: self.waiting and any(len(held) < PREFETCH for held in self.held))
    @rule(who=WHO, limit=st.integers(1, 6))
    def receive(self, who: int, limit: int) -> None:
        if len(self.held[who]) >= PREFETCH:
            who = 1 - who
        self.receive_by(who, limit)

    def receive_by(self, who: int, limit: int) -> None:
        for delivery in self.run(lambda: self.consumers[who].receive(limit)):
            n = delivery.message.headers["n"]
            assert n in self.waiting, "given out twice, or after it was settled"
            assert delivery.deaths == self.deaths[n]
            self.waiting.remove(n)
            self.held[who][n] = delivery
        assert len(self.held[who]) <= PREFETCH

    def some(self, who: int, count: int) -> list[Delivery]:
        return [self.held[who].pop(n) for n in sorted(self.held[who])[:count]]

    @precondition(holding)
    @rule(who=WHO, ack=st.integers(1, 3), back=st.integers(0, 2), reject=st.integers(0, 2))
    def settle(self, who: int, ack: int, back: int, reject: int) -> None:
        who = who if self.held[who] else 1 - who
        acked, requeued, rejected = self.some(who, ack), self.some(who, back), self.some(who, reject)
        letters = [(delivery, "no use") for delivery in rejected]
        self.run(lambda: self.consumers[who].settle(ack=acked, requeue=requeued, reject=letters))
        self.finished |= numbers(acked)
        self.waiting |= numbers(requeued)
        self.dead |= numbers(rejected)

    @precondition(holding)
    @rule(who=WHO, count=st.integers(1, 2), seconds=st.floats(-1, 60))
    def park(self, who: int, count: int, seconds: float) -> None:
        who = who if self.held[who] else 1 - who
        parked = [(delivery, self.time + seconds) for delivery in self.some(who, count)]
        self.run(lambda: self.consumers[who].park(parked))
        self.pass_time(61)  # so that the model need not know what is due
        self.waiting |= numbers([delivery for delivery, _ in parked])

    @rule(seconds=st.floats(0.1, LEASE / 2))
    def pass_time(self, seconds: float) -> None:
        """Time passes for living consumers: they renew."""
        while seconds > 0:
            self.time += min(seconds, LEASE / 2)
            seconds -= LEASE / 2
            for consumer, held in zip(self.consumers, self.held, strict=True):
                deliveries = list(held.values())
                assert list(self.run(lambda c=consumer, d=deliveries: c.renew(d))) == []  # type: ignore[misc]  # bound now

    @precondition(holding)
    @rule(who=WHO)
    def close_and_come_back(self, who: int) -> None:
        self.run(self.consumers[who].close)
        self.waiting |= set(self.held[who])
        self.held[who] = {}
        self.consumers[who] = self.run(self.consume)

    @precondition(
        lambda self: any(held and len(self.held[1 - n]) < PREFETCH for n, held in enumerate(self.held))
    )
    @rule(who=WHO)
    def pause(self, who: int) -> None:
        """One stops without a word; the other finds out, by its next receive."""
        if not self.held[who] or len(self.held[1 - who]) >= PREFETCH:
            who = 1 - who
        other = 1 - who
        stale = list(self.held[who].values())
        self.time += LEASE / 2
        kept = list(self.held[other].values())
        assert list(self.run(lambda: self.consumers[other].renew(kept))) == []
        self.time += LEASE / 2 + 0.001
        self.waiting |= set(self.held[who])
        for n in self.held[who]:
            self.deaths[n] = max(self.deaths[n], 1)
        self.held[who] = {}
        self.receive_by(other, 1)
        assert {id(d) for d in self.run(lambda: self.consumers[who].renew(stale))} == {id(d) for d in stale}
        self.run(lambda: self.consumers[who].settle(ack=stale[::3], requeue=stale[1::3]))
        self.run(lambda: self.consumers[who].settle(reject=[(d, "late") for d in stale[2::3]]))

    @precondition(holding)
    @rule(who=WHO)
    def strike(self, who: int) -> None:
        who = who if self.held[who] else 1 - who
        n, delivery = next(iter(self.held[who].items()))
        self.run(lambda: self.consumers[who].strike(delivery))
        self.deaths[n] += 1

    @precondition(lambda self: not self.waiting and not self.held[0])
    @rule()
    def cancel_receiving(self) -> None:

        async def give_up() -> None:
            with suppress(TimeoutError):
                async with asyncio.timeout(0.001):
                    raise AssertionError(await self.consumers[0].receive(5))

        self.run(give_up)

    @invariant()
    @precondition(lambda self: self.sent)
    def nothing_is_lost(self) -> None:
        sizes = [self.run(lambda q=queue: self.broker.size(q)) for queue in QUEUES]  # type: ignore[misc]  # bound now
        assert sum(sizes) == len(self.waiting)
        assert {
            letter.message.headers["n"] for letter in self.run(self.broker.dead) if letter.message
        } == self.dead
        everywhere = self.waiting | set(self.held[0]) | set(self.held[1]) | self.finished | self.dead
        assert everywhere == set(range(self.sent))

    def teardown(self) -> None:
        self.run(self.broker.close)
        self.patch.stop()
        self.runner.close()
        self.folder.cleanup()


def numbers(deliveries: Sequence[Delivery]) -> set[int]:
    return {delivery.message.headers["n"] for delivery in deliveries}


class MemoryMachine(BrokerMachine):
    url = staticmethod(lambda _: f"memory://{uuid.uuid4()}")
    clock = "taskq.broker_adapters.memory.broker.now"


class SqliteMachine(BrokerMachine):
    url = staticmethod(lambda folder: f"sqlite:///{Path(folder, 'taskq.db')}?synchronous=normal")
    clock = "taskq.broker_adapters.sqlite.queues.now"


@pytest.mark.parametrize(
    ("machine", "examples"), [(MemoryMachine, 60), (SqliteMachine, 25)], ids=["memory", "sqlite"]
)
def test_model(machine: type[BrokerMachine], examples: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            derandomize=True,
            database=None,
            phases=[Phase.generate],  # 30 steps are readable as they are
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )
