"""A task is told when it is delivered again, on every broker."""

from typing import Any

from taskq import Reject, Task
from tests.harness import Place, running


async def test_redelivered_is_true_from_the_second_delivery_on(
    on_all_brokers: Place,
) -> None:
    seen: list[bool] = []
    async with on_all_brokers.app() as app:

        @app.task(bind=True, acks_late=True)
        async def stubborn(self: Task[Any, Any, Any]) -> int:
            seen.append(self.request.delivery_info["redelivered"])
            if len(seen) < 3:
                raise Reject("again", requeue=True)
            return len(seen)

        async with running(app):
            assert await (await stubborn.delay()).get(timeout=20) == 3
    assert seen == [False, True, True]
