"""The commands that change something (wire-format.md 8.4): replies as Celery's, to the letter."""

import logging
import signal as signals
from collections.abc import Mapping, Sequence
from typing import Any

from taskq.config.coerce import parse_rate
from taskq.remote.control import MOST_REVOKED
from taskq.task import Task
from taskq.wire.repr import saferepr
from taskq.worker.intake.revocations import stamp_keys
from taskq.worker.remote.panel import NoReply, Panel, command

logger = logging.getLogger("taskq.worker")

Reply = dict[str, str]


# --- revoking -----------------------------------------------------------------------------------------------


@command("control", arguments="task_id*")
async def revoke(
    panel: Panel,
    task_id: str | Sequence[str] | None,
    terminate: bool = False,  # noqa: FBT001, FBT002 - Celery's argument
    signal: str | int | None = None,
    **_: Any,
) -> Reply:
    """Have tasks not run; with --terminate end those that do."""
    ids = _texts(task_id or [])
    number = signum(signal) if terminate else 0
    if len(ids) > MOST_REVOKED:
        raise ValueError(f"{len(ids)} ids in one command, at most {MOST_REVOKED} are taken")
    await panel.revoker.revoke(ids)
    if not terminate:
        logger.info("revoked: %s%s", ", ".join(ids[:10]), f" and {len(ids) - 10} more" if ids[10:] else "")
        return {"ok": f"tasks {set(ids)} flagged as revoked"}
    ended = [job.request.id for job in panel.revoker.terminate(ids, number)]
    return {"ok": f"terminate: {', '.join(ended) or 'tasks unknown'}"}


@command("control", arguments="signal task_id*")
async def terminate(panel: Panel, signal: str | int, task_id: str | Sequence[str], **_: Any) -> Reply:
    """End tasks that run, and have the others not run."""
    reply: Reply = await revoke(panel, task_id, terminate=True, signal=signal)
    return reply


@command("control", arguments="headers*")
async def revoke_by_stamped_headers(
    panel: Panel,
    headers: Mapping[str, Any] | Sequence[str],
    terminate: bool = False,  # noqa: FBT001, FBT002 - Celery's argument
    signal: str | int | None = None,
    **_: Any,
) -> Reply:
    """The same for tasks with one of these stamps: tenant=acme."""
    stamps = headers if isinstance(headers, dict) else dict(text.split("=", 1) for text in _texts(headers))
    number = signum(signal)
    keys = stamp_keys(stamps)
    await panel.revoker.revoke(keys)
    if not terminate:
        return {"ok": f"headers {stamps} flagged as revoked, but not terminated"}
    ended = panel.revoker.terminate(keys, number)
    return {"ok": f"headers {stamps} revoked" if ended else f"headers {stamps} were not terminated"}


def signum(signal: str | int | None) -> int:
    """The number of `SIGTERM`, `TERM` or 15.

    Raises:
        ValueError: there is no such signal.
    """
    if isinstance(signal, str) and not signal.isdecimal():
        name = f"SIG{signal.upper().removeprefix('SIG')}"
        if name not in signals.Signals.__members__:
            raise ValueError(f"no signal {signal!r}")
        return signals.Signals[name].value
    return signals.Signals(int(signal or signals.SIGTERM)).value


# --- limits -------------------------------------------------------------------------------------------------


@command("control", arguments="task_name rate_limit")
def rate_limit(panel: Panel, task_name: str, rate_limit: str | float | None, **_: Any) -> Reply:
    """How often a task may be started here: 10/s, 100/m, 5/h; 0 for no limit."""
    try:
        parse_rate(rate_limit)
    except ValueError as error:
        return {"error": f"Invalid rate limit string: {error!r}"}
    task = _task(panel, task_name)
    if task is None:
        return {"error": "unknown task"}
    task.rate_limit = rate_limit or 0
    panel.throttle.change(task_name, rate_limit)
    return {"ok": "new rate limit set successfully" if rate_limit else "rate limit disabled successfully"}


@command("control", arguments="task_name soft hard?")
def time_limit(
    panel: Panel, task_name: str | None = None, hard: float | None = None, soft: float | None = None, **_: Any
) -> Reply:
    """New time limits of a task in seconds, for runs that begin from now on; 0 for none."""
    for limit in (hard, soft):
        if limit and not (type(limit) in {int, float} and 0 < limit < 2**31):
            raise ValueError(f"{limit!r} is no time limit in seconds")
    task = _task(panel, task_name)
    if task is None:
        return {"error": "unknown task"}
    task.soft_time_limit, task.time_limit = soft or None, hard or None
    return {"ok": "time limits set successfully"}


