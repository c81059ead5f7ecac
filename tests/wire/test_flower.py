"""A real Flower, page by page and button by button, with a worker of taskq's."""

import asyncio
import functools
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from taskq import TaskQ
from tests.polling import eventually
from tests.wire.fleet import NODE, shared_backend, worker

#: Buttons: path, what is posted, the status, and words of the answer.
BUTTONS: list[tuple[str, str, int, str]] = [
    ("/api/task/apply/proj.add", '{"args": [20, 22]}', 200, '"result": 42, "state": "SUCCESS"'),
    ("/api/task/apply/proj.add", '{"args": ["x", 1]}', 200, '"state": "FAILURE"'),
    ("/api/task/async-apply/proj.add", '{"args": [1, 2], "countdown": 0.1}', 200, '"task-id"'),
    ("/api/task/send-task/proj.add", '{"kwargs": {"x": 1, "y": 2}}', 200, '"task-id"'),
    (f"/api/worker/pool/grow/{NODE}?n=3", "", 200, "Growing"),
    (f"/api/worker/pool/shrink/{NODE}?n=3", "", 200, "Shrinking"),
    (f"/api/worker/pool/shrink/{NODE}?n=1000", "", 403, "Can't shrink pool. All processes busy!"),
    (f"/api/worker/pool/restart/{NODE}", "", 403, "Pool restarts not enabled"),
    (f"/api/worker/pool/autoscale/{NODE}?min=1&max=3", "", 403, "Autoscale not enabled"),
    (f"/api/worker/queue/add-consumer/{NODE}?queue=extra", "", 200, "add consumer extra"),
    ("/api/task/apply/proj.add", '{"args": [1, 2], "queue": "extra"}', 200, '"result": 3'),
    (f"/api/worker/queue/cancel-consumer/{NODE}?queue=extra", "", 200, "no longer consuming from extra"),
    ("/api/task/rate-limit/proj.add", f"workername={NODE}&ratelimit=100/s", 200, "new rate limit set"),
    ("/api/task/rate-limit/proj.add", f"workername={NODE}&ratelimit=x", 403, "Invalid rate limit string"),
    ("/api/task/timeout/proj.add", f"workername={NODE}&soft=5&hard=10", 200, "time limits set"),
    ("/api/task/timeout/proj.add", f"workername={NODE}&soft=5", 200, "time limits set"),
]
#: Pages that are there once the buttons were pressed, and words of them.
PAGES: list[tuple[str, tuple[str, ...]]] = [
    ("/", ("workers-table",)),
    ("/workers?json=1", (f'"hostname": "{NODE}"', '"status": true', '"sw_ident": "taskq"', '"loadavg": [')),
    ("/api/workers?status=1", (f'"{NODE}": true',)),
    (f"/worker/{NODE}", ("Max concurrency", "round-robin", "proj.add [rate_limit=100/s]", "utime", "uptime")),
    (f"/worker/{NODE}", ("worker-cancel-consumer-celery", "broker_url", "Prefetch Count")),
    ("/tasks", ("tasks-table",)),
    (
        "/api/tasks?state=SUCCESS&sort_by=-received&search=name:proj.add",
        ('"args": "[20, 22]"', f'"worker": "{NODE}"'),
    ),
    ("/api/tasks?state=FAILURE", ("TypeError", "Traceback")),
    ("/api/task/types", ("proj.add",)),
    ("/broker", ("Broker",)),
    ("/healthcheck", ("OK",)),
    ("/metrics", (f'flower_worker_online{{worker="{NODE}"}} 1.0', 'type="task-failed"')),
    ("/metrics", (f'flower_worker_prefetched_tasks{{task="proj.add",worker="{NODE}"}} 0.0',)),
    ("/metrics", (f'flower_task_runtime_seconds_count{{task="proj.add",worker="{NODE}"}} 4.0',)),
]


