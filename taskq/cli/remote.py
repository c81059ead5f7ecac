"""`taskq inspect`, `taskq control` and `taskq status`: commands to running workers."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from taskq.app import TaskQ
from taskq.cli.apps import app_to_reach, connected
from taskq.cli.output import counted, to_json
from taskq.cli.params import duration, json_or_word, names
from taskq.cli.state import Command, get_state
from taskq.errors import OperationalError
from taskq.near import near_match

#: The arguments of each command by position; the last takes the rest when it ends with `*`.
INSPECT: Mapping[str, Sequence[str]] = {
    "active": (),
    "active_queues": (),
    "clock": (),
    "conf": ("with_defaults",),
    "memdump": ("samples",),
    "memsample": (),
    "objgraph": ("type", "num", "max_depth"),
    "ping": (),
    "query_task": ("ids*",),
    "registered": ("taskinfoitems*",),
    "report": (),
    "reserved": (),
    "revoked": (),
    "scheduled": (),
    "stats": (),
}
CONTROL: Mapping[str, Sequence[str]] = {
    "add_consumer": ("queue", "exchange", "exchange_type", "routing_key"),
    "autoscale": ("max", "min"),
    "cancel_consumer": ("queue",),
    "disable_events": (),
    "enable_events": (),
    "heartbeat": (),
    "pool_grow": ("n",),
    "pool_restart": (),
    "pool_shrink": ("n",),
    "rate_limit": ("task_name", "rate_limit"),
    "revoke": ("task_id*",),
    "revoke_by_stamped_headers": ("headers*",),
    "shutdown": (),
    "terminate": ("signal", "task_id*"),
    "time_limit": ("task_name", "soft", "hard"),
}
#: Arguments that are text whatever they look like.
_TEXTS = ("queue", "exchange", "exchange_type", "routing_key", "task_name", "rate_limit", "signal")


def _options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("-j", "--json", "as_json", is_flag=True, help="one JSON object with all replies"),
        click.option("-t", "--timeout", type=duration, default="1s", show_default=True, metavar="TIME"),
        click.option("-d", "--destination", type=names, metavar="NAMES", help="only these nodes, by comma"),
    ):
        function = option(function)
    return function


def _listing(commands: Mapping[str, Sequence[str]]) -> str:
    lines = [f"  {name} {' '.join(words).upper()}".rstrip() for name, words in commands.items()]
    return "\b\nCommands:\n" + "\n".join(lines)


@click.command(cls=Command)
@_options
def status(*, destination: list[str] | None, timeout: float, as_json: bool) -> int:
    """Who is there. Exit code 69 when nobody answers."""
    return _run("ping", {}, destination, timeout, as_json=as_json, full=False)


@click.command(cls=Command, epilog=_listing(INSPECT))
@click.argument("command")
@click.argument("words", nargs=-1, metavar="[ARGS]...")
@_options
def inspect(
    *, command: str, words: tuple[str, ...], destination: list[str] | None, timeout: float, as_json: bool
) -> int:
    """Ask workers something. Exit code 69 when nobody answers."""
    return _run(command, _arguments(command, words, INSPECT), destination, timeout, as_json=as_json)


@click.command(cls=Command, epilog=_listing(CONTROL))
@click.argument("command")
@click.argument("words", nargs=-1, metavar="[ARGS]...")
@click.option("--terminate", is_flag=True, help="of revoke: end tasks that run, too")
@_options
def control(
    *,
    command: str,
    words: tuple[str, ...],
    terminate: bool,
    destination: list[str] | None,
    timeout: float,
    as_json: bool,
) -> int:
    """Tell workers to do something. Exit code 69 when nobody answers."""
    arguments = _arguments(command, words, CONTROL)
    if terminate:
        arguments["terminate"] = True
    return _run(command, arguments, destination, timeout, as_json=as_json)


def _arguments(command: str, words: Sequence[str], commands: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Words by position become arguments by name."""
    if command not in commands:
        raise click.UsageError(f"no command {command!r}.{near_match(command, commands)}")
    expected, arguments, rest = commands[command], dict[str, Any](), list(words)
    for name in expected:
        if name.endswith("*"):
            arguments[name[:-1]], rest = rest, []
        elif rest:
            word = rest.pop(0)
            arguments[name] = word if name in _TEXTS else json_or_word(word)
    if rest:
        raise click.UsageError(f"{command} takes {' '.join(expected).upper() or 'no arguments'}")
    return arguments


def _run(
    command: str,
    arguments: Mapping[str, Any],
    destination: Sequence[str] | None,
    timeout: float,
    *,
    as_json: bool,
    full: bool = True,
) -> int:
    def show(reply: Mapping[str, Any]) -> None:
        if not as_json:
            for node, value in reply.items():
                _print(node, value, full=full)

    async def ask(app: TaskQ) -> list[dict[str, Any]]:
        replies = await app.control.broadcast(
            command, arguments, destination=destination, timeout=timeout, reply=True, callback=show
        )
        return replies or []

    replies = connected(app_to_reach(get_state()), ask)
    if command == "shutdown" and not replies:
        return 0  # who goes does not answer
    if not replies:
        raise OperationalError("no worker answered in time")
    if as_json:
        click.echo(to_json({node: value for reply in replies for node, value in reply.items()}))
    else:
        get_state().say(f"\n{counted(len(replies), 'node')} online.")
    return 0


def _print(node: str, value: Any, *, full: bool) -> None:
    """As Celery does it: the node, OK or ERROR, and what it said."""
    bad = isinstance(value, dict) and "error" in value
    text = value.get("error", value.get("ok", value)) if isinstance(value, dict) else value
    state = click.style("ERROR", fg="red") if bad else click.style("OK", fg="green")
    click.echo(f"->  {click.style(node, fg='cyan', bold=True)}: {state}")
    if full or bad:
        for line in _shown(text).splitlines():
            click.echo(f"        {line}")


def _shown(value: Any) -> str:
    if value is None or value == []:
        return "- empty -"
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "\n".join(f"* {item if isinstance(item, str) else to_json(item)}" for item in value)
    return json.dumps(value, indent=2, default=str)
