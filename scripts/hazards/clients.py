"""The callers of the two systems on trial, seen alike; and a way to put messages into a queue as they are."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from celery import Celery

from scripts.hazards.jobs_celery import app as celery_app
from taskq import TaskQ
from taskq.wire.message import Message


class Client(Protocol):
    """Calls the tasks of the trials, and reads their results."""

    async def call(self, task: str, *args: object, eta: float | None = None) -> str:
        """Returns the task's id once it is confirmed."""
        ...

    async def send(self, number: int, seconds: float = 0.0) -> str:
        """Call `jobs.job`."""
        ...

    async def send_all(self, numbers: Sequence[int], eta: float) -> None:
        """Call `jobs.job` for each, as fast as a program can that has them all."""
        ...

    async def round(self, task: str, times: int) -> None:
        """Call a task so often, and wait for all results."""
        ...

    async def result(self, task_id: str, within: float = 10) -> Any: ...
    async def close(self) -> None: ...


def results(system: str, url: str, folder: Path) -> str:
    """Where results go: into the broker, but for RabbitMQ, where only their caller could read them."""
    if not url.startswith("amqp"):
        return url
    return f"sqlite:///{folder}/results.db" if system == "taskq" else f"file://{folder}"


def time_of(eta: float | None) -> datetime | None:
    return None if eta is None else datetime.fromtimestamp(eta, UTC)


class TaskqClient:
    def __init__(self, url: str, folder: Path) -> None:
        self._app = TaskQ("jobs", broker=url, backend=results("taskq", url, folder))

    async def call(self, task: str, *args: object, eta: float | None = None) -> str:
        return (await self._app.send_task(task, args, eta=time_of(eta))).id

    async def send(self, number: int, seconds: float = 0.0) -> str:
        return await self.call("jobs.job", number, seconds)

    async def send_all(self, numbers: Sequence[int], eta: float) -> None:
        """Calls at the same time go together."""
        for start in range(0, len(numbers), 500):
            calls = (self.call("jobs.job", number, 0.0, eta=eta) for number in numbers[start : start + 500])
            await asyncio.gather(*calls)

    async def round(self, task: str, times: int) -> None:
        sent = await asyncio.gather(*(self._app.send_task(task) for _ in range(times)))
        await asyncio.gather(*(result.get(timeout=60) for result in sent))

    async def result(self, task_id: str, within: float = 10) -> Any:
        return await self._app.AsyncResult(task_id).get(timeout=within)

    async def close(self) -> None:
        await self._app.close()


class CeleryClient:
    def __init__(self, url: str, folder: Path) -> None:
        stored = results("celery", url, folder)
        # Not the app of the workers: it would keep its connections from trial to trial.
        self._app = Celery("jobs", broker=url, backend=stored, set_as_current=False)
        self._app.conf.broker_transport_options = celery_app.conf.broker_transport_options

    async def call(self, task: str, *args: object, eta: float | None = None) -> str:
        def call() -> str:
            task_id: str = self._app.send_task(task, args, eta=time_of(eta)).id
            return task_id

        return await asyncio.to_thread(call)

    async def send(self, number: int, seconds: float = 0.0) -> str:
        return await self.call("jobs.job", number, seconds)

    async def send_all(self, numbers: Sequence[int], eta: float) -> None:
        def send() -> None:
            for number in numbers:
                self._app.send_task("jobs.job", (number, 0.0), eta=time_of(eta))

        await asyncio.to_thread(send)

    async def round(self, task: str, times: int) -> None:
        def call() -> None:
            for result in [self._app.send_task(task) for _ in range(times)]:
                result.get(timeout=60)

        await asyncio.to_thread(call)

    async def result(self, task_id: str, within: float = 10) -> Any:
        return await asyncio.to_thread(lambda: self._app.AsyncResult(task_id).get(timeout=within))

    async def close(self) -> None:
        self._app.close()


CLIENTS: dict[str, Callable[[str, Path], Client]] = {"taskq": TaskqClient, "celery": CeleryClient}


class Carrier:
    """Puts messages into the queue `celery` as they are, whoever is to receive them."""

    def __init__(self, url: str) -> None:
        self._app = TaskQ("carrier", broker=url)

    async def publish(self, message: Message) -> None:
        await (await self._app.open_broker()).publish([message])

    async def clear(self) -> None:
        """Remove what waits, when nobody holds it any more."""
        broker = await self._app.open_broker()
        while await broker.purge("celery"):
            pass

    async def dead(self) -> int:
        """How many dead letters there are."""
        return len(await (await self._app.open_broker()).dead())

    async def close(self) -> None:
        await self._app.close()