class Flower:
    def __init__(self, port: int) -> None:
        self._root = f"http://127.0.0.1:{port}"

    async def ask(self, path: str, post: str | None = None) -> tuple[int, str]:
        """The status and the text; 0 while it does not answer."""

        def get() -> tuple[int, str]:
            data = None if post is None else post.encode()
            try:
                with urllib.request.urlopen(self._root + path, data, timeout=30) as answer:
                    return answer.status, answer.read().decode()
            except urllib.error.HTTPError as error:
                return error.code, error.read().decode()
            except OSError:
                return 0, ""

        return await asyncio.to_thread(get)

    async def data(self, path: str, post: str | None = None) -> Any:
        status, text = await self.ask(path, post)
        return json.loads(text) if status == 200 else None

    async def is_revoked(self, task_id: str) -> bool:
        found = await self.data(f"/api/task/info/{task_id}")
        return bool(found and found["state"] == "REVOKED")


@pytest.mark.timeout(300)
async def test_flower_shows_a_taskq_worker_and_its_buttons_work(url: str, folder: Path, flower: int) -> None:
    site = Flower(flower)
    backend = shared_backend(url)
    with worker(url, folder, "-E", backend=backend) as process:

        async def shown() -> bool:
            found = await site.data("/api/workers?refresh=1")
            if not found or "stats" not in found.get(NODE, {}):
                return False
            return '"sw_ident": "taskq"' in (await site.ask("/workers?json=1"))[1]  # a heartbeat came

        await eventually(shown, every=0.5)
        for path, post, status, words in BUTTONS:
            answer = await site.ask(path, post)
            assert answer[0] == status, (path, answer)
            assert words in answer[1], (path, answer)
        await eventually(lambda: told(site, 5), every=0.5)
        await site.data(f"/api/workers?refresh=1&workername={NODE}")
        for path, several in PAGES:
            status, text = await site.ask(path)
            assert status == 200, (path, text)
            assert [words for words in several if words not in text] == [], (path, text)
        await sorted_and_searched(site)
        async with TaskQ("proj", broker=url, backend=backend) as app:
            await ended(site, app, url)
            assert (await site.ask(f"/api/worker/shutdown/{NODE}", ""))[0] == 200
            assert process.wait(30) == 0, process.output


async def told(site: Flower, count: int) -> bool:
    """Whether all that was sent is shown as ended."""
    tasks = await site.data("/api/tasks")
    return sum(task["state"] in {"SUCCESS", "FAILURE"} for task in tasks.values()) == count


async def sorted_and_searched(site: Flower) -> None:
    """The table of tasks, as its page asks for it."""
    for search, count in (("", 5), ("state:FAILURE", 1), (f"worker:{NODE}", 5), ("name:no.such", 0)):
        query = f"draw=1&start=0&length=15&search[value]={quote(search)}"
        order = "order[0][column]=0&columns[0][data]=received&order[0][dir]=desc"
        table = await site.data(f"/tasks/datatable?{query}&{order}")
        assert table["recordsFiltered"] == count, (search, table)
        times = [row["received"] for row in table["data"]]
        assert times == sorted(times, reverse=True)


async def ended(site: Flower, app: TaskQ, url: str) -> None:
    """Revoke what waits, abort and terminate what runs."""
    waiting = (await site.data("/api/task/async-apply/proj.sleep", '{"args": [1], "countdown": 3600}'))[
        "task-id"
    ]
    running = (await site.data("/api/task/async-apply/proj.sleep", '{"args": [600]}'))["task-id"]
    await eventually(lambda: app.control.inspect([NODE]).query_task(running))
    stored = not url.startswith("amqp")  # results of rpc:// are in their caller's memory
    if stored:
        assert "Aborted" in (await site.ask(f"/api/task/abort/{running}", ""))[1]
    for task_id in (waiting, running):
        assert "Revoked" in (await site.ask(f"/api/task/revoke/{task_id}?terminate=true", ""))[1]
    for task_id in (running, waiting)[: 2 if stored else 1]:  # RabbitMQ holds what is not due
        await eventually(functools.partial(site.is_revoked, task_id), every=0.5)
        status, page = await site.ask(f"/task/{task_id}")
        assert (status, "REVOKED" in page) == (200, True)
        if stored:
            assert (await site.data(f"/api/task/result/{task_id}"))["state"] == "REVOKED"
