"""`taskq result`."""

from collections.abc import Mapping
from typing import Any

import click

from taskq import states
from taskq.app import TaskQ
from taskq.cli.apps import app_or_settings, connected
from taskq.cli.output import json_option, print_json, print_value, to_json
from taskq.cli.params import duration
from taskq.cli.progress import ProgressBar
from taskq.cli.state import AppCommand, get_state
from taskq.printable import printable
from taskq.results.handles import AsyncResult
from taskq.seams.store import TaskResult


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
        if reason := why_unreadable(app):
            raise click.ClickException(reason)
        if watch:
            with ProgressBar(task_id, quiet=state.quiet) as bar:

                def show(message: Mapping[str, Any]) -> None:
                    if not bar.show(message) and message["status"] not in states.READY:
                        meta = message["result"]
                        state.say(message["status"] + ("" if meta is None else f" {to_json(meta)}"))

                await handle.get(timeout, propagate=False, on_message=show)
        else:
            await handle.refresh()
        return tell(handle, as_json=as_json, traceback=traceback)

    return connected(app_or_settings(state), look)


def why_unreadable(app: TaskQ) -> str:
    """Why nobody but its caller can ever see the result of a task; "" if others can."""
    url = app.store_config().url
    if url.startswith("rpc+"):
        return (
            "results go straight to the program that called (rpc://), nobody else sees them: "
            "set result_backend to a store, or use taskq call --wait"
        )
    return why_dropped(app)


def why_dropped(app: TaskQ) -> str:
    """Why nobody at all can; "" if its caller can."""
    if app.store_config().url.startswith("disabled:"):
        return "results are dropped (result_backend is disabled://): set it to a store"
    return ""


def tell(handle: AsyncResult[object], *, as_json: bool, traceback: bool) -> int:
    """Print the value on standard output, or on standard error why there is none; the exit code."""
    seen = handle.seen or TaskResult(handle.id, states.PENDING)
    if as_json:
        print_json(seen.payload())
    elif seen.state == states.SUCCESS:
        print_value(seen.value)
    elif seen.state in states.EXCEPTION:
        _tell_failure(handle, traceback=traceback)
    else:
        meta = "" if seen.value is None else f" {to_json(seen.value)}"
        unknown = " (or unknown)" if seen.state == states.PENDING else ""
        click.echo(printable(f"{seen.state}{unknown}{meta}"), err=True)
    return 0 if seen.state == states.SUCCESS else 1


def _tell_failure(handle: AsyncResult[object], *, traceback: bool) -> None:
    if traceback and handle.traceback:
        click.echo(printable(handle.traceback.rstrip(), lines=True), err=True)
    error = handle.result
    text = f"{type(error).__name__}: {error}".removesuffix(": ")
    click.echo(f"{click.style(f'{handle.state}:', fg='red')} {printable(text)}", err=True)
