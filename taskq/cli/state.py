"""The options that every command has, before or after the verb."""

import os
import sys
from dataclasses import dataclass, field
from typing import Any

import click

from taskq.near import near_match
from taskq.printable import printable


@dataclass
class CliState:
    """What the shared options said; None where they were not given."""

    app: str | None = None
    broker: str | None = None
    result_backend: str | None = None
    config: str | None = None
    workdir: str | None = None
    quiet: bool = False
    #: Where the command was started.
    folder: str = field(default_factory=os.getcwd)

    def say(self, text: str) -> None:
        """Tell a person, on standard error; not with --quiet."""
        if not self.quiet:
            click.echo(printable(text, lines=True), err=True)


def get_state() -> CliState:
    """The state of the running command."""
    return click.get_current_context().ensure_object(CliState)


def _remember(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value is not None and param.name is not None:
        setattr(ctx.ensure_object(CliState), param.name, value)


def _set_colour(ctx: click.Context, _param: click.Parameter, value: bool) -> None:  # noqa: FBT001 - click's signature
    """Also for what is not printed by click: rich and the worker's log look at NO_COLOR."""
    if value:
        os.environ["NO_COLOR"] = "1"
        os.environ.pop("FORCE_COLOR", None)
    if os.environ.get("NO_COLOR"):
        ctx.color = False
    elif os.environ.get("FORCE_COLOR"):
        ctx.color = True


def _shared_options() -> list[click.Option]:
    """What every command has, before or after the verb."""
    folder = click.Path(exists=True, file_okay=False)

    def option(*names: str, callback: Any = _remember, **settings: Any) -> click.Option:
        return click.Option(names, expose_value=False, callback=callback, **settings)

    return [
        option("-A", "--app", metavar="APP", help="module, package or module:attribute of the app"),
        option("-b", "--broker", metavar="URL", help="broker, instead of the setting broker_url"),
        option("--result-backend", metavar="URL", help="result store, instead of the setting"),
        option("--config", metavar="MODULE", help="module with settings"),
        option("--workdir", type=folder, metavar="DIR", help="work in this folder"),
        option("-q", "--quiet", is_flag=True, default=None, help="say only what was asked for"),
        option(
            "--no-color", is_flag=True, is_eager=True, callback=_set_colour, help="no colours (also NO_COLOR)"
        ),
    ]


class WithSharedOptions(click.Command):
    """A command with the shared options, shown after its own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._shared = _shared_options()
        self.params += self._shared

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Own options, then the shared ones."""
        shared = set(map(id, self._shared))
        for title, wanted in (("Options", False), ("Shared options", True)):
            records = [
                record
                for param in self.get_params(ctx)
                if (id(param) in shared) is wanted and (record := param.get_help_record(ctx)) is not None
            ]
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


class AppCommand(WithSharedOptions):
    """A verb."""


class Group(WithSharedOptions, click.Group):
    """A verb with verbs of its own."""

    command_class = AppCommand

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The verbs first."""
        self.format_commands(ctx, formatter)
        super().format_options(ctx, formatter)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it, and proposes the near one for a verb that does not exist."""
        known = self.list_commands(ctx)
        if args and args[0] not in known and not args[0].startswith("-"):
            raise click.UsageError(f"no command {args[0]!r}.{near_match(args[0], known)}", ctx)
        return super().resolve_command(ctx, args)


class Refusal(click.ClickException):
    """The command is not run as it stands."""

    exit_code = 2


def confirm(question: str) -> None:
    """Ask, and leave if the answer is no. Without a terminal there is nobody to ask: `--force` is needed."""
    if not sys.stdin.isatty():
        raise Refusal(f"{question} Nobody is there to ask: say --force")
    click.confirm(question, abort=True, err=True)
