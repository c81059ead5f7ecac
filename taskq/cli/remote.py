"""`taskq inspect`, `taskq control` and `taskq status`: commands to running workers."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from taskq.app import TaskQ
from taskq.cli.apps import app_to_reach, connected
from taskq.cli.output import counted, to_json
from taskq.cli.params import duration, json_or_word, names
from taskq.cli.state import AppCommand, get_state
from taskq.errors import OperationalError
from taskq.near import near_match
from taskq.printable import printable
from taskq.seams.urls import mask
from taskq.worker.remote.control import TABLE
from taskq.worker.remote.panel import PanelCommand


def _commands(kind: str) -> dict[str, PanelCommand]:
    """Those of that kind, by name."""
    return {name: command for name, command in sorted(TABLE.items()) if command.kind == kind}


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


class Verbs(AppCommand):
    """A verb whose first argument is a command to workers, listed and completed."""

    def __init__(self, *args: Any, commands: Mapping[str, PanelCommand], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.commands = commands
        word = click.Argument(["command"], shell_complete=self._complete)
        self.params.insert(0, word)

    def _complete(self, _ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
        return [name for name in self.commands if name.startswith(incomplete)]

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        """The commands."""
        with formatter.section("Commands"):
            formatter.write_dl(
                [
                    (f"{name} {_usage(remote.arguments)}".rstrip(), remote.summary)
                    for name, remote in self.commands.items()
                ]
            )


def _usage(arguments: Sequence[str]) -> str:
    """`("queue", "exchange?", "ids*")` -> `QUEUE [EXCHANGE] [IDS]...`."""
    endings = {"?": "[{}]", "*": "[{}]..."}
    return " ".join(endings.get(name[-1], "{}").format(name.rstrip("?*").upper()) for name in arguments)


@click.command(cls=AppCommand)
@_options
def status(*, destination: list[str] | None, timeout: float, as_json: bool) -> int:
    """Who is there. Exit code 69 when nobody answers."""
    return _run("ping", {}, destination, timeout, as_json=as_json, full=False)


@click.command(cls=Verbs, commands=_commands("inspect"))
@click.argument("words", nargs=-1, metavar="[ARGS]...")
@_options
def inspect(
    *, command: str, words: tuple[str, ...], destination: list[str] | None, timeout: float, as_json: bool
) -> int:
    """Ask workers something. Exit code 69 when nobody answers, 1 when one answers with an error."""
    return _run(
        command, _arguments(command, words, _commands("inspect")), destination, timeout, as_json=as_json
    )


@click.command(cls=Verbs, commands=_commands("control"))
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
    """Tell workers to do something. Exit code 69 when nobody answers, 1 when one answers with an error."""
    arguments = _arguments(command, words, _commands("control"))
    if terminate:
        arguments["terminate"] = True
    return _run(command, arguments, destination, timeout, as_json=as_json)


def _arguments(command: str, words: Sequence[str], commands: Mapping[str, PanelCommand]) -> dict[str, Any]:
    """Words by position become arguments by name."""
    if command not in commands:
        raise click.UsageError(f"no command {command!r}.{near_match(command, commands)}")
    expected, arguments, rest = commands[command].arguments, dict[str, Any](), list(words)
    for name in expected:
        if name.endswith("*"):
            arguments[name[:-1]], rest = rest, []
        elif rest:
            word, plain = rest.pop(0), name.rstrip("?")
            arguments[plain] = word if plain in _TEXTS else json_or_word(word)
        elif not name.endswith("?"):
            raise click.UsageError(f"{command} takes {_usage(expected)}")
    if rest:
        raise click.UsageError(f"{command} takes {_usage(expected) or 'no arguments'}")
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

    app = app_to_reach(get_state())
    replies = connected(app, ask)
    if command == "shutdown" and not replies:
        return 0  # who goes does not answer
    if not replies:
        raise OperationalError(f"no worker answered within {timeout:g} s on {mask(app.conf.broker_url)}")
    if as_json:
        click.echo(to_json({node: value for reply in replies for node, value in reply.items()}))
    else:
        get_state().say(f"\n{counted(len(replies), 'node')} online.")
    _warn_of_twins(replies)
    return int(any(_is_error(value) for reply in replies for value in reply.values()))


def _warn_of_twins(replies: Sequence[Mapping[str, Any]]) -> None:
    for node, number in Counter(node for reply in replies for node in reply).items():
        if number > 1:
            get_state().say(f"warning: {number} workers are called {node}: give each a name of its own (-n)")


def _print(node: str, value: Any, *, full: bool) -> None:
    """As Celery does it: the node, OK or ERROR, and what it said."""
    bad = _is_error(value)
    text = value.get("error", value.get("ok", value)) if isinstance(value, dict) else value
    state = click.style("ERROR", fg="red") if bad else click.style("OK", fg="green")
    click.echo(f"->  {click.style(printable(node), fg='cyan', bold=True)}: {state}")
    if full or bad:
        for line in printable(_shown(text), lines=True).split("\n"):
            click.echo(f"        {line}".rstrip())


def _is_error(value: Any) -> bool:
    return isinstance(value, dict) and "error" in value


def _shown(value: Any) -> str:
    if value is None or value == []:
        return "- empty -"
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "\n".join(f"* {item if isinstance(item, str) else to_json(item)}" for item in value)
    return json.dumps(value, indent=2, default=str)
