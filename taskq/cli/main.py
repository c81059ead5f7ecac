"""The command `taskq`: its verbs, and how errors end it."""

import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import NamedTuple, NoReturn

import click

from taskq.cli.state import Group
from taskq.errors import ConfigError, OperationalError, StoreError, TaskqError
from taskq.printable import printable
from taskq.version import VERSION


class Verb(NamedTuple):
    """Where a verb is, and what `taskq --help` says about it."""

    target: str
    section: str
    help: str


VERBS: Mapping[str, Verb] = {
    "worker": Verb("taskq.cli.worker:worker", "Run", "run tasks"),
    "beat": Verb("taskq.cli.beat:beat", "Run", "send periodic tasks"),
    "list": Verb("taskq.cli.listing:list_", "Look", "tasks of the app, queues and their sizes"),
    "result": Verb("taskq.cli.result:result", "Look", "state and result of a task"),
    "graph": Verb("taskq.cli.graph:graph", "Look", "draw a workflow: text, DOT or SVG"),
    "conf": Verb("taskq.cli.conf:conf", "Look", "settings in effect and where each was written"),
    "status": Verb("taskq.cli.remote:status", "Look", "which workers are there"),
    "inspect": Verb("taskq.cli.remote:inspect", "Look", "ask workers: active, reserved, stats, ..."),
    "control": Verb("taskq.cli.remote:control", "Act", "tell workers: revoke, rate_limit, shutdown, ..."),
    "call": Verb("taskq.cli.call:call", "Act", "send a task; --wait for its result"),
    "purge": Verb("taskq.cli.purge:purge", "Act", "remove all waiting tasks of queues"),
    "migrate": Verb("taskq.cli.migrate:migrate", "Act", "move queued tasks to another broker"),
    "schedule": Verb(
        "taskq.cli.schedule:schedule", "Act", "periodic tasks: ls, next, run, pause, resume, rm"
    ),
    "dead": Verb("taskq.cli.dead:dead", "Act", "tasks that could not be run: ls, show, retry, purge"),
}

EXIT_CODES = """0 done, or stopped as told; 1 the task failed, or the worker could not give
back what it held; 2 wrong usage or no app; 69 broker or result store not
reachable, or no worker answers; 70 internal error; 130 interrupted"""

#: Errors and what they make the command end with: the first that fits. Those of sysexits.h where there is one.
ERROR_CODES: Sequence[tuple[type[BaseException], int]] = (
    (ConfigError, 2),
    (OperationalError, 69),
    (StoreError, 69),
    (TaskqError, 1),
)
INTERNAL_ERROR = 70


class LazyGroup(Group):
    """Imports a verb when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """The verbs in the order of the help."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        """A verb, imported."""
        verb = VERBS.get(cmd_name)
        if verb is None:
            return None
        module, _, name = verb.target.partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        """The verbs by section, without importing any."""
        for section in dict.fromkeys(verb.section for verb in VERBS.values()):
            with formatter.section(section):
                formatter.write_dl(
                    [(f"{name:<7}", verb.help) for name, verb in VERBS.items() if verb.section == section]
                )

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        """The exit codes, in lines of our own."""
        with formatter.section("Exit codes"):
            formatter.write("".join(f"  {line}\n" for line in EXIT_CODES.splitlines()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, prog_name="taskq", message="%(prog)s %(version)s")
def cli() -> None:
    """Celery's tasks, native to asyncio. Options below go before or after the command."""


def main() -> NoReturn:
    """The console script."""
    sys.exit(run(sys.argv[1:]))


def run(args: Sequence[str]) -> int:
    """Run one command line; its exit code."""
    try:
        code = cli.main(args=list(args), prog_name="taskq", standalone_mode=False)
    except click.ClickException as error:
        return _report_usage(error)
    except (click.Abort, KeyboardInterrupt):
        return 130
    except BaseException as error:  # noqa: BLE001 - the last place: say it and end with its code
        return _report(error)
    return code if isinstance(code, int) else 0


def _report_usage(error: click.ClickException) -> int:
    if type(error).__name__ == "NoArgsIsHelpError":  # of click 8.2 and later; its message is the help
        click.echo(error.format_message(), err=True)
        return error.exit_code
    if isinstance(error, click.UsageError) and error.ctx is not None:
        click.echo(f"{error.ctx.get_usage()}\nTry '{error.ctx.command_path} --help'.\n", err=True)
    _complain("error:", error.format_message())
    return error.exit_code


def _report(error: BaseException) -> int:
    """Say what went wrong. A traceback is for errors of ours alone."""
    for kind, code in ERROR_CODES:
        if isinstance(error, kind):
            if str(error):
                _complain("error:", str(error))
            return code
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    traceback.print_exception(error)
    _complain("internal error:", f"this should not have happened in taskq {VERSION}")
    return INTERNAL_ERROR


def _complain(word: str, text: str) -> None:
    """Outside of click's context, where --no-color and the like are no longer known to it."""
    colour = False if os.environ.get("NO_COLOR") else bool(os.environ.get("FORCE_COLOR")) or None
    click.echo(f"{click.style(word, fg='red')} {printable(text, lines=True)}", err=True, color=colour)
