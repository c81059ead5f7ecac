"""Entries: what is sent when. Those of the code, as Celery declares them, and those that were put at run time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Protocol
from uuid import NAMESPACE_URL, uuid5
from weakref import WeakSet
from zoneinfo import ZoneInfo

from taskq.canvas.signature import Signature
from taskq.errors import ConfigError, EncodeError
from taskq.near import near_match
from taskq.schedules.base import Schedule
from taskq.schedules.convert import as_schedule, load
from taskq.schedules.walltime import find_zone
from taskq.seams.app import App
from taskq.seams.broker import BrokerConfig
from taskq.seams.store import StoreConfig
from taskq.signals import Signal
from taskq.wire.serializers import get_serializer

#: The header that names the entry which sent a task, as django-celery-beat has it.
HEADER: Final = "periodic_task_name"
#: What an entry of `beat_schedule` may say.
_KEYS: Final = ("task", "schedule", "args", "kwargs", "options", "relative")
#: Apps whose `on_after_configure` receivers have run.
_CONFIGURED: Final[WeakSet[Any]] = WeakSet()


class PeriodicApp(App, Protocol):
    """An app, as far as schedules know it."""

    main: str
    #: Entries that `add_periodic_task` has declared, by name, in the form of `beat_schedule`.
    periodic: dict[str, Mapping[str, Any]]
    on_after_configure: Signal
    on_after_finalize: Signal

    def broker_config(self, url: str | None = None) -> BrokerConfig:
        """What the broker is opened with."""
        ...

    def store_config(self) -> StoreConfig:
        """What the result store is opened with."""
        ...


@dataclass(frozen=True, slots=True)
class Entry:
    """A task with its arguments and options, and when it is sent."""

    name: str
    schedule: Schedule
    task: str
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    def signature(self, task_id: str | None) -> Signature[Any]:
        """What is sent; under this id, or a new one."""
        headers = {**(self.options.get("headers") or {}), HEADER: self.name}
        own = {"task_id": task_id} if task_id else {}
        return Signature(self.task, self.args, self.kwargs, {**self.options, "headers": headers, **own})

    def once(self, app: PeriodicApp, instant: datetime) -> str:
        """The name under which brokers take the task of an instant a single time."""
        return f"beat:{app.main}:{self.name}:{instant.isoformat()}"

    def task_id(self, app: PeriodicApp, instant: datetime) -> str:
        """The id of the task of an instant, the same in all schedulers."""
        return str(uuid5(NAMESPACE_URL, self.once(app, instant)))

    def dump(self) -> dict[str, Any]:
        """The entry as plain values, for the ledger."""
        return {
            "schedule": self.schedule.dump(),
            "task": self.task,
            "args": list(self.args),
            "kwargs": dict(self.kwargs),
            "options": dict(self.options),
        }


def loaded(name: str, data: Mapping[str, Any]) -> Entry:
    """The entry that `Entry.dump` made this of. Raises ValueError."""
    return Entry(name, load(data["schedule"]), data["task"], data["args"], data["kwargs"], data["options"])


def of_signature(name: str, schedule: Any, signature: Signature[Any]) -> Entry:
    """An entry that sends a plain signature.

    Raises:
        TypeError: it is a canvas, or what is given as schedule is none.
        EncodeError: the arguments or options cannot be kept as JSON.
    """
    entry = of_declaration(name, declaration(schedule, signature))
    try:
        get_serializer("json").dumps(entry.dump())
    except EncodeError as error:
        raise EncodeError(f"the entry {name!r} cannot be kept: {error}") from error
    return entry


def declaration(schedule: Any, signature: Signature[Any]) -> dict[str, Any]:
    """The form of `beat_schedule` for a signature. Raises TypeError or ValueError."""
    if type(signature) is not Signature:
        raise TypeError(
            f"a periodic task is one task's signature, not {signature!r}: let a task send what it is"
        )
    return {
        "schedule": as_schedule(schedule),
        "task": signature.task,
        "args": signature.args,
        "kwargs": signature.kwargs,
        "options": signature.options,
    }


def of_declaration(name: str, declared: Mapping[str, Any]) -> Entry:
    """An entry of `beat_schedule`.

    Raises:
        ConfigError: something is missing, unknown or wrong; names the entry.
    """
    if unknown := [key for key in declared if key not in _KEYS]:
        raise ConfigError(
            f"beat_schedule: {name!r} has an unknown key {unknown[0]!r}.{near_match(unknown[0], _KEYS)}"
        )
    if missing := [key for key in ("task", "schedule") if not declared.get(key)]:
        raise ConfigError(f"beat_schedule: {name!r} has no {missing[0]}")
    try:
        schedule = as_schedule(declared["schedule"])
    except (TypeError, ValueError) as error:
        raise ConfigError(f"beat_schedule: {name!r}: {error}") from error
    task = declared["task"]
    return Entry(
        name,
        schedule,
        task if isinstance(task, str) else task.name,
        declared.get("args") or (),
        declared.get("kwargs") or {},
        declared.get("options") or {},
    )


async def entries_of_code(app: PeriodicApp) -> dict[str, Entry]:
    """All that is declared in the code: `beat_schedule`, `add_periodic_task` and `@app.task(schedule=...)`.

    Receivers of `on_after_configure` and `on_after_finalize` run before the first time.

    Raises:
        ConfigError: one of them is wrong.
    """
    if app not in _CONFIGURED:
        _CONFIGURED.add(app)
        await app.on_after_configure.send(app)
        await app.on_after_finalize.send(app)
    of_tasks = {
        name: {"task": name, "schedule": schedule}
        for name, task in app.tasks.items()
        if (schedule := getattr(task, "schedule", None)) is not None
    }
    declared = {**of_tasks, **(app.conf.beat_schedule or {}), **app.periodic}
    return {name: of_declaration(name, one) for name, one in declared.items()}


def zone_of(app: PeriodicApp) -> ZoneInfo:
    """The time zone of schedules that name none. Raises ConfigError."""
    try:
        return find_zone(app.conf.timezone or "UTC")
    except ValueError as error:
        raise ConfigError(f"timezone: {error}") from error
