"""`taskq schedule`: periodic tasks, looked at and acted on."""

import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import click

from taskq.app import TaskQ
from taskq.cli.apps import connected, named_app
from taskq.cli.output import json_option, print_json, print_table
from taskq.cli.state import Group, Refusal, get_state
from taskq.schedules.api import ScheduledEntry

T = TypeVar("T")


@click.group(cls=Group)
def schedule() -> None:
    """Periodic tasks: those of the code and those that were put at run time."""


def _ask(work: Callable[[TaskQ], Awaitable[T]]) -> T:
    """Do this with the app; what it does not know, or may not do, is a wrong usage."""
    try:
        return connected(named_app(get_state()).app, work)
    except (KeyError, ValueError) as error:
        raise Refusal(str(error.args[0])) from error


@schedule.command()
@json_option
def ls(*, as_json: bool) -> None:
    """List them with their next instants."""
    entries = _ask(lambda app: app.schedules.all())
    if as_json:
        for found in entries.values():
            print_json(_as_data(found))
    elif entries:
        rows = [
            (
                name,
                found.entry.task,
                repr(found.entry.schedule),
                "paused" if found.paused else _time(found.next) or "ended",
            )
            for name, found in entries.items()
        ]
        print_table(rows, ("NAME", "TASK", "SCHEDULE", "NEXT"))
    else:
        get_state().say("no periodic tasks")


@schedule.command()
@click.argument("name")
@click.option("-n", "--count", type=click.IntRange(1, 1000), default=5, show_default=True, help="so many")
@json_option
def next(*, name: str, count: int, as_json: bool) -> None:  # noqa: A001 - the verb's name
    """Show the next instants of one, in UTC."""
    instants = [_time(instant) for instant in _ask(lambda app: app.schedules.next(name, count))]
    if as_json:
        print_json({"name": name, "next": instants})
    else:
        for instant in instants:
            click.echo(instant)


@schedule.command()
@click.argument("name")
@json_option
def run(*, name: str, as_json: bool) -> None:
    """Send one now, beside its schedule; prints the task's id."""

    async def send(app: TaskQ) -> str:
        return (await app.schedules.run_now(name)).id

    task_id = _ask(send)
    if as_json:
        print_json({"name": name, "task_id": task_id})
    else:
        click.echo(task_id)


@schedule.command()
@click.argument("name")
@json_option
def pause(*, name: str, as_json: bool) -> None:
    """Have one send nothing until it is resumed."""
    _ask(lambda app: app.schedules.pause(name))
    _tell("paused", name, as_json=as_json)


@schedule.command()
@click.argument("name")
@json_option
def resume(*, name: str, as_json: bool) -> None:
    """Have a paused one send again."""
    _ask(lambda app: app.schedules.resume(name))
    _tell("resumed", name, as_json=as_json)


@schedule.command()
@click.argument("name")
@json_option
def rm(*, name: str, as_json: bool) -> None:
    """Remove what was put at run time under a name; an entry of the code is then as the code has it."""
    _ask(lambda app: app.schedules.remove(name))
    _tell("removed", name, as_json=as_json)


def _tell(done: str, name: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"name": name, "done": done})
    else:
        get_state().say(f"{done} {name}")


def _time(instant: Any) -> str | None:
    return None if instant is None else instant.isoformat().replace("+00:00", "Z")


def _as_data(found: ScheduledEntry) -> dict[str, Any]:
    entry = json.loads(json.dumps(found.entry.dump(), default=repr))
    return {
        "name": found.entry.name,
        **entry,
        "owner": found.owner,
        "paused": found.paused,
        "last": _time(found.last),
        "runs": found.runs,
        "next": _time(found.next),
    }
