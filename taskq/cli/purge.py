"""`taskq purge`."""

import click

from taskq.app import TaskQ
from taskq.cli.apps import app_or_settings, connected
from taskq.cli.listing import sizes
from taskq.cli.output import counted, json_option, print_json
from taskq.cli.params import names
from taskq.cli.state import AppCommand, confirm, get_state


@click.command(cls=AppCommand)
@click.option("-Q", "--queues", type=names, metavar="NAMES", help="these queues; default: all of the app")
@click.option("--dry-run", is_flag=True, help="only tell how many there are")
@click.option("-f", "--force", is_flag=True, help="do not ask")
@json_option
def purge(*, queues: list[str] | None, dry_run: bool, force: bool, as_json: bool) -> None:
    """Remove all waiting tasks of queues. Running tasks go on. There is no undo."""
    app = app_or_settings(get_state())
    found = connected(app, lambda app: sizes(app, queues))
    told = f"{counted(sum(found.values()), 'task')} ({', '.join(f'{name} {size}' for name, size in found.items())})"
    if not dry_run:
        if any(found.values()) and not force:
            confirm(f"Remove {told}?")
        found = connected(app, lambda app: _remove(app, list(found)))
    if as_json:
        for name, number in found.items():
            print_json({"queue": name, "would_remove" if dry_run else "removed": number})
    else:
        click.echo(f"would remove {told}" if dry_run else f"removed {counted(sum(found.values()), 'task')}")


async def _remove(app: TaskQ, queues: list[str]) -> dict[str, int]:
    broker = await app.open_broker()
    return {name: await broker.purge(name) for name in queues}
