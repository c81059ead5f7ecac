"""`taskq list`."""

import inspect
from collections.abc import Sequence
from typing import Any

import click

from taskq.app import TaskQ
from taskq.cli.apps import app_or_settings, connected, named_app, own_tasks
from taskq.cli.output import json_option, print_json, print_table
from taskq.cli.params import names
from taskq.cli.state import AppCommand, get_state
from taskq.task import Task
from taskq.wire.request import Request
from taskq.worker.run.job import Place
from taskq.worker.run.places import place_of


@click.command("list", cls=AppCommand)
@click.argument("what", type=click.Choice(("tasks", "queues")), required=False)
@click.option("-Q", "--queues", type=names, metavar="NAMES", help="these queues; default: all of the app")
@json_option
def list_(*, what: str | None, queues: list[str] | None, as_json: bool) -> None:
    """The tasks of the app, and its queues with the number of tasks that wait."""
    state = get_state()
    if what == "tasks":
        _list_tasks(named_app(state).app, as_json=as_json)
        return
    app = app_or_settings(state)
    if what is None:
        _list_tasks(app, as_json=as_json)
    found = connected(app, lambda app: sizes(app, queues))
    if as_json:
        for name, size in found.items():
            print_json({"queue": name, "size": size})
    else:
        print_table(((name, str(size)) for name, size in found.items()), ("QUEUE", "WAITING"))


def _list_tasks(app: TaskQ, *, as_json: bool) -> None:
    """Name, how it runs, and the first line of its docstring."""
    rows = []
    for name in own_tasks(app):
        task = app.tasks[name]
        doc = (inspect.getdoc(inspect.unwrap(task)) or "").partition("\n")[0]
        rows.append((f"{name}{task.arguments.signature}", _place(app, task), doc))
        if as_json:
            print_json({"task": name, "runs": rows[-1][1], "doc": doc})
    if rows and not as_json:
        print_table(rows, ("TASK", "RUNS", ""))
        click.echo()


def _place(app: TaskQ, task: Task[Any, Any, Any]) -> str:
    """Where a worker runs it if the call says nothing else."""
    place = place_of(Request("", task.name), task, app.conf)
    return "async" if place is Place.LOOP else place.value


async def sizes(app: TaskQ, names: Sequence[str] | None) -> dict[str, int]:
    """How many messages wait in these queues; default all that the settings know. Raises OperationalError."""
    broker = await app.open_broker()
    return {name: await broker.size(name) for name in names or app.router.queues}
