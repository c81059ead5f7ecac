"""`taskq conf`."""

import click

from taskq.cli.apps import app_or_settings
from taskq.cli.output import json_option, print_json, print_table, to_json
from taskq.cli.state import AppCommand, get_state


@click.command(cls=AppCommand)
@click.option("--all", "everything", is_flag=True, help="those with their default, too")
@json_option
def conf(*, everything: bool, as_json: bool) -> None:
    """The settings in effect and where each was written. Passwords are hidden."""
    state = get_state()
    settings = app_or_settings(state).conf
    rows = [
        (name, value, source)
        for name, value in settings.masked().items()
        if (source := settings.source_of(name)) != "default" or everything
    ]
    if as_json:
        for name, value, source in rows:
            print_json({"name": name, "value": value, "source": source})
    elif rows:
        print_table(
            ((name, to_json(value), source) for name, value, source in rows), ("SETTING", "VALUE", "FROM")
        )
    else:
        state.say("all settings have their default: taskq conf --all shows them")
