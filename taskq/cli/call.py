"""`taskq call`."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import click

from taskq.app import TaskQ
from taskq.cli.apps import app_or_settings, connected, own_tasks
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
from taskq.cli.result import tell, why_dropped
from taskq.cli.state import AppCommand, CliState, get_state
from taskq.near import near_match
from taskq.results.handles import AsyncResult
from taskq.seams.urls import mask

#: Seconds of silence after which workers are asked whether they are there, and for which they may take to answer.
PATIENCE = 2.0

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
@click.option("-f", "--force", is_flag=True, help="send it though the app has no such task")
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
    force: bool,
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
    if not force:
        _check(app, name, args, keywords)
    if wait and (reason := why_dropped(app)):
        raise click.UsageError(f"--wait: {reason}")

    async def send(app: TaskQ) -> int:
        handle = await app.send_task(name, args, keywords, **given)  # type: ignore[arg-type]  # CallOptions by content
        if not wait:
            click.echo(to_json({"task_id": handle.id}) if as_json else handle.id)
            return 0
        await _wait(app, handle, timeout)
        return tell(handle, as_json=as_json, traceback=True)

    return connected(app, send)


async def _wait(app: TaskQ, handle: AsyncResult[Any], timeout: float | None) -> None:  # noqa: ASYNC109 - of the handle
    """Until it has ended. Says so while nobody is there who could run it."""
    state = get_state()
    watching = asyncio.create_task(_tell_if_alone(app, state))
    try:
        with ProgressBar(handle.id, quiet=state.quiet) as bar:

            def show(message: Mapping[str, Any]) -> None:
                watching.cancel()
                bar.show(message)

            await handle.get(timeout, propagate=False, on_message=show)
    finally:
        watching.cancel()


async def _tell_if_alone(app: TaskQ, state: CliState) -> None:
    await asyncio.sleep(PATIENCE)
    if not await app.control.ping(timeout=PATIENCE):
        state.say(f"no worker answers on {mask(app.conf.broker_url)}: the task waits for one")


def _check(app: TaskQ, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Raises UsageError if the app has tasks and not this one, or it does not take these arguments."""
    task, known = app.find_task(name), own_tasks(app)
    if task is None:
        if known:
            # Of names in one module most letters agree: what counts is the last part.
            alike = [other for other in known if near_match(_last_part(name), [_last_part(other)])]
            raise click.UsageError(
                f"the app has no task {name!r}.{near_match(name, alike)} --force sends it all the same"
            )
    elif task.typing:
        try:
            task.arguments.check(args, kwargs)
        except TypeError as error:
            raise click.UsageError(str(error)) from None


def _last_part(name: str) -> str:
    return name.rpartition(".")[2]