def _task(panel: Panel, name: Any) -> Task[Any, Any, Any] | None:
    return panel.app.find_task(name) if isinstance(name, str) else None


# --- events -------------------------------------------------------------------------------------------------


@command("control")
def enable_events(panel: Panel, **_: Any) -> Reply:
    """Send events of tasks."""
    was = panel.tells_events
    panel.tell_events(True)
    return {"ok": "task events already enabled" if was else "task events enabled"}


@command("control")
def disable_events(panel: Panel, **_: Any) -> Reply:
    """Send events of tasks no longer."""
    was = panel.tells_events
    panel.tell_events(False)
    return {"ok": "task events disabled" if was else "task events already disabled"}


@command("control")
async def heartbeat(panel: Panel, **_: Any) -> None:
    """Send a heartbeat event now."""
    await panel.events.tell("worker-heartbeat")


# --- queues -------------------------------------------------------------------------------------------------


@command("control", arguments="queue exchange? exchange_type? routing_key?")
async def add_consumer(
    panel: Panel,
    queue: str,
    exchange: str | None = None,
    exchange_type: str | None = None,
    routing_key: str | None = None,
    **options: Any,
) -> Reply:
    """Take from one more queue."""
    [name] = _texts(queue)
    given = {"exchange": exchange, "exchange_type": exchange_type, "routing_key": routing_key, **options}
    if name not in panel.queues:
        panel.app.router.declare(name, {key: value for key, value in given.items() if value is not None})
        await panel.consumer.subscribe([*panel.queues, name])
        panel.queues.append(name)
    return {"ok": f"add consumer {name}"}


@command("control", arguments="queue")
async def cancel_consumer(panel: Panel, queue: str, **_: Any) -> Reply:
    """Take from a queue no longer."""
    [name] = _texts(queue)
    if name in panel.queues:
        await panel.consumer.subscribe([other for other in panel.queues if other != name])
        panel.queues.remove(name)
    return {"ok": f"no longer consuming from {name}"}


# --- the worker ---------------------------------------------------------------------------------------------


@command("control", arguments="n?")
async def pool_grow(panel: Panel, n: int = 1, **_: Any) -> Reply:
    """Run more tasks at the same time."""
    if panel.autoscaler.bounds is not None:
        return {"error": "pool_grow is not supported with autoscale. Adjust autoscale range instead."}
    await panel.autoscaler.resize(panel.runner.concurrency + _count(n))
    return {"ok": "pool will grow"}


@command("control", arguments="n?")
async def pool_shrink(panel: Panel, n: int = 1, **_: Any) -> Reply:
    """Run fewer tasks at the same time."""
    if panel.autoscaler.bounds is not None:
        return {"error": "pool_shrink is not supported with autoscale. Adjust autoscale range instead."}
    if panel.runner.concurrency <= _count(n):
        raise ValueError("Can't shrink pool. All processes busy!")
    await panel.autoscaler.resize(panel.runner.concurrency - n)
    return {"ok": "pool will shrink"}


@command("control", arguments="max? min?")
async def autoscale(panel: Panel, max: int | None = None, min: int | None = None, **_: Any) -> Reply:  # noqa: A002 - Celery's arguments
    """Other bounds for how many tasks run at the same time."""
    most = None if max is None else _count(max)
    least = None if min is None else _count(min or 1)  # Celery's fewest may be none
    bounds = await panel.autoscaler.move(most, least)
    return {"ok": f"autoscale now max={bounds.most} min={bounds.least}"}


@command("control")
def pool_restart(_panel: Panel, **_: Any) -> Reply:
    """Not here: nothing is imported at remote request."""
    raise ValueError("Pool restarts not enabled")


@command("control")
def shutdown(panel: Panel, msg: str = "told to stop by remote control", **_: Any) -> None:
    """Stop, warmly."""
    logger.warning("%.200s", msg)
    panel.node.stop()
    raise NoReply


@command(None)
def election(_panel: Panel, **_: Any) -> None:
    """Only Celery's workers elect each other (9): not taken part in."""


def _count(n: Any) -> int:
    if type(n) is not int or not 0 < n <= 100_000:
        raise ValueError(f"{n!r} is no number of slots")
    return n


def _texts(value: Any) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if not (isinstance(texts, list | tuple | set) and all(isinstance(text, str) for text in texts)):
        raise TypeError(f"not text, nor a list of texts: {saferepr(value, 200)}")
    return list(dict.fromkeys(texts))
