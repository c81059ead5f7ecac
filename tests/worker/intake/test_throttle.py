"""Rate limits: token buckets on simulated time."""

import asyncio
from typing import Any

import pytest

from taskq import TaskQ
from taskq.config.coerce import parse_rate
from taskq.wire.message import Delivery, Message
from taskq.wire.request import Request
from taskq.worker.intake.throttle import Throttle
from taskq.worker.run.job import Job, Place


@pytest.mark.parametrize(
    ("rate", "per_second"),
    [
        ("10/s", 10.0),
        ("60/m", 1.0),
        ("36/h", 0.01),
        ("5", 5.0),
        (2, 2.0),
        (0.5, 0.5),
        (None, 0),
        (0, 0),
        ("", 0),
    ],
)
def test_rates_are_read_as_celery_reads_them(rate: Any, per_second: float) -> None:
    assert parse_rate(rate) == pytest.approx(per_second)


@pytest.mark.parametrize("rate", ["x/s", "-1/s", "10/q", True, float("nan"), 1e300, "inf"])
def test_what_is_no_rate_is_refused(rate: Any) -> None:
    with pytest.raises(ValueError, match="is no rate like 10/s"):
        parse_rate(rate)


def test_a_task_with_a_bad_rate_is_refused_when_it_is_made() -> None:
    app = TaskQ("proj", broker="memory://rates")
    with pytest.raises(ValueError, match="'10/year' is no rate"):
        app.task(rate_limit="10/year")(print)


class Rig:
    """A throttle, and when it let jobs through."""

    def __init__(self, default: str | None = None, *, enabled: bool = True) -> None:
        self.starts: list[tuple[str, float]] = []
        self.loop = asyncio.get_running_loop()
        self.began = self.loop.time()
        self.throttle = Throttle(self.start, default, enabled=enabled)
        self.app = TaskQ("proj", broker="memory://rates")

    def start(self, job: Job) -> None:
        self.starts.append((job.request.id, round(self.loop.time() - self.began, 2)))

    def job(self, number: int, name: str = "a", rate: str | float | None = None) -> Job:
        task = self.app.find_task(name) or self.app.task(name=name, rate_limit=rate)(lambda: None)
        delivery = Delivery(Message({}, b""), "celery", number)
        return Job(delivery, Request(str(number), name), task, Place.THREAD)


@pytest.mark.autojump
async def test_starts_are_spread_out_and_none_is_saved_up() -> None:
    rig = Rig()
    await asyncio.sleep(0)
    for number in range(3):
        rig.throttle.add(rig.job(number, "slow", "2/s"))
    rig.throttle.add(rig.job(9, "free"))
    assert rig.starts == [("0", 0.0), ("9", 0.0)]
    assert len(rig.throttle) == 2
    assert rig.throttle.eta(rig.job(5, "slow")) == pytest.approx(1.5)
    await asyncio.sleep(5)
    assert rig.starts[2:] == [("1", 0.5), ("2", 1.0)]
    for number in (10, 11):
        rig.throttle.add(rig.job(number, "slow"))
    await asyncio.sleep(5)
    assert rig.starts[4:] == [("10", 5.0), ("11", 5.5)]


@pytest.mark.autojump
async def test_the_default_holds_for_tasks_that_say_nothing_and_zero_is_no_limit() -> None:
    rig = Rig("1/s")
    for number in range(2):
        rig.throttle.add(rig.job(number))
        rig.throttle.add(rig.job(10 + number, "free", 0))
    await asyncio.sleep(2)
    assert rig.starts == [("0", 0.0), ("10", 0.0), ("11", 0.0), ("1", 1.0)]


async def test_limits_may_be_off_altogether() -> None:
    rig = Rig("1/h", enabled=False)
    for number in range(3):
        rig.throttle.add(rig.job(number))
    assert len(rig.starts) == 3


@pytest.mark.autojump
async def test_a_changed_limit_holds_at_once() -> None:
    rig = Rig()
    for number in range(4):
        rig.throttle.add(rig.job(number, "slow", "1/h"))
    rig.throttle.change("slow", "1/s")
    await asyncio.sleep(1.5)
    assert [task_id for task_id, _ in rig.starts] == ["0", "1", "2"]
    rig.throttle.change("slow", None)
    assert [task_id for task_id, _ in rig.starts] == ["0", "1", "2", "3"]


async def test_jobs_are_withdrawn_and_given_back() -> None:
    rig = Rig()
    jobs = [rig.job(number, "slow", "1/h") for number in range(4)]
    for job in jobs:
        rig.throttle.add(job)
    assert rig.throttle.withdraw([jobs[0], jobs[2]]) == {jobs[2]}
    assert rig.throttle.waiting() == [jobs[1], jobs[3]]
    assert rig.throttle.close() == [jobs[1], jobs[3]]
    assert len(rig.throttle) == 0
