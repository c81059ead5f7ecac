"""What an entry does when its run before has not ended, as told by the result store: also with Celery's workers."""

from datetime import UTC, datetime, timedelta
from typing import Final

from taskq.clock import now
from taskq.errors import ConfigError
from taskq.schedules.entries import Entry, PeriodicApp
from taskq.schedules.records import Progress

#: Seconds after which a run that never ended is in nobody's way, if results are kept for ever.
LONGEST: Final = 7 * 86400.0


def check_overlap(app: PeriodicApp, entry: Entry) -> None:
    """Make sure that it can be known whether a run has ended.

    Raises:
        ConfigError: it cannot; says what to do.
    """
    overlap = entry.schedule.policy.overlap
    if overlap == "allow":
        return
    scheme = app.store_config().url.partition("://")[0].partition("+")[0]
    if scheme in {"rpc", "disabled"}:
        raise ConfigError(
            f"{entry.name}: overlap={overlap!r} asks the result store whether a run has ended, and {scheme}:// cannot "
            "tell: set result_backend to a store, for example 'redis://localhost/0'"
        )
    task = app.find_task(entry.task)
    if entry.options.get("ignore_result") or getattr(task, "ignore_result", None):
        raise ConfigError(
            f"{entry.name}: overlap={overlap!r} asks for the results of {entry.task}, which are ignored"
        )


async def may_send(app: PeriodicApp, entry: Entry, progress: Progress, instant: datetime) -> bool:
    """Whether the instant is to be sent, after what the policy does to the runs before it."""
    policy = entry.schedule.policy.overlap
    if policy == "allow":
        return True
    running = [before for before in progress.sent if before < instant and await _runs(app, entry, before)]
    if policy == "cancel_running" and running:
        await app.control.revoke(
            [entry.task_id(app, before) for before in running],
            terminate=True,
            signal="SIGTERM",
            expires=LONGEST,
        )
        return True
    return len(running) < (2 if policy == "queue_one" else 1)


async def _runs(app: PeriodicApp, entry: Entry, instant: datetime) -> bool:
    """Whether the run of an instant has not ended. One whose result would have expired is not waited for."""
    kept = timedelta(seconds=app.conf.result_expires or LONGEST)
    if datetime.fromtimestamp(now(), UTC) - instant > kept:
        return False
    ended: bool = await app.AsyncResult(entry.task_id(app, instant)).ready()
    return not ended
