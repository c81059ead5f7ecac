"""Every command of remote control, given by Celery's own client to a worker of Celery's and to one of taskq's."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from taskq import TaskQ
from tests.polling import eventually
from tests.wire.fleet import NODE, worker

Case = tuple[str, dict[str, Any]]

#: The same words from both.
SAME: list[Case] = [
    ("ping", {}),
    ("active", {"safe": True}),
    ("reserved", {}),
    ("scheduled", {}),
    ("dump_active", {}),
    ("dump_reserved", {}),
    ("dump_schedule", {}),
    ("query_task", {"ids": ["unknown"]}),
    ("query_task", {"ids": "unknown"}),
    ("query_task", {}),
    ("registered", {}),
    ("dump_tasks", {"taskinfoitems": ["max_retries", "name", "_app", "nothing"]}),
    ("revoke", {"task_id": "t1"}),
    ("revoke", {"task_id": []}),
    ("revoke", {"task_id": None}),
    ("revoke", {}),
    ("revoke", {"task_id": ["t1", "t2"], "terminate": True, "signal": "KILL"}),
    ("terminate", {"task_id": "t1", "signal": "TERM"}),
    ("terminate", {"task_id": "t1"}),
    ("revoked", {}),
    ("dump_revoked", {}),
    ("revoke_by_stamped_headers", {"headers": {"tenant": ["acme"]}}),
    ("revoke_by_stamped_headers", {"headers": ["tenant=acme"]}),
    ("revoke_by_stamped_headers", {"headers": {"tenant": "acme"}, "terminate": True}),
    ("rate_limit", {"task_name": "proj.sleep", "rate_limit": "10/m"}),
    ("registered", {}),
    ("rate_limit", {"task_name": "proj.sleep", "rate_limit": 0}),
    ("rate_limit", {"task_name": "proj.sleep", "rate_limit": ""}),
    ("rate_limit", {"task_name": "no.such", "rate_limit": "1/m"}),
    ("rate_limit", {"task_name": "proj.sleep"}),
    ("time_limit", {"task_name": "proj.sleep", "soft": 100, "hard": 200}),
    ("time_limit", {"task_name": "proj.sleep", "soft": 0, "hard": 0}),
    ("time_limit", {"task_name": "proj.sleep"}),
    ("time_limit", {"task_name": "no.such"}),
    ("enable_events", {}),
    ("heartbeat", {}),
    ("add_consumer", {"queue": "extra"}),
    ("add_consumer", {"queue": "topics", "exchange": "x", "exchange_type": "topic", "routing_key": "a.#"}),
    ("add_consumer", {}),
    ("active_queues", {}),
    ("cancel_consumer", {"queue": "extra"}),
    ("cancel_consumer", {"queue": "topics"}),
    ("cancel_consumer", {"queue": "no-such"}),
    ("pool_restart", {}),
    ("no_such_command", {}),
]
#: Refused by both, in words of their own.
REFUSED: list[Case] = [
    ("rate_limit", {"task_name": "proj.sleep", "rate_limit": "x"}),
    ("rate_limit", {"task_name": "proj.sleep", "rate_limit": "1/y"}),
    ("revoke", {"task_id": "t1", "terminate": True, "signal": "NOPE"}),
    ("autoscale", {"max": 5, "min": 1}),
    ("objgraph", {"num": "x"}),
]
#: Values of each worker's own: the same keys and kinds of value.
ALIKE: list[Case] = [
    ("clock", {}),
    ("stats", {}),
    ("report", {}),
    ("hello", {"from_node": "other@test", "revoked": ["t3"]}),
    ("conf", {}),
    ("dump_conf", {"with_defaults": True}),
    ("memdump", {}),
]


def ordered(command: str, value: Any) -> Any:
    """What was revoked has no order."""
    return sorted(value) if "revoked" in command else value


def shape(value: Any) -> Any:
    """Its keys, and the kinds of its values."""
    if isinstance(value, dict):
        return {key: shape(one) for key, one in value.items()}
    if isinstance(value, list):
        return "list"
    if isinstance(value, bool) or value is None:
        return "flag"  # absent or false
    return "number" if isinstance(value, int | float) else type(value).__name__


def lacking(theirs: Any, ours: Any, path: str = "") -> set[str]:
    """Where Celery's answer has a key or kind of value that ours has not."""
    if not isinstance(theirs, dict) or not isinstance(ours, dict):
        return set() if theirs == ours or "flag" in {theirs, ours} else {f"{path}: {theirs} is {ours}"}
    return {f"{path}{key}" for key in theirs.keys() - ours.keys()}.union(
        *(lacking(theirs[key], ours[key], f"{path}{key}.") for key in theirs.keys() & ours.keys())
    )


@pytest.mark.timeout(300)
async def test_every_command_is_answered_as_a_celery_worker_does(
    url: str, folder: Path, celery_worker: str
) -> None:
    client = Celery("proj", broker=url)
    nodes = [celery_worker, NODE]

    def tell(command: str, arguments: dict[str, Any]) -> tuple[Any, Any]:
        replies = client.control.broadcast(
            command, arguments, reply=True, destination=nodes, limit=2, timeout=30
        )
        merged = {node: value for reply in replies for node, value in reply.items()}
        return merged[celery_worker], merged[NODE]

    async with TaskQ("proj", broker=url, backend="memory://x") as app:
        with worker(url, folder, "-E"):
            await eventually(lambda: app.control.ping(timeout=1, destination=[celery_worker]))
            different = []
            for command, arguments in SAME:
                theirs, ours = await asyncio.to_thread(tell, command, arguments)
                if ordered(command, theirs) != ordered(command, ours):
                    different.append((command, arguments, theirs, ours))
            assert different == []
            for command, arguments in REFUSED:
                theirs, ours = await asyncio.to_thread(tell, command, arguments)
                assert [list(theirs), list(ours)] == [["error"], ["error"]], (command, theirs, ours)
            for command, arguments in ALIKE:
                theirs, ours = await asyncio.to_thread(tell, command, arguments)
                if "conf" in command:  # settings of its own: their names, and that they are masked
                    assert ours["broker_url"].startswith(url.partition("://")[0])
                    continue
                assert lacking(shape(theirs), shape(ours)) == set(), command
    client.close()
