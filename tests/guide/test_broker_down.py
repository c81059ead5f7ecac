"""The guide's "Message Sending Retry" and "Connection Error Handling": what a caller gets from a broker that is down."""

import re
import time
from collections.abc import Sequence
from typing import Any

import pytest

import taskq
from taskq import Task, TaskQ
from taskq.errors import ConnectionLost
from taskq.options import RetryPolicy
from taskq.seams.broker import Broker
from taskq.wire.message import Message
from tests.harness import Place

DOWN = {
    "redis": "redis://user:s3cret@127.0.0.1:1/0",
    "amqp": "amqp://user:s3cret@127.0.0.1:1//",
    "sqlite": "sqlite:////proc/nowhere/taskq.db",
}


@pytest.fixture(params=DOWN)
def add(request: pytest.FixtureRequest) -> Task[Any, int, int]:
    app = TaskQ("proj", broker=DOWN[request.param], backend="disabled://")

    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    return add


async def test_without_retry_the_error_comes_at_once(add: Task[Any, int, int]) -> None:
    with pytest.raises(add.OperationalError) as caught:
        await add.apply_async((2, 2), retry=False)
    text = str(caught.value)
    assert isinstance(caught.value, taskq.OperationalError)
    assert re.search(r"\(1 try in \d+\.\d s\)$", text)
    assert "s3cret" not in text
    assert re.search(r"(redis|amqp)://user:\*+@127\.0\.0\.1:1/|sqlite:////proc/nowhere/taskq\.db", text)


async def test_with_retry_it_comes_when_the_policy_is_exhausted(add: Task[Any, int, int]) -> None:
    started = time.monotonic()
    policy: RetryPolicy = {"max_retries": 3, "interval_start": 0, "interval_step": 0.1, "interval_max": 0.1}
    with pytest.raises(add.OperationalError, match=r"\(4 tries in \d+\.\d s\)$"):
        await add.apply_async((2, 2), retry=True, retry_policy=policy)
    assert time.monotonic() - started >= 0.2  # pauses of 0, 0.1 and 0.1 s


async def test_the_default_policy_gives_up_soon(add: Task[Any, int, int]) -> None:
    with pytest.raises(add.OperationalError, match=r"\(4 tries in"):
        await add.delay(2, 2)


class Stubborn:
    """Publishes at the n-th try, to an opened broker; before it, an error."""

    def __init__(self, broker: Broker, errors: Sequence[Exception]) -> None:
        self.broker = broker
        self.url = "stubborn://user:s3cret@host"
        self.errors = list(errors)

    async def publish(self, messages: Sequence[Message]) -> None:
        if self.errors:
            raise self.errors.pop(0)
        await self.broker.publish(messages)


@pytest.fixture
async def stubborn(app: TaskQ) -> Stubborn:
    return Stubborn(await app.open_broker(), [TimeoutError("slow"), TimeoutError("slow again")])


async def test_errors_of_other_kinds_are_not_tried_again(
    place: Place, app: TaskQ, stubborn: Stubborn
) -> None:
    with pytest.raises(TimeoutError, match=r"^slow$"):
        await app.send_task("proj.tasks.add", (2, 2), publisher=stubborn)


async def test_unless_retry_errors_names_them(app: TaskQ, stubborn: Stubborn) -> None:
    policy: RetryPolicy = {"max_retries": 3, "retry_errors": (TimeoutError,)}
    await app.send_task("proj.tasks.add", (2, 2), publisher=stubborn, retry_policy=policy)
    assert await stubborn.broker.size("celery") == 1


async def test_none_tries_for_ever(app: TaskQ, stubborn: Stubborn) -> None:
    stubborn.errors[:] = [ConnectionLost("gone") for _ in range(20)]
    policy: RetryPolicy = {"max_retries": None, "interval_step": 0}
    await app.send_task("proj.tasks.add", (2, 2), publisher=stubborn, retry_policy=policy)
    assert await stubborn.broker.size("celery") == 1
