"""`taskq result`."""

from collections.abc import Mapping
from typing import Any

import click

from taskq.app import TaskQ
from taskq.cli.apps import app_or_settings, connected
from taskq.cli.outcome import tell
from taskq.cli.output import json_option, to_json
from taskq.cli.params import duration
from taskq.cli.progress import ProgressBar
from taskq.cli.state import AppCommand, get_state
from taskq.states import READY


@click.command(cls=AppCommand)
@click.argument("task_id")
@click.option("-w", "--watch", is_flag=True, help="follow its states until it has ended")
@click.option("--traceback", is_flag=True, help="if it failed, the traceback of the worker")
@click.option("--timeout", type=duration, metavar="TIME", help="watch no longer than this")
@json_option
def result(*, task_id: str, watch: bool, traceback: bool, timeout: float | None, as_json: bool) -> int:
    """Print the result of a task. The exit code is 0 only if it succeeded."""
    state = get_state()

    async def look(app: TaskQ) -> int:
        handle = app.AsyncResult(task_id)
        if watch:
            with ProgressBar(task_id, quiet=state.quiet) as bar:

                def show(message: Mapping[str, Any]) -> None:
                    if not bar.show(message) and message["status"] not in READY:
                        meta = message["result"]
                        state.say(message["status"] + ("" if meta is None else f" {to_json(meta)}"))

                await handle.get(timeout, propagate=False, on_message=show)
        else:
            await handle.refresh()
        return tell(handle, as_json=as_json, traceback=traceback)

    return connected(app_or_settings(state), look)
