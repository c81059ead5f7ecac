"""Revoking many tasks: in commands of bounded size, with one short line in the log."""

import logging

import pytest

from taskq.remote.control import MOST_REVOKED
from tests.harness import Place, running


async def test_many_ids_go_in_several_commands(place_memory: Place, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "taskq.worker")
    ids = [f"id-{number}" for number in range(MOST_REVOKED + 5)]
    async with place_memory.app() as app, running(app) as worker:
        [reply] = await app.control.revoke(ids, reply=True, limit=1, timeout=20) or []
        assert worker._parts is not None
        assert len(await app.control.inspect(limit=1, timeout=20).revoked() or ()) == 1
        assert "id-10004" in reply[worker.hostname]["ok"]
        assert all(len(record.getMessage()) < 1000 for record in caplog.records)
        assert any("and 9990 more" in record.getMessage() for record in caplog.records)


async def test_too_many_in_one_command_are_refused(place_memory: Place) -> None:
    ids = [f"id-{number}" for number in range(MOST_REVOKED + 1)]
    async with place_memory.app() as app, running(app) as worker:
        [reply] = (
            await app.control.broadcast("revoke", {"task_id": ids}, reply=True, limit=1, timeout=20) or []
        )
        assert "at most 10000" in reply[worker.hostname]["error"]
