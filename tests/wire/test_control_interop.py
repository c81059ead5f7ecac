"""Remote control and events between taskq and Celery's own tools: its command and its worker."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from taskq import TaskQ, TaskRevokedError
from tests.commands import run_taskq
from tests.polling import eventually
from tests.wire.fleet import NODE, CeleryCommand, worker


async def test_the_celery_command_commands_a_taskq_worker(
    url: str, folder: Path, celery: CeleryCommand
) -> None:
    async with TaskQ("proj", broker=url, backend=f"sqlite:///{folder}/results.db") as app:
        with worker(url, folder) as process:
            running = await app.send_task("proj.sleep", [60])
            later = await app.send_task("proj.add", [1, 2], countdown=50)
            await eventually(lambda: app.control.inspect([NODE]).query_task(running.id))

            async def ask(*words: str) -> Any:
                return await asyncio.to_thread(celery.ask, folder, *words)

            assert await ask("inspect", "ping") == {"ok": "pong"}
            [active] = await ask("inspect", "active")
            assert (active["id"], active["name"], active["args"]) == (running.id, "proj.sleep", [60])
            assert "proj.add" in await ask("inspect", "registered")
            stats = await ask("inspect", "stats")
            assert stats["total"]["proj.sleep"] == 1
            assert await ask("control", "rate_limit", "proj.add", "10/m") == {
                "ok": "new rate limit set successfully"
            }
            assert await ask("control", "add_consumer", "extra") == {"ok": "add consumer extra"}
            queues = await ask("inspect", "active_queues")
            assert [queue["name"] for queue in queues] == ["celery", "extra"]
            assert await (await app.send_task("proj.add", [4, 5], queue="extra")).get(20) == 9
            assert await ask("control", "terminate", "TERM", running.id) == {"ok": f"terminate: {running.id}"}
            await eventually(running.ready)
            assert running.state == "REVOKED"
            if not url.startswith("amqp"):  # RabbitMQ holds what is not due by itself
                assert [job["request"]["id"] for job in await ask("inspect", "scheduled")] == [later.id]
                await ask("control", "revoke", later.id)
                await eventually(later.ready)
            status = await asyncio.to_thread(celery.run, folder, "status", "--timeout", "10", "-d", NODE)
            assert f"{NODE}: OK" in status.output
            assert "1 node online" in status.output
            await app.control.shutdown(destination=[NODE])
            assert process.wait(30) == 0, process.output


async def test_the_celery_command_sets_the_range_of_slots(
    url: str, folder: Path, celery: CeleryCommand
) -> None:
    with worker(url, folder, "--autoscale", "20,2") as process:

        async def ask(*words: str) -> Any:
            return await asyncio.to_thread(celery.ask, folder, *words)

        assert await ask("control", "autoscale", "10", "3") == {"ok": "autoscale now max=10 min=3"}
        process.says("3 slots instead of 2")
        stats = await ask("inspect", "stats")
        assert stats["autoscaler"] == {"max": 10, "min": 3, "current": 3, "qty": 0}
        told = await asyncio.to_thread(
            celery.run, folder, "control", "pool_grow", "2", "-d", NODE, "--timeout", "10"
        )
        assert "pool_grow is not supported with autoscale. Adjust autoscale range instead." in told.output


async def test_taskq_commands_a_real_celery_worker(url: str, folder: Path, celery_worker: str) -> None:
    async with TaskQ("proj", broker=url, backend="memory://x") as app:
        await eventually(lambda: app.control.ping(timeout=1, destination=[celery_worker]))
        seen: list[str] = []

        async def listen() -> None:
            async for event in app.events.receive():
                seen.append(event["type"])  # noqa: PERF401 - it is looked at meanwhile

        listening = asyncio.create_task(listen())
        await eventually(lambda: "worker-heartbeat" in seen)
        await app.send_task("proj.sleep", [0])
        await eventually(lambda: "task-succeeded" in seen)
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        inspect = app.control.inspect([celery_worker], timeout=10)
        registered = await inspect.registered()
        assert registered is not None
        assert registered[celery_worker] == ["proj.add", "proj.sleep"]
        limited = await app.control.rate_limit("proj.sleep", "5/s", [celery_worker], reply=True, timeout=10)
        assert limited == [{celery_worker: {"ok": "new rate limit set successfully"}}]
        done = await asyncio.to_thread(
            run_taskq,
            "-b", url, "inspect", "stats", "-j", "-d", celery_worker, "-t", "10s",
            folder=folder.parent,
        )  # fmt: skip
        assert json.loads(done.stdout)[celery_worker]["total"] == {"proj.sleep": 1}, done.stderr


async def test_a_worker_learns_what_only_celery_knows_to_be_revoked(
    url: str, folder: Path, celery: CeleryCommand, celery_worker: str
) -> None:
    """Nobody of taskq was there when a Celery client revoked it; Celery's workers keep that in their memory."""
    async with TaskQ("proj", broker=url, backend=f"sqlite:///{folder}/results.db") as app:
        await eventually(lambda: app.control.ping(timeout=1, destination=[celery_worker]))
        command = ("control", "revoke", "unwanted", "--timeout", "10", "-d", celery_worker)
        assert "flagged" in (await asyncio.to_thread(celery.run, folder, *command)).output
        with worker(url, folder, "-Q", "ours"):

            async def learned() -> bool:
                found = await app.control.inspect([NODE], timeout=10).revoked()
                return bool(found and found[NODE] == ["unwanted"])

            await eventually(learned)
            result = await app.send_task("proj.add", [1, 1], task_id="unwanted", queue="ours")
            with pytest.raises(TaskRevokedError):
                await result.get(20)
