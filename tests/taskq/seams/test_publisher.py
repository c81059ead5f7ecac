"""Calls of one turn of the loop go to the broker together; each caller learns of its own message alone."""

import asyncio
import itertools
from collections.abc import Sequence

import pytest

from taskq.errors import (
    BrokerFull,
    ConnectionLost,
    EncodeError,
    OperationalError,
    PublishErrors,
    Refused,
    StoreError,
)
from taskq.options import RetryPolicy
from taskq.seams.publisher import MAX_BATCH, Publisher, publish_with_retry
from taskq.wire.message import Message


class Recorder:
    """A broker, as far as publishers know it."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.errors: list[Exception | None] = []
        self.gate: asyncio.Event | None = None

    async def publish(self, messages: Sequence[Message]) -> None:
        if self.gate is not None:
            await self.gate.wait()
        if any(message.routing_key == "unwritable" for message in messages):
            raise EncodeError("cannot be written")
        if self.errors and (error := self.errors.pop(0)) is not None:
            raise error
        self.batches.append([message.correlation_id for message in messages])


def message(name: str, key: str = "celery") -> Message:
    return Message({}, b"", correlation_id=name, routing_key=key)


@pytest.fixture
def broker() -> Recorder:
    return Recorder()


@pytest.fixture
def publisher(broker: Recorder) -> Publisher:
    async def connect() -> Recorder:
        return broker

    return Publisher(connect, "recorder://")  # type: ignore[arg-type]  # its one verb


async def test_concurrent_calls_are_one_batch(broker: Recorder, publisher: Publisher) -> None:
    await asyncio.gather(*(publisher.publish([message(str(n))]) for n in range(5)))
    assert broker.batches == [["0", "1", "2", "3", "4"]]


async def test_what_comes_while_one_is_on_its_way_is_the_next(broker: Recorder, publisher: Publisher) -> None:
    broker.gate = asyncio.Event()
    calls = [asyncio.create_task(publisher.publish([message("first")]))]
    for _ in range(3):
        await asyncio.sleep(0)
    calls += [asyncio.create_task(publisher.publish([message(f"later{n}")])) for n in range(2)]
    await asyncio.sleep(0)
    broker.gate.set()
    await asyncio.gather(*calls)
    assert broker.batches == [["first"], ["later0", "later1"]]


async def test_a_huge_call_is_cut_into_batches(broker: Recorder, publisher: Publisher) -> None:
    await publisher.publish([message(str(n)) for n in range(MAX_BATCH + 1)])
    assert [len(batch) for batch in broker.batches] == [MAX_BATCH, 1]


async def test_a_refused_message_is_its_callers_error_alone(broker: Recorder, publisher: Publisher) -> None:
    broker.errors = [PublishErrors({1: BrokerFull("full")})]
    ends = await asyncio.gather(
        *(publisher.publish([message(str(n))]) for n in range(3)), return_exceptions=True
    )
    assert [type(end) for end in ends] == [type(None), BrokerFull, type(None)]


async def test_a_call_of_many_learns_which_were_refused(broker: Recorder, publisher: Publisher) -> None:
    broker.errors = [PublishErrors({0: BrokerFull("full"), 2: BrokerFull("full")})]
    with pytest.raises(PublishErrors) as caught:
        await publisher.publish([message(str(n)) for n in range(3)])
    assert set(caught.value.failures) == {0, 2}
    broker.errors = [ConnectionLost("gone")]
    with pytest.raises(ConnectionLost):
        await publisher.publish([message(str(n)) for n in range(3)])


async def test_one_that_cannot_be_written_does_not_take_others_along(
    broker: Recorder, publisher: Publisher
) -> None:
    ends = await asyncio.gather(
        publisher.publish([message("good")]),
        publisher.publish([message("bad", "unwritable")]),
        publisher.publish([message("fine"), message("worse", "unwritable")]),
        return_exceptions=True,
    )
    assert [type(end) for end in ends] == [type(None), EncodeError, EncodeError]
    assert broker.batches == [["good"], ["fine"]]


async def test_a_broker_that_cannot_be_reached_is_everybodys_error() -> None:
    async def connect() -> Recorder:
        raise ConnectionLost("nobody there")

    publisher = Publisher(connect, "recorder://")  # type: ignore[arg-type]  # its one verb
    ends = await asyncio.gather(
        *(publisher.publish([message("x")]) for _ in range(2)), return_exceptions=True
    )
    assert [str(end) for end in ends] == ["nobody there"] * 2


async def test_what_was_given_up_before_it_was_sent_is_not_sent(
    broker: Recorder, publisher: Publisher
) -> None:
    broker.gate = asyncio.Event()
    call = asyncio.create_task(publisher.publish([message("gone")]))
    await asyncio.sleep(0)
    call.cancel()
    broker.gate.set()
    await publisher.publish([message("next")])
    assert broker.batches == [["next"]]
    assert call.cancelled()


async def test_a_caller_that_goes_away_while_its_batch_is_sent_is_not_missed(
    broker: Recorder, publisher: Publisher
) -> None:
    broker.gate = asyncio.Event()
    call = asyncio.create_task(publisher.publish([message("gone")]))
    for _ in range(3):
        await asyncio.sleep(0)
    call.cancel()
    broker.gate.set()
    await publisher.publish([message("next")])
    assert broker.batches == [["gone"], ["next"]]


async def test_a_loop_that_is_torn_down_leaves_no_caller_waiting(
    broker: Recorder, publisher: Publisher
) -> None:
    broker.gate = asyncio.Event()
    calls = [asyncio.create_task(publisher.publish([message("first")]))]
    for _ in range(3):
        await asyncio.sleep(0)
    calls.append(asyncio.create_task(publisher.publish([message("second")])))
    await asyncio.sleep(0)
    assert publisher._flusher is not None
    publisher._flusher.cancel()
    await asyncio.wait(calls[1:], timeout=5)
    assert calls[1].cancelled()
    calls[0].cancel()


@pytest.mark.autojump
@pytest.mark.parametrize(
    ("policy", "pauses"),
    [
        (None, []),
        ({"max_retries": 0}, []),
        ({}, [0, 0.2, 0.4]),
        (
            {
                "max_retries": 5,
                "interval_start": 1,
                "interval_step": 2,
                "interval_max": 4,
                "timeout": None,
            },
            [1, 3, 4, 4, 4],
        ),
        ({"max_retries": 9, "interval_start": 1, "interval_step": 0, "interval_max": 4, "timeout": 0.5}, []),
    ],
)
async def test_pauses_follow_the_policy(policy: RetryPolicy | None, pauses: list[float]) -> None:
    loop = asyncio.get_running_loop()
    times: list[float] = []

    async def attempt() -> None:
        times.append(loop.time())
        raise ConnectionLost("down", maybe_accepted=len(times) == 1)

    with pytest.raises(
        ConnectionLost, match=r"could not hand the message to redis://:\*\*@host: down"
    ) as caught:
        await publish_with_retry(attempt, broker="redis://:s3cret@host", policy=policy)
    waits = [after - before for before, after in itertools.pairwise(times)]
    assert waits == pytest.approx(pauses)
    assert caught.value.maybe_accepted is True


async def test_some_of_many_refused_for_good_is_one_error() -> None:
    async def attempt() -> None:
        raise PublishErrors({0: BrokerFull("full")})

    with pytest.raises(OperationalError, match="1 messages were refused, the first: full") as caught:
        await publish_with_retry(attempt, broker="redis://host", policy=None)
    assert type(caught.value) is OperationalError
    assert caught.value.maybe_accepted is True


@pytest.mark.autojump
async def test_one_deadline_holds_for_all_tries_and_cuts_the_last_one_short() -> None:
    loop = asyncio.get_running_loop()
    started, tries = loop.time(), 0

    async def silent() -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise ConnectionLost("down")
        await asyncio.Event().wait()

    with pytest.raises(ConnectionLost, match=r"down \(2 tries in 5.0 s\)") as caught:
        await publish_with_retry(silent, broker="redis://host", policy={})
    assert loop.time() - started == pytest.approx(5)
    assert caught.value.maybe_accepted is True
    with pytest.raises(OperationalError, match="no answer within 2 s"):
        await publish_with_retry(asyncio.Event().wait, broker="redis://host", policy={"timeout": 2})  # type: ignore[arg-type]  # never ends


@pytest.mark.autojump
async def test_what_is_refused_for_good_is_not_tried_again() -> None:
    tries: list[Exception] = []

    async def refuse(error: Exception) -> None:
        tries.append(error)
        raise error

    for error in (Refused("never"), PublishErrors({0: Refused("never"), 3: Refused("never")})):
        with pytest.raises((Refused, PublishErrors, OperationalError), match="never"):
            await publish_with_retry(lambda error=error: refuse(error), broker="redis://host", policy={})  # type: ignore[misc]  # bound now
    assert len(tries) == 2


@pytest.mark.autojump
async def test_a_store_that_is_not_ready_for_replies_is_tried_again() -> None:
    tries = 0

    async def unready() -> None:
        nonlocal tries
        tries += 1
        raise StoreError("amqp://host: cannot connect")

    with pytest.raises(OperationalError, match=r"cannot connect \(4 tries"):
        await publish_with_retry(unready, broker="amqp://host", policy={})
    assert tries == 4
