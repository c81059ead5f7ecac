"""The commands that look (wire-format.md 8.4 to 8.8): shapes as Celery's, so that its tools read them."""

import asyncio
import os
import platform
import resource
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from yarl import URL

from taskq.clock import now
from taskq.errors import EncodeError
from taskq.seams.broker import Queue
from taskq.seams.urls import mask
from taskq.task import Task
from taskq.version import VERSION
from taskq.wire.repr import saferepr
from taskq.wire.serializers import json_dumps
from taskq.worker.intake.revocations import keys_of
from taskq.worker.remote.panel import Panel, command
from taskq.worker.run.job import Job, JobState

Data = dict[str, Any]

#: The attributes that are told of tasks unless others are asked for, where they are set.
TASK_INFO = ("exchange", "routing_key", "rate_limit")


@command("inspect")
def ping(_panel: Panel, **_: Any) -> Data:
    """Who is there."""
    return {"ok": "pong"}


@command("inspect")
def clock(panel: Panel, **_: Any) -> Data:
    """The logical clock."""
    return {"clock": panel.app.clock.value}


@command("inspect", "dump_active")
def active(panel: Panel, safe: bool | None = None, **_: Any) -> list[Data]:  # noqa: FBT001 - Celery's argument
    """Tasks that run now."""
    return [request_info(panel, job, safe=bool(safe)) for job in panel.runner.running]


@command("inspect", "dump_reserved")
def reserved(panel: Panel, **_: Any) -> list[Data]:
    """Tasks that were received and have not begun."""
    return [request_info(panel, job) for job in waiting(panel)]


@command("inspect", "dump_schedule")
def scheduled(panel: Panel, **_: Any) -> list[Data]:
    """Tasks that wait for their eta, or for their turn at a rate limit."""
    return [
        {
            "eta": datetime.fromtimestamp(due, UTC).isoformat() if due else None,
            "priority": 6,
            "request": request_info(panel, job),
        }
        for due, job in panel.intake.scheduled()
    ]


@command("inspect", arguments="ids*")
def query_task(panel: Panel, ids: Sequence[str] | str, **_: Any) -> dict[str, list[Any]]:
    """What is known of some tasks."""
    found = panel.revoker.held([ids] if isinstance(ids, str) else list(ids))
    later = {job for _, job in panel.intake.scheduled()}
    return {
        job.request.id: [_state_of(panel, job, later), request_info(panel, job)]
        for job in found
        if job.request.id in keys_of(job.request)
    }


def _state_of(panel: Panel, job: Job, later: Iterable[Job]) -> str:
    if job in panel.runner.running:
        return "active"
    if job in later:
        return "scheduled"
    return "ready" if job.state is JobState.ENDED else "reserved"


@command("inspect", "dump_revoked")
def revoked(panel: Panel, **_: Any) -> list[str]:
    """Ids this worker was told are revoked."""
    return panel.revoker.known.ids


@command("inspect", "dump_tasks", arguments="taskinfoitems*")
def registered(
    panel: Panel,
    taskinfoitems: Sequence[str] | None = None,
    builtins: bool = False,  # noqa: FBT001, FBT002 - Celery's argument
    **_: Any,
) -> list[str]:
    """Names of tasks, with these attributes, those of routing and the rate limit."""
    tasks = panel.app.tasks
    names = sorted(name for name in tasks if builtins or not name.startswith("celery."))
    return [_named(tasks[name], taskinfoitems or TASK_INFO) for name in names]


def _named(task: Task[Any, Any, Any], attributes: Sequence[str]) -> str:
    shown = {
        name: value
        for name in attributes
        if not name.startswith("_") and (value := getattr(task, name, None)) is not None
    }
    listed = " ".join(f"{name}={value}" for name, value in shown.items())
    return f"{task.name} [{listed}]" if listed else task.name


@command("inspect")
def active_queues(panel: Panel, **_: Any) -> list[Data]:
    """The queues it takes from."""
    return [_queue_info(panel.app.router.queue(name)) for name in panel.queues]


def _queue_info(queue: Queue) -> Data:
    exchange = {
        "name": queue.exchange or queue.name,
        "type": queue.exchange_type,
        "arguments": None,
        "durable": queue.durable,
        "passive": False,
        "auto_delete": False,
        "delivery_mode": None,
        "no_declare": False,
    }
    absent = ("binding_arguments", "consumer_arguments", "alias", "no_declare", "expires", "message_ttl")
    return {
        "name": queue.name,
        "exchange": exchange,
        "routing_key": queue.routing_key or queue.name,
        "queue_arguments": dict(queue.arguments) or None,
        "durable": queue.durable,
        "exclusive": False,
        "auto_delete": queue.auto_delete,
        "no_ack": False,
        "bindings": [],
        **dict.fromkeys((*absent, "max_length", "max_length_bytes")),
        "max_priority": queue.arguments.get("x-max-priority"),
    }


