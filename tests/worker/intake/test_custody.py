import asyncio

from taskq.wire.message import Delivery, Message
from taskq.wire.request import Request
from taskq.worker.intake.custody import Custody
from taskq.worker.run.job import Job, Place


def delivery() -> Delivery:
    return Delivery(Message({}, b""), "celery", None)


async def test_what_is_held_is_leased_until_it_is_released() -> None:
    custody = Custody()
    one, two = delivery(), delivery()
    custody.take(one, None)
    custody.take(two, None)
    assert custody.leased() == [one, two]
    custody.release([one, one])
    assert custody.leased() == [two]
    assert len(custody) == 1


async def test_what_was_acknowledged_early_is_held_without_a_lease() -> None:
    custody = Custody()
    early = delivery()
    custody.take(early, Job(early, Request("an-id", "a"), None, Place.LOOP, acknowledged=True))  # type: ignore[arg-type]  # its task is not looked at
    assert custody.leased() == []
    assert len(custody) == 1


async def test_one_can_wait_for_a_release() -> None:
    custody = Custody()
    one = delivery()
    custody.take(one, None)
    waiting = asyncio.create_task(custody.change())
    await asyncio.sleep(0)
    assert not waiting.done()
    custody.release([one])
    await waiting
