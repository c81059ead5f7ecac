"""`taskq call`."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import click

from taskq.app import TaskQ
from taskq.cli.apps import app_or_settings, connected, own_tasks
from taskq.cli.outcome import tell
from taskq.cli.output import json_option, to_json
from taskq.cli.params import (
    duration,
    duration_or_when,
    json_list,
    json_or_word,
    keyword_arguments,
    when,
)
from taskq.cli.progress import ProgressBar
from taskq.cli.state import AppCommand, get_state
from taskq.near import near_match

#: Options of the command that are options of the call, by the same name.
_CALL_OPTIONS = (
    click.option("--countdown", type=duration, metavar="TIME", help="run it after this time"),
    click.option("--eta", type=when, metavar="WHEN", help="run it at this time (ISO 8601)"),
    click.option(
        "--expires", type=duration_or_when, metavar="TIME|WHEN", help="do not run it later than this"
    ),
    click.option("-Q", "--queue", metavar="NAME"),
    click.option("--exchange", metavar="NAME"),
    click.option("--routing-key", metavar="KEY"),
    click.option("--priority", type=click.IntRange(0, 255), metavar="N"),
    click.option("--task-id", metavar="ID"),
    click.option("--serializer", metavar="NAME"),
    click.option("--compression", metavar="NAME"),
    click.option("--time-limit", type=duration, metavar="TIME"),
    click.option("--soft-time-limit", type=duration, metavar="TIME"),
)


def _call_options(function: Any) -> Any:
    for option in reversed(_CALL_OPTIONS):
        function = option(function)
    return function


@click.command(cls=AppCommand)
@click.argument("name")
@click.argument("words", nargs=-1, metavar="[ARGS]...")
@click.option("-a", "--args", "listed", type=json_list, metavar="JSON", help="arguments as a JSON list")
@click.option(
    "-k",
    "--kwargs",
    "keywords",
    multiple=True,
    metavar="JSON|NAME=VALUE",
    callback=lambda _ctx, _param, texts: keyword_arguments(texts),
    help="keyword arguments; may be repeated",
)
@click.option(
    "-w", "--wait", is_flag=True, help="wait for the result and print it; exit code 1 if the task failed"
)
@click.option("--timeout", type=duration, metavar="TIME", help="wait no longer than this")
@_call_options
@json_option
def call(
    *,
    name: str,
    words: tuple[str, ...],
    listed: list[Any] | None,
    keywords: dict[str, Any],
    wait: bool,
    timeout: float | None,
    as_json: bool,
    **options: float | datetime | str | None,
) -> int:
    """Send a task and print its id, or with --wait its result.

    Arguments are JSON or bare words: taskq call proj.tasks.add 2 2 --wait; after -- they may begin with a dash.
    """
    if words and listed is not None:
        raise click.UsageError("arguments are given twice, as words and by --args")
    args = [json_or_word(word) for word in words] if listed is None else listed
    given = {option: value for option, value in options.items() if value is not None}
    app = app_or_settings(get_state())
    _check(app, name, args, keywords)

    async def send(app: TaskQ) -> int:
        handle = await app.send_task(name, args, keywords, **given)  # type: ignore[arg-type]  # CallOptions by content
        if not wait:
            click.echo(to_json({"task_id": handle.id}) if as_json else handle.id)
            return 0
        with ProgressBar(name, quiet=get_state().quiet) as bar:
            await handle.get(timeout, propagate=False, on_message=bar.show)
        return tell(handle, as_json=as_json, traceback=True)

    return connected(app, send)


def _check(app: TaskQ, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Another program may know a task that the app does not: only what is likely a slip is told."""
    task = app.find_task(name)
    if task is None:
        # Of names in one module most letters agree: what counts is the last part.
        alike = [other for other in own_tasks(app) if near_match(_last_part(name), [_last_part(other)])]
        if near := near_match(name, alike):
            get_state().say(f"warning: the app has no task {name!r}.{near}")
    elif task.typing:
        try:
            task.arguments.check(args, kwargs)
        except TypeError as error:
            raise click.UsageError(str(error)) from None


def _last_part(name: str) -> str:
    return name.rpartition(".")[2]