@command("inspect", "dump_conf", arguments="with_defaults?")
def conf(panel: Panel, with_defaults: bool | None = False, **_: Any) -> Data:  # noqa: FBT001, FBT002 - Celery's argument
    """Settings; passwords are hidden."""
    settings = panel.app.conf
    return {
        name: plain(value)
        for name, value in settings.masked().items()
        if with_defaults or settings.source_of(name) != "default"
    }


@command("inspect")
def stats(panel: Panel, **_: Any) -> Data:
    """Counters and facts."""
    pool = {
        "implementation": "taskq.worker.run.runner:Runner",
        "max-concurrency": panel.runner.concurrency,
        "threads": panel.node.threads,
        "processes": [os.getpid()],
        "max-tasks-per-child": "N/A",
        "put-guarded-by-semaphore": False,
        "timeouts": [panel.app.conf.task_soft_time_limit or 0, panel.app.conf.task_time_limit or 0],
    }
    bounds = panel.autoscaler.bounds
    current = {"current": panel.runner.concurrency, "qty": len(panel.revoker.everything())}
    return {
        **({} if bounds is None else {"autoscaler": {"max": bounds.most, "min": bounds.least, **current}}),
        "total": dict(panel.runner.started),
        "pid": os.getpid(),
        "clock": str(panel.app.clock.value),
        "uptime": round(asyncio.get_running_loop().time() - panel.began),
        "pool": pool,
        "broker": _broker_info(panel),
        "prefetch_count": panel.intake.capacity,
        "held_bytes": panel.intake.held_bytes,
        "rusage": _usage(),
        "sw_ident": "taskq",
        "sw_ver": VERSION,
        "sw_sys": platform.system(),
    }


def _broker_info(panel: Panel) -> Data:
    settings = panel.app.conf
    first = settings.broker_url.split(";")[0]
    scheme, _, rest = first.partition("://")
    url = URL(f"http://{rest}") if scheme != "sqlite" else URL(f"http:{rest}")
    return {
        "hostname": url.host,
        "userid": url.user,
        "virtual_host": url.path.removeprefix("/") or "/",
        "port": url.explicit_port,
        "insist": False,
        "ssl": bool(settings.broker_use_ssl),
        "transport": scheme,
        "connect_timeout": settings.broker_connection_timeout,
        "transport_options": plain(settings.masked()["broker_transport_options"]),
        "login_method": None,
        "uri_prefix": None,
        "heartbeat": settings.broker_heartbeat,
        "failover_strategy": "round-robin",
        "alternates": [mask(one) for one in settings.broker_url.split(";")[1:]],
        "credential_provider": None,
    }


def _usage() -> Data:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {name.removeprefix("ru_"): getattr(usage, name) for name in dir(usage) if name.startswith("ru_")}


@command(None)
async def hello(
    panel: Panel, from_node: str, revoked: Sequence[str] | dict[str, Any] | None = None, **_: Any
) -> Data | None:
    """A worker that starts shares what it knows to be revoked, and learns what we know (9)."""
    if from_node == panel.hostname:
        return None
    if told := revoked_of({"revoked": revoked}):
        await panel.revoker.revoke(told)
    return {"revoked": panel.revoker.known.ids, "clock": panel.app.clock.forward()}


def revoked_of(told: Any) -> list[str]:
    """The ids that a worker's hello tells; Celery 5.6 sends an object of them."""
    revoked = told.get("revoked") if isinstance(told, dict) else None
    return [str(key) for key in revoked] if isinstance(revoked, list | dict) else []


# --- jobs ---------------------------------------------------------------------------------------------------


def waiting(panel: Panel) -> list[Job]:
    """What was received and neither runs nor waits for its time."""
    later = {job for _, job in panel.intake.scheduled()}
    running = panel.runner.running
    return [
        job
        for job in panel.revoker.everything()
        if job not in running and job not in later and job.state is not JobState.ENDED
    ]


def request_info(panel: Panel, job: Job, *, safe: bool = False) -> Data:
    """A task as Celery shows it (8.6)."""
    request = job.request
    started = now() - (asyncio.get_running_loop().time() - job.started) if job.started else None
    where = request.delivery_info
    return {
        "id": request.id,
        "name": request.name,
        "args": request.argsrepr or saferepr(request.args) if safe else plain(list(request.args)),
        "kwargs": request.kwargsrepr or saferepr(request.kwargs) if safe else plain(dict(request.kwargs)),
        "type": request.task,
        "hostname": panel.hostname,
        "time_start": started,
        "acknowledged": job.acknowledged,
        "delivery_info": {
            "exchange": where.get("exchange", job.delivery.message.exchange),
            "routing_key": where.get("routing_key", job.delivery.message.routing_key),
            "priority": job.delivery.message.priority,
            "redelivered": job.delivery.redelivered,
        },
        "worker_pid": os.getpid() if job.started else None,
    }


def plain(value: Any) -> Any:
    """The value where JSON has it, else its text."""
    try:
        json_dumps(value)
    except EncodeError:
        return saferepr(value)
    return value
